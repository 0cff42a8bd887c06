"""Left stays left, HU stay HU: where voxels lie and what they say after an import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from hlip.prepare import prepare
from hlip.store import Store
from hlip.volume import VolumeSpec

from ...dicom import phantom
from .made import PLANES, REAL, assert_marks, one_scan, rows, run


@pytest.mark.parametrize("name", PLANES)
@pytest.mark.parametrize("backwards", [False, True])
def test_left_stays_left_through_import_and_prepare(tmp_path: Path, name: str, backwards: bool) -> None:
    """The bright ball lies at the left, the dark one in front, the middling one on top, however the slices were taken."""

    def renumber(n: int, data: pydicom.Dataset) -> None:
        data.InstanceNumber = 100 - n if backwards else n + 1

    phantom.series(tmp_path / "in", plane=PLANES[name], each=renumber)
    done = run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    assert_marks(image)
    assert image.shape == (40, 40, 24)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    volume = VolumeSpec(
        size=(24, 40, 40),
        spacing_mm=(6.0, 4.0, 4.0),
        fit="spacing",
        orientation="RAS",
        through_plane="axial",
        percentiles=(0, 100),
    )
    summary = prepare(done.manifest, tmp_path / "store", volume, workers=1, progress=False)
    assert summary.studies_ready == 1
    voxels = np.asarray(Store(tmp_path / "store").volumes(done.studies[0].study_id)[0, 0])  # upwards, forwards, to the right
    d, h, w = (np.array(voxels.shape) - 1) / 2

    def seen(left: float, back: float, up: float) -> float:
        return float(voxels[round(d + up / 6), round(h - back / 4), round(w - left / 4)]) * 900 / 255

    assert seen(30, 0, 0) == pytest.approx(900, rel=0.15)
    assert seen(-30, 0, 0) == pytest.approx(300, rel=0.2)
    assert seen(0, -38, 0) == pytest.approx(100, abs=60)
    assert seen(0, 0, 32) == pytest.approx(600, rel=0.15)


def test_a_ct_is_in_hounsfield_units(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", modality="CT", description="HEAD 5mm")
    run(tmp_path / "in", tmp_path / "out")
    assert_marks(one_scan(tmp_path / "out"), -1000)
    (row,) = rows(tmp_path / "out")
    assert (row["sequence"], row["rule"]) == ("CT", "modality + description")


@pytest.mark.parametrize("degrees", [15.0, -20.0])
@pytest.mark.parametrize("unsigned", [True, False])
def test_gantry_tilt_is_taken_back(tmp_path: Path, degrees: float, unsigned: bool) -> None:
    def signed(n: int, data: pydicom.Dataset) -> None:
        if not unsigned:
            data.PixelRepresentation = 1

    phantom.series(tmp_path / "in", modality="CT", tilt=degrees, slices=30, step=4.0, each=signed)
    run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    assert_marks(image, -1000)
    assert abs(image.affine[1, 2]) < 1e-6, "no shear is left"
    assert f"gantry tilt of {abs(degrees):.0f} degrees corrected" in rows(tmp_path / "out")[0]["notes"]


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    """Slices stored at different scales show the same values."""

    def scaled(n: int, data: pydicom.Dataset) -> None:
        stored = phantom.np.frombuffer(data.PixelData, np.uint16)
        data.RescaleSlope, data.RescaleIntercept = 1 / (1 + n % 5), -7 * n
        data.PixelData = ((stored + 7 * n) * (1 + n % 5)).astype(np.uint16).tobytes()

    phantom.series(tmp_path / "in", each=scaled)
    run(tmp_path / "in", tmp_path / "out")
    assert_marks(one_scan(tmp_path / "out"))


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_monochrome1_is_turned_around_and_said_but_not_hounsfield_units(tmp_path: Path, modality: str) -> None:
    def upside_down(_: int, data: pydicom.Dataset) -> None:
        data.PhotometricInterpretation = "MONOCHROME1"
        if modality == "MR":
            data.PixelData = (900 - np.frombuffer(data.PixelData, np.uint16)).astype(np.uint16).tobytes()

    description = "T1" if modality == "MR" else "Head"
    phantom.series(tmp_path / "in", modality=modality, description=description, each=upside_down)
    run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    assert_marks(image, shift=-1000 if modality == "CT" else 0)
    (row,) = rows(tmp_path / "out")
    assert row["notes"] == "MONOCHROME1: values " + ("turned around" if modality == "MR" else "kept, they are a measure")


@pytest.mark.skipif(not REAL.is_dir(), reason="shared data absent")
def test_a_real_series(tmp_path: Path) -> None:
    """Each voxel of three slices stands where the tags of its file say, by the formula of the standard (C.7.6.2.1.1), with its value."""
    run(REAL / "dicom_t1gd", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    voxels, to_voxel = image.get_fdata(), np.linalg.inv(image.affine)
    for file in sorted((REAL / "dicom_t1gd").iterdir())[::13]:
        data = pydicom.dcmread(file)
        along, down = np.reshape(np.array(data.ImageOrientationPatient, float), (2, 3))
        row, column = np.meshgrid(np.arange(data.Rows), np.arange(data.Columns), indexing="ij")
        lps = np.array(data.ImagePositionPatient, float) + (
            along * data.PixelSpacing[1] * column[..., None] + down * data.PixelSpacing[0] * row[..., None]
        )
        place = (lps * [-1, -1, 1]) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        assert np.abs(place - place.round()).max() < 0.02
        seen = voxels[tuple(np.moveaxis(place.round().astype(int), -1, 0))]
        np.testing.assert_array_equal(
            seen, data.pixel_array * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
        )
    assert rows(tmp_path / "out")[0]["sequence"] == "T1"
