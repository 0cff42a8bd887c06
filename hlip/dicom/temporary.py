"""Temporary folders: one that is full stops the import, and what a killed import left is removed.

Notable choices:
- A full temporary folder looks like damaged files to a converter and to a decoder: it is told apart here, so that nothing of it is recorded.
- What a killed import left holds names, times and voxels. Its folders' names tell their process: those of processes of this machine that are
  gone are removed when the next one begins, those that live keep theirs; any others go when they are a day old.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from hlip.dicom.errors import MachineError

_OURS = re.compile(r"hlip-(?:archives|dicom|frames)-(?:([0-9a-f]{8})-(\d{1,9})-)?")
"""Names of our folders: of which machine, and of which process; earlier versions told neither."""
_OLD = 86_400.0  # s
_LITTLE = 65_536  # bytes; a disk with less is full
_FULL = (errno.ENOSPC, errno.EDQUOT)


def own_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder under a name that tells this process, for a context.

    Raises:
        MachineError: there is no room for one.
    """
    place = _place()
    _remove_leftovers_once(place)
    return tempfile.TemporaryDirectory(prefix=f"{prefix}{_machine()}-{os.getpid()}-", dir=place)


def _place() -> str:
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise MachineError("no_room", "there is no temporary folder with room; set TMPDIR to one, and run it again") from error


@lru_cache(maxsize=1)
def _machine() -> str:
    """Where numbers of processes mean the same: a machine, or a container on it."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbers = ""
    return f"{zlib.crc32(f'{platform.node()} {numbers}'.encode()):08x}"


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder while the context lasts; inside of it nothing is written but what belongs there.

    Raises:
        MachineError: the temporary folder is full.
    """
    place = _place()
    try:
        with own_folder(prefix) as folder:
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
    """Remove from the temporary folder what this user's killed runs left, see above; returns how many folders there were."""
    try:
        left = [folder for folder in Path(place or tempfile.gettempdir()).iterdir() if _is_left(folder)]
    except OSError:  # a folder that may not be listed
        return 0
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)


def _is_left(folder: Path) -> bool:
    name = _OURS.match(folder.name)
    if name is None:
        return False
    try:
        found = folder.lstat()
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or _owner(found) == os.getuid()
    if not (mine and stat.S_ISDIR(found.st_mode)):
        return False
    if name[1] == _machine() and hasattr(os, "getuid"):
        return _is_gone(int(name[2]))
    return time.time() - found.st_mtime > _OLD


def _is_gone(process: int) -> bool:
    """Whether a process of this machine has ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        pass
    return False


def _owner(found: os.stat_result) -> int:
    return found.st_uid
