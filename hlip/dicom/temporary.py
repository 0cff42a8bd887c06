"""Temporary folders: one that is full stops the import, and what a killed import left is removed.

Notable choices:
- A full temporary folder looks like damaged files to a converter and to a decoder: it is told apart here, so that nothing of it is recorded.
- What a killed import left holds names and times; it is removed when it is a day old, which no running conversion is.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from hlip.dicom.errors import MachineError

_OURS = ("hlip-dicom-", "hlip-frames-")
_OLD = 86_400.0  # s
_LITTLE = 65_536  # bytes; a disk with less is full
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder while the context lasts; inside of it nothing is written but what belongs there.

    Raises:
        MachineError: the temporary folder is full.
    """
    try:
        place = tempfile.gettempdir()
    except OSError as error:
        raise MachineError("no_room", "there is no temporary folder with room; set TMPDIR to one, and run it again") from error
    _remove_leftovers_once(place)
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as folder:
            try:
                yield Path(folder)
            except Exception as error:
                if not isinstance(error, MachineError) and shutil.disk_usage(place).free < _LITTLE:
                    raise full_folder(place) from error  # whatever came of it
                raise
    except OSError as error:
        if is_full(error):
            raise full_folder(place) from error
        raise


def is_full(error: BaseException | None) -> bool:
    """Whether a disk without room is behind an error, however wrapped."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def full_folder(place: str | Path) -> MachineError:
    return MachineError(
        "no_room",
        f"the temporary folder is full: {place}; make room there, or set TMPDIR to a larger folder, and run it again "
        "(finished studies are kept)",
    )


@lru_cache(maxsize=8)
def _remove_leftovers_once(place: str) -> None:
    remove_leftovers(place)


def remove_leftovers(place: str | Path | None = None) -> int:
    """Remove this user's folders of conversions that are a day old, from the temporary folder; returns how many there were."""
    try:
        left = [folder for folder in Path(place or tempfile.gettempdir()).iterdir() if _is_left(folder)]
    except OSError:  # a folder that may not be listed
        return 0
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)


def _is_left(folder: Path) -> bool:
    if not folder.name.startswith(_OURS):
        return False
    try:
        found = folder.lstat()
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or _owner(found) == os.getuid()
    return mine and stat.S_ISDIR(found.st_mode) and time.time() - found.st_mtime > _OLD


def _owner(found: os.stat_result) -> int:
    return found.st_uid
