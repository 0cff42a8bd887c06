"""DICOM series made by the tests: a body whose left, front and top are known, cut in any plane, with any tags."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

AXIAL = ((1, 0, 0), (0, 1, 0))
SAGITTAL = ((0, 1, 0), (0, 0, -1))
CORONAL = ((1, 0, 0), (0, 0, -1))
OBLIQUE = ((0.96, 0.28, 0), (-0.26880, 0.9216, 0.28))
"""Direction of a row and of a column, in DICOM's axes: x to the left, y to the back, z to the head."""

T1: dict[str, Any] = {"ScanningSequence": "SE", "SequenceVariant": "SK", "RepetitionTime": 500, "EchoTime": 12}
T2: dict[str, Any] = {"ScanningSequence": "SE", "SequenceVariant": "SK", "RepetitionTime": 4500, "EchoTime": 95}

Body = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def body(lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """An egg of 300 in weak noise, in it a bright ball (900) at the left, a dark one (100) in front, a middling one (600) at the top.

    Args:
        lps: (..., 3) mm in DICOM's axes.
    """
    value = np.where(np.linalg.norm(lps / np.array([60, 70, 55]), axis=-1) < 1, 300.0, np.abs(lps).sum(-1) // 4 % 24)
    for centre, brightness in (((30, 0, 0), 900.0), ((0, -38, 0), 100.0), ((0, 0, 32), 600.0)):
        value[np.linalg.norm(lps - np.array(centre), axis=-1) < 12] = brightness
    return value


def series(
    folder: Path,
    *,
    plane: Any = AXIAL,
    slices: int = 24,
    size: int = 40,
    step: float = 6.0,
    spacing: float = 4.0,
    description: str = "T1 AX",
    modality: str = "MR",
    study: str = "1.2.3.4",
    number: int = 1,
    patient: str = "P1",
    first: int = 0,
    drop: tuple[int, ...] = (),
    pixels: Callable[[int], NDArray[Any]] | None = None,
    each: Callable[[int, FileDataset], None] | None = None,
    uid: str | None = None,
    tilt: float = 0.0,
    **tags: Any,
) -> list[Path]:
    """Write one series, a file a slice, without file name extension.

    Args:
        first: number of the first file name and instance.
        drop: slices that are not written.
        pixels: of slice n, instead of a cut through `body`.
        each: changes the dataset of slice n before it is written.
        tilt: of the gantry, degrees: slices are shifted along y.
        tags: any DICOM keyword.
    """
    folder.mkdir(parents=True, exist_ok=True)
    along, down = (np.array(v, dtype=float) for v in plane)
    normal = np.cross(along, down)
    shift = normal + np.tan(np.radians(tilt)) * down
    uid, files = uid or generate_uid(), []
    for n in range(slices):
        if n in drop:
            continue
        centre = (n - (slices - 1) / 2) * step * shift
        corner = centre - (size - 1) / 2 * spacing * (along + down)
        rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
        where = corner + spacing * (columns[..., None] * along + rows[..., None] * down)
        image = body(where) if pixels is None else pixels(n)
        if modality == "CT" and pixels is None:
            image = image - 1000 + 1024
        data = header(modality, study, patient, description, number, uid)
        data.InstanceNumber = first + n + 1
        data.ImagePositionPatient = [round(float(v), 5) for v in corner]
        data.ImageOrientationPatient = [float(v) for v in (*along, *down)]
        data.PixelSpacing = [spacing, spacing]
        data.SliceThickness = step
        data.SpacingBetweenSlices = step
        if tilt:
            data.GantryDetectorTilt = tilt
        put_pixels(data, image)
        for name, value in (T1 if modality == "MR" else {}).items():
            setattr(data, name, value)
        for name, value in tags.items():
            setattr(data, name, value)
        if each is not None:
            each(n, data)
        files.append(folder / f"{number:03d}{first + n:05d}")
        data.save_as(files[-1], enforce_file_format=True)
    return files


def header(
    modality: str, study: str, patient: str, description: str, number: int, uid: str, sop: str | None = None
) -> FileDataset:
    """What every file of a series says."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop or (CTImageStorage if modality == "CT" else MRImageStorage)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, uid, f"{study}.9"
    data.PatientID, data.PatientName, data.Modality = patient, f"{patient}^Name", modality
    data.SeriesDescription, data.SeriesNumber = description, number
    data.Manufacturer, data.ImageType = "SIEMENS", ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
    if modality == "CT":
        data.RescaleIntercept, data.RescaleSlope = -1024, 1
    return data


def put_pixels(data: Dataset, image: NDArray[Any]) -> None:
    """(rows, columns) or (frames, rows, columns) as 16-bit grey values, signed where they are."""
    data.Rows, data.Columns = image.shape[-2:]
    if image.ndim == 3:
        data.NumberOfFrames = len(image)
    signed = int((image < 0).any())
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, signed
    data.PixelData = np.ascontiguousarray(image).astype(np.int16 if signed else np.uint16).tobytes()


def macro(**tags) -> pydicom.Sequence:
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def enhanced(
    folder: Path,
    b_values: list[float],
    *,
    vendor: str = "Philips",
    interleaved: bool = False,
    diffuse: bool | None = None,
    weights: list[float] | None = None,
    each: Callable[[int, int, Dataset], None] | None = None,
    parts: int = 24,
) -> Path:
    """One file of 24 frames for each b-value; with one alone it is a T2.

    Args:
        interleaved: all b-values of a place follow each other, instead of all places of a b-value.
        diffuse: whether the frames state their b-values; default: if there are several.
        weights: what the values of each set are multiplied by.
        each: changes the groups of a frame, given the numbers of its set and of its slice.
    """
    source = [pydicom.dcmread(file) for file in series(folder / "parts", slices=parts)]
    diffuse = len(b_values) > 1 if diffuse is None else diffuse
    data = header("MR", "1.2.3.4", "P1", "DWI" if diffuse else "T2 TSE", 3, generate_uid(), "1.2.840.10008.5.1.4.1.1.4.1")
    data.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION" if diffuse else "T2", "NONE"]
    data.EchoPulseSequence, data.InstanceNumber = "SPIN", 1
    data.Manufacturer = vendor
    pixels = np.stack([np.frombuffer(part.PixelData, np.uint16).reshape(40, 40) for part in source])
    weights = weights or [10 * np.exp(-b * 1e-3) if diffuse else 1 for b in b_values]
    order = [(shell, n) for shell in range(len(b_values)) for n in range(len(source))]
    if interleaved:
        order.sort(key=lambda place: place[1])
    put_pixels(data, np.stack([np.rint(pixels[n] * weights[shell]) for shell, n in order]))
    data.NumberOfFrames = len(order)
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = macro(PixelSpacing=[4.0, 4.0], SliceThickness=6.0, SpacingBetweenSlices=6.0)
    shared.PlaneOrientationSequence = macro(ImageOrientationPatient=source[0].ImageOrientationPatient)
    shared.MREchoSequence = macro(EffectiveEchoTime=95.0)
    shared.MRTimingAndRelatedParametersSequence = macro(RepetitionTime=4500.0, FlipAngle=90.0)
    for shell, n in order:
        frame = Dataset()
        frame.PlanePositionSequence = macro(ImagePositionPatient=source[n].ImagePositionPatient)
        index = [1, n + 1, shell + 1]
        frame.FrameContentSequence = macro(DimensionIndexValues=index, StackID="1", InStackPositionNumber=n + 1)
        if diffuse:
            way = "ISOTROPIC" if b_values[shell] else "NONE"
            frame.MRDiffusionSequence = macro(DiffusionBValue=b_values[shell], DiffusionDirectionality=way)
        if each is not None:
            each(shell, n, frame)
        frames.append(frame)
    data.SharedFunctionalGroupsSequence = pydicom.Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(frames)
    shutil.rmtree(folder / "parts")
    data.save_as(folder / "multiframe", enforce_file_format=True)
    return folder / "multiframe"
