"""Headers of files: only the tags that decide something, never the pixels.

Notable choices:
- A file is DICOM by its mark, or, where an export cut the first 132 bytes off, by beginning with a tag of group 0002 or 0008.
- Of an enhanced multi-frame object every frame is a slice of its own, see `hlip.dicom.frames`.
- Of a zip archive that cannot be opened as a whole, what remains readable is read, see `hlip.dicom.archives`.
- Public sets take tags away: a file without SOPClassUID is of the class that its own preamble names, else a plain image of its Modality.
- An uncompressed file shorter than its pixels is marked as damaged here: it costs nothing, and no converter would tell which it was.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import PurePath
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hlip.dicom.bvalues import PRIVATE_TAGS, b_value_of
from hlip.dicom.found import Found
from hlip.dicom.frames import frames_of
from hlip.dicom.kinds import IMAGES
from hlip.dicom.people import age_of, model_of, sex_of, vendor_of
from hlip.dicom.tags import Slice, Stack, Unread
from hlip.dicom.tars import counted_gzip
from hlip.dicom.values import first_of, number_of, numbers_of, one_of, rounded, tesla_of, text_of, texts_of, whole_of
from hlip.scans.archive import TARS

_TAGS: list[Any] = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"),
    *("AccessionNumber", "Modality", "SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName"),
    *("ImageType", "ScanningSequence", "SequenceVariant", "EchoPulseSequence", "InversionRecovery", "EchoTime"),
    *("RepetitionTime", "InversionTime", "FlipAngle", "DiffusionBValue", "ContrastBolusAgent", "ContrastBolusAgentSequence"),
    *("AngioFlag", "TimeOfFlightContrast", "ConvolutionKernel", "Manufacturer", "ManufacturerModelName"),
    *("MagneticFieldStrength", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "Rows", "Columns", "PixelSpacing"),
    *("ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber", "TemporalPositionIdentifier"),
    *("AcquisitionNumber", "TriggerTime", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("ImagesInAcquisition", "SliceThickness"),
    *("BurnedInAnnotation", "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *PRIVATE_TAGS,
]
_PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_SUFFIXES = frozenset(
    [
        *("7z", "bz2", "csv", "dcm", "dll", "doc", "docx", "exe", "gif", "gz", "htm", "html", "inf", "ini", "iso", "jpeg", "jpg", "js"),
        *("json", "log", "md", "nii", "pdf", "png", "rar", "rtf", "tar", "tgz", "tif", "tiff", "txt", "xls", "xlsx", "xml", "xz", "zip"),
        "zst",
    ]
)  # fmt: skip
"""Endings that are told; any other may be part of a name."""
_START = 512  # bytes that are looked at
_ARCHIVES = (*TARS, ".7z", ".rar", ".iso", ".bz2", ".xz", ".zst", ".lz4", ".z", ".z01", ".zip.001")
"""Endings of archives that are looked into nowhere, or not inside of another one."""
_ARCHIVE_MARKS = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
"""How 7z, RAR, xz and zstd begin, whatever they are called."""
_ZIP, _GZIP = b"PK\3\4", b"\x1f\x8b\x08"
_ZIPPED = (".docx", ".xlsx", ".xlsm", ".pptx", ".odt", ".ods", ".odp", ".jar", ".epub", ".npz", ".pt", ".pth")
_GZIPPED = (".nii.gz", ".mgz", ".svgz", ".emz", ".rds", ".rdata")
"""Endings of what is a zip or a gzip by itself, and no archive of images."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """It warns about each odd tag of each file, by two ways."""
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pydicom(\..*)?")
            yield
    finally:
        log.setLevel(level)


def read_chunk(files: Iterable[Found], nameless: bool = False) -> list[Slice | Unread]:
    """One record a file, or a frame; what is no image file at all (DICOMDIR) is passed over.

    Args:
        nameless: files without a study or series UID are slices, too.
    """
    read: list[Slice | Unread] = []
    with ExitStack() as stack:
        stack.enter_context(quiet_pydicom())
        archives: dict[str, zipfile.ZipFile] = {}
        for file in map(_sized, files):
            try:
                if file.zipped and file.path not in archives:
                    archives[file.path] = stack.enter_context(zipfile.ZipFile(file.path))
                with archives[file.path].open(file.member) if file.zipped else file.open() as stream:
                    found: Sequence[Slice | Unread] = read_one(file, cast(BinaryIO, stream), nameless)
            except PermissionError:
                found = [Unread(file, "no_permission", _kind(file))]
            except Exception:  # a hostile header: any error of any library
                found = [Unread(file, "damaged", _kind(file))]
            read += found
    return read


def _sized(file: Found) -> Found:
    """What is packed alone with all of its bytes: the walk asks only what it says."""
    try:
        return replace(file, size=counted_gzip(file.path, file.size)) if file.gzipped else file
    except OSError:  # reading it says so
        return file


def read_one(file: Found, stream: BinaryIO, nameless: bool = False) -> Sequence[Slice | Unread]:
    """The record of one open file, one a frame of an enhanced object; none of a DICOMDIR. `nameless`: see `read_chunk`."""
    start = stream.read(_START)
    if start[128:132] != b"DICM" and start[:4] not in (b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x02\0\0\0"):
        return [Unread(file, _no_dicom(file, start), _kind(file))]
    stream.seek(0)
    data = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)
    sop_class = UID(_sop_class(data))
    if sop_class.name == "Media Storage Directory Storage" or "DirectoryRecordSequence" in data:
        return []
    if data.file_meta.get("MediaStorageSOPClassUID", "") == "1.2.840.10008.1.3.10":
        return []
    if not (data.get("StudyInstanceUID") and data.get("SeriesInstanceUID")) and not (nameless and sop_class):
        return [Unread(file, "no_uid" if sop_class else "damaged", _kind(file))]
    return _slices(file, data, stream.tell())


def _no_dicom(file: Found, start: bytes) -> str:
    """What a file is that is none: an archive, or nothing that matters. Of an archive that opens only its members are listed."""
    name = (file.member or file.path).lower()
    if file.unopened:
        return file.unopened
    within = bool(file.member) and name.endswith(".zip")  # the import says so
    zipped = start.startswith(_ZIP) and not within and not name.endswith(_ZIPPED)
    packed = start.startswith(_GZIP) and not name.endswith(_GZIPPED)
    tar = start[257:262] == b"ustar"
    marked = name.endswith(_ARCHIVES) or start.startswith(_ARCHIVE_MARKS)
    return "archive_not_read" if marked or zipped or packed or tar else "not_dicom"


def _slices(file: Found, data: Dataset, pixels_at: int) -> list[Slice]:
    frames = max(1, int(number_of(data, "NumberOfFrames") or 1))
    groups = _groups(data)
    stack = _stack(data, groups)
    bits = int(number_of(data, "BitsAllocated") or 0)
    samples = int(number_of(data, "SamplesPerPixel") or 1)
    syntax = data.file_meta.get("TransferSyntaxUID")
    plain = syntax is None or UID(str(syntax)) in _PLAIN
    deflated = syntax is not None and UID(str(syntax)).is_deflated  # its place of the pixels is none of the file
    needed = stack.rows * stack.columns * bits * samples * frames // 8 if plain else 1
    position = numbers_of(first_of(groups, "PlanePositionSequence", "ImagePositionPatient") or data.get("ImagePositionPatient"))
    piece = Slice(
        stack, file, text_of(data, "SOPInstanceUID"), position if len(position) == 3 else None,
        int(number_of(data, "InstanceNumber") or 0), number_of(data, "TemporalPositionIdentifier"),
        number_of(data, "AcquisitionNumber"), number_of(data, "TriggerTime"), frames,
        () if stack.b_value is None else (stack.b_value,), deflated or file.size - pixels_at >= needed,
        lut=bool(data.get("ModalityLUTSequence")), acquired=whole_of(number_of(data, "ImagesInAcquisition")),
    )  # fmt: skip
    return frames_of(piece, data) if stack.enhanced and stack.sop_class in IMAGES else [piece]


def _stack(data: Dataset, groups: list[Dataset]) -> Stack:
    vendor = vendor_of(text_of(data, "Manufacturer"))
    echo = first_of(groups, "MREchoSequence", "EffectiveEchoTime") or data.get("EchoTime")
    repetition = first_of(groups, "MRTimingAndRelatedParametersSequence", "RepetitionTime") or data.get("RepetitionTime")
    inversion = first_of(groups, "MRModifierSequence", "InversionTimes") or data.get("InversionTime")
    b_value = first_of(groups, "MRDiffusionSequence", "DiffusionBValue")
    spacing = numbers_of(first_of(groups, "PixelMeasuresSequence", "PixelSpacing") or data.get("PixelSpacing"))
    orientation = numbers_of(
        first_of(groups, "PlaneOrientationSequence", "ImageOrientationPatient") or data.get("ImageOrientationPatient")
    )
    agents = data.get("ContrastBolusAgentSequence") or ()
    return Stack(
        text_of(data, "StudyInstanceUID"), text_of(data, "SeriesInstanceUID"), text_of(data, "PatientID"),
        text_of(data, "AccessionNumber"), whole_of(number_of(data, "SeriesNumber")), _sop_class(data),
        text_of(data, "Modality").upper(), tuple(word.upper() for word in texts_of(data, "ImageType")),
        text_of(data, "SeriesDescription"), text_of(data, "ProtocolName"),
        text_of(data, "SequenceName") or text_of(data, "PulseSequenceName"), _scanning(data), texts_of(data, "SequenceVariant"),
        rounded(one_of(echo), 1), rounded(one_of(repetition), 0), rounded(one_of(inversion), 0),
        rounded(number_of(data, "FlipAngle"), 0), one_of(b_value) if b_value is not None else b_value_of(data, vendor),
        text_of(data, "ContrastBolusAgent") or ("agent" if len(agents) else ""),
        text_of(data, "AngioFlag").upper() == "Y" or text_of(data, "TimeOfFlightContrast").upper() == "YES",
        "\\".join(texts_of(data, "ConvolutionKernel")) or str(first_of(groups, "CTReconstructionSequence", "ConvolutionKernel") or ""),
        vendor, model_of(text_of(data, "ManufacturerModelName")),
        tesla_of(number_of(data, "MagneticFieldStrength")), sex_of(text_of(data, "PatientSex")), age_of(data),
        text_of(data, "FrameOfReferenceUID"), int(number_of(data, "Rows") or 0), int(number_of(data, "Columns") or 0),
        cast("tuple[float, float]", tuple(round(step, 6) for step in spacing)) if len(spacing) == 2 else (0.0, 0.0),
        tuple(round(way, 6) + 0.0 for way in orientation) if len(orientation) == 6 else (),
        text_of(data, "PhotometricInterpretation").upper() in ("", "MONOCHROME1", "MONOCHROME2")
        and int(number_of(data, "SamplesPerPixel") or 1) == 1,
        text_of(data, "BurnedInAnnotation").upper() == "YES",
        bool(groups), text_of(data, "PhotometricInterpretation").upper() == "MONOCHROME1",
        thickness=rounded(one_of(first_of(groups, "PixelMeasuresSequence", "SliceThickness") or data.get("SliceThickness")), 2),
    )  # fmt: skip


def _sop_class(data: Dataset) -> str:
    stated = text_of(data, "SOPClassUID") or text_of(data.file_meta, "MediaStorageSOPClassUID")
    return stated or next((uid for uid, kind in IMAGES.items() if kind == text_of(data, "Modality").upper()), "")


def _scanning(data: Dataset) -> tuple[str, ...]:
    """ScanningSequence, or the same of an enhanced object's own tags."""
    words = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(text_of(data, "EchoPulseSequence").upper(), ())
    inverted = ("IR",) if text_of(data, "InversionRecovery").upper() == "YES" else ()
    return tuple(word.upper() for word in texts_of(data, "ScanningSequence")) or words + inverted


def _groups(data: Dataset) -> list[Dataset]:
    """The functional groups of all frames and of the first one; none of a single-frame file."""
    return [
        sequence[0]
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        if (sequence := data.get(name))
    ]


def _kind(file: Found) -> str:
    suffix = PurePath(file.path if file.gzipped else file.member or file.path).suffix.lower().lstrip(".")
    return f".{suffix}" if suffix in _SUFFIXES else "others"
