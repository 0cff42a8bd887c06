"""Enhanced multi-frame objects: frames sorted by place, b-value, stack, echo and kind, whoever made them and in whatever order they stand."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from hlip.importing.dicom.importer import import_dicom
from hlip.importing.outcome import ImportingError

from ...dicom import phantom
from .made import rows

VENDORS = ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "CANON_MEC", "")
MARKS = {(30, 0, 0): 900, (0, -38, 0): 100, (0, 0, 32): 600, (-30, 0, 0): 300}  # LPS mm -> value


def run(folder: Path, out: Path) -> list[dict[str, str]]:
    import_dicom(folder, out, workers=1, progress=False)
    return rows(out)


def assert_marks(file: Path, weight: float = 1.0) -> None:
    image = nib.load(file)
    assert image.shape == (40, 40, 24)
    for (x, y, z), value in MARKS.items():
        place = np.linalg.inv(image.affine) @ [-x, -y, z, 1]
        found = image.get_fdata()[tuple(np.rint(place[:3]).astype(int))]
        assert found == pytest.approx(value * weight, rel=5e-3)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_every_b_value_becomes_a_volume_of_its_own(tmp_path: Path, vendor: str, interleaved: bool) -> None:
    phantom.enhanced(tmp_path / "in", [0.0, 500.0, 1000.0], vendor=vendor, interleaved=interleaved)
    found = run(tmp_path / "in", tmp_path / "out")
    files = {row["sequence"]: tmp_path / "out" / row["path"] for row in found}
    assert list(files) == ["DWI b0", "DWI", "ADC"]
    assert_marks(files["DWI b0"], 10)
    assert_marks(files["DWI"], 10 * np.exp(-1))
    adc = nib.load(files["ADC"]).get_fdata()
    assert np.median(adc[adc > 0]) == pytest.approx(1000, rel=1e-2)
    assert {(row["b_values"], row["files"], row["shape"]) for row in found} == {("0 500 1000", "1", "40x40x24")}


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_two_sets_that_nothing_tells_apart_become_two_scans(tmp_path: Path, vendor: str, interleaved: bool) -> None:
    phantom.enhanced(tmp_path / "in", [0.0, 0.0], vendor=vendor, interleaved=interleaved, diffuse=False, weights=[1, 4])
    found = run(tmp_path / "in", tmp_path / "out")
    assert [row["sequence"] for row in found] == ["T2", "T2"]
    for row, weight in zip(found, (1, 4), strict=True):
        assert_marks(tmp_path / "out" / row["path"], weight)


def test_several_files_of_one_b_value_each(tmp_path: Path) -> None:
    for number, b_value in enumerate((1000.0, 0.0)):
        file = phantom.enhanced(tmp_path / str(number), [b_value], diffuse=True, vendor="SIEMENS")
        data = pydicom.dcmread(file)
        data.SeriesInstanceUID, data.InstanceNumber = "1.2.3", number
        (tmp_path / "in").mkdir(exist_ok=True)
        data.save_as(tmp_path / "in" / str(number))
    found = run(tmp_path / "in", tmp_path / "out")
    assert [row["sequence"] for row in found] == ["DWI b0", "DWI", "ADC"]
    assert {row["files"] for row in found} == {"2"}
    assert_marks(tmp_path / "out" / found[0]["path"], 10)


def test_frames_without_a_b_value_among_others_are_b0(tmp_path: Path) -> None:
    def silent(shell: int, n: int, frame: Dataset) -> None:
        if shell == 0:
            del frame.MRDiffusionSequence

    phantom.enhanced(tmp_path / "in", [0.0, 1000.0], vendor="GE MEDICAL SYSTEMS", each=silent)
    found = run(tmp_path / "in", tmp_path / "out")
    assert [(row["sequence"], row["b_values"]) for row in found] == [(name, "0 1000") for name in ("DWI b0", "DWI", "ADC")]
    assert_marks(tmp_path / "out" / found[0]["path"], 10)


def test_stacks_at_different_heights_are_scans_of_their_own(tmp_path: Path) -> None:
    def higher(shell: int, n: int, frame: Dataset) -> None:
        frame.FrameContentSequence[0].StackID = str(shell + 1)
        if shell:
            frame.PlanePositionSequence[0].ImagePositionPatient[2] += 331

    phantom.enhanced(tmp_path / "in", [0.0, 0.0], diffuse=False, each=higher, vendor="SIEMENS")
    found = run(tmp_path / "in", tmp_path / "out")
    heights = [nib.load(tmp_path / "out" / row["path"]).affine[2, 3] for row in found]
    assert heights[1] - heights[0] == pytest.approx(331)
    assert [row["shape"] for row in found] == ["40x40x24"] * 2


def test_echoes_and_phase_images_of_one_object(tmp_path: Path) -> None:
    def three_kinds(shell: int, n: int, frame: Dataset) -> None:
        frame.MREchoSequence = phantom.macro(EffectiveEchoTime=[20.0, 95.0, 95.0][shell])
        component = ["MAGNITUDE", "MAGNITUDE", "PHASE"][shell]
        kind = ["ORIGINAL", "PRIMARY", "OTHER", "NONE"]
        frame.MRImageFrameTypeSequence = phantom.macro(FrameType=kind, ComplexImageComponent=component)

    file = phantom.enhanced(tmp_path / "in", [0.0] * 3, diffuse=False, weights=[1, 2, 3], each=three_kinds, interleaved=True)
    data = pydicom.dcmread(file)
    del data.SharedFunctionalGroupsSequence[0].MREchoSequence
    data.SeriesDescription = "TSE two echoes"
    data.save_as(file)
    found = run(tmp_path / "in", tmp_path / "out")
    assert [(row["sequence"], row["echo_time_ms"], row["reason"]) for row in found] == [
        ("PD", "20.0", ""), ("T2", "95.0", ""), ("T2", "95.0", "phase"),
    ]  # fmt: skip
    for row, weight in zip(found[:2], (1, 2), strict=True):
        assert_marks(tmp_path / "out" / row["path"], weight)


def test_compressed_frames_and_a_scale_for_each(tmp_path: Path) -> None:
    def scaled(shell: int, n: int, frame: Dataset) -> None:
        frame.PixelValueTransformationSequence = phantom.macro(RescaleSlope=1 + n / 10, RescaleIntercept=0, RescaleType="US")

    file = phantom.enhanced(tmp_path / "in", [0.0], each=scaled, vendor="SIEMENS")
    data = pydicom.dcmread(file)
    weights = 10 / (1 + np.arange(24) / 10)
    data.PixelData = np.rint(data.pixel_array * weights[:, None, None]).astype(np.uint16).tobytes()
    data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(file)
    (row,) = run(tmp_path / "in", tmp_path / "out")
    assert_marks(tmp_path / "out" / row["path"], 10)


def test_a_cut_file_is_damaged_and_its_whole_copy_counts(tmp_path: Path) -> None:
    file = phantom.enhanced(tmp_path / "in", [0.0])
    content = file.read_bytes()
    file.with_name("z").write_bytes(content[:-5000])
    (row,) = run(tmp_path / "in", tmp_path / "out")
    assert (row["files"], row["duplicates"]) == ("1", "1")
    assert_marks(tmp_path / "out" / row["path"])
    file.unlink()
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(ImportingError):
        run(tmp_path / "in", tmp_path / "out")
    assert [(row["reason"], row["damaged"]) for row in rows(tmp_path / "out")] == [("damaged", "1")]


def test_frames_without_a_place_are_no_scan(tmp_path: Path) -> None:
    file = phantom.enhanced(tmp_path / "in", [0.0])
    data = pydicom.dcmread(file)
    del data.PerFrameFunctionalGroupsSequence[20:]
    data.save_as(file)
    with pytest.raises(ImportingError):
        run(tmp_path / "in", tmp_path / "out")
    assert "no_geometry" in [row["reason"] for row in rows(tmp_path / "out")]
