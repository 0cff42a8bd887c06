"""What imports of made DICOM trees have in common: running them, their tables, the marks of the phantom, diffusion and real slices."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from hlip.importing.dicom.importer import import_dicom

from ...dicom import phantom

REAL = Path(__file__).parents[4].parent / "shared" / "real"


MARKS = {(30, 0, 0): 900, (0, -38, 0): 100, (0, 0, 32): 600, (-30, 0, 0): 300, (0, 40, 0): 300}  # LPS mm -> value
PLANES = {"axial": phantom.AXIAL, "sagittal": phantom.SAGITTAL, "coronal": phantom.CORONAL, "oblique": phantom.OBLIQUE}


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
