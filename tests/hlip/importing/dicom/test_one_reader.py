"""A series named in a manifest and the same series in a hospital's export are one scan: voxels, place, sequence, notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from hlip.scans.dicom import find_series
from hlip.scans.reading import read_scan
from hlip.scans.scan import VolumeError

from ...dicom import phantom
from .made import REAL, diffusion, reasons, rows, run, standard

CT: dict[str, Any] = {"modality": "CT", "description": "HEAD 5mm"}
THIN_THEN_THICK = [-66 + (4 * n if n < 18 else 68 + 8 * (n - 17)) for n in range(26)]


def at_heights(heights: list[float]) -> Callable[[int, pydicom.Dataset], None]:
    """The phantom cut where the slices then are."""

    def move(n: int, data: pydicom.Dataset) -> None:
        x, y, _ = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y, float(heights[n])]
        down, along = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
        phantom.put_pixels(data, phantom.body(np.stack([x + 4 * along, y + 4 * down, np.full((40, 40), heights[n])], -1)) + 24)

    return move


def monochrome1(n: int, data: pydicom.Dataset) -> None:
    data.PhotometricInterpretation = "MONOCHROME1"


def own_rescale(n: int, data: pydicom.Dataset) -> None:
    stored = np.frombuffer(data.PixelData, np.uint16)
    data.RescaleSlope, data.RescaleIntercept = 1 / (1 + n % 5), -7 * n
    data.PixelData = ((stored + 7 * n) * (1 + n % 5)).astype(np.uint16).tobytes()


def table(n: int, data: pydicom.Dataset) -> None:
    """A value v of the phantom is stored as v + 100; the table begins there, and says 2 v + 5."""
    data.PixelData = (np.frombuffer(data.PixelData, np.uint16) + 100).astype(np.uint16).tobytes()
    values = (2 * np.arange(1000) + 5).astype("<u2").tobytes()
    data.ModalityLUTSequence = phantom.macro(LUTDescriptor=[1000, 100, 16], ModalityLUTType="US", LUTData=values)


def own_times(n: int, data: pydicom.Dataset) -> None:
    data.StudyDate, data.StudyTime, data.SeriesTime = "20200101", f"10{n:02d}00", f"11{n:02d}00"


def few_tags(n: int, data: pydicom.Dataset) -> None:
    """As RSNA has them."""
    for name in ("SOPClassUID", "InstanceNumber", "SeriesDescription", "SeriesNumber", "Manufacturer", "ImageType", "SliceThickness",
                 "FrameOfReferenceUID", "PatientName", "SpacingBetweenSlices"):  # fmt: skip
        data.pop(name, None)


def enhanced(folder: Path) -> None:
    phantom.enhanced(folder, [0.0])


def made(**more: Any) -> Callable[[Path], Any]:
    return lambda folder: phantom.series(folder, **more)


CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "tilted": (made(tilt=18.0, **CT), "gantry tilt of 18 degrees corrected"),
    "tilted, few tags": (made(tilt=-12.0, each=few_tags, **CT), "gantry tilt of 12 degrees corrected"),
    "thin then thick": (made(slices=26, each=at_heights(THIN_THEN_THICK), **CT), "uneven steps resampled"),
    "uneven": (made(slices=24, each=at_heights([6 * n - 69 + (0, 0.12, -0.12)[n % 3] for n in range(24)]), **CT), ""),
    "a slice missing": (made(drop=(7,), **CT), "1 missing slices filled in"),
    "MONOCHROME1, MR": (made(each=monochrome1), "MONOCHROME1: values turned around"),
    "MONOCHROME1, CT": (made(each=monochrome1, **CT), "MONOCHROME1: values kept, they are a measure"),
    "a table of values": (made(each=table), ""),
    "a scale for each slice": (made(each=own_rescale), ""),
    "a time for each slice": (made(each=own_times, **CT), ""),
    "enhanced": (enhanced, ""),
    "oblique": (made(plane=phantom.OBLIQUE), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_named_series_is_what_an_import_writes(tmp_path: Path, case: str) -> None:
    write, note = CASES[case]
    write(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    done = run(tmp_path / "in", tmp_path / "out")
    (stored,) = done.studies[0].scans
    imported = read_scan(stored.path)
    np.testing.assert_array_equal(scan.data, imported.data)
    np.testing.assert_array_equal(scan.affine, imported.affine)
    assert scan.sequence == stored.sequence != ""
    assert "; ".join(scan.notes) == rows(tmp_path / "out")[0]["notes"] == note
    assert find_series(tmp_path / "in", sorted((tmp_path / "in").iterdir()))[0].sequence == stored.sequence


@pytest.mark.skipif(not REAL.is_dir(), reason="shared data absent")
def test_a_real_series_is_what_an_import_writes(tmp_path: Path) -> None:
    scan = read_scan(REAL / "dicom_t1gd")
    (stored,) = run(REAL / "dicom_t1gd", tmp_path / "out").studies[0].scans
    np.testing.assert_array_equal(scan.data, read_scan(stored.path).data)
    np.testing.assert_array_equal(scan.affine, read_scan(stored.path).affine)
    assert scan.sequence == stored.sequence


def value(folder: Path, lps: tuple[float, float, float]) -> float:
    scan = read_scan(folder)
    x, y, z = lps
    return float(scan.data[tuple(np.rint(np.linalg.inv(scan.affine) @ [-x, -y, z, 1])[:3].astype(int))])


def test_a_tilted_series_shows_the_body_upright(tmp_path: Path) -> None:
    """Against the body itself, not against the import."""
    phantom.series(tmp_path / "in", tilt=18.0, **CT)
    for place, seen in {(30, 0, 0): 900, (0, -38, 0): 100, (0, 0, 32): 600, (-30, 0, 0): 300}.items():
        assert value(tmp_path / "in", place) == seen - 1000, place
    assert read_scan(tmp_path / "in").shear == pytest.approx(0, abs=1e-6)


def test_an_image_of_no_stated_class_is_one_of_its_modality(tmp_path: Path) -> None:
    """Neither in the tags nor in the preamble."""
    for file in phantom.series(tmp_path / "in", **CT):
        data = pydicom.dcmread(file)
        del data.SOPClassUID, data.file_meta.MediaStorageSOPClassUID
        data.save_as(file, enforce_file_format=False)
    (stored,) = run(tmp_path / "in", tmp_path / "out").studies[0].scans
    assert stored.sequence == "CT"
    assert value(tmp_path / "in", (30, 0, 0)) == -100


def test_a_table_of_values_is_applied(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", each=table)
    assert [value(tmp_path / "in", place) for place in ((30, 0, 0), (0, 0, 32))] == [2 * 900 + 5, 2 * 600 + 5]


@pytest.mark.parametrize(
    ("write", "named", "imported"),
    [
        (made(each=at_heights([4.0 * n + (1.5 if n % 2 else 0) for n in range(24)]), **CT), "uneven_slices", "uneven_slices"),
        (made(drop=(5, 6, 7, 8, 9)), "missing_slices", "missing_slices"),
        (made(slices=3), "too_few_slices", "too_few_slices"),
        (made(PhotometricInterpretation="PALETTE COLOR"), "rgb_or_complex", "colour"),
        (made(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33"), "not_an_image", "structured_report"),
        (made(each=lambda n, data: data.pop("ImagePositionPatient")), "not_an_image", "no_geometry"),
        (made(each=lambda n, data: setattr(data, "PixelData", data.PixelData[:-500])), "truncated", "damaged"),
        (made(each=lambda n, data: setattr(data, "PatientID", f"P{n % 2}")), "several_patients", "several_patients"),
    ],
)
def test_what_an_import_refuses_is_refused(tmp_path: Path, write: Callable[[Path], Any], named: str, imported: str) -> None:
    write(tmp_path / "in")
    with pytest.raises(VolumeError) as error:
        read_scan(tmp_path / "in")
    assert error.value.reason == named
    assert str(tmp_path / "in") in str(error.value)
    phantom.series(tmp_path / "other", study="1.2.9", patient="Q")
    for file in (tmp_path / "other").iterdir():
        file.rename(tmp_path / "in" / f"other{file.name}")
    run(tmp_path / "in", tmp_path / "out")
    assert sorted(reasons(tmp_path / "out")) == ["", imported]


def two_b_values(folder: Path) -> None:
    uid = generate_uid()
    for place, b_value in enumerate((0.0, 1000.0)):
        diffusion(folder, b_value, uid, standard, first=100 * place)


def two_directions(folder: Path) -> None:
    """Of one b-value, without a b0: an import averages them."""
    uid = generate_uid()
    for place, direction in enumerate((1, 2)):
        diffusion(folder, 1000.0, uid, standard, first=100 * place, AcquisitionNumber=direction)


def time_points(folder: Path, count: int) -> None:
    uid = generate_uid()
    for point in range(count):
        phantom.series(
            folder, uid=uid, first=100 * point, pixels=lambda n, k=point: np.full((40, 40), 50 * k) + np.arange(40) * n
        )


def two_planes(folder: Path) -> None:
    uid = generate_uid()
    for place, plane in enumerate((phantom.AXIAL, phantom.SAGITTAL)):
        phantom.series(folder, uid=uid, plane=plane, first=100 * place)


@pytest.mark.parametrize(
    ("write", "reason", "scans"),
    [
        (two_b_values, "series_4d", 3),
        (two_directions, "series_4d", 1),
        (lambda folder: phantom.enhanced(folder, [0.0, 1000.0]), "series_4d", 3),
        (lambda folder: time_points(folder, 2), "series_4d", 2),
        (two_planes, "mixed_orientations", 2),
    ],
)
def test_a_series_of_several_volumes_is_refused_though_an_import_splits_it(
    tmp_path: Path, write: Callable[[Path], Any], reason: str, scans: int
) -> None:
    write(tmp_path / "in")
    with pytest.raises(VolumeError, match="hlip import dicom") as error:
        read_scan(tmp_path / "in")
    assert error.value.reason == reason
    assert len(run(tmp_path / "in", tmp_path / "out").studies[0].scans) == scans


def test_many_time_points_are_refused(tmp_path: Path) -> None:
    time_points(tmp_path / "in", 6)
    with pytest.raises(VolumeError, match="6 images at each place") as error:
        read_scan(tmp_path / "in")
    assert error.value.reason == "series_4d"
