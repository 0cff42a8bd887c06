"""DICOM series of a folder -> one scan. The conversion itself is dicom2nifti's: it sorts slices by position, applies the
rescale, drops localizers and duplicates, and refuses what is not a regular volume.

A folder with several series is not one scan: each series is then named by its first file, which stands for all files of
its folder with the same SeriesInstanceUID.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import dicom2nifti.convert_dicom
import nibabel as nib
import numpy as np
import pydicom
from dicom2nifti.exceptions import ConversionError, ConversionValidationError
from pydicom.errors import InvalidDicomError

from hlip.scans.filekind import is_dicom
from hlip.scans.scan import LoadedScan, VolumeError
from hlip.scans.sequence import guess_sequence
from hlip.study import Scan

_TAGS = ["PatientID", "SeriesInstanceUID", "SeriesDescription", "ProtocolName", "Modality"]
_REASONS = {  # dicom2nifti's codes -> our reason and remedy
    "TOO_FEW_SLICES": ("too_few_slices", "a localizer or an incomplete series"),
    "NON_CUBICAL_IMAGE": ("gantry_tilt", "slices are sheared (gantry tilt); correct the tilt first, e.g. with dcm2niix"),
    "SLICE_INCREMENT": ("uneven_slices", "the distance between slices varies: slices are missing or several series are mixed"),
    "ORIENTATION": ("mixed_orientations", "slices of several orientations; split the series"),
    "NOT_A_VOLUME": ("not_3d", "all slices lie at one place"),
    "NON_IMAGING": ("not_an_image", "no image positions: a report, a secondary capture or a structured object"),
    "NO_DICOM": ("not_an_image", "no image in this series"),
    "MISSING_DICOM": ("uneven_slices", "slices are missing"),
}


_DAMAGED = (InvalidDicomError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError)
"""What pydicom raises on a damaged file, of a tag's value only when it is asked for."""


