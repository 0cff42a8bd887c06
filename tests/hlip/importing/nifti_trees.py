"""What tests of imports share: small NIfTI files and tables in trees of their own."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlip.importing.cli import add_import
from hlip.volume import VolumeSpec

AFFINE = np.diag([4.0, 4.0, 6.0, 1.0])


def scan(path: Path, shape: tuple[int, ...] = (12, 11, 10), b_values: Sequence[float] | None = None, seed: int = 0) -> Path:
    """A NIfTI file of noise with, if given, its .bval beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).integers(50, 900, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    if b_values is not None:
        bval = path.with_name(path.name.replace(".nii.gz", ".bval"))
        bval.write_text(" ".join(map(str, b_values)) + "\n")
    return path


def touch(folder: Path, *names: str) -> Path:
    """Empty files, where an import opens none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def deny(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """As if these folders might not be read: nothing is forbidden to root."""
    listed = Path.iterdir

    def iterdir(self: Path) -> Iterator[Path]:
        if self in folders:
            raise PermissionError(13, "Permission denied", str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)


def table(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def reasons(out: Path) -> dict[str, str]:
    """File or folder name -> reason, of left_out.csv."""
    with (out / "left_out.csv").open(encoding="utf-8", newline="") as lines:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(lines)}


def run(*words: object) -> None:
    """`hlip import ...` as it is typed."""
    parser = argparse.ArgumentParser()
    add_import(parser.add_subparsers(dest="command"))
    arguments = parser.parse_args(["import", *map(str, words)])
    arguments.run(arguments)


def small_spec(folder: Path) -> Path:
    """A YAML file of a spec that prepares in no time."""
    import yaml

    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(VolumeSpec.load("demo").as_dict() | {"size": [8, 16, 16]}))
    return path
