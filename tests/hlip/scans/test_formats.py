"""The cases of reading NIfTI and MGH: every container, byte order, scale, affine and kind of voxel gives the scan, or its reason.

Files are made here, or are nibabel's own samples.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from nibabel.testing import data_path

from hlip.scans.reading import find_scans, read_scan
from hlip.scans.scan import LoadedScan, VolumeError
from hlip.volume import VolumeSpec, prepare_volume

SAMPLES = Path(data_path)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -20], [0, 0, 5.0, -10], [0, 0, 0, 1]])
MARK = (9, 2, 5)
"""Voxel of the bright marker."""


def voxels(dtype: str = "int16", shape: tuple[int, ...] = (12, 10, 8)) -> np.ndarray:
    made = np.random.default_rng(0).integers(0, 90, shape).astype(dtype)
    made[MARK] = 120
    return made


def refused(path: Path) -> str:
    with pytest.raises(VolumeError) as error:
        read_scan(path)
    assert path.name in str(error.value)
    return error.value.reason


def brightest_mm(scan: LoadedScan) -> np.ndarray:
    """RAS mm of the marker."""
    return (scan.affine @ [*np.unravel_index(scan.data.argmax(), scan.data.shape), 1])[:3]


def place(affine: np.ndarray) -> np.ndarray:
    return (affine @ [*MARK, 1])[:3]


# --- containers, byte order, voxel types -------------------------------------------------------------------------------------

CONTAINERS = {
    "nifti1.nii": (nib.Nifti1Image, "int16"),
    "nifti1.nii.gz": (nib.Nifti1Image, "int16"),
    "nifti2.nii": (nib.Nifti2Image, "float64"),
    "nifti2.nii.gz": (nib.Nifti2Image, "float64"),
    "freesurfer.mgz": (nib.MGHImage, "float32"),
    "freesurfer.mgh": (nib.MGHImage, "int16"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_scan(tmp_path: Path, name: str) -> None:
    kind, dtype = CONTAINERS[name]
    nib.save(kind(voxels(dtype), AFFINE), tmp_path / name)
    scan = read_scan(tmp_path / name)
    assert scan.data.dtype == np.float32
    np.testing.assert_array_equal(scan.data, voxels())
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)
    assert scan.notes == ()
    assert [found.path.name for found in find_scans(tmp_path)] == [name]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_big_endian(tmp_path: Path, kind: type, suffix: str, dtype: str) -> None:
    header = kind.header_class(endianness=">")
    header.set_data_dtype(np.dtype(dtype).newbyteorder(">"))
    path = tmp_path / f"big{suffix}"
    nib.save(kind(voxels(dtype), AFFINE, header), path)
    content = path.read_bytes() if suffix == ".nii" else gzip.decompress(path.read_bytes())
    assert struct.unpack(">i", content[:4])[0] == (348 if kind is nib.Nifti1Image else 540)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.data, voxels())
    np.testing.assert_allclose(brightest_mm(scan), place(AFFINE), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "codes"),
    [
        ("anatomical.nii", (33, 41, 25), "LAS"),  # big-endian NIfTI-1
        ("reoriented_anat_moved.nii", (21, 26, 22), None),  # oblique, big-endian floats
    ],
)
def test_samples_of_nibabel(name: str, shape: tuple[int, ...], codes: str | None) -> None:
    whole = nib.load(SAMPLES / name)
    scan = read_scan(SAMPLES / name)
    assert scan.data.shape == shape
    np.testing.assert_allclose(scan.data, whole.get_fdata(), rtol=1e-6)
    np.testing.assert_array_equal(scan.affine, whole.affine)
    assert codes is None or scan.codes == codes
    assert scan.notes == ()


@pytest.mark.parametrize("count", [1, 100, 347, 400])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_files_shorter_than_a_header_or_than_their_voxels(tmp_path: Path, count: int, suffix: str) -> None:
    """Cut before they were compressed, so that the gzip stream itself is whole."""
    nib.save(nib.Nifti1Image(voxels(), AFFINE), tmp_path / "whole.nii")
    start = (tmp_path / "whole.nii").read_bytes()[:count]
    (tmp_path / f"cut{suffix}").write_bytes(start if suffix == ".nii" else gzip.compress(start))
    assert refused(tmp_path / f"cut{suffix}") in ("truncated", "not_an_image")


# --- scale -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("slope", "inter"), [(2.0, -1024.0), (0.01, 5.0), (-3.0, 0.0)])
def test_slope_and_intercept(tmp_path: Path, suffix: str, slope: float, inter: float) -> None:
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / f"a{suffix}")
    scan = read_scan(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(scan.data, voxels() * slope + inter, rtol=1e-5)
    assert scan.slope == pytest.approx(slope)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_slope_that_is_none_leaves_voxels_alone(tmp_path: Path, slope: float) -> None:
    """NIfTI: a slope of 0 means no scale; nibabel writes NaN for it."""
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(voxels(), AFFINE), path)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", slope, 7.0)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_scan(path).data, voxels())


# --- affines -----------------------------------------------------------------------------------------------------------------


def with_forms(path: Path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int]) -> Path:
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nib.save(image, path)
    return path


def moved(mm: float) -> np.ndarray:
    return AFFINE + np.array([[0, 0, 0, mm], [0] * 4, [0] * 4, [0] * 4])


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1), (4, 1)])
def test_the_sform_counts_and_a_disagreement_is_a_note(tmp_path: Path, codes: tuple[int, int]) -> None:
    scan = read_scan(with_forms(tmp_path / "a.nii.gz", AFFINE, moved(12), codes))
    np.testing.assert_allclose(brightest_mm(scan), place(AFFINE), atol=1e-4)
    assert scan.notes == ("sform and qform put a corner 12 mm apart; the sform is used",)


@pytest.mark.parametrize(("mm", "noted"), [(0.0, False), (0.9, False), (1.2, True)])
def test_under_a_millimetre_is_rounding(tmp_path: Path, mm: float, noted: bool) -> None:
    assert bool(read_scan(with_forms(tmp_path / "a.nii", AFFINE, moved(mm), (1, 1))).notes) is noted


def test_a_turn_is_measured_at_the_corner_it_moves_most(tmp_path: Path) -> None:
    turn = from_matvec(euler2mat(z=0.1)) @ AFFINE
    corners = np.array([[x, y, z, 1] for x in (0, 11) for y in (0, 9) for z in (0, 7)])
    expected = np.linalg.norm((corners @ (turn - AFFINE).T)[:, :3], axis=1).max()
    note = read_scan(with_forms(tmp_path / "a.nii", AFFINE, turn, (1, 1))).notes[0]
    assert f"{expected:.3g} mm apart" in note


def test_without_an_sform_the_qform_counts(tmp_path: Path) -> None:
    scan = read_scan(with_forms(tmp_path / "a.nii", AFFINE, moved(12), (0, 1)))
    np.testing.assert_allclose(brightest_mm(scan), place(moved(12)), atol=1e-4)
    assert scan.notes == ()
    scan = read_scan(with_forms(tmp_path / "b.nii", AFFINE, moved(12), (1, 0)))
    np.testing.assert_allclose(brightest_mm(scan), place(AFFINE), atol=1e-4)
    assert scan.notes == ()


def test_a_damaged_qform_beside_an_sform_is_a_note(tmp_path: Path) -> None:
    path = with_forms(tmp_path / "a.nii", AFFINE, AFFINE, (1, 1))
    content = bytearray(path.read_bytes())
    content[256:268] = struct.pack("<fff", 1.0, 1.0, 1.0)  # quaternion b, c, d: longer than 1
    path.write_bytes(content)
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine, AFFINE)
    assert "the qform being damaged" in scan.notes[0]


@pytest.mark.parametrize("angle", [0.05, 0.4, 1.2])
def test_oblique(tmp_path: Path, angle: float) -> None:
    affine = from_matvec(euler2mat(x=angle, y=-angle / 2, z=angle / 3) @ np.diag([0.9, 1.1, 5.0]), [3, 4, 5])
    nib.save(nib.Nifti1Image(voxels(), affine), tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(scan.spacing, (0.9, 1.1, 5.0), rtol=1e-5)
    np.testing.assert_allclose(brightest_mm(scan), place(affine), atol=1e-3)
    assert scan.notes == ()


def sheared(share: float) -> np.ndarray:
    """Slices that slide along y, as an untreated gantry tilt has them."""
    shear = np.eye(4)
    shear[1, 2] = share
    return AFFINE @ shear


def test_sheared(tmp_path: Path) -> None:
    """A shear is kept, and noted where the header's qform, which cannot hold one, says another place."""
    nib.save(nib.Nifti1Image(voxels(), sheared(0.6)), tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(scan.affine, sheared(0.6), atol=1e-5)
    np.testing.assert_allclose(brightest_mm(scan), place(sheared(0.6)), atol=1e-4)
    flat = sheared(0.6)
    flat[2, 2] = 0.02  # slices that slide far and hardly rise: no volume
    nib.save(nib.Nifti1Image(voxels(), flat), tmp_path / "flat.nii.gz")
    assert refused(tmp_path / "flat.nii.gz") == "bad_affine"


@pytest.mark.parametrize("frame", ["patient", "scan"])
@pytest.mark.parametrize("kind", ["plain", "oblique", "sheared"])
def test_what_is_seen_stays_where_it_is_in_the_patient(tmp_path: Path, kind: str, frame: str) -> None:
    """A ball 20 mm to the right, 10 in front of and 8 above the middle of the scan is there in the prepared volume."""
    plain = np.diag([2.0, 2.0, 4.0, 1.0])
    affine = {
        "plain": plain,
        "oblique": from_matvec(euler2mat(x=0.3, y=-0.2, z=0.1)) @ plain,
        "sheared": plain @ np.array([[1, 0, 0, 0], [0, 1, 0.6, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    }[kind]
    ball = (affine @ [30, 30, 15, 1])[:3] + np.array([20, 10, 8])
    grid = np.stack(np.meshgrid(*map(np.arange, (60, 60, 30)), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    seen = 900 * np.exp(-((grid - ball) ** 2).sum(-1) / 2 / 6**2) + np.random.default_rng(0).random((60, 60, 30))
    nib.save(nib.Nifti1Image(seen.astype(np.float32), affine), tmp_path / "a.nii.gz")
    spec = replace(VolumeSpec.load("demo"), size=(40, 64, 64), spacing_mm=(3, 3, 3), frame=frame, centre="fov")
    volume = prepare_volume(read_scan(tmp_path / "a.nii.gz"), spec)[0]
    weights = np.where(volume.voxels > 200, volume.voxels, 0).astype(float)
    centre = [float((axis * weights).sum() / weights.sum()) for axis in np.indices(weights.shape)]
    np.testing.assert_allclose((volume.affine @ [*centre, 1])[:3], ball, atol=0.6)


# --- kinds of voxels and of series -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["example4d.nii.gz", "functional.nii", "example_nifti2.nii.gz", "test.mgz"])
def test_series_of_nibabel_are_4d(name: str) -> None:
    assert refused(SAMPLES / name) == "series_4d"


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_colour_and_complex(tmp_path: Path, kind: type, suffix: str) -> None:
    for name, channels in (("rgb", "RGB"), ("rgba", "RGBA")):
        colour = np.zeros((12, 10, 8), dtype=[(letter, "u1") for letter in channels])
        nib.save(kind(colour, AFFINE), tmp_path / f"{name}{suffix}")
        assert refused(tmp_path / f"{name}{suffix}") == "rgb_or_complex"
    for dtype in ("complex64", "complex128"):
        nib.save(kind(voxels("float32").astype(dtype), AFFINE), tmp_path / f"{dtype}{suffix}")
        assert refused(tmp_path / f"{dtype}{suffix}") == "rgb_or_complex"


def test_a_vector_at_each_voxel_is_a_series(tmp_path: Path) -> None:
    """Five dimensions, as a displacement field or RGB floats have them."""
    nib.save(nib.Nifti1Image(voxels("float32", (12, 10, 8, 1, 3)), AFFINE), tmp_path / "field.nii.gz")
    assert refused(tmp_path / "field.nii.gz") == "series_4d"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("analyze.hdr", "truncated"),
        ("row_major.dconn.nii", "not_an_image"),
        ("simple.trk", "not_an_image"),
        ("T1.PAR", "truncated"),
        ("standard.nii.gz", "label_map"),
    ],
)
def test_samples_that_are_no_scan(name: str, reason: str) -> None:
    assert refused(SAMPLES / name) == reason


# --- files that are not what they are called ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("called", "truly"), [("a.nii", "a.nii.gz"), ("A.NII.GZ", "A.nii"), ("a.mgz", "a.mgh"), ("a.mgh", "a.mgz")]
)
def test_a_wrong_suffix_is_named_with_its_remedy(tmp_path: Path, called: str, truly: str) -> None:
    kind = nib.MGHImage if "mg" in called else nib.Nifti1Image
    nib.save(kind(voxels(), AFFINE), tmp_path / truly)
    (tmp_path / truly).rename(tmp_path / called)
    with pytest.raises(VolumeError, match=f"rename it to {truly}$") as error:
        read_scan(tmp_path / called)
    assert error.value.reason == "wrong_suffix"
    (tmp_path / called).rename(tmp_path / truly)
    np.testing.assert_array_equal(read_scan(tmp_path / truly).data, voxels())


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page .* download it again"),
        (b"\xef\xbb\xbf<html lang='en'>" + b" " * 600, "an HTML page .* download it again"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML or JSON.* download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(600), "a zip archive; unpack it"),
        (bytes(128) + b"DICM" + bytes(600), "a DICOM file"),
    ],
)
def test_what_is_no_scan_is_called_what_it_is(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=said) as error:
        read_scan(tmp_path / name)
    assert error.value.reason == "not_an_image"


@pytest.mark.parametrize("flip", [np.diag([-1.0, 1, 1, 1]), np.diag([1.0, -1, 1, 1]), np.diag([-1.0, -1, 1, 1])])
def test_forms_that_exchange_left_and_right_are_called_mirrored(tmp_path: Path, flip: np.ndarray) -> None:
    note = read_scan(with_forms(tmp_path / "a.nii", AFFINE, flip @ AFFINE, (1, 1))).notes[0]
    assert note.startswith("sform and qform are mirrored: left and right may be exchanged")
