"""Slices that lack, stand twice, change their distance, or belong to several stacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless, generate_uid

from hlip.quality.flags import INCOMPLETE

from ...dicom import phantom
from .made import assert_marks, one_scan, reasons, rows, run, value_at


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
    (study,) = run(tmp_path / "in", tmp_path / "out").studies
    (row,) = rows(tmp_path / "out")
    assert (row["duplicates"], row["damaged"]) == ("23", "1")
    assert row["notes"] == "1 missing slices filled in; 1 of 24 files damaged"
    assert study.extra["scan_notes"] == [row["notes"]]
    assert any(what in row["notes"] for what in INCOMPLETE)  # which the quality page looks for
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


@pytest.mark.parametrize(
    ("lost", "kept"), [((22, 23), 22), ((0, 23), 22), ((21, 22, 23), 0), (tuple(range(6, 24)), 0), ((4, 12, 18), 0)]
)
def test_damaged_slices_count_wherever_they_lie(tmp_path: Path, lost: tuple[int, ...], kept: int) -> None:
    files = phantom.series(tmp_path / "in")
    for n in lost:
        files[n].write_bytes(files[n].read_bytes()[:-500])
    phantom.series(tmp_path / "in", number=2)
    run(tmp_path / "in", tmp_path / "out")
    row = rows(tmp_path / "out")[0]
    assert (row["reason"], row["shape"]) == (("", f"40x40x{kept}") if kept else ("damaged", ""))
    assert f"{len(lost)} of 24 files damaged" in row["notes"]
    assert ("2 slices lost at the ends" in row["notes"]) == bool(kept)
    assert (row["files"], row["damaged"]) == (str(24 - len(lost)), str(len(lost)))


@pytest.mark.parametrize(("lost", "kept"), [((0, 1), 22), ((0, 1, 2), 0)])
def test_slices_that_cannot_be_decoded_count_likewise(tmp_path: Path, lost: tuple[int, ...], kept: int) -> None:
    files = phantom.series(tmp_path / "in")
    for n, file in enumerate(files):
        data = pydicom.dcmread(file)
        data.compress(RLELossless, encoding_plugin="pydicom")
        if n in lost:
            data.PixelData = encapsulate([b"x" * 90])
        data.save_as(file)
    phantom.series(tmp_path / "in", number=2)
    run(tmp_path / "in", tmp_path / "out")
    row = rows(tmp_path / "out")[0]
    assert (row["reason"], row["shape"]) == (("", f"40x40x{kept}") if kept else ("damaged", ""))
    assert f"{len(lost)} of 24 files cannot be decoded" in row["notes"]


def test_a_damaged_copy_beside_a_whole_one_costs_nothing(tmp_path: Path) -> None:
    """Of all places, under other UIDs."""
    uid = generate_uid()
    phantom.series(tmp_path / "in", uid=uid, first=100)
    for file in phantom.series(tmp_path / "in", uid=uid)[:6]:
        file.write_bytes(file.read_bytes()[:-500])
    run(tmp_path / "in", tmp_path / "out")
    found = rows(tmp_path / "out")
    assert [row["reason"] for row in found] == ["", "damaged"]
    assert_marks(nib.load(tmp_path / "out" / found[0]["path"]))


@pytest.mark.parametrize(
    "alter",
    [
        lambda n, data: setattr(data, "PixelSpacing", [4, 4] if n % 3 else [4.000002, 4.000002]),
        lambda n, data: setattr(data, "EchoTime", 12.04 if n < 20 else 12.06),
        lambda n, data: setattr(data, "EchoTime", 12.0 if n % 2 else 12.2),
        lambda n, data: setattr(data, "InversionTime", 2500.4 if n % 2 else 2500.6),
    ],
)
def test_rounding_splits_no_series(tmp_path: Path, alter: Callable[[int, pydicom.Dataset], None]) -> None:
    phantom.series(tmp_path / "in", each=alter)
    run(tmp_path / "in", tmp_path / "out")
    assert one_scan(tmp_path / "out").shape == (40, 40, 24)
    assert_marks(one_scan(tmp_path / "out"))


@pytest.mark.parametrize(("echoes", "count"), [((20.0, 20.3), 2), ((2.3, 3.4, 4.6), 3), ((12.0, 12.1), 2)])
def test_echoes_of_the_same_places_stay_apart(tmp_path: Path, echoes: tuple[float, ...], count: int) -> None:
    """As scans by echo, or, if they differ by rounding alone, as time points."""
    uid = generate_uid()
    for place, echo in enumerate(echoes):
        phantom.series(tmp_path / "in", uid=uid, first=100 * place, EchoTime=echo)
    run(tmp_path / "in", tmp_path / "out")
    assert [row["shape"] for row in rows(tmp_path / "out")] == ["40x40x24"] * count


def at_heights(heights: np.ndarray) -> Callable[[int, pydicom.Dataset], None]:
    def move(n: int, data: pydicom.Dataset) -> None:
        data.ImagePositionPatient = [*data.ImagePositionPatient[:2], float(heights[n])]

    return move


def test_positions_written_to_a_tenth_of_a_millimetre_are_even(tmp_path: Path) -> None:
    exact = -31 + 0.625 * np.arange(100)
    phantom.series(tmp_path / "in", slices=100, step=0.625, modality="CT", each=at_heights(exact.round(1)))
    run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    assert image.shape[2] == 100
    assert image.header.get_zooms()[2] == pytest.approx(0.625, abs=1e-3), "the mean step"
    assert rows(tmp_path / "out")[0]["notes"] == ""


def test_the_step_is_the_mean_one_although_slices_are_missing(tmp_path: Path) -> None:
    jitter = np.random.default_rng(0).choice([-0.1, 0, 0.1], 40)
    heights = -78 + 4 * np.arange(40) + jitter
    phantom.series(tmp_path / "in", slices=40, step=4, each=at_heights(heights), drop=(11, 12))
    run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    assert image.shape[2] == 40
    assert image.header.get_zooms()[2] == pytest.approx((heights[-1] - heights[0]) / 39, abs=1e-5)
    assert rows(tmp_path / "out")[0]["notes"] == "2 missing slices filled in"


@pytest.mark.parametrize(
    "numbers", [[None] * 16, [1] * 16, [n % 8 + 1 for n in range(16)], [7 * n % 16 + 1 for n in range(16)]]
)
def test_slices_whose_numbers_lack_or_repeat_are_a_volume_by_their_places(tmp_path: Path, numbers: list[int | None]) -> None:
    """Of a CT, whose times do not tell the slices apart, the converter takes some for repeats."""

    def number(n: int, data: pydicom.Dataset) -> None:
        data.InstanceNumber = numbers[n]

    phantom.series(tmp_path / "in", modality="CT", slices=16, step=9.0, each=number)
    run(tmp_path / "in", tmp_path / "out")
    assert [(row["reason"], row["shape"], row["notes"]) for row in rows(tmp_path / "out")] == [("", "40x40x16", "")]
    assert_marks(one_scan(tmp_path / "out"), -1000)


@pytest.mark.parametrize("tilt", [18.0, -18.0])
def test_a_tilted_head_is_not_cut_off(tmp_path: Path, tilt: float) -> None:
    """Marks at the very front and back of the first and the last slice are where the headers say."""

    def marked(n: int) -> np.ndarray:
        image = np.full((40, 40), 24)
        image[2:5, 18:21], image[35:38, 18:21] = 900, 600
        return image

    files = phantom.series(tmp_path / "in", modality="CT", slices=32, step=5.0, tilt=tilt, pixels=marked)
    run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    for file in (files[0], files[-1]):
        x, y, z = pydicom.dcmread(file).ImagePositionPatient
        assert [value_at(image, (x + 4 * 19, y + 4 * row, z)) for row in (3, 36)] == [900 - 1024, 600 - 1024]
    assert image.get_fdata().min() == -1000


def test_a_series_that_was_sent_twice_in_full_is_noted(tmp_path: Path) -> None:
    uid = generate_uid()
    for first in (0, 100):
        phantom.series(tmp_path / "in", uid=uid, first=first, slices=6)
    run(tmp_path / "in", tmp_path / "out")
    note = "one of 2 images at each place that no header tells apart: perhaps sent twice"
    assert [row["notes"] for row in rows(tmp_path / "out")] == [note] * 2
