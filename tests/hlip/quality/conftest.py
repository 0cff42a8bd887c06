"""A small store that the tests of the folder share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlip.prepare import prepare
from hlip.volume import VolumeSpec

SPEC = VolumeSpec(size=(6, 12, 12), spacing_mm=(30, 20, 20), through_plane="axial")


def scan(path: Path, seed: int) -> str:
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[np.linspace(-1.4, 1.4, n) for n in (32, 40, 28)], indexing="ij")
    data = 500 * (sum(grid**2 for grid in grids) < 1) + np.abs(rng.normal(scale=30, size=(32, 40, 28)))
    nib.save(nib.Nifti1Image(data.astype(np.int16), np.diag([6.0, 6, 6, 1])), path)
    return path.name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six studies, of which s4 holds s0's scan again and s5 nothing usable; manifest.jsonl and store."""
    folder = tmp_path_factory.mktemp("made")
    scans = {f"s{n}": [scan(folder / f"s{n}_t1.nii.gz", n), scan(folder / f"s{n}_t2.nii.gz", 50 + n)] for n in range(4)}
    scans |= {"s4": ["s0_t1.nii.gz"], "s5": ["<gone>.nii.gz"]}
    rows = [
        {
            "study_id": name,
            "patient_id": name,
            "scans": [{"path": path} for path in paths],
            "report": f"Case {name}.",
            "split": "train",
        }
        for name, paths in scans.items()
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(folder / "manifest.jsonl", folder / "store", SPEC, workers=1, progress=False)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(made, tmp_path / "copy"))
