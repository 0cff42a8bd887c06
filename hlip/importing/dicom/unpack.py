"""Frames of multi-frame objects as files of their own, for the converter: it sorts frames of one file by rules of its own.

Such a file holds a frame's pixels as they are encoded, its place and its scale, and nothing that a converter could misread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from hlip.importing.dicom.convert import ConversionError
from hlip.importing.dicom.frames import FRAMES, either
from hlip.importing.dicom.tags import Slice
from hlip.importing.dicom.temporary import temporary_folder
from hlip.importing.dicom.values import first_of, one_of
from hlip.importing.dicom.walk import Found

_PIXELS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


@contextmanager
def unpacked(slices: Sequence[Slice]) -> Iterator[dict[Slice, Slice]]:
    """Frames as files of their own, in a temporary folder while the context lasts; slices that are files stay what they are.

    Raises:
        ConversionError: damaged: a file that cannot be read, or has fewer frames than its header says.
        ImportingError: the temporary folder is full.
    """
    found = {piece: piece for piece in slices if not piece.frame}
    by_file: defaultdict[Found, list[Slice]] = defaultdict(list)
    for piece in slices:
        if piece.frame:
            by_file[piece.file].append(piece)
    with temporary_folder("hlip-frames-") as folder:
        series = generate_uid()
        for number, (file, pieces) in enumerate(by_file.items()):
            for piece, path in _write(file, pieces, folder / str(number), series):
                found[piece] = replace(piece, file=Found(str(path), "", path.stat().st_size, 0), frame=0)
        yield found


def _write(file: Found, pieces: Sequence[Slice], folder: Path, series: str) -> Iterator[tuple[Slice, Path]]:
    folder.mkdir()
    try:
        with file.open() as stream:
            data = pydicom.dcmread(stream, force=True)
        raw = data.PixelData
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ConversionError("damaged", "a multi-frame file cannot be read; copy it again") from error
    syntax = UID(str(data.file_meta.get("TransferSyntaxUID") or ExplicitVRLittleEndian))
    frames: dict[int, bytes] = {}
    if syntax.is_encapsulated:
        frames = _encoded(data)
    elif syntax != ExplicitVRBigEndian:
        syntax = ExplicitVRLittleEndian
    size = int(data.Rows) * int(data.Columns) * int(data.get("SamplesPerPixel") or 1) * int(data.BitsAllocated) // 8
    for piece in pieces:
        pixels = frames.get(piece.frame, b"") if syntax.is_encapsulated else raw[(piece.frame - 1) * size : piece.frame * size]
        if not pixels or (len(pixels) < size and not syntax.is_encapsulated):
            raise ConversionError("damaged", "a multi-frame file has fewer frames than its header says; copy it again")
        plain = _plain(data, piece, series)
        plain.file_meta.TransferSyntaxUID = syntax
        plain.PixelData = encapsulate([pixels]) if syntax.is_encapsulated else pixels
        plain["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
        plain["PixelData"].is_undefined_length = syntax.is_encapsulated
        path = folder / f"{piece.frame:06d}"
        plain.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=syntax != ExplicitVRBigEndian)
        yield piece, path


def _encoded(data: Dataset) -> dict[int, bytes]:
    try:
        return dict(enumerate(generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames") or 1)), 1))
    except Exception as error:
        raise ConversionError("damaged", "the frames of a multi-frame file cannot be told apart; copy it again") from error


def _plain(data: Dataset, piece: Slice, series: str) -> FileDataset:
    """A plain CT or MR image of one frame, without its pixels."""
    assert piece.position is not None
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
    plain.PhotometricInterpretation = "MONOCHROME2"  # `hlip.importing.dicom.study` turns grey values around
    plain.ImagePositionPatient = [format_number_as_ds(value) for value in piece.position]
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
