"""Files of their own for what the converter would misread: it sorts frames of a multi-frame object by rules of its own, and reads past a
table of values (ModalityLUTSequence).

Such a file holds a frame's pixels as they are encoded, its place and its scale, or the values that the table gives, and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from hlip.dicom.errors import ConversionError
from hlip.dicom.found import Found
from hlip.dicom.frames import FRAMES, either
from hlip.dicom.tags import Slice
from hlip.dicom.temporary import temporary_folder
from hlip.dicom.values import first_of, one_of

_PIXELS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


@contextmanager
def unpacked(slices: Sequence[Slice]) -> Iterator[dict[Slice, Slice]]:
    """Frames and slices with a table as files of their own, in a temporary folder while the context lasts; other slices stay what they are.

    Raises:
        ConversionError: damaged: a file that cannot be read, or has fewer frames than its header says.
        MachineError: the temporary folder is full.
    """
    found = {piece: piece for piece in slices if not (piece.frame or piece.lut)}
    by_file: defaultdict[Found, list[Slice]] = defaultdict(list)
    for piece in slices:
        if piece.frame:
            by_file[piece.file].append(piece)
    with temporary_folder("hlip-frames-") as folder:
        series = generate_uid()
        for number, (file, pieces) in enumerate(by_file.items()):
            for piece, path in _write(file, pieces, folder / str(number), series):
                found[piece] = replace(piece, file=Found(str(path), "", path.stat().st_size, 0), frame=0)
        for number, piece in enumerate(piece for piece in slices if piece.lut and not piece.frame):
            path = folder / f"table{number:06d}"
            _write_values(piece, path, series)
            found[piece] = replace(piece, file=Found(str(path), "", path.stat().st_size, 0), lut=False)
        yield found


def _write(file: Found, pieces: Sequence[Slice], folder: Path, series: str) -> Iterator[tuple[Slice, Path]]:
    folder.mkdir()
    try:
        with file.open() as stream:
            data = pydicom.dcmread(stream, force=True)
        raw = data.PixelData
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ConversionError("damaged", "a multi-frame file cannot be read; copy it again") from error
    syntax = _syntax(data)
    frames = _encoded(data) if syntax.is_encapsulated else {}
    size = int(data.Rows) * int(data.Columns) * int(data.get("SamplesPerPixel") or 1) * int(data.BitsAllocated) // 8
    for piece in pieces:
        pixels = frames.get(piece.frame, b"") if syntax.is_encapsulated else raw[(piece.frame - 1) * size : piece.frame * size]
        if not pixels or (len(pixels) < size and not syntax.is_encapsulated):
            raise ConversionError("damaged", "a multi-frame file has fewer frames than its header says; copy it again")
        path = folder / f"{piece.frame:06d}"
        _save(_plain(data, piece, series), encapsulate([pixels]) if syntax.is_encapsulated else pixels, syntax, path)
        yield piece, path


@contextmanager
def plainly(slices: Sequence[Slice]) -> Iterator[dict[Slice, Slice]]:
    """Slices as files of their own that say nothing but what makes them one volume: the converter parts those whose times, names or anything
    else differ. Those that cannot be read are not among them.

    Raises:
        MachineError: the temporary folder is full.
    """
    with temporary_folder("hlip-frames-") as folder:
        series, found = generate_uid(), {}
        for number, piece in enumerate(slices):
            try:
                with piece.file.open() as stream:
                    data = pydicom.dcmread(stream, force=True)
                pixels, syntax = data.PixelData, _syntax(data)
            except Exception:  # whatever a damaged file makes of the reader
                continue
            path = folder / f"{number:06d}"
            plain = _plain(data, piece, series)
            plain.InstanceNumber = number + 1
            _save(plain, pixels, syntax, path)
            found[piece] = replace(piece, file=Found(str(path), "", path.stat().st_size, 0))
        yield found


def _syntax(data: Dataset) -> UID:
    """The encoding in which pixels are written: theirs, where that is not one of headers alone."""
    stated = UID(str(data.file_meta.get("TransferSyntaxUID") or ExplicitVRLittleEndian))
    return stated if stated.is_encapsulated or stated == ExplicitVRBigEndian else ExplicitVRLittleEndian


def _save(plain: FileDataset, pixels: bytes, syntax: UID, path: Path) -> None:
    plain.file_meta.TransferSyntaxUID = syntax
    plain.PixelData = pixels
    plain["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
    plain["PixelData"].is_undefined_length = syntax.is_encapsulated
    plain.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=syntax != ExplicitVRBigEndian)


def _write_values(piece: Slice, path: Path, series: str) -> None:
    """A plain image of the values that the table of a slice gives."""
    try:
        with piece.file.open() as stream:
            data = pydicom.dcmread(stream, force=True)
        values = np.asarray(apply_modality_lut(data.pixel_array, data))
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ConversionError("damaged", "a file with a table of values cannot be read; copy it again") from error
    plain = _plain(data, piece, series)
    plain.BitsAllocated = plain.BitsStored = 16
    plain.HighBit, plain.PixelRepresentation = 15, 0  # as the standard has it, no table gives negative values
    plain.RescaleSlope, plain.RescaleIntercept = 1, 0
    _save(plain, values.astype("<u2").tobytes(), ExplicitVRLittleEndian, path)


def _encoded(data: Dataset) -> dict[int, bytes]:
    try:
        return dict(enumerate(generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames") or 1)), 1))
    except Exception as error:
        raise ConversionError("damaged", "the frames of a multi-frame file cannot be told apart; copy it again") from error


def _plain(data: Dataset, piece: Slice, series: str) -> FileDataset:
    """A plain CT or MR image of one frame, without its pixels."""
    meta = FileMetaDataset()
    plain = FileDataset("", Dataset(), file_meta=meta, preamble=bytes(128))
    plain.SOPClassUID = meta.MediaStorageSOPClassUID = CTImageStorage if piece.stack.modality == "CT" else MRImageStorage
    plain.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    plain.StudyInstanceUID = plain.SeriesInstanceUID = plain.FrameOfReferenceUID = series
    plain.Modality, plain.SeriesNumber, plain.InstanceNumber = piece.stack.modality, 1, piece.instance % FRAMES
    plain.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    for name in _PIXELS:
        if name in data:
            setattr(plain, name, data.get(name))
    plain.PhotometricInterpretation = "MONOCHROME2"  # `hlip.dicom.making` turns grey values around
    plain.ImagePositionPatient = [format_number_as_ds(value) for value in piece.position or ()]
    plain.ImageOrientationPatient = [format_number_as_ds(value) for value in piece.stack.orientation]
    plain.PixelSpacing = [format_number_as_ds(value) for value in piece.stack.spacing]
    slope, inter = _scale(data, piece.frame)
    plain.RescaleSlope, plain.RescaleIntercept = format_number_as_ds(slope), format_number_as_ds(inter)
    return plain


def _scale(data: Dataset, number: int) -> tuple[float, float]:
    groups = []
    frames, shared = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
    if frames and len(frames) >= number:
        groups.append(frames[number - 1])
    if shared:
        groups.append(shared[0])
    slope = one_of(first_of(groups, "PixelValueTransformationSequence", "RescaleSlope"))
    inter = one_of(first_of(groups, "PixelValueTransformationSequence", "RescaleIntercept"))
    slope, inter = either(slope, one_of(data.get("RescaleSlope"))), either(inter, one_of(data.get("RescaleIntercept")))
    return slope or 1.0, inter or 0.0
