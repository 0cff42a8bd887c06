"""A tree of DICOM files through `hlip import dicom`: what comes out, where it lies, what is left out, and that nobody is named."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from hlip.cli import main
from hlip.importing.dicom import convert, importer, study
from hlip.importing.dicom.importer import import_dicom
from hlip.importing.outcome import ImportingError
from hlip.importing.tables import Tables
from hlip.prepare import prepare
from hlip.scans.reading import read_scan
from hlip.store import Store
from hlip.volume import VolumeSpec

spec = importlib.util.spec_from_file_location("dicom_phantom", Path(__file__).with_name("phantom.py"))
assert spec is not None
assert spec.loader is not None
phantom = importlib.util.module_from_spec(spec)
sys.modules["dicom_phantom"] = phantom
spec.loader.exec_module(phantom)

REAL = Path(__file__).parents[4].parent / "shared" / "real"
MARKS = {(30, 0, 0): 900, (0, -38, 0): 100, (0, 0, 32): 600, (-30, 0, 0): 300, (0, 40, 0): 300}  # LPS mm -> value


def run(folder: Path, out: Path, **more):
    return import_dicom(folder, out, workers=1, progress=False, **more)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "series.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def reasons(out: Path) -> list[str]:
    return [row["reason"] for row in rows(out)]


def one_scan(out: Path) -> nib.Nifti1Image:
    (row,) = (row for row in rows(out) if row["path"])
    return nib.load(out / row["path"])


def value_at(image: nib.Nifti1Image, lps: tuple[float, float, float]) -> float:
    """In voxels' units, at a place of the patient."""
    x, y, z = lps
    where = np.linalg.inv(image.affine) @ [-x, -y, z, 1]
    i, j, k = np.rint(where[:3]).astype(int)
    return float(image.get_fdata()[i, j, k])


def assert_marks(image: nib.Nifti1Image, shift: float = 0.0) -> None:
    for place, value in MARKS.items():
        assert value_at(image, place) == pytest.approx(value + shift, abs=1), place


# --- left stays left -----------------------------------------------------------------------------------------------------------

PLANES = {"axial": phantom.AXIAL, "sagittal": phantom.SAGITTAL, "coronal": phantom.CORONAL, "oblique": phantom.OBLIQUE}


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


# --- slices ----------------------------------------------------------------------------------------------------------------------


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


# --- what is left out --------------------------------------------------------------------------------------------------------------


