"""Head CT slices with the few tags that public sets leave in."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def head(slices: int = 6, seed: int = 0) -> np.ndarray:
    """(slices, 12, 10) HU."""
    return np.random.default_rng(seed).integers(-1000, 1500, (slices, 12, 10))


def write_slice(path: Path, image: np.ndarray, number: int, study: str, series: str, patient: str, tilt: float = 0.0) -> Path:
    """One slice, 5 mm above the last; no SliceThickness, InstanceNumber or SeriesDescription. `tilt`: of the gantry, degrees; the table moves
    straight on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the names of a public set are no UIDs
        return _write(path, image, number, study, series, patient, tilt)


def _write(path: Path, image: np.ndarray, number: int, study: str, series: str, patient: str, tilt: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.PatientID = study, series, patient
    down, up = round(float(np.cos(np.radians(tilt))), 6), round(-float(np.sin(np.radians(tilt))), 6)
    data.ImagePositionPatient, data.ImageOrientationPatient = [-125, -125, 5 * number], [1, 0, 0, 0, down, up]
    data.PixelSpacing, data.SamplesPerPixel, data.PhotometricInterpretation = [0.5, 0.5], 1, "MONOCHROME2"
    data.Rows, data.Columns = image.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = (image + 1024).astype(np.uint16).tobytes()
    data.save_as(path, enforce_file_format=True)
    return path
