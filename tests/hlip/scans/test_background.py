"""NaN as background: what is filled and with what, what is refused, and what it costs."""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hlip.scans.background import filled
from hlip.scans.reading import read_scan
from hlip.scans.scan import LoadedScan, VolumeError

from .made import refused, voxels, write


def test_nan_may_be_background(tmp_path: Path) -> None:
    """Two outer planes NaN: filled with the lowest value or a stated one; infinite voxels and hardly anything but NaN stay refused."""
    data = voxels().astype(np.float32) + 50
    data[:, :, :2] = np.nan
    path = write(tmp_path / "masked.nii.gz", data)
    assert refused(path) == "nan"
    for value in (None, -1024.0):
        scan = read_scan(path, partial(filled, value=value))
        np.testing.assert_array_equal(scan.data[:, :, 2:], data[:, :, 2:])
        low = np.nanmin(data) if value is None else value
        assert (scan.data[:, :, :2] == low).all()
        said = f"{low:g}, the lowest of the others" if value is None else "-1024"
        assert scan.notes[-1] == f"{2 / data.shape[2]:.1%} of the voxels were NaN and became background, with the value {said}"
    data[0, 0, 5] = np.inf
    assert refused(write(tmp_path / "infinite.nii.gz", data), filled) == "nan"
    wide = np.full((40, 40, 40), np.nan, np.float32)
    assert refused(write(tmp_path / "nothing.nii.gz", wide), filled) == "nan"
    wide[:8, :8, :9] = voxels((8, 8, 9))  # 576 of 64,000 voxels
    with pytest.raises(
        VolumeError, match=r"hardly.nii.gz: 99.1% of the voxels are NaN, of which at most 99% may be background"
    ):
        read_scan(write(tmp_path / "hardly.nii.gz", wide), partial(filled, within=True))
    wide[:8, :8, 9] = voxels((8, 8))
    assert read_scan(write(tmp_path / "little.nii.gz", wide), filled).notes[-1].startswith("99.0% of the voxels were NaN")
    whole = read_scan(write(tmp_path / "whole.nii.gz", voxels()), filled)
    assert not [note for note in whole.notes if "NaN" in note]


def bowl() -> np.ndarray:
    """A bowl of values in NaN, whose hollow no straight line from a face of the volume reaches: a groove leads there round a corner."""
    data = np.full((16, 16, 16), np.nan, np.float32)
    data[2:14, 2:14, 2:14] = np.random.default_rng(0).integers(50, 900, (12, 12, 12))
    data[2:8, 7, 7] = data[7, 7:11, 7] = np.nan
    return data


@pytest.mark.parametrize(
    ("holes", "enclosed"),
    [([], 0), ([(5, 5, 5)], 1), ([(5, 5, 5), (11, 11, 11), (11, 11, 12)], 3), ([(7, 10, 8)], 0), ([(13, 5, 5)], 0)],
)
def test_nan_is_background_where_it_reaches_a_face(tmp_path: Path, holes: list[tuple[int, int, int]], enclosed: int) -> None:
    data = bowl()
    for place in holes:
        data[place] = np.nan
    path = write(tmp_path / "bowl.nii.gz", data)
    assert np.isfinite(read_scan(path, partial(filled, within=True)).data).all()
    if enclosed:
        with pytest.raises(VolumeError, match=rf"bowl.nii.gz: {enclosed} of the NaN voxels lie within it.*`nan: background`"):
            read_scan(path, filled)
    else:
        assert np.isfinite(read_scan(path, filled).data).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_nan_within_the_scan_is_not_around_it(axis: int) -> None:
    """Two lost ones: their rims are at faces. Slices up to a face may be left out."""
    data = np.moveaxis(np.random.default_rng(0).random((12, 10, 10), np.float32), 0, axis)
    planes = np.moveaxis(data, axis, 0)
    planes[:3] = planes[-2:] = np.nan
    filled(LoadedScan(data.copy(), np.eye(4), Path("ct.nii.gz")))
    planes[5:7] = np.nan
    with pytest.raises(VolumeError, match=r"ct.nii.gz: 200 of the NaN voxels lie within it"):
        filled(LoadedScan(data.copy(), np.eye(4), Path("ct.nii.gz")))
    assert np.isfinite(filled(LoadedScan(data, np.eye(4), Path("ct.nii.gz")), within=True).data).all()


@pytest.mark.parametrize("dents", [False, True])
def test_filling_takes_no_more_memory_than_the_scan_itself(dents: bool) -> None:
    """A CT's round field of view, whole and with dents that no straight line from a face reaches."""
    x, y, _ = np.ogrid[-1:1:128j, -1:1:128j, -1:1:128j]
    data = np.random.default_rng(0).random((128, 128, 128), np.float32)
    data[np.broadcast_to(x**2 + y**2 > 1, data.shape)] = np.nan
    if dents:
        data[60:68, 40:90, :40] = data[50:60, 40:90, 20:40] = np.nan
    scan = LoadedScan(data, np.eye(4), Path("ct.nii.gz"))
    tracemalloc.start()
    low = filled(scan).ends[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert low >= 0
    assert peak < 1.1 * data.nbytes