def test_what_is_no_scan_is_left_out_with_its_reason(tmp_path: Path) -> None:
    original = ["ORIGINAL", "PRIMARY"]
    cases: list[tuple[str, dict]] = [
        ("", {}),
        ("localizer", {"ImageType": [*original, "LOCALIZER"]}),
        ("localizer", {"description": "3-plane scout"}),
        ("derived_map", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "FA"]}),
        ("derived_map", {"description": "rCBF"}),
        ("projection", {"ImageType": ["DERIVED", "SECONDARY", "MIP"], "description": "TOF"}),
        ("subtraction", {"description": "T1 SUB"}),
        ("phase", {"ImageType": [*original, "P"]}),
        ("calibration", {"description": "Calibration"}),
        ("time_series", {"description": "ep2d_bold"}),
        ("screenshot", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
        ("burned_in_text", {"BurnedInAnnotation": "YES"}),
        ("colour", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("secondary_capture", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        ("other_modality", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "Modality": "US"}),
        ("dose_report", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Modality": "SR"}),
        ("structured_report", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33", "Modality": "SR"}),
        ("presentation_state", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1", "Modality": "PR"}),
        ("key_objects", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.59", "Modality": "KO"}),
        ("segmentation", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}),
        ("", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "description": "ADC map"}),
    ]
    for number, (_, tags) in enumerate(cases, 1):
        phantom.series(tmp_path / "in" / str(number), number=number, slices=6, size=16, spacing=10, step=20, **tags)
    done = run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == [reason for reason, _ in cases]
    assert [scan.sequence for scan in done.studies[0].scans] == ["T1", "ADC"]
    with (tmp_path / "out" / "left_out.csv").open(newline="") as lines:
        listed = [(row["path"].split("/")[1], row["reason"]) for row in csv.DictReader(lines)]
    assert listed == [(f"{number:03d}", reason) for number, (reason, _) in enumerate(cases, 1) if reason]


def test_three_planes_of_few_slices_are_a_localizer_whatever_they_are_called(tmp_path: Path) -> None:
    uid = generate_uid()
    for place, name in enumerate(("axial", "sagittal", "coronal")):
        phantom.series(tmp_path / "in", uid=uid, plane=PLANES[name], slices=3, first=10 * place, description="T1")
    phantom.series(tmp_path / "in", number=2)
    run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == ["localizer"] * 3 + [""]


def test_kernels_and_reformats(tmp_path: Path) -> None:
    """The soft kernel and the original are taken; where they are all there is, the others are."""
    derived = {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    for number, (uid, tags) in enumerate(
        [
            ("1.1", {"ConvolutionKernel": "H30s"}),
            ("1.1", {"ConvolutionKernel": "H70h"}),
            ("1.1", {"ConvolutionKernel": "H30s", "plane": phantom.CORONAL, **derived}),
            ("1.2", {"ConvolutionKernel": "BONE"}),
            ("1.3", {"ConvolutionKernel": "H30s", **derived}),
        ],
        1,
    ):
        phantom.series(
            tmp_path / "in", study=uid, patient=uid, number=number, modality="CT", description="HEAD", slices=8, **tags
        )
    run(tmp_path / "in", tmp_path / "out", keep_ids=True)
    assert [(row["study_id"], row["reason"]) for row in rows(tmp_path / "out")] == [
        ("1.1", ""), ("1.1", "sharp_kernel"), ("1.1", "reformat"), ("1.2", ""), ("1.3", ""),
    ]  # fmt: skip


def test_a_study_of_two_patients_is_left_out(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    phantom.series(tmp_path / "in", slices=6, number=2, patient="P2")
    phantom.series(tmp_path / "in", slices=6, number=3, study="1.2.9")
    done = run(tmp_path / "in", tmp_path / "out")
    assert sorted(reasons(tmp_path / "out")) == ["", "several_patients", "several_patients"]
    assert len(done.studies) == 1


# --- diffusion -----------------------------------------------------------------------------------------------------------------------


def diffusion(folder: Path, b_value: float, uid: str, put, first: int = 0, **tags) -> None:
    d = 1e-3  # mm^2/s

    def weighted(n: int, data: pydicom.Dataset) -> None:
        stored = np.frombuffer(data.PixelData, np.uint16).reshape(40, 40)
        phantom.put_pixels(data, np.rint(stored * 10 * np.exp(-b_value * d)))
        put(data, b_value)

    timing = {"ScanningSequence": "EP", "EchoTime": 80, "RepetitionTime": 4000}
    phantom.series(folder, uid=uid, first=first, description="ep2d_diff", each=weighted, **(timing | tags))


def standard(data: pydicom.Dataset, b_value: float) -> None:
    data.DiffusionBValue = b_value


def siemens(data: pydicom.Dataset, b_value: float) -> None:
    block = data.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", str(int(b_value)))


def ge(data: pydicom.Dataset, b_value: float) -> None:
    data.Manufacturer = "GE MEDICAL SYSTEMS"
    block = data.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x39, "IS", [str(int(b_value) + 1_000_000_000), "8", "0", "0"])


def philips(data: pydicom.Dataset, b_value: float) -> None:
    data.Manufacturer = "Philips Medical Systems"
    block = data.private_block(0x2001, "Philips Imaging DD 001", create=True)
    block.add_new(0x03, "FL", b_value)


def as_bytes(data: pydicom.Dataset, b_value: float) -> None:
    data.Manufacturer = "Philips"
    block = data.private_block(0x2001, "Philips Imaging DD 001", create=True)
    block.add_new(0x03, "UN", np.float32(b_value).tobytes())


@pytest.mark.parametrize("put", [standard, siemens, ge, philips, as_bytes])
def test_a_diffusion_series_becomes_b0_trace_and_adc(tmp_path: Path, put) -> None:
    uid = generate_uid()
    for place, b_value in enumerate((0, 1000, 1000)):  # two directions
        diffusion(tmp_path / "in", b_value, uid, put, first=100 * place)
    run(tmp_path / "in", tmp_path / "out")
    found = {row["sequence"]: nib.load(tmp_path / "out" / row["path"]) for row in rows(tmp_path / "out")}
    assert list(found) == ["DWI b0", "DWI", "ADC"]
    assert value_at(found["DWI b0"], (30, 0, 0)) == pytest.approx(9000)
    assert value_at(found["DWI"], (30, 0, 0)) == pytest.approx(9000 * np.exp(-1), rel=1e-3)
    assert value_at(found["ADC"], (30, 0, 0)) == pytest.approx(1000, rel=1e-2)
    assert rows(tmp_path / "out")[0]["b_values"] == "0 1000"


def test_the_scanners_own_adc_is_preferred(tmp_path: Path) -> None:
    uid = generate_uid()
    for place, b_value in enumerate((0, 1000)):
        diffusion(tmp_path / "in", b_value, uid, standard, first=100 * place)
    phantom.series(tmp_path / "in", number=2, description="ep2d_diff_ADC", ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])
    done = run(tmp_path / "in", tmp_path / "out")
    assert [scan.sequence for scan in done.studies[0].scans] == ["DWI b0", "DWI", "ADC"]
    assert_marks(nib.load(done.studies[0].scans[2].path))


# --- encodings -----------------------------------------------------------------------------------------------------------------------


def real_slices(folder: Path, name: str, count: int = 6) -> np.ndarray:
    """A series of one of pydicom's own sample images, its encoding untouched; returns its pixels."""
    folder.mkdir()
    sample = pydicom.dcmread(get_testdata_file(name), force=True)
    for n in range(count):
        sample.SOPInstanceUID = sample.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        sample.InstanceNumber = n + 1
        sample.ImagePositionPatient = [-50, -50, 5.0 * n]
        sample.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        sample.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        sample.save_as(folder / f"IM{n}")
    return np.asarray(pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array)


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm",
     "MR_small_jpeg_ls_lossless.dcm"],
)  # fmt: skip
def test_transfer_syntaxes(tmp_path: Path, name: str) -> None:
    pixels = real_slices(tmp_path / "in", name)
    run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    np.testing.assert_array_equal(image.get_fdata()[..., 2], pixels.T)
    np.testing.assert_allclose(image.affine[:3, 3], [50, 50, 0])


def test_what_the_converter_cannot_decode_pydicom_does(tmp_path: Path) -> None:
    """Deflated files; and files without the mark and the group that says how they are encoded."""
    phantom.series(tmp_path / "in", number=1)
    for file in (tmp_path / "in").iterdir():
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        data.save_as(file)
    for n, file in enumerate(phantom.series(tmp_path / "bare", number=2, description="T2", **phantom.T2)):
        data = pydicom.dcmread(file)
        bare = pydicom.Dataset(data)
        bare.save_as(tmp_path / "in" / f"bare{n}", implicit_vr=True, little_endian=True)
    run(tmp_path / "in", tmp_path / "out")
    assert [row["sequence"] for row in rows(tmp_path / "out")] == ["T1", "T2"]
    for row in rows(tmp_path / "out"):
        assert_marks(nib.load(tmp_path / "out" / row["path"]))


def test_a_damaged_compressed_file_costs_one_slice(tmp_path: Path) -> None:
    real_slices(tmp_path / "in", "MR_small_jp2klossless.dcm", count=12)
    broken = tmp_path / "in" / "IM5"
    broken.write_bytes(broken.read_bytes()[:-4500] + bytes(4500))
    run(tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert "1 missing slices filled in" in row["notes"]
    assert one_scan(tmp_path / "out").shape == (64, 64, 12)


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    phantom.enhanced(tmp_path / "in", [0.0])
    run(tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["sequence"], row["echo_time_ms"]) == ("T2", "95.0")
    assert_marks(one_scan(tmp_path / "out"))


def test_enhanced_diffusion(tmp_path: Path) -> None:
    phantom.enhanced(tmp_path / "in", [0.0, 1000.0])
    run(tmp_path / "in", tmp_path / "out")
    found = {row["sequence"]: nib.load(tmp_path / "out" / row["path"]) for row in rows(tmp_path / "out")}
    assert list(found) == ["DWI b0", "DWI", "ADC"]
    assert value_at(found["DWI b0"], (30, 0, 0)) == pytest.approx(9000, rel=1e-3)
    assert value_at(found["ADC"], (30, 0, 0)) == pytest.approx(1000, rel=2e-2)


# --- trees -------------------------------------------------------------------------------------------------------------------------


def test_a_tree_of_everything(tmp_path: Path) -> None:
    """Several patients, archives, other files, a DICOMDIR, a damaged header, a link back to the top."""
    tree = tmp_path / "in"
    phantom.series(tree / "a" / "b", slices=8, study="1.1", patient="A")
    phantom.series(tree / "a", slices=8, study="1.2", patient="A", number=2)
    phantom.series(tmp_path / "packed", slices=8, study="1.3", patient="B")
    with zipfile.ZipFile(tree / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "packed").iterdir():
            archive.write(file, f"DICOM/{file.name}")
    (tree / "notes.txt").write_text("x" * 500)
    (tree / "Miller.Mary").write_text("y" * 500)
    (tree / "damaged").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    (tree / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    shutil.copy(get_testdata_file("DICOMDIR"), tree)
    (tree / "a" / "loop").symlink_to(tree)
    done = run(tree, tmp_path / "out")
    assert len(done.studies) == 3
    assert len({study.patient_id for study in done.studies}) == 2
    assert all(re.fullmatch(r"study-[0-9a-f]{16}", study.study_id) for study in done.studies)
    left = sorted((item.path, item.reason) for item in done.left_out)
    assert left == [
        ("(.txt files)", "not_dicom"),
        ("(.zip files)", "damaged_archive"),
        ("(others files)", "damaged"),
        ("(others files)", "not_dicom"),
    ]
    assert any(str(tree / "damaged") in note for note in done.notes), "the terminal names what the tables may not"
    for imported in done.studies:
        read_scan(imported.scans[0].path)


def test_mutated_files_stop_nothing_and_every_file_is_accounted_for(tmp_path: Path) -> None:
    """Bit flips in headers and pixels, and files cut short, beside whole ones."""
    generator = np.random.default_rng(0)
    for nth in range(20):
        tags = {"study": f"1.{nth}", "patient": str(nth)}
        files = phantom.series(tmp_path / "in" / str(nth), slices=8, size=24, spacing=6, step=10, **tags)
        for file in files[:6] if nth % 2 else files[:1]:
            content = bytearray(file.read_bytes())
            if nth % 4 == 3:
                content = content[: generator.integers(1, len(content))]
            else:
                for place in generator.integers(0, 1200 if nth % 3 else len(content), generator.choice([1, 5, 50])):
                    content[place] = generator.integers(256)
            file.write_bytes(bytes(content))
    done = run(tmp_path / "in", tmp_path / "out")
    assert len(done.studies) >= 8
    each = {(row["study_id"], row["series"]): row for row in rows(tmp_path / "out")}.values()
    listed = sum(int(row[name]) for row in each for name in ("files", "duplicates", "damaged"))
    unread = sum(int(item.message.split()[0]) for item in done.left_out if item.path.startswith("("))
    assert unread > 0
    assert listed + unread == 20 * 8


def test_a_study_uid_that_is_no_uid_names_no_folder(tmp_path: Path) -> None:
    def hostile(n: int, data: pydicom.Dataset) -> None:
        data.StudyInstanceUID = ".."

    phantom.series(tmp_path / "in", slices=6, each=hostile)
    run(tmp_path / "in", tmp_path / "out", keep_ids=True)
    assert re.fullmatch(r"study-\w+", rows(tmp_path / "out")[0]["study_id"])


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    for n in range(5):
        phantom.series(
            tmp_path / "in" / str(n), slices=60, size=16, spacing=10, step=2, study=f"1.{n}", patient=str(n), number=n
        )
    (tmp_path / "salt").write_text("ab" * 32)
    for workers in (1, 3):
        import_dicom(tmp_path / "in", tmp_path / str(workers), salt=tmp_path / "salt", workers=workers, progress=False)
    first, second = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "1", tmp_path / "3")
    )
    assert first == second
    assert len(first) == 5 * 2 + 2


def test_a_second_run_converts_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 2):
        phantom.series(tmp_path / "in" / str(n), slices=8, study=f"1.{n}", patient=str(n))
    first = run(tmp_path / "in", tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nii.gz")}
    manifest = first.manifest.read_bytes()
    again = run(tmp_path / "in", tmp_path / "out")
    assert "2 of 2 studies are unchanged" in str(again)
    assert first.manifest.read_bytes() == manifest
    phantom.series(tmp_path / "in" / "1", slices=8, study="1.1", patient="1", number=2, description="T2", **phantom.T2)
    more = run(tmp_path / "in", tmp_path / "out")
    assert "1 of 2 studies are unchanged" in str(more)
    assert sorted(len(study.scans) for study in more.studies) == [1, 2]
    unchanged = next(study for study in more.studies if len(study.scans) == 1).scans[0].path
    assert unchanged.stat().st_mtime_ns == times[unchanged]
    unchanged.unlink()
    assert "1 of 2 studies are unchanged" in str(run(tmp_path / "in", tmp_path / "out"))
    assert unchanged.is_file()


def test_one_bad_study_never_stops_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 2, 3):
        phantom.series(tmp_path / "in" / str(n), slices=8, study=f"1.{n}", patient=str(n))
    from hlip.importing.dicom import study

    real = study.convert_layout

    def failing(layout):
        if layout.slices[0].stack.study_uid == "1.2":
            raise RuntimeError("/export/Miller^Mary/IM1 is bad")
        return real(layout)

    monkeypatch.setattr(study, "convert_layout", failing)
    done = run(tmp_path / "in", tmp_path / "out")
    assert len(done.studies) == 2
    assert [item.reason for item in done.left_out] == ["unexpected", "no_usable_series"]
    assert "Miller" not in (tmp_path / "out" / "left_out.csv").read_text()
    monkeypatch.setattr(study, "convert_layout", real)
    assert len(run(tmp_path / "in", tmp_path / "out").studies) == 3, "what failed oddly is tried again"


