"""Files below a folder, in one order, without what archives and file managers leave behind."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from hlip.importing.outcome import SHOWN, LeftOut
from hlip.scans.filekind import is_nifti

_LEFT_BEHIND = ("__MACOSX", "Thumbs.db", "desktop.ini")
LONGEST_NAME = 200
"""Bytes of a study id: it becomes a file name of the store."""


def children(folder: Path, closed: list[Path] | None = None) -> list[Path]:
    """What lies in a folder, by name, hidden things left out; nothing where it may not be read, and then it is added to `closed`."""
    try:
        found = sorted(folder.iterdir())
        os.stat(f"{folder}/.")  # noqa: PTH116 (a folder may be listed and yet not be entered)
    except OSError:
        if closed is not None:
            closed.append(folder)
        return []
    return [child for child in found if not child.name.startswith(".") and child.name not in _LEFT_BEHIND]


def files_below(folder: Path, depth: int, skip: Container[Path] = (), closed: list[Path] | None = None) -> Iterator[Path]:
    """Files below a folder, through links, in order, from no more than `depth` folders down; folders of `skip` are not entered, and one
    that is called a NIfTI file is given like a file. Those that may not be read are added to `closed`."""
    for child in children(folder, closed):
        if is_nifti(child) or not child.is_dir():
            yield child
        elif depth and child not in skip:
            yield from files_below(child, depth - 1, skip, closed)


def on_closed(closed: Iterable[Path]) -> tuple[list[LeftOut], list[str]]:
    """Of folders that may not be read: a row each for the list of what is left out, and a note for the terminal."""
    rows = [
        LeftOut(str(folder), "no_permission", f"{folder}: may not be read, nothing in it is imported; correct its permissions")
        for folder in dict.fromkeys(closed)
    ]
    if not rows:
        return [], []
    named = ", ".join(row.path for row in rows[:SHOWN]) + (", ..." if len(rows) > SHOWN else "")
    return rows, [f"no permission to read {len(rows)} folders, nothing in them is imported: {named}"]


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
