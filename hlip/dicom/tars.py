"""Members of tar archives, and the bytes of one: a plain tar is read where it lies, a compressed one from a copy that is unpacked once.

Notable choices:
- No member's name becomes a path, and none is followed as a link: members are places and lengths in one file.
- What an archive unpacks to is bounded by its own size and by half of the room there is, so that a bomb fills no disk; headers of members, and
  the dictionary of an xz, are bounded too.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import mmap
import shutil
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
_STEP = 1 << 20  # bytes
_LONGEST = 1 << 20  # bytes of a member's header
_RATIO, _SMALL = 250, 64 << 20  # an archive unpacks to at most so many times its size, and bytes more
_DICTIONARY = 256 << 20  # bytes; xz -9 takes 65 MB
_COUNTED = 256 << 20  # bytes; what is packed alone and larger is believed what it says


class TarMember(NamedTuple):
    """A file within a tar archive."""

    name: str
    at: int
    """Where its bytes begin in the archive."""
    size: int


class TooLargeError(ValueError):
    """An archive that unpacks to more than there is room for, or than any export would."""


class Piece(io.RawIOBase):
    """`size` bytes of a file from `start` on, as a file of its own.

    Args:
        ends: the file must end where the piece does; ValueError where it does not.
    """

    name = ""  # pydicom asks for one

    def __init__(self, source: BinaryIO, start: int, size: int, ends: bool = False) -> None:
        self._source, self._start, self._size, self._ends, self._at = source, start, size, ends, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._source.seek(self._start + min(self._at, self._size))
        content = self._source.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(content)] = content
        self._at += len(content)
        if self._ends and self._at >= self._size and self._source.read(1):  # this looks at a checksum, too
            raise ValueError("a packed file is larger than it says")
        return len(content)

    def close(self) -> None:
        self._source.close()
        super().close()


def open_piece(path: str, start: int, size: int) -> BinaryIO:
    """The bytes of a member of a plain tar."""
    return cast(BinaryIO, io.BufferedReader(Piece(Path(path).open("rb"), start, size)))


def open_gzipped(path: str, size: int) -> BinaryIO:
    """The bytes of a file that is packed alone, of which there must be `size`."""
    return cast(BinaryIO, io.BufferedReader(Piece(cast(BinaryIO, gzip.open(path)), 0, size, ends=True)))


def size_of_gzipped(path: str) -> int:
    """Bytes that a packed file says it has, below 4 GiB; 0 where it is too short to say so."""
    with Path(path).open("rb") as stream:
        if stream.seek(0, io.SEEK_END) < 18:
            return 0
        stream.seek(-4, io.SEEK_END)
        return int(struct.unpack("<I", stream.read(4))[0])


def counted_gzip(path: str, stated: int) -> int:
    """Bytes of a packed file: what it says (`size_of_gzipped`), but counted where it says so of its last stream alone, or where padding
    follows it. What cannot be counted has what it says.
    """
    with Path(path).open("rb") as stream:
        packed = stream.seek(0, io.SEEK_END)
        if not 0 < packed <= _COUNTED:
            return stated
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if stated > packed // 2 and content.find(_GZIP + b"\x08", 1) < 0:  # no second stream
                return stated
    count = 0
    try:
        with gzip.open(path) as unpacked:
            while piece := unpacked.read(_STEP):
                count += len(piece)
                if count > _RATIO * packed + _SMALL:
                    return stated
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return stated
    return count


class _Headers(io.FileIO):
    """A file of which only short pieces are read, and from where to it is told: no header may ask for more."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _LONGEST:
            raise tarfile.ReadError("a header of a damaged archive")
        return super().read(size)