def test_a_full_disk_stops_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in", slices=8)
    from hlip.importing.dicom import study

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "_save", full)
    with pytest.raises(ImportingError, match=r"cannot be written .*No space left.*run it again"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_converter_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in", slices=8)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 30\n")
    slow.chmod(0o755)
    from hlip.importing.dicom import convert, study

    monkeypatch.setattr(convert, "program", lambda: str(slow))
    monkeypatch.setattr(study, "convert_layout", lambda layout: convert.convert_layout(layout, limit=0.2))
    with pytest.raises(ImportingError, match="converter_timeout 1"):
        run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == ["converter_timeout"]


@pytest.mark.parametrize("case", ["missing", "empty", "foreign"])
def test_nothing_to_import(tmp_path: Path, case: str) -> None:
    if case != "missing":
        (tmp_path / "in").mkdir()
    if case == "foreign":
        phantom.series(tmp_path / "in", slices=6)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "manifest.jsonl").write_text('{"study_id": "mine"}\n')
    text = {"missing": "no such folder", "empty": "no DICOM series among 0 files", "foreign": "not written by this command"}[
        case
    ]
    with pytest.raises(ImportingError, match=text):
        run(tmp_path / "in", tmp_path / "out")


# --- identifiers --------------------------------------------------------------------------------------------------------------------

