"""Headers of many files, in parallel: only the tags that decide something, never the pixels.

Notable choices:
- A file is DICOM by its mark, or, where an export cut the first 132 bytes off, by beginning with a tag of group 0002 or 0008.
- Of an enhanced multi-frame object the shared functional groups and the first frame speak for all; its converter reads the rest.
- An uncompressed file shorter than its pixels is marked as damaged here: it costs nothing, and no converter would tell which it was.
"""

from __future__ import annotations

import logging
import math
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import PurePath
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from tqdm import tqdm

from hlip.importing.dicom.bvalues import PRIVATE_TAGS, b_value_of
from hlip.importing.dicom.people import age_of, model_of, sex_of, vendor_of
from hlip.importing.dicom.tags import Slice, Stack, Unread
from hlip.importing.dicom.walk import Found
from hlip.importing.outcome import ImportingError

_CHUNK = 200  # files a task
_TAGS: list[Any] = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"),
    *("AccessionNumber", "Modality", "SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName"),
    *("ImageType", "ScanningSequence", "SequenceVariant", "EchoPulseSequence", "InversionRecovery", "EchoTime"),
    *("RepetitionTime", "InversionTime", "FlipAngle", "DiffusionBValue", "ContrastBolusAgent", "ContrastBolusAgentSequence"),
    *("AngioFlag", "TimeOfFlightContrast", "ConvolutionKernel", "Manufacturer", "ManufacturerModelName"),
    *("MagneticFieldStrength", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "Rows", "Columns", "PixelSpacing"),
    *("ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber", "TemporalPositionIdentifier"),
    *("AcquisitionNumber", "TriggerTime", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BurnedInAnnotation", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *PRIVATE_TAGS,
]
_PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_SUFFIXES = frozenset(
    [
        *(
            "csv",
            "dcm",
            "dll",
            "doc",
            "docx",
            "exe",
            "gif",
            "gz",
            "htm",
            "html",
            "inf",
            "ini",
            "jpeg",
            "jpg",
            "js",
            "json",
            "log",
        ),
        *("md", "nii", "pdf", "png", "rtf", "tif", "tiff", "txt", "xls", "xlsx", "xml", "zip"),
    ]
)
"""Endings that are told; any other may be part of a name."""


def read_headers(files: Sequence[Found], workers: int, progress: bool = True) -> tuple[list[Slice], list[Unread]]:
    """The slices among files, in the order of `files` whatever the number of workers, and the files that are none.

    Raises:
        ImportingError: a worker was killed.
    """
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    results: list[list[Slice | Unread]] = [[] for _ in chunks]
    stacks: dict[Stack, Stack] = {}  # one object for all equal ones: a million slices fit into memory
    with tqdm(total=len(files), unit="file", desc="headers", disable=not progress) as bar:
        for place, found in _in_parallel(chunks, workers):
            results[place] = [_shared(item, stacks) for item in found]
            bar.update(len(chunks[place]))
    read = [item for chunk in results for item in chunk]
    return [item for item in read if isinstance(item, Slice)], [item for item in read if isinstance(item, Unread)]