def read_series(path: Path) -> LoadedScan:
    """Read the one series of a folder, or the series to which a file belongs.

    Raises:
        VolumeError: not_an_image, several_series, truncated, too_few_slices, gantry_tilt, uneven_slices,
            mixed_orientations, rgb_or_complex, series_4d, not_3d, dicom.
    """
    files = _series_files(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about each odd tag of each slice
        try:
            slices = [pydicom.dcmread(file) for file in files]
            _check_repeats(path, slices)
            sequence, modality, colours = (
                _sequence(slices[0]),
                _text(slices[0], "Modality"),
                slices[0].get("SamplesPerPixel", 1),
            )
            slope, intercept = _take_rescale(slices)
        except VolumeError:
            raise
        except _DAMAGED as error:
            raise VolumeError("truncated", f"{path}: a file of the series is damaged ({error}); copy it again") from error
        image = _convert(path, slices)
    slices.clear()  # their pixels, before there is a third copy
    data = np.asanyarray(image.dataobj)
    if data.dtype.fields is not None or int(colours or 1) > 1:
        raise VolumeError("rgb_or_complex", f"{path}: a colour series; export the grey-value images")
    if data.ndim > 3 and data.shape[3] > 1:
        raise VolumeError("series_4d", f"{path}: a series of {data.shape[3]} volumes; split it and name the ones to use")
    values = data.reshape(data.shape[:3]).astype(np.float32)
    if (slope, intercept) != (1, 0):
        values *= np.float32(slope)
        values += np.float32(intercept)
    return LoadedScan(values, np.asarray(image.affine, np.float64), path, sequence, modality, 1.0)


def find_series(folder: Path, files: list[Path]) -> list[Scan]:
    """The series among the DICOM files of one folder, in order of their first file."""
    series: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    for file in files:
        header = _header(file)
        uid = _text(header, "SeriesInstanceUID") if header is not None else ""
        if header is not None and uid:
            series.setdefault(uid, []).append(file)
            names.setdefault(uid, _sequence(header))
    alone = len(series) == 1
    return [Scan(folder if alone else members[0], names[uid]) for uid, members in series.items()]


def patient_of(path: Path) -> str:
    """PatientID of a series (a file of it, or its folder), empty where there is none; for comparing, never for writing."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if is_dicom(file))[:1]
    header = _header(files[0]) if files else None
    return _text(header, "PatientID") if header is not None else ""


def _series_files(path: Path) -> list[Path]:
    folder = path if path.is_dir() else path.parent
    uid_of = {
        file: _text(header, "SeriesInstanceUID")
        for file in sorted(folder.iterdir())
        if file.is_file() and is_dicom(file) and (header := _header(file)) is not None
    }
    if path.is_file():
        if path not in uid_of:
            raise VolumeError("truncated", f"{path}: a DICOM file whose header cannot be read; copy it again")
        return [file for file, uid in uid_of.items() if uid == uid_of[path]]
    found = set(uid_of.values())
    if not found:
        raise VolumeError("not_an_image", f"{path}: a folder without DICOM files; name the NIfTI file itself")
    if len(found) > 1:
        raise VolumeError("several_series", f"{path}: holds {len(found)} DICOM series; name one file of each as its own scan")
    return list(uid_of)


def _check_repeats(path: Path, slices: Sequence[pydicom.Dataset]) -> None:
    """Different images at one place are several volumes (time, echo, b-value); equal ones are copies, dropped later."""
    seen: dict[tuple[str, str], bytes] = {}
    for image in slices:
        place = _text(image, "ImagePositionPatient"), _text(image, "ImageOrientationPatient")
        pixels = image.get("PixelData", b"")
        if all(place) and seen.setdefault(place, pixels) != pixels:
            volumes = round(len(slices) / len({_text(other, "ImagePositionPatient") for other in slices}))
            message = f"{path}: about {volumes} images at each place; split the series and name the ones to use"
            raise VolumeError("series_4d", message)


def _take_rescale(slices: Sequence[pydicom.Dataset]) -> tuple[float, float]:
    """Slope and intercept that all slices share, taken out of them; (1, 0) where they differ, and the converter applies each.

    The converter would make float64 of it: of a CT of 400 slices four times the memory.
    """
    found = {(image.get("RescaleSlope"), image.get("RescaleIntercept")) for image in slices}
    if len(found) != 1 or None in (pair := found.pop()) or any("ModalityLUTSequence" in image for image in slices):
        return 1.0, 0.0
    for image in slices:
        del image.RescaleSlope, image.RescaleIntercept
    return float(pair[0]), float(pair[1])


def _number(slices: Sequence[pydicom.Dataset]) -> None:
    """Number the slices by their place; some public sets took the number away, by which the converter parts one volume from the next."""

    def height(image: pydicom.Dataset) -> float:
        try:
            across, down = np.reshape([float(value) for value in image.ImageOrientationPatient], (2, 3))
            return float(np.cross(across, down) @ [float(value) for value in image.ImagePositionPatient])
        except (AttributeError, TypeError, ValueError):
            return 0.0  # no place: the converter says so

    for number, image in enumerate(sorted(slices, key=height), start=1):
        image.InstanceNumber = number


def _convert(path: Path, slices: Sequence[pydicom.Dataset]) -> nib.Nifti1Image:
    logging.getLogger("dicom2nifti").setLevel(logging.ERROR)
    if any("InstanceNumber" not in image for image in slices):
        _number(slices)
    try:
        return dicom2nifti.convert_dicom.dicom_array_to_nifti(list(slices), None, reorient_nifti=False)["NII"]
    except (ConversionError, ConversionValidationError) as error:
        code = str(error)
        for key, (reason, remedy) in _REASONS.items():
            if key in code:
                raise VolumeError(reason, f"{path}: {remedy}") from error
        raise VolumeError("dicom", f"{path}: dicom2nifti refused the series ({code})") from error
    except Exception as error:  # odd tags surface as many types deep in the converter
        raise VolumeError("dicom", f"{path}: the series cannot be converted ({type(error).__name__}: {error})") from error


def _header(file: Path) -> pydicom.Dataset | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
    except Exception:  # a damaged header, whatever its error
        return None


def _sequence(header: pydicom.Dataset) -> str:
    return guess_sequence(_text(header, "SeriesDescription") or _text(header, "ProtocolName")) or (
        "CT" if _text(header, "Modality") == "CT" else ""
    )


def _text(header: pydicom.Dataset, tag: str) -> str:
    """Empty where the value is damaged, too."""
    try:
        return str(header.get(tag, "") or "")
    except _DAMAGED:
        return ""