SECRET = {
    "PatientName": "ZZMARKA^ZZMARKB",
    "PatientID": "ZZMARKC123",
    "OtherPatientIDs": "ZZMARKD",
    "PatientBirthDate": "19311231",
    "PatientAddress": "ZZMARKE street",
    "PatientComments": "ZZMARKF",
    "StudyDate": "20190817",
    "SeriesDate": "20190817",
    "AcquisitionDate": "20190817",
    "ContentDate": "20190817",
    "StudyTime": "174539.125",
    "AcquisitionTime": "174539.125",
    "AccessionNumber": "ZZMARKG77",
    "InstitutionName": "ZZMARKH hospital",
    "InstitutionAddress": "ZZMARKI",
    "ReferringPhysicianName": "ZZMARKJ^Doc",
    "PerformingPhysicianName": "ZZMARKK",
    "OperatorsName": "ZZMARKL",
    "StationName": "ZZMARKM",
    "DeviceSerialNumber": "ZZMARKN1",
    "StudyID": "ZZMARKO",
    "StudyDescription": "ZZMARKP brain",
    "ImageComments": "ZZMARKQ",
    "ProtocolName": "t1 ZZMARKR",
    "SequenceName": "ZZMARKS",
    "Manufacturer": "SIEMENS ZZMARKT",
    "ManufacturerModelName": "Skyra ZZMARKU",
    "ContrastBolusAgent": "ZZMARKV",
    "PatientSex": "F",
    "SoftwareVersions": "ZZMARKW",
    "SeriesNumber": 20190817,
}


