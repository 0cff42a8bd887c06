"""Slices that lack, stand twice, change their distance, or belong to several stacks."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from . import phantom
from .made import assert_marks, one_scan, reasons, rows, run


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_a_missing_slice_is_filled_in_and_said(tmp_path: Path, modality: str) -> None:
    phantom.series(tmp_path / "in", modality=modality, drop=(5,))
    run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    assert image.shape[2] == 24
    data = image.get_fdata()
    np.testing.assert_allclose(data[..., 5], np.rint((data[..., 4] + data[..., 6]) / 2), atol=0.51)
    assert_marks(image, -1000 if modality == "CT" else 0)
    assert "1 missing slices filled in" in rows(tmp_path / "out")[0]["notes"]


@pytest.mark.parametrize(
    ("drop", "reason"),
    [((5, 6, 7, 8, 9), "missing_slices"), ((3, 8, 12, 16), "missing_slices"), (tuple(range(3, 24)), "too_few_slices")],
)
def test_a_series_that_is_not_whole(tmp_path: Path, drop: tuple[int, ...], reason: str) -> None:
    phantom.series(tmp_path / "in", drop=drop)
    phantom.series(tmp_path / "in", number=2)
    run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == [reason, ""]


def test_two_slice_thicknesses_become_even(tmp_path: Path) -> None:
    """Thin slices below, thick ones above, as an old head CT has them."""

    def move(n: int, data: pydicom.Dataset) -> None:
        height = -66 + (4 * n if n < 18 else 4 * 17 + 8 * (n - 17))
        x, y, _ = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y, height]
        rows_, columns = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
        where = np.stack([x + 4 * columns, y + 4 * rows_, np.full((40, 40), height)], -1)
        phantom.put_pixels(data, phantom.body(where) + 24)

    phantom.series(tmp_path / "in", modality="CT", slices=26, each=move)
    run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    assert_marks(image, -1000)
    assert image.header.get_zooms()[2] == 4
    assert "uneven steps resampled" in rows(tmp_path / "out")[0]["notes"]


def test_copies_count_once_and_damaged_files_not_at_all(tmp_path: Path) -> None:
    files = phantom.series(tmp_path / "in")
    shutil.copytree(tmp_path / "in", tmp_path / "in" / "again")
    files[7].write_bytes(files[7].read_bytes()[:2000])
    (tmp_path / "in" / "again" / files[7].name).unlink()
    run(tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["duplicates"], row["damaged"]) == ("23", "1")
    assert row["notes"] == "1 missing slices filled in; 1 damaged files"
    assert_marks(one_scan(tmp_path / "out"))


def test_slices_that_were_sent_twice_under_new_names(tmp_path: Path) -> None:
    """Some places come twice with other UIDs: the first of each is taken."""
    uid = generate_uid()
    phantom.series(tmp_path / "in", uid=uid)
    phantom.series(tmp_path / "in", uid=uid, first=100, drop=tuple(range(4, 24)))
    run(tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["decision"], row["duplicates"]) == ("kept", "4")
    assert_marks(one_scan(tmp_path / "out"))


def test_several_stacks_in_one_series(tmp_path: Path) -> None:
    """Orientations and echoes become scans of their own, each by its own timing."""
    uid = generate_uid()
    for place, (plane, tags) in enumerate(((phantom.AXIAL, phantom.T1), (phantom.SAGITTAL, phantom.T1))):
        phantom.series(tmp_path / "in", uid=uid, plane=plane, first=100 * place, description="scan", **tags)
    both = generate_uid()
    for place, echo in enumerate((20, 100)):
        timing = phantom.T2 | {"EchoTime": echo}
        phantom.series(tmp_path / "in", uid=both, number=2, first=100 * place, description="dual echo", **timing)
    run(tmp_path / "in", tmp_path / "out")
    found = rows(tmp_path / "out")
    assert [(row["series"], row["sequence"]) for row in found] == [
        ("001-1", "T1"),
        ("001-2", "T1"),
        ("002-1", "PD"),
        ("002-2", "T2"),
    ]
    for row in found:
        assert_marks(nib.load(tmp_path / "out" / row["path"]))


@pytest.mark.parametrize(("points", "expected"), [(3, ["", "", ""]), (6, ["time_series"])])
def test_time_points(tmp_path: Path, points: int, expected: list[str]) -> None:
    uid = generate_uid()
    for point in range(points):
        phantom.series(tmp_path / "in", uid=uid, first=100 * point, AcquisitionNumber=point + 1)
    phantom.series(tmp_path / "in", number=2)
    run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == [*expected, ""]
    assert sum(int(row["files"]) for row in rows(tmp_path / "out")) == (points + 1) * 24
