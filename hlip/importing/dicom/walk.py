"""Every file below a folder, members of zip archives included, whatever they are called.

Of an archive that does not open, its file and what members are whole are found; `hlip.importing.dicom.headers` names the file.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from hlip.importing.dicom.archives import members_before_damage, open_member

_LARGEST_MEMBER = 4 << 30  # bytes; a larger one is no DICOM file but a trap


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or a member of a zip archive."""

    path: str
    member: str
    """Inside of the archive `path`; empty for a file of its own."""
    size: int
    """Bytes, uncompressed."""
    changed: int
    """Time of change, ns; of the archive for its members."""
    header_at: int | None = None
    """Of a member of a damaged archive: where its own header begins."""

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else self.path

    def open(self) -> BinaryIO:
        """The bytes. Members of an archive open the archive each time; `hlip.importing.dicom.headers` does so once a chunk."""
        if self.header_at is not None:
            return open_member(self.path, self.header_at, self.size)
        if not self.member:
            return Path(self.path).open("rb")
        with zipfile.ZipFile(self.path) as archive:  # the member's stream keeps the file open
            return cast(BinaryIO, archive.open(self.member))


def find_files(folder: Path, without: Path | None = None, closed: list[str] | None = None) -> Iterator[Found]:
    """Regular files below a folder, in order of their names. Links are followed, but no folder is entered twice.

    Args:
        folder: or one zip archive.
        without: a folder that is not entered: what the import itself writes.
        closed: folders that cannot be listed are added.
    """
    if folder.is_file():
        yield from _of_file(str(folder), folder.stat())
        return
    refused = [] if closed is None else closed
    entered: set[tuple[int, int]] = set()
    if without is not None and without.is_dir():
        status = without.stat()
        entered.add((status.st_dev, status.st_ino))
    for name, folders, files in os.walk(folder, followlinks=True, onerror=lambda error: refused.append(str(error.filename))):
        status = Path(name).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders.sort()
        for file in sorted(files):
            path = os.path.join(name, file)  # noqa: PTH118 (a million times)
            try:
                status = os.stat(path)  # noqa: PTH116
                if stat.S_ISREG(status.st_mode):  # neither a pipe nor a device
                    yield from _of_file(path, status)
            except OSError:  # vanished, or not ours to see: the headers' reader says so
                yield Found(path, "", 0, 0)


def _of_file(path: str, status: os.stat_result) -> Iterator[Found]:
    if not path.lower().endswith(".zip"):
        yield Found(path, "", status.st_size, status.st_mtime_ns)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir() and member.file_size <= _LARGEST_MEMBER:
                    yield Found(path, member.filename, member.file_size, status.st_mtime_ns)
    except (zipfile.BadZipFile, NotImplementedError):
        yield Found(path, "", status.st_size, status.st_mtime_ns)  # becomes a damaged archive, or a file that is no DICOM
        for whole in members_before_damage(path, _LARGEST_MEMBER):
            yield Found(path, whole.name, whole.size, status.st_mtime_ns, whole.header_at)