def all_text(out: Path) -> bytes:
    """Every byte of every file, unpacked, and every name."""
    found = []
    for path in out.rglob("*"):
        found.append(str(path.relative_to(out)).encode())
        if path.is_file():
            raw = path.read_bytes()
            found += [raw, gzip.decompress(raw) if path.suffix == ".gz" else b""]
    return b"\n".join(found)


@pytest.mark.parametrize("encoding", ["plain", "enhanced", "diffusion", "compressed"])
def test_no_identifier_reaches_any_file(tmp_path: Path, encoding: str) -> None:
    study, uid = "1.2.777.4711.1", "1.2.777.4711.2"
    tree = tmp_path / "ZZMARKX" / "20190817"
    if encoding == "enhanced":
        phantom.enhanced(tree, [0.0])
    elif encoding == "diffusion":
        for place, b_value in enumerate((0, 1000)):
            diffusion(tree, b_value, uid, standard, first=100 * place)
    elif encoding == "compressed":
        tree.parent.mkdir()
        real_slices(tree, "MR_small_jp2klossless.dcm")
    else:
        phantom.series(tree, slices=8)
        phantom.series(tree, slices=8, number=2, modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1")
    for file in sorted(tree.iterdir()):
        data = pydicom.dcmread(file)
        for name, value in SECRET.items():
            setattr(data, name, value)
        data.SeriesDescription = "T1 ZZMARKY AX POST 17.08.2019"
        data.StudyInstanceUID, data.SeriesInstanceUID = study, uid + (".9" if data.Modality == "US" else "")
        data.FrameOfReferenceUID = "1.2.777.4711.3"
        data.save_as(file)
    (tree / "ZZMARKZ.ZZMARKZ").write_text("no DICOM, but a name")
    (tree / "ZZMARK0").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    reports = tmp_path / "reports.csv"
    reports.write_text("accession_number,report\nZZMARKG77,Normal brain.\n")
    metadata = tmp_path / "metadata.csv"
    metadata.write_text(
        "study_id,patient_id,birth_date,accession_number,scanner\n" + f"{study},ZZMARKC123,19311231,ZZMARKG77,MR1\n"
    )
    out = tmp_path / "out"
    done = run(tmp_path / "ZZMARKX", out, tables=Tables(reports=reports, metadata=metadata))
    text = all_text(out)
    for secret in (
        b"ZZMARK",
        b"zzmark",
        b"20190817",
        b"2019",
        b"19311231",
        b"1931",
        b"174539",
        b"17:45",
        b"1.2.777",
        b"4711",
        b"1.2.840",
    ):
        assert secret not in text, secret
    (line,) = (json.loads(text) for text in (out / "manifest.jsonl").read_text().splitlines())
    assert (line["report"], line["sex"], line["age"], line["vendor"], line["scanner"]) == (
        "Normal brain.",
        "F",
        87,
        "Siemens",
        "MR1",
    )
    assert line["patient_id"].startswith("patient-")
    assert "free text is not de-identified" in str(done)
    for path in out.rglob("*.nii.gz"):
        header = nib.load(path).header
        assert not any(header[name].tobytes().strip(b"\0") for name in ("descrip", "aux_file", "intent_name", "db_name"))
        assert not header.extensions
        assert path.read_bytes()[4:8] == b"\0\0\0\0", "gzip holds no time"


def test_the_same_salt_gives_the_same_names_and_another_gives_others(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    (tmp_path / "salt").write_text("cd" * 32)
    names = []
    for out, salt in (("a", tmp_path / "salt"), ("b", tmp_path / "salt"), ("c", None)):
        (study,) = run(tmp_path / "in", tmp_path / out, salt=salt).studies
        names.append((study.study_id, study.patient_id))
    assert names[0] == names[1] != names[2]
    assert (tmp_path / "c.salt.key").stat().st_mode & 0o777 == 0o600
    assert not list((tmp_path / "c").rglob("*salt*")), "the folder that is passed on holds no secret"
    assert not (tmp_path / "a.salt.key").exists()
    assert run(tmp_path / "in", tmp_path / "c").studies[0].study_id == names[2][0]


def test_a_salt_that_an_earlier_import_left_in_its_folder_is_used(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "salt.key").write_text("cd" * 32)
    done = run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "same").write_text("cd" * 32)
    assert done.studies[0].study_id == run(tmp_path / "in", tmp_path / "b", salt=tmp_path / "same").studies[0].study_id
    assert not (tmp_path / "out.salt.key").exists()
    assert any("lies in the folder that you may share" in note for note in done.notes)


def test_a_salt_beside_a_folder_within_the_tree_is_no_file_of_the_tree(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    assert run(tmp_path / "in", tmp_path / "in" / "out").left_out == ()
    assert run(tmp_path / "in", tmp_path / "in" / "out").left_out == ()


@pytest.mark.parametrize(
    ("tables", "shares", "text"),
    [
        ({"reports": "absent"}, None, "absent.csv: no such table"),
        ({"reports": "study_id,note\n1,x\n"}, None, "no column report"),
        ({"labels": "id,label\n1,x\n"}, None, "no column study_id or patient_id or accession_number"),
        ({"metadata": "study_id,scans\n1,x\n"}, None, "would overwrite"),
        ({"metadata": "study_id,age\n1,5\n1,6\n"}, None, "stands already on line 2"),
        ({}, (0.5, 0.1, 0.1), "sum up to 1"),
        ({"metadata": "study_id,split\n1,train\n"}, (0.7, 0.1, 0.2), "leave --splits out"),
    ],
)
def test_tables_and_shares_are_checked_before_any_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, str], shares: tuple[float, ...] | None, text: str
) -> None:
    phantom.series(tmp_path / "in", slices=6)
    monkeypatch.setattr(importer, "find_files", lambda *_, **__: pytest.fail("files were read"))
    files = {}
    for name, content in tables.items():
        files[name] = tmp_path / ("absent.csv" if content == "absent" else f"{name}.csv")
        if content != "absent":
            files[name].write_text(content)
    with pytest.raises(ImportingError, match=text):
        run(tmp_path / "in", tmp_path / "out", tables=Tables(**files), shares=shares)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.salt.key").exists()


