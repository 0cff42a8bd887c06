"""Damaged and hostile NIfTI and DICOM files through `hlip prepare`: no crash, no hang, none missing from the quality table.

The workers of `prepare` themselves are the guard: each scan has a time limit and each process a memory limit, and who dies is named.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from hlip.prepare import prepare
from hlip.store import Store
from hlip.volume import VolumeSpec

SPEC = VolumeSpec(size=(6, 12, 12), spacing_mm=(10, 8, 8), through_plane="axial")
SECONDS, GIGABYTES = 20.0, 1.0
HOSTILE = (  # place in a NIfTI-1 header, form, values
    (40, "<8h", (3, 32767, 32767, 32767, 1, 1, 1, 1)),
    (40, "<8h", (3, -5, 20, 20, 1, 1, 1, 1)),
    (40, "<8h", (7, 300, 300, 300, 300, 300, 300, 300)),
    (40, "<8h", (0, 0, 0, 0, 0, 0, 0, 0)),
    (40, "<8h", (3, 1000, 1000, 1000, 1, 1, 1, 1)),
    (70, "<h", (1792,)),  # complex128
    (70, "<h", (128,)),  # RGB
    (70, "<h", (-1,)),
    (76, "<8f", (1, -1, -2, -3, 1, 1, 1, 1)),
    (76, "<8f", (1, 0, 0, 0, 1, 1, 1, 1)),
    (76, "<8f", (1, 1e30, 1e-30, float("nan"), 1, 1, 1, 1)),
    (108, "<f", (1e30,)),  # vox_offset
    (108, "<f", (float("nan"),)),
    (108, "<f", (-400.0,)),
    (112, "<2f", (float("nan"), float("inf"))),  # slope, intercept
    (112, "<2f", (1e38, -1e38)),
    (252, "<2h", (32000, -7)),  # form codes
    (256, "<6f", (float("nan"),) * 6),
    (256, "<6f", (9.0,) * 6),
    (280, "<12f", (float("nan"),) * 12),
    (280, "<12f", (0.0,) * 12),
    (280, "<12f", (1e20,) * 12),
    (344, "<4s", (b"abcd",)),
    (0, "<i", (540,)),
    (0, ">i", (348,)),
)


def voxels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 900, (16, 14, 10)).astype(np.int16)


def flipped(content: bytes, rng: np.random.Generator, header: int) -> bytes:
    """One to 16 bits, half of them in the header."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 17))):
        place = int(rng.integers(min(header, len(data)) if rng.random() < 0.5 else len(data)))
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def shortened(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(1, len(content)))]


def patched(content: bytes, rng: np.random.Generator) -> bytes:
    place, form, values = HOSTILE[int(rng.integers(len(HOSTILE)))]
    data = bytearray(content)
    struct.pack_into(form, data, place, *values)
    return bytes(data)


def nifti(folder: Path, number: int, rng: np.random.Generator) -> Path:
    """A mutated NIfTI-1, NIfTI-2 or MGH file, plain or compressed; the header of a compressed one is mutated before it is packed."""
    kind = ("nii", "nii.gz", "nii.gz", "2.nii", "mgz")[int(rng.integers(5))]
    image_class = {"2.nii": nib.Nifti2Image, "mgz": nib.MGHImage}.get(kind, nib.Nifti1Image)
    image = image_class(voxels(rng), np.diag([6.0, 6, 6, 1]))
    content = image.to_bytes()
    path = folder / f"f{number}.{kind}"
    mutation = int(rng.integers(5))
    if mutation == 4 and kind == "nii.gz":  # a bomb: zeros without end behind a header that asks for them, or for little
        asked = (3, 600, 600, 600, 1, 1, 1, 1) if rng.random() < 0.5 else (3, 16, 14, 10, 1, 1, 1, 1)
        data = bytearray(content[:352])
        struct.pack_into("<8h", data, 40, *asked)
        path.write_bytes(gzip.compress(bytes(data) + bytes(int(rng.integers(100, 400)) << 20), 1))
        return path
    packed = kind in ("nii.gz", "mgz")
    before = packed and rng.random() < 0.6
    content = content if before or not packed else gzip.compress(content, 1)
    if mutation == 0:
        content = shortened(content, rng)
    elif mutation == 1 and kind in ("nii", "nii.gz") and (before or not packed):
        content = patched(content, rng)
    else:
        content = flipped(content, rng, 352)
    path.write_bytes(gzip.compress(content, 1) if before else content)
    return path


