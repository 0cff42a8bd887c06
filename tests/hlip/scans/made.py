"""Scans that tests make, and how reading refuses one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlip.scans.reading import read_scan
from hlip.scans.scan import LoadedScan, VolumeError

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -20], [0, 0, 5.0, -10], [0, 0, 0, 1]])


def voxels(shape: tuple[int, ...] = (12, 10, 8)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)


def write(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def refused(path: Path, fill: Callable[[LoadedScan], LoadedScan] | None = None) -> str:
    with pytest.raises(VolumeError) as error:
        read_scan(path, fill)
    assert path.name in str(error.value), "the message must name the file"
    return error.value.reason
