"""Reading NIfTI and DICOM: values and places come out right, and every kind of bad file is named by its reason."""

from __future__ import annotations

import gzip
import pickle
import shutil
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from hlip.dicom import convert
from hlip.scans.reading import check_one_patient, find_scans, read_scan
from hlip.scans.scan import VolumeError
from hlip.scans.sequence import guess_sequence

from .made import AFFINE, refused, voxels, write

REAL = Path(__file__).parents[3].parent / "shared" / "real"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="shared data absent")
# --- good files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t2_flair.nii", "t2_flair.nii.gz"])
def test_nifti(tmp_path: Path, name: str) -> None:
    scan = read_scan(write(tmp_path / name, voxels()))
    assert scan.data.dtype == np.float32
    np.testing.assert_array_equal(scan.data, voxels())
    np.testing.assert_allclose(scan.affine, AFFINE)
    assert (scan.codes, scan.spacing, scan.sequence, scan.slope) == ("LAS", (2, 2, 5), "FLAIR", 1)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header.set_slope_inter(2.5, -1024)
    nib.save(image, tmp_path / "ct.nii.gz")
    raw = nib.load(tmp_path / "ct.nii.gz")
    assert raw.dataobj.slope == 2.5
    scan = read_scan(tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(scan.data, np.asarray(raw.dataobj), rtol=1e-6)
    assert scan.slope == 2.5


def test_a_fourth_axis_of_one_is_no_series(tmp_path: Path) -> None:
    assert read_scan(write(tmp_path / "a.nii", voxels((12, 10, 8, 1)))).data.shape == (12, 10, 8)


def test_no_stated_orientation_is_a_note(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "a.nii")
    assert "orientation" in read_scan(tmp_path / "a.nii").notes[0]


# --- bad files ---------------------------------------------------------------------------------------------------------------


def test_missing_and_empty(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone.nii.gz") == "missing"
    (tmp_path / "zero.nii.gz").touch()
    assert refused(tmp_path / "zero.nii.gz") == "empty_file"
    (tmp_path / "folder").mkdir()
    assert refused(tmp_path / "folder") == "not_an_image"


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated(tmp_path: Path, share: float, suffix: str) -> None:
    path = write(tmp_path / f"cut{suffix}", voxels())
    content = path.read_bytes()
    path.write_bytes(content[: max(20, int(share * len(content)))])
    assert refused(path) in ("truncated", "not_an_image")


def test_damaged_gzip(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.nii.gz", voxels())
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    assert refused(path) == "truncated"


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "text.nii").write_text("hello " * 200)
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"hello " * 200))
    for name in ("notes.txt", "text.nii", "text.nii.gz"):
        assert refused(tmp_path / name) == "not_an_image"


@pytest.mark.parametrize("name", ["study.tar", "study.tar.gz", "study.tgz"])
def test_a_tar_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.nii.gz", voxels())
    with tarfile.open(tmp_path / name, "w:gz" if "g" in name else "w") as archive:
        archive.add(tmp_path / "a.nii.gz", "a.nii.gz")
    assert refused(tmp_path / name) == refused(tmp_path / name / "a.nii.gz") == "archive"
    with pytest.raises(VolumeError, match=rf"{name}/a.nii.gz: a tar archive is not read in place; unpack it"):
        read_scan(tmp_path / name / "a.nii.gz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan(tmp_path: Path, value: float) -> None:
    data = voxels().astype(np.float32)
    data[3, 4, 5] = value
    path = write(tmp_path / "nan.nii.gz", data)
    assert refused(path) == "nan"
    with pytest.raises(VolumeError, match="1 of 960 voxels"):
        read_scan(path)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((12, 10), "not_3d"),
        ((12, 10, 1), "not_3d"),
        ((12, 10, 3), "too_few_slices"),
        ((2, 64, 64), "too_few_slices"),
        ((12, 10, 8, 6), "series_4d"),
        ((12, 10, 8, 1, 3), "series_4d"),
    ],
)
def test_shapes(tmp_path: Path, shape: tuple[int, ...], reason: str) -> None:
    assert refused(write(tmp_path / "a.nii.gz", voxels(shape))) == reason