def test_a_truncated_archive_is_named_and_what_is_whole_in_it_is_read(tmp_path: Path) -> None:
    for patient in ("A", "B"):
        phantom.series(tmp_path / patient, slices=8, patient=patient, study=f"1.{ord(patient)}")
    packed = tmp_path / "in" / "export.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "A").iterdir()) + sorted((tmp_path / "B").iterdir()):
            archive.write(file, f"{file.parent.name}/{file.name}")
        end_of_a = archive.infolist()[8].header_offset
        in_b = archive.infolist()[14].header_offset
    content = packed.read_bytes()
    for cut, studies, noted in ((end_of_a + 50, [8], [True]), (in_b + 200, [8, 6], [True, True]), (90, [], [])):
        packed.write_bytes(content[:cut])
        phantom.series(tmp_path / "in" / "c", slices=7, patient="C", study="1.9")
        done = run(tmp_path / "in", tmp_path / "out")
        assert [(item.path, item.reason) for item in done.left_out] == [("(.zip files)", "damaged_archive")]
        assert any(f"damaged archive, copy it again: {packed}" in note for note in done.notes)
        found = {int(row["files"]): "damaged archive" in row["notes"] for row in rows(tmp_path / "out")}
        assert found == dict(zip([*studies, 7], [*noted, False], strict=True))


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