def _in_parallel(chunks: list[Sequence[Found]], workers: int) -> Iterator[tuple[int, list[Slice | Unread]]]:
    if min(workers, len(chunks)) <= 1:
        yield from ((place, read_chunk(chunk)) for place, chunk in enumerate(chunks))
        return
    pool = ProcessPoolExecutor(min(workers, len(chunks)), mp_context=get_context("spawn"))
    try:
        places = {pool.submit(read_chunk, chunk): place for place, chunk in enumerate(chunks)}
        for future in as_completed(places):
            yield places.pop(future), future.result()  # not kept twice
    except BrokenProcessPool as error:
        raise ImportingError("a worker was killed, probably out of memory; start again with fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _shared(item: Slice | Unread, stacks: dict[Stack, Stack]) -> Slice | Unread:
    if isinstance(item, Slice):
        object.__setattr__(item, "stack", stacks.setdefault(item.stack, item.stack))
    return item


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """It warns about each odd tag of each file, by two ways."""
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pydicom(\..*)?")
        yield
    log.setLevel(level)


def read_chunk(files: Iterable[Found]) -> list[Slice | Unread]:
    """One record a file; what is no image file at all (DICOMDIR) is passed over."""
    read: list[Slice | Unread] = []
    with ExitStack() as stack:
        stack.enter_context(quiet_pydicom())
        archives: dict[str, zipfile.ZipFile] = {}
        for file in files:
            try:
                if file.member and file.path not in archives:
                    archives[file.path] = stack.enter_context(zipfile.ZipFile(file.path))
                with archives[file.path].open(file.member) if file.member else file.open() as stream:
                    found = read_one(file, cast(BinaryIO, stream))
            except PermissionError:
                found = Unread(file, "no_permission", _kind(file))
            except Exception:  # a hostile header: any error of any library
                found = Unread(file, "damaged", _kind(file))
            if found is not None:
                read.append(found)
    return read


def read_one(file: Found, stream: BinaryIO) -> Slice | Unread | None:
    """The record of one open file; `None` of a DICOMDIR."""
    start = stream.read(132)
    if start[128:] != b"DICM" and start[:4] not in (b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x02\0\0\0"):
        return Unread(file, "not_dicom", _kind(file))
    stream.seek(0)
    data = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)
    sop_class = UID(str(data.get("SOPClassUID", "")))
    if sop_class.name == "Media Storage Directory Storage" or "DirectoryRecordSequence" in data:
        return None
    if data.file_meta.get("MediaStorageSOPClassUID", "") == "1.2.840.10008.1.3.10":
        return None
    if not (data.get("StudyInstanceUID") and data.get("SeriesInstanceUID")):
        return Unread(file, "no_uid" if sop_class else "damaged", _kind(file))
    return _slice(file, data, stream.tell())


def _slice(file: Found, data: Dataset, pixels_at: int) -> Slice:
    frames = max(1, int(_number(data, "NumberOfFrames") or 1))
    groups = _groups(data)
    stack = _stack(data, groups)
    bits = int(_number(data, "BitsAllocated") or 0)
    samples = int(_number(data, "SamplesPerPixel") or 1)
    syntax = data.file_meta.get("TransferSyntaxUID")
    plain = syntax is None or UID(str(syntax)) in _PLAIN
    deflated = syntax is not None and UID(str(syntax)).is_deflated  # its place of the pixels is none of the file
    needed = stack.rows * stack.columns * bits * samples * frames // 8 if plain else 1
    position = _numbers(_first(groups, "PlanePositionSequence", "ImagePositionPatient") or data.get("ImagePositionPatient"))
    return Slice(
        stack, file, _text(data, "SOPInstanceUID"), position if len(position) == 3 else None,
        int(_number(data, "InstanceNumber") or 0), _number(data, "TemporalPositionIdentifier"),
        _number(data, "AcquisitionNumber"), _number(data, "TriggerTime"), frames, _b_values(data, stack),
        deflated or file.size - pixels_at >= needed,
    )  # fmt: skip


def _stack(data: Dataset, groups: list[Dataset]) -> Stack:
    vendor = vendor_of(_text(data, "Manufacturer"))
    echo = _first(groups, "MREchoSequence", "EffectiveEchoTime") or data.get("EchoTime")
    repetition = _first(groups, "MRTimingAndRelatedParametersSequence", "RepetitionTime") or data.get("RepetitionTime")
    inversion = _first(groups, "MRModifierSequence", "InversionTimes") or data.get("InversionTime")
    b_value = _first(groups, "MRDiffusionSequence", "DiffusionBValue")
    spacing = _numbers(_first(groups, "PixelMeasuresSequence", "PixelSpacing") or data.get("PixelSpacing"))
    orientation = _numbers(
        _first(groups, "PlaneOrientationSequence", "ImageOrientationPatient") or data.get("ImageOrientationPatient")
    )
    agents = data.get("ContrastBolusAgentSequence") or ()
    return Stack(
        _text(data, "StudyInstanceUID"), _text(data, "SeriesInstanceUID"), _text(data, "PatientID"),
        _text(data, "AccessionNumber"), _whole(_number(data, "SeriesNumber")), _text(data, "SOPClassUID"),
        _text(data, "Modality").upper(), tuple(word.upper() for word in _texts(data, "ImageType")),
        _text(data, "SeriesDescription"), _text(data, "ProtocolName"),
        _text(data, "SequenceName") or _text(data, "PulseSequenceName"), _scanning(data), _texts(data, "SequenceVariant"),
        _rounded(_one(echo), 1), _rounded(_one(repetition), 0), _rounded(_one(inversion), 0),
        _rounded(_number(data, "FlipAngle"), 0), _one(b_value) if b_value is not None else b_value_of(data, vendor),
        _text(data, "ContrastBolusAgent") or ("agent" if len(agents) else ""),
        _text(data, "AngioFlag").upper() == "Y" or _text(data, "TimeOfFlightContrast").upper() == "YES",
        "\\".join(_texts(data, "ConvolutionKernel")), vendor, model_of(_text(data, "ManufacturerModelName")),
        _tesla(_number(data, "MagneticFieldStrength")), sex_of(_text(data, "PatientSex")), age_of(data),
        _text(data, "FrameOfReferenceUID"), int(_number(data, "Rows") or 0), int(_number(data, "Columns") or 0),
        cast("tuple[float, float]", tuple(round(step, 6) for step in spacing)) if len(spacing) == 2 else (0.0, 0.0),
        tuple(round(way, 6) + 0.0 for way in orientation) if len(orientation) == 6 else (),
        _text(data, "PhotometricInterpretation").upper() in ("", "MONOCHROME1", "MONOCHROME2")
        and int(_number(data, "SamplesPerPixel") or 1) == 1,
        _text(data, "BurnedInAnnotation").upper() == "YES",
        bool(groups),
    )  # fmt: skip


def _scanning(data: Dataset) -> tuple[str, ...]:
    """ScanningSequence, or the same of an enhanced object's own tags."""
    words = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(_text(data, "EchoPulseSequence").upper(), ())
    inverted = ("IR",) if _text(data, "InversionRecovery").upper() == "YES" else ()
    return tuple(word.upper() for word in _texts(data, "ScanningSequence")) or words + inverted


def _groups(data: Dataset) -> list[Dataset]:
    """The functional groups of all frames and of the first one; none of a single-frame file."""
    return [
        sequence[0]
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        if (sequence := data.get(name))
    ]


def _first(groups: list[Dataset], macro: str, name: str) -> Any:
    for group in groups:
        items = group.get(macro)
        if items and items[0].get(name) is not None:
            return items[0].get(name)
    return None


def _b_values(data: Dataset, stack: Stack) -> tuple[float, ...]:
    """Of all frames, ascending."""
    own = {stack.b_value}
    for frame in data.get("PerFrameFunctionalGroupsSequence") or ():
        own.add(_one(_first([frame], "MRDiffusionSequence", "DiffusionBValue")))
    return tuple(sorted(b_value for b_value in own if b_value is not None))


def _kind(file: Found) -> str:
    suffix = PurePath(file.member or file.path).suffix.lower().lstrip(".")
    return f".{suffix}" if suffix in _SUFFIXES else "others"


def _text(data: Dataset, name: str) -> str:
    value = data.get(name)
    return "" if value is None else str(value).strip(" \0")


def _texts(data: Dataset, name: str) -> tuple[str, ...]:
    value = data.get(name)
    if value is None or value == "":
        return ()
    return tuple(str(item).strip() for item in ([value] if isinstance(value, str) else value))


def _numbers(value: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(item) for item in value)
    except (TypeError, ValueError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def _one(value: Any) -> float | None:
    """A number, or the first of several."""
    if value is not None and not isinstance(value, (str, int, float)):
        value = next(iter(value), None)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _number(data: Dataset, name: str) -> float | None:
    return _one(data.get(name))


def _rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _tesla(number: float | None) -> float | None:
    """Some scanners write gauss."""
    if number is None or number <= 0:
        return None
    return round(number / 10_000 if number > 100 else number, 1)