def dicom_slices(folder: Path, rng: np.random.Generator, count: int = 6) -> list[Path]:
    """A regular MR series."""
    folder.mkdir()
    series, frame, study = generate_uid(), generate_uid(), generate_uid()
    for number in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        image.Modality, image.SeriesDescription, image.PatientID = "MR", "t1", "p"
        image.SeriesInstanceUID, image.FrameOfReferenceUID, image.StudyInstanceUID = series, frame, study
        image.InstanceNumber = number + 1
        image.ImagePositionPatient = [0.0, 0.0, 5.0 * number]
        image.ImageOrientationPatient = [1.0, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = [6.0, 6.0], 5.0
        image.Rows, image.Columns, image.SamplesPerPixel = 16, 16, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.PixelData = rng.integers(0, 900, (16, 16)).astype(np.uint16).tobytes()
        image.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return sorted(folder.iterdir())


def no_jpeg(image: pydicom.Dataset) -> None:
    """Says that it holds JPEG 2000, and holds none."""
    image.file_meta.TransferSyntaxUID = JPEG2000
    image.PixelData = encapsulate([b"\xff\x4f\xff\x51 none of it"])
    image["PixelData"].is_undefined_length = True


TAGS: tuple[Callable[[pydicom.Dataset], None], ...] = (
    lambda image: setattr(image, "Rows", 65535),
    lambda image: setattr(image, "Columns", 0),
    lambda image: setattr(image, "PixelSpacing", [-1.0, 0.0]),
    lambda image: setattr(image, "ImagePositionPatient", [1e30, -1e30, 0.0]),
    lambda image: setattr(image, "ImageOrientationPatient", [0.0] * 6),
    lambda image: setattr(image, "BitsAllocated", 64),
    lambda image: setattr(image, "SamplesPerPixel", 3),
    lambda image: setattr(image, "NumberOfFrames", 100000),
    lambda image: setattr(image, "RescaleSlope", 1e30),
    lambda image: image.__delitem__("PixelData"),
    lambda image: image.__delitem__("ImagePositionPatient"),
    lambda image: setattr(image, "PixelData", b""),
    no_jpeg,
    lambda image: setattr(image, "SeriesInstanceUID", ""),
)


def dicom(folder: Path, number: int, rng: np.random.Generator) -> Path:
    """A series of which one file, or all of them, are mutated."""
    place = folder / f"f{number}"
    files = dicom_slices(place, rng)
    chosen = files if rng.random() < 0.5 else files[:1]
    mutation, tag = int(rng.integers(3)), TAGS[int(rng.integers(len(TAGS)))]
    for file in chosen:
        content = file.read_bytes()
        if mutation == 0:
            file.write_bytes(flipped(content, rng, 1200))
        elif mutation == 1:
            file.write_bytes(shortened(content, rng))
        else:
            image = pydicom.dcmread(file)
            tag(image)
            image.save_as(file)
    return place


def fuzz(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[dict]]:
    """Write and prepare `count` mutated scans; how often each reason was given (ok: prepared), and the rows."""
    rng = np.random.default_rng(seed)
    files = [(dicom if number % 4 == 3 else nifti)(folder, number, rng) for number in range(count)]
    rows = [
        {"study_id": f"s{number}", "patient_id": f"p{number}", "scans": [{"path": file.name}], "report": "One."}
        for number, file in enumerate(files)
    ]
    fine = nib.Nifti1Image(voxels(rng), np.diag([6.0, 6, 6, 1]))
    nib.save(fine, folder / "fine.nii.gz")
    rows.append({"study_id": "fine", "patient_id": "fine", "scans": [{"path": "fine.nii.gz"}], "report": "One."})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(
        folder / "manifest.jsonl", folder / "store", SPEC, workers=2, progress=False, time_limit=SECONDS, memory_gb=GIGABYTES
    )
    table = Store(folder / "store").quality
    assert [row["study_id"] for row in table] == [row["study_id"] for row in rows], "none is missing"
    assert table[-1]["status"] == "ok"
    return Counter(row["reason"] or "ok" for row in table), table


def unforeseen(table: list[dict]) -> list[str]:
    """What was not recognised for what it is: a crash, a hang, or an error that no rule of reading names."""
    return [row["message"] for row in table if row["reason"] in ("killed", "timeout", "unexpected")]


@pytest.mark.filterwarnings("ignore")
def test_a_hundred_mutated_files(tmp_path: Path) -> None:
    found, table = fuzz(tmp_path, 100, seed=1)
    assert not unforeseen(table)
    assert found["ok"] > 5, "some damage leaves a readable scan"
    assert len(found) > 6, f"many reasons are met: {found}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_mutated_files(tmp_path: Path) -> None:
    found, table = fuzz(tmp_path, 2000, seed=0)
    assert not unforeseen(table)
    assert sum(found.values()) == 2001
