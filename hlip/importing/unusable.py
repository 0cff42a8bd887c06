"""Files that are scans of a kind no import of NIfTI files reads: named, each kind with what makes it readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hlip.importing.outcome import LeftOut
from hlip.scans.archive import TARS

_KINDS = {  # reason: endings, what they are and the remedy
    "img_hdr": (
        (".img", ".hdr", ".img.gz", ".hdr.gz"),
        "pairs of .img and .hdr",
        "make them .nii.gz: nib-convert X.img X.nii.gz",
    ),
    "packed": (
        (".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".nii.7z"),
        "packed otherwise than by gzip",
        "unpack them (bunzip2, unxz, unzip)",
    ),
    "archive": (
        (".zip", *TARS, ".7z", ".rar"),
        "archives",
        "unpack them; of DICOM files: hlip import dicom reads zip and tar archives as they are",
    ),
    "other_format": (
        (".nrrd", ".nhdr", ".mha", ".mhd", ".mnc"),
        "of another format",
        "make them .nii.gz (SimpleITK, 3D Slicer)",
    ),
}


def unusable(name: str) -> str:
    """Why a file of this name is a scan that is not read; "" where it is none."""
    return next((reason for reason, (endings, _, _) in _KINDS.items() if name.lower().endswith(endings)), "")


def unusable_rows(found: Mapping[tuple[Path, str], Sequence[str]]) -> list[LeftOut]:
    """A row for each folder and reason, with the names of its files."""
    rows = []
    for (folder, reason), names in found.items():
        _, what, remedy = _KINDS[reason]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        rows.append(LeftOut(str(folder), reason, f"{folder}: {names[0]}{more}, {what}, are not read; {remedy}"))
    return rows
