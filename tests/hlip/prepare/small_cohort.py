"""A few small scans, the manifest that lists them, and one call that prepares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hlip.prepare import PrepareSummary, prepare
from hlip.volume import VolumeSpec

SPEC = VolumeSpec(size=(6, 12, 12), spacing_mm=(10, 8, 8), through_plane="axial")


def scan(path: Path, seed: int = 0, data: np.ndarray | None = None) -> str:
    if data is None:
        data = np.random.default_rng(seed).integers(0, 900, (16, 14, 10)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([6.0, 6, 6, 1])), path)
    return path.name


def manifest(folder: Path, studies: list[dict[str, Any]]) -> Path:
    path = folder / "manifest.jsonl"
    rows = [{"patient_id": study["study_id"], "report": "One cm. Two.", "split": "train"} | study for study in studies]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def study(study_id: str, *paths: str, **more: object) -> dict[str, Any]:
    return {"study_id": study_id, "scans": [{"path": path} for path in paths]} | more


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(manifest: Path, store: Path, spec: VolumeSpec = SPEC, workers: int = 1) -> PrepareSummary:
    return prepare(manifest, store, spec, workers=workers, progress=False)
