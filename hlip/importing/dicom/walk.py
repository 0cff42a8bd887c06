"""Every file below a folder, members of zip and tar archives included, whatever they are called, and what gzip has packed alone.

Of an archive that is damaged, its file and what members are whole are found, and so is the file of one that is not looked into, or not
into all of it: `hlip.dicom.headers` names it.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

from hlip.dicom.archives import members_before_damage
from hlip.dicom.found import Found
from hlip.dicom.tars import TooLargeError, is_compressed, members_of, size_of_gzipped, unpacked_tar
from hlip.dicom.temporary import is_full
from hlip.scans.archive import TARS

_LARGEST_MEMBER = 4 << 30  # bytes; a larger one is no DICOM file but a trap
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 1  # flag
LOOKED_INTO = (".zip", ".gz", *TARS)
"""Endings of archives, and of what is packed alone."""


def find_files(
    folder: Path, without: Path | None = None, closed: list[str] | None = None, room: Path | None = None
) -> Iterator[Found]:
    """Regular files below a folder, in order of their names. Links are followed, but no folder is entered twice.

    Args:
        folder: or one archive.
        without: a folder that is not entered: what the import itself writes.
        closed: folders that cannot be listed are added.
        room: a folder for unpacked copies of compressed tar archives, which must stay as long as the files are read; None leaves such out.
    """
    if folder.is_file():
        try:
            yield from _of_file(str(folder), folder.stat(), room)
        except OSError:  # as below
            yield Found(str(folder), "", 0, 0)
        return
    refused = [] if closed is None else closed
    entered: set[tuple[int, int]] = set()
    for place in (without, room):
        if place is not None and place.is_dir():
            status = place.stat()
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
                    yield from _of_file(path, status, room)
            except OSError:  # vanished, or not ours to see: the headers' reader says so
                yield Found(path, "", 0, 0)


def _of_file(path: str, status: os.stat_result, room: Path | None) -> Iterator[Found]:
    kind = path.lower()
    if kind.endswith(TARS):
        yield from _of_tar(path, status, room)
    elif kind.endswith(".zip"):
        yield from _of_zip(path, status)
    elif kind.endswith(".gz") and not kind.endswith(".nii.gz") and _is_gzip(path):
        yield Found(path, PurePath(path).stem, size_of_gzipped(path), status.st_mtime_ns)
    else:
        yield Found(path, "", status.st_size, status.st_mtime_ns)


def _is_gzip(path: str) -> bool:
    """By its first bytes; what cannot be opened is left to the headers' reader, which says so."""
    try:
        with Path(path).open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError:
        return False


def _of_zip(path: str, status: os.stat_result) -> Iterator[Found]:
    changed, reasons = status.st_mtime_ns, set()
    try:
        with zipfile.ZipFile(path) as archive:
            names = Counter(member.filename for member in archive.infolist())
            for member in archive.infolist():
                if member.flag_bits & _ENCRYPTED:
                    reasons.add("encrypted_archive")
                elif member.file_size > _LARGEST_MEMBER or member.compress_type not in _METHODS:
                    reasons.add("archive_not_read")
                elif not member.is_dir():
                    # by a name that several have zipfile opens the last of them
                    place = member.header_offset if names[member.filename] > 1 else None
                    yield Found(path, member.filename, member.file_size, changed, place)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
        # NotImplementedError is zipfile's, of a version that it cannot read; the others come of a name that is no text, or a hostile field
        reasons.add("damaged_archive")
        for whole in members_before_damage(path, _LARGEST_MEMBER):
            yield Found(path, whole.name, whole.size, changed, whole.header_at, cut=True)
    for reason in sorted(reasons):
        yield Found(path, "", status.st_size, changed, unopened=reason)


def _of_tar(path: str, status: os.stat_result, room: Path | None) -> Iterator[Found]:
    """Its members lie in itself, or in a copy."""
    plain, whole, changed = path, True, status.st_mtime_ns
    if is_compressed(path):
        try:
            if room is None:
                raise TooLargeError("no room")
            copy, whole = unpacked_tar(path, room)
            plain = str(copy)
        except (TooLargeError, OSError) as error:
            if not isinstance(error, TooLargeError) and not is_full(error):
                raise
            yield Found(path, "", status.st_size, changed, unopened="archive_not_read")
            return
    members, ended = members_of(plain)
    whole = whole and ended
    small = [member for member in members if member.size <= _LARGEST_MEMBER]
    for member in small:
        yield Found(path, member.name, member.size, changed, tar=plain, at=member.at, cut=not whole)
    if not whole or len(small) < len(members):
        yield Found(path, "", status.st_size, changed, unopened="archive_not_read" if whole else "damaged_archive")