def test_constant_and_masks(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "a.nii.gz", np.full((12, 10, 8), 7, np.int16))) == "constant"
    assert refused(write(tmp_path / "b.nii.gz", voxels() % 5)) == "label_map"
    rare = np.zeros((64, 64, 64), np.int16)
    rare[40:44, 40:44, 40:44] = np.arange(64).reshape(4, 4, 4)  # a glance at a sample would miss these
    assert read_scan(write(tmp_path / "c.nii.gz", rare)).data.max() == 63


def test_colour_and_complex(tmp_path: Path) -> None:
    rgb = np.zeros((12, 10, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert refused(write(tmp_path / "rgb.nii.gz", rgb)) == "rgb_or_complex"
    assert refused(write(tmp_path / "phase.nii.gz", voxels().astype(np.complex64))) == "rgb_or_complex"


@pytest.mark.parametrize("place", [((0, 0), np.nan), ((2, 2), 0.0), ((1, 1), 500.0)])
def test_bad_affine(tmp_path: Path, place: tuple[tuple[int, int], float]) -> None:
    affine = AFFINE.copy()
    affine[place[0]] = place[1]
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
    path.write_bytes(image.header.binaryblock + bytes(4) + voxels().tobytes(order="F"))
    assert refused(path) in ("bad_affine", "not_an_image")


def test_dependent_axes(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, 1] = affine[:3, 0]
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.set_sform(affine, 1)
    nib.save(image, path)
    assert refused(path) == "bad_affine"


def test_hostile_size(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), AFFINE)
    content = bytearray(image.header.binaryblock + bytes(4) + voxels().tobytes())
    content[42:48] = np.array([32000, 32000, 32000], np.int16).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    assert refused(tmp_path / "a.nii") == "too_large"


def test_error_keeps_its_reason_across_processes() -> None:
    error = pickle.loads(pickle.dumps(VolumeError("nan", "a.nii: 3 voxels")))
    assert (error.reason, str(error)) == ("nan", "a.nii: 3 voxels")


# --- DICOM -------------------------------------------------------------------------------------------------------------------


def write_series(folder: Path, hu: np.ndarray, *, uid: str | None = None, prefix: str = "i", **tags: object) -> list[Path]:
    """A CT series of hu (slices, rows, columns), 4 x 1.5 x 1.5 mm, first slice lowest, intercept -1024, file names shuffled."""
    folder.mkdir(parents=True, exist_ok=True)
    uid, study, paths = uid or generate_uid(), generate_uid(), []
    for number, image in enumerate(hu):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{prefix}{(number * 7) % len(hu):03d}.dcm"
        data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = study, uid, "CT"
        data.SeriesDescription, data.Manufacturer, data.ImageType = "Head 4mm", "ACME", ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.InstanceNumber, data.PatientID, data.PatientName = number + 1, "p", "p"
        data.ImagePositionPatient, data.ImageOrientationPatient = [-10, -20, 30 + 4 * number], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [1.5, 1.5], 4
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = *image.shape, 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = (image + 1024).astype(np.uint16).tobytes()
        for tag, value in tags.items():
            setattr(data, tag, value)
        data.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def head(slices: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, (slices, 12, 10))


def test_dicom_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s", head())
    for path in (tmp_path / "s", paths[3]):
        scan = read_scan(path)
        assert (scan.modality, scan.sequence, scan.path) == ("CT", "CT", path)
        np.testing.assert_allclose(scan.spacing, (1.5, 1.5, 4))
        # A voxel's value stands where DICOM says: LPS (-10 + 1.5 c, -20 + 1.5 r, 30 + 4 s), so RAS negates x and y.
        for s, r, c in ((0, 0, 0), (5, 3, 7), (7, 11, 9)):
            place = np.linalg.inv(scan.affine) @ [10 - 1.5 * c, 20 - 1.5 * r, 30 + 4 * s, 1]
            np.testing.assert_allclose(place, place.round(), atol=1e-6)
            assert scan.data[tuple(place[:3].round().astype(int))] == head()[s, r, c]


def test_rescale_of_a_series_and_of_each_slice(tmp_path: Path) -> None:
    """Shared or of each slice: the values are what the tags say."""
    stored = head() + 1024
    write_series(tmp_path / "shared", head(), RescaleSlope="0.5", RescaleIntercept="-7.25")
    np.testing.assert_allclose(np.sort(read_scan(tmp_path / "shared").data, None), np.sort(stored * 0.5 - 7.25, None))
    for number, path in enumerate(sorted(write_series(tmp_path / "each", head()))):
        data = pydicom.dcmread(path)
        data.RescaleSlope, data.RescaleIntercept = 1 + number, -number
        data.save_as(path)
    expected = []
    for path in (tmp_path / "each").iterdir():
        data = pydicom.dcmread(path)
        expected.append(stored[data.InstanceNumber - 1] * float(data.RescaleSlope) + float(data.RescaleIntercept))
    np.testing.assert_allclose(np.sort(read_scan(tmp_path / "each").data, None), np.sort(np.stack(expected), None))


def test_dicom_refusals(tmp_path: Path) -> None:
    write_series(tmp_path / "few", head(3))
    assert refused(tmp_path / "few") == "too_few_slices"
    for path in write_series(tmp_path / "gap", head(12))[6:8]:
        path.unlink()
    assert refused(tmp_path / "gap") == "missing_slices"
    write_series(tmp_path / "two", head())
    write_series(tmp_path / "two", head(), prefix="k")
    assert refused(tmp_path / "two") == "several_series"
    cut = write_series(tmp_path / "cut", head())[2]
    cut.write_bytes(cut.read_bytes()[:-100])
    assert refused(tmp_path / "cut") == "truncated", "one of eight is more than can be filled in"
    for name, tags, reason in (
        ("captures", ["ImageOrientationPatient", "ImagePositionPatient"], "not_an_image"),
        ("headers", ["PixelData"], "truncated"),
    ):
        for path in write_series(tmp_path / name, head()):
            data = pydicom.dcmread(path)
            for tag in tags:
                delattr(data, tag)
            data.save_as(path)
        assert refused(tmp_path / name) == reason


def test_a_missing_slice_is_filled_in_and_noted(tmp_path: Path) -> None:
    write_series(tmp_path / "s", head(12))[6].unlink()
    scan = read_scan(tmp_path / "s")
    assert scan.notes == ("1 missing slices filled in",)
    upright = np.flip(scan.data, np.flatnonzero(np.diag(scan.affine)[:3] * [-1, -1, 1] < 0)).transpose(2, 1, 0)
    np.testing.assert_array_equal(np.delete(upright, 6, 0), np.delete(head(12), 6, 0))
    np.testing.assert_allclose(upright[6], (head(12)[5] + head(12)[7]) / 2, atol=0.51)


def test_a_series_is_read_although_its_words_say_that_it_is_none(tmp_path: Path) -> None:
    """A manifest names it; what is called so has no sequence of a plain scan."""
    for name in ("localizer", "SWI mIP", "T1 subtraction"):
        write_series(tmp_path / name, head(), SeriesDescription=name)
        assert sorted(read_scan(tmp_path / name).data.ravel()) == sorted(head().ravel())
    write_series(tmp_path / "mip", head(), SeriesDescription="SWI mIP", Modality="MR")
    assert read_scan(tmp_path / "mip").sequence == find_scans(tmp_path / "mip")[0].sequence == ""


def test_what_else_lies_in_the_folder(tmp_path: Path) -> None:
    """A report and a damaged file beside a series are noted or passed over; phase images of it are passed over and said."""
    uid = generate_uid()
    write_series(tmp_path / "s", head(), uid=uid, prefix="a", Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M"])
    write_series(tmp_path / "s", head() + 9, uid=uid, prefix="b", Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "P"])
    (tmp_path / "s" / "report.pdf").write_bytes(b"%PDF")
    (tmp_path / "s" / "z.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    cut = write_series(tmp_path / "other", head())[0].read_bytes()
    (tmp_path / "s" / "y.dcm").write_bytes(cut[: cut.index(b"Head 4mm")])  # before its series UID
    scan = read_scan(tmp_path / "s")
    assert sorted(scan.data.ravel()) == sorted(head().ravel())
    assert scan.notes == ("8 images of the series passed over: phase", "2 files beside it cannot be read")
    assert refused(tmp_path / "s" / "z.dcm") == "truncated"


def test_slices_sent_twice_under_new_names_are_one_scan(tmp_path: Path) -> None:
    uid = generate_uid()
    for prefix in ("a", "b"):
        write_series(tmp_path / "s", head(), uid=uid, prefix=prefix)
    scan = read_scan(tmp_path / "s")
    assert sorted(scan.data.ravel()) == sorted(head().ravel())
    assert scan.notes == ("the first of 2 equal copies",)


def test_a_series_without_uids_is_read(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "s", head()):
        data = pydicom.dcmread(path)
        del data.StudyInstanceUID, data.SeriesInstanceUID
        data.save_as(path)
    assert sorted(read_scan(tmp_path / "s").data.ravel()) == sorted(head().ravel())


@pytest.mark.parametrize(
    ("program", "reason"),
    [("echo 'Unable to write (disk full?)'; exit 1", "no_room"), ("kill -9 $$", "converter_killed"), ("exit 0", "dicom")],
)
def test_a_converter_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str) -> None:
    write_series(tmp_path / "s", head())
    script = tmp_path / "converter"
    script.write_text(f"#!/bin/sh\n{program}\n")
    script.chmod(0o755)
    monkeypatch.setattr(convert, "program", lambda: str(script))
    assert refused(tmp_path / "s") == reason


def test_dicom_stack_repeated_in_time_is_4d(tmp_path: Path) -> None:
    uid = generate_uid()
    write_series(tmp_path / "t", head(), uid=uid, prefix="a")
    for number, path in enumerate(write_series(tmp_path / "t", head()[::-1] // 2, uid=uid, prefix="b")):
        data = pydicom.dcmread(path)
        data.InstanceNumber = 101 + number
        data.save_as(path)
    assert refused(tmp_path / "t") == "series_4d"


# --- folders -----------------------------------------------------------------------------------------------------------------


def test_find_scans(tmp_path: Path) -> None:
    write(tmp_path / "sub_T1w.nii.gz", voxels())
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    (tmp_path / ".hidden.nii.gz").touch()
    (tmp_path / "swi").mkdir()
    write(tmp_path / "swi" / "a.nii", voxels())
    write_series(tmp_path / "ct", head())
    write_series(tmp_path / "mixed", head(), prefix="a")
    write_series(tmp_path / "mixed", head(), prefix="b", SeriesDescription="ax T2 FLAIR", Modality="MR")
    found = find_scans(tmp_path)
    assert [(scan.path.relative_to(tmp_path).as_posix(), scan.sequence) for scan in found] == [
        ("sub_T1w.nii.gz", "T1"), ("ct", "CT"), ("mixed/a000.dcm", "CT"), ("mixed/b000.dcm", "FLAIR"), ("swi/a.nii", ""),
    ]  # fmt: skip
    for scan in found:
        read_scan(scan.path)
    assert [scan.path for scan in find_scans(tmp_path / "sub_T1w.nii.gz")] == [tmp_path / "sub_T1w.nii.gz"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(VolumeError) as error:
        find_scans(tmp_path / "nothing")
    assert error.value.reason == "not_an_image"


def test_scans_of_several_patients_are_no_study(tmp_path: Path) -> None:
    def refusal(folder: str) -> str:
        with pytest.raises(VolumeError) as error:
            check_one_patient(tmp_path / folder, find_scans(tmp_path / folder))
        return error.value.reason

    for number, patient in enumerate(("p1", "p1", "p2")):
        write_series(tmp_path / "dicom" / f"s{number}", head(), PatientID=patient)
    assert refusal("dicom") == "several_patients"
    shutil.rmtree(tmp_path / "dicom" / "s2")
    check_one_patient(tmp_path / "dicom", find_scans(tmp_path / "dicom"))
    (tmp_path / "bids").mkdir()
    for name in ("sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz"):
        write(tmp_path / "bids" / name, voxels())
    check_one_patient(tmp_path / "bids", find_scans(tmp_path / "bids"))
    write(tmp_path / "bids" / "sub-02_T1w.nii.gz", voxels())
    assert refusal("bids") == "several_patients"


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        ("t1_mpr_tra_gk_v4", "T1"),
        ("sub-01_T1w.nii.gz", "T1"),
        ("BraTS-0001-t1c.nii.gz", "T1 contrast"),
        ("T1 post gado", "T1 contrast"),
        ("AX T1 FLAIR", "T1"),
        ("AX T1 FLAIR +C", "T1 contrast"),
        ("SAG T1 PRE CONTRAST", "T1"),
        ("t1_without_gd.nii.gz", "T1"),
        ("FLAIR post contrast", "FLAIR"),
        ("brain_T1.mgz", "T1"),
        ("ax_t2_flair_fs.nii", "FLAIR"),
        ("T2w.nii.gz", "T2"),
        ("ep2d_diff_ADC", "ADC"),
        ("dwi.nii.gz", "DWI"),
        ("SWI_Images", "SWI"),
        ("chris_MRA.nii.gz", "MRA"),
        ("ct_angio.nii.gz", "CT angiography"),
        ("ct.nii.gz", "CT"),
        *((name, "T1 contrast") for name in ("T1_CE", "t1_gd", "T1-Gd", "t1_km", "MPRAGE_gd", "T1wCE", "T1_post")),
        *((name, "T1") for name in ("T1_posterior", "t1 post op", "t1_ohne_km", "BraTS-GLI-0-t1n", "t1_cor")),
        ("BraTS-GLI-0-t2f", "FLAIR"),
        ("BraTS-GLI-0-t2w", "T2"),
        *(
            (name, "T1 contrast")
            for name in ("sub-01_ce-gd_T1w", "gd_t1", "t1_c", "T1_vibe_KM", "t1_gd_native", "T1 w/wo contrast")
        ),
        *(
            (name, "T1")
            for name in ("t1_gre", "greta_t1", "T1 C-Spine", "t1_sans_injection", "T1_senza_mdc", "T1w_wo_contrast")
        ),
        ("T2_star", "SWI"),
        ("VEN_BOLD", "SWI"),
        ("gre_tra", "SWI"),
        ("ct_arterial_phase", "CT"),
        ("phase_swi", ""),
        ("dwi_b0_b1000", "DWI"),
        ("SWI_phase", ""),
        ("SWI_mIP", ""),
        ("dwi_b0", "DWI b0"),
        ("dwi_b1000", "DWI"),
        ("scan7.nii.gz", ""),
        ("pcasl_4d", ""),
    ],
)
def test_guess_sequence(text: str, sequence: str) -> None:
    assert guess_sequence(text) == sequence


@needs_real
def test_real_files() -> None:
    assert read_scan(REAL / "dicom_t1gd").data.shape == (512, 512, 32)
    assert refused(REAL / "pcasl_4d.nii.gz") == "series_4d"
    assert len(find_scans(REAL / "study_chris")) == 3
    assert [scan.path for scan in find_scans(REAL / "dicom_t1gd")] == [REAL / "dicom_t1gd"]
