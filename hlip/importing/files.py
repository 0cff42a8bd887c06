"""Files below a folder, in one order, without what archives and file managers leave behind."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path

_LEFT_BEHIND = ("__MACOSX", "Thumbs.db", "desktop.ini")
LONGEST_NAME = 200
"""Bytes of a study id: it becomes a file name of the store."""


def children(folder: Path) -> list[Path]:
    """What lies in a folder, by name, hidden things left out; nothing where it cannot be listed."""
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    return [child for child in found if not child.name.startswith(".") and child.name not in _LEFT_BEHIND]


def files_below(folder: Path, depth: int, skip: Container[Path] = ()) -> Iterator[Path]:
    """Files below a folder, through links, in order, from no more than `depth` folders down; folders of `skip` are not entered."""
    for child in children(folder):
        if not child.is_dir():
            yield child
        elif depth and child not in skip:
            yield from files_below(child, depth - 1, skip)


def own_places(root: Path, out: Path) -> set[Path]:
    """Folders below `root` that an import into `out` writes itself, not to be read as data."""
    return {out / "scans", out / "store"} | ({out} if out != root else set())


def id_fault(study_id: str) -> str:
    """Why a text cannot be a study's id, which is a file name; empty where it can."""
    if study_id in ("", ".", "..") or any(letter in study_id for letter in "/\\\0"):
        return f"study_id '{study_id}' holds a path separator, but names a file; write another letter for it"
    if len(study_id.encode()) > LONGEST_NAME:
        return f"study_id '{study_id[:40]}...' is longer than {LONGEST_NAME} bytes; shorten it"
    return ""


def looks_like_mask(name: str) -> bool:
    """Whether a file is called a mask or a segmentation, which is no scan: brain_mask.nii.gz, BraTS-GLI-1-seg.nii.gz."""
    return bool(
        re.search(r"(^|[^a-z])(mask|seg|dseg|probseg|segmentation|labels?|roi|lesion)(\d*)\.(nii|mgz|mgh)", name.lower())
    )
