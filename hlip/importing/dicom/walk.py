"""Every file below a folder, members of zip archives included, whatever they are called.

Of an archive that does not open, its file and what members are whole are found; `hlip.dicom.headers` names the file.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hlip.dicom.archives import members_before_damage
from hlip.dicom.found import Found

_LARGEST_MEMBER = 4 << 30  # bytes; a larger one is no DICOM file but a trap


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