def test_a_converter_that_makes_other_volumes_than_mosaics_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phantom.series(tmp_path / "in", slices=2, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    volume = convert.Converted(np.zeros((8, 8, 8), np.int16), np.eye(4), 1.0, 0.0)
    monkeypatch.setattr(study, "convert_files", lambda _: [volume])
    with pytest.raises(ImportingError):
        run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == ["geometry_mismatch"]


@pytest.mark.parametrize(("key", "name"), [("study_id", "1.2.3.4"), ("patient_id", "P1"), ("accession_number", "A77")])
def test_tables_are_joined_by_the_hospitals_ids(tmp_path: Path, key: str, name: str) -> None:
    phantom.series(tmp_path / "in", slices=6, AccessionNumber="A77")
    (tmp_path / "r.csv").write_text(f'{key},findings,impression\n{name},"No mass.",Normal.\nother,x,y\n')
    (tmp_path / "l.csv").write_text(f"{key},glioma,normal\n{name},0,1\n")
    (study,) = run(
        tmp_path / "in", tmp_path / "out", tables=Tables(reports=tmp_path / "r.csv", labels=tmp_path / "l.csv")
    ).studies
    assert study.report == "FINDINGS: No mass.\nIMPRESSION: Normal."
    assert study.labels == ("normal",)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom.series(tmp_path / "in", slices=24)
    main(["import", "dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--keep-ids", "--workers", "1", "--prepare", "mri"])
    told = capsys.readouterr().out
    assert "1 studies of 1 patients, 1 scans" in told
    assert "not de-identified" in told
    assert "1 of 1 studies ready" in told
    assert json.loads((tmp_path / "out" / "manifest.jsonl").read_text())["study_id"] == "1.2.3.4"


def test_a_killed_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in", slices=6)

    def killed(*_: object) -> None:
        raise ImportingError("a worker was killed, probably out of memory; start again with fewer --workers")

    monkeypatch.setattr(importer, "read_headers", killed)
    with pytest.raises(ImportingError, match="fewer --workers"):
        run(tmp_path / "in", tmp_path / "out")


@pytest.mark.skipif(not REAL.is_dir(), reason="shared data absent")
def test_a_real_series(tmp_path: Path) -> None:
    run(REAL / "dicom_t1gd", tmp_path / "out")
    image = nib.as_closest_canonical(one_scan(tmp_path / "out"))
    other = read_scan(REAL / "dicom_t1gd")  # by dicom2nifti: a second opinion
    same = nib.as_closest_canonical(nib.Nifti1Image(other.data, other.affine))
    np.testing.assert_array_equal(image.get_fdata(), same.get_fdata())
    np.testing.assert_allclose(image.affine, same.affine, atol=1e-3)
    assert rows(tmp_path / "out")[0]["sequence"] == "T1"
