"""Bare arrays (PyTorch tensors, NumPy archives) -> NIfTI files with an affine that says what is known of their place."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip.files.folders import write_atomically

_WAYS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def affine_of(codes: str, spacing: Sequence[float]) -> NDArray[np.float64]:
    """(4, 4) voxel index -> RAS mm of axes that grow to the Right, Posterior, ... (`codes`, a letter an axis), first voxel at 0."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([_WAYS[code] for code in codes], dtype=np.float64).T * spacing
    return affine


def is_made(place: Path, source: Path) -> bool:
    """Whether a file was already made of a source that has not changed since."""
    return place.is_file() and place.stat().st_mtime_ns >= source.stat().st_mtime_ns


def write_volume(place: Path, voxels: NDArray[Any], codes: str, spacing: Sequence[float]) -> None:
    """Write (D, H, W) voxels as NIfTI of axes (W, H, D), the same bytes for the same voxels.

    Args:
        codes: where D, H and W grow to, e.g. IPR.
        spacing: mm along D, H, W.
    """
    import nibabel as nib

    image = nib.Nifti1Image(voxels.transpose(2, 1, 0), affine_of(codes[::-1], spacing[::-1]))
    image.header.set_xyzt_units("mm")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