def members_of(path: str | Path) -> tuple[list[TarMember], bool]:
    """The files of a plain tar, and of those that are joined to it, and whether it is whole to its end; members that are cut off are none.

    Links and devices are passed over. Of a file with holes, whose bytes lie apart, its header is found: `hlip.dicom.headers` knows it as a
    part of an archive, and names it.
    """
    found: list[TarMember] = []
    with _Headers(path) as stream:
        total, start = stream.seek(0, io.SEEK_END), 0
        try:
            while (end := _add_members(stream, start, total, found)) is not None:
                start = _after_zeros(stream, end)
                if start in (end, total):
                    return found, start > end
        except Exception:  # a hostile header: any error
            pass
    return found, False


def _add_members(stream: _Headers, start: int, total: int, found: list[TarMember]) -> int | None:
    """Add those of the tar that begins at `start`; returns where their list ends, `None` where it is damaged."""
    stream.seek(start)
    archive, last = tarfile.TarFile(fileobj=stream), -1
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        end = archive.offset if member.issparse() else member.offset_data + member.size
        if member.offset <= last or member.size < 0 or end > total:
            return None
        last = member.offset
        if member.issparse():
            found.append(TarMember(member.name, member.offset, tarfile.BLOCKSIZE))
        elif member.isreg():
            found.append(TarMember(member.name, member.offset_data, member.size))
    return int(archive.offset)


def _after_zeros(stream: _Headers, at: int) -> int:
    """The block that follows the zeros which end a tar: `at` where none do, the end of the file where nothing follows."""
    stream.seek(at)
    while content := stream.read(_STEP):
        if rest := content.lstrip(b"\0"):
            return at + (len(content) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        at += len(content)
    return at


def unpacked_tar(path: str, room: Path) -> tuple[Path, bool]:
    """The plain tar of a compressed one, written into the folder `room`, and whether it is whole.

    Raises:
        TooLargeError: it unpacks to more than the limits above.
        OSError: it cannot be read, or the copy cannot be written.
    """
    left = min(shutil.disk_usage(room).free // 2, _RATIO * Path(path).stat().st_size + _SMALL)
    copy = room / f"{len(list(room.iterdir())):06d}.tar"
    try:
        with copy.open("wb") as out:
            return copy, _write_unpacked(path, out, left)
    except (TooLargeError, OSError):  # a part of it would take the room of others
        copy.unlink(missing_ok=True)
        raise


def _write_unpacked(path: str, out: BinaryIO, left: int) -> bool:
    """Whether it was whole. `left`: bytes that it may have."""
    try:
        for content in _unpacked(path):
            left -= len(content)
            if left < 0:
                raise TooLargeError("unpacks to too much")
            out.write(content)
    except (EOFError, zlib.error, lzma.LZMAError):
        return False
    except OSError as error:
        if error.errno is not None:  # gzip and bz2 have none of their own
            raise
        return False
    return True


def is_compressed(path: str) -> bool:
    """By its first bytes: endings are not always true."""
    with Path(path).open("rb") as stream:
        return stream.read(6).startswith((_GZIP, _BZIP2, _XZ))


def _unpacked(path: str) -> Iterator[bytes]:
    with Path(path).open("rb") as source:
        mark = source.read(6)
        source.seek(0)
        if mark.startswith(_XZ):
            yield from _unpacked_xz(source)
            return
        with gzip.open(source) if mark.startswith(_GZIP) else bz2.open(source) as stream:
            while content := stream.read1(_STEP):  # of a damaged one all that comes before the damage
                yield content


def _unpacked_xz(source: BinaryIO) -> Iterator[bytes]:
    """The standard library's own reader knows no limit for the memory that a file may ask for."""
    unpack, raw = lzma.LZMADecompressor(memlimit=_DICTIONARY), source.read(_STEP)
    while raw or not unpack.needs_input:
        yield unpack.decompress(raw, _STEP)
        if unpack.eof:
            raw = unpack.unused_data.lstrip(b"\0") or source.read(_STEP)  # another stream may follow
            if not raw:
                return
            unpack = lzma.LZMADecompressor(memlimit=_DICTIONARY)
        else:
            raw = source.read(_STEP) if unpack.needs_input else b""
    raise EOFError("cut short")
