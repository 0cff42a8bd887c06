"""What can still be read of a zip archive that was cut short: its members one after the other, by their own headers.

The list of members lies at an archive's end, so that a file that was not copied to its end opens nowhere. Each member also stands under a
header of its own; those before the damage are whole, and their checksums say so.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

_HEADER = struct.Struct("<4s5H3I2H")
_MARK = b"PK\3\4"
_STORED, _DEFLATED = 0, 8
_LATER = 8  # flag: sizes follow the content
_ENCRYPTED = 1
_UTF8 = 0x800
_STEP = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Member:
    """A whole member of a damaged archive."""

    name: str
    header_at: int
    size: int
    """Bytes, uncompressed."""


def members_before_damage(path: str | Path, largest: int) -> Iterator[Member]:
    """Members that are there to their last byte and have at most `largest` bytes; their checksums are looked at when they are read."""
    total = Path(path).stat().st_size
    with Path(path).open("rb") as stream:
        at = 0
        while True:
            stream.seek(at)
            head = stream.read(_HEADER.size)
            if len(head) < _HEADER.size or not head.startswith(_MARK):
                return
            _, _, flags, method, _, _, _, packed, size, name_length, more = _HEADER.unpack(head)
            name = stream.read(name_length).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
            start = at + _HEADER.size + name_length + more
            if flags & _LATER:
                found = _length(stream, start, method, largest)
                if found is None:
                    return
                (end, size) = found
            else:
                packed, size = _long(stream.read(more), packed, size)
                end = start + packed
            if end > total:
                return
            if (
                name
                and size
                and not name.endswith("/")
                and not flags & _ENCRYPTED
                and method in (_STORED, _DEFLATED)
                and size <= largest
            ):
                yield Member(name, at, size)
            at = end


def open_member(path: str | Path, header_at: int, largest: int) -> BinaryIO:
    """The bytes of one member.

    Raises:
        ValueError: they are not what their checksum says, or more than `largest`.
    """
    with Path(path).open("rb") as stream:
        stream.seek(header_at)
        head = stream.read(_HEADER.size)
        _, _, flags, method, _, _, check, packed, size, name_length, more = _HEADER.unpack(head)
        if method not in (_STORED, _DEFLATED):
            return _open_listed(path, header_at, largest)
        stream.seek(name_length, io.SEEK_CUR)
        packed, _ = _long(stream.read(more), packed, size)
        if method == _STORED:
            content = stream.read(packed)
        else:
            pieces = []
            unpack = zlib.decompressobj(-zlib.MAX_WBITS)
            for piece in _inflated(stream, unpack):
                pieces.append(piece)
                largest -= len(piece)
                if largest < 0:
                    raise ValueError("a member of a damaged archive is larger than it says")
            content = b"".join(pieces)
            if flags & _LATER:
                after = (unpack.unused_data + stream.read(16))[:16]
                check = struct.unpack_from("<I", after, 4 if after.startswith(b"PK\7\10") else 0)[0]
    if zlib.crc32(content) != check:
        raise ValueError("a member of a damaged archive is damaged itself")
    return io.BytesIO(content)


def _open_listed(path: str | Path, header_at: int, largest: int) -> BinaryIO:
    """Of an archive that opens: its members may be packed by other methods, too."""
    with zipfile.ZipFile(path) as archive:  # the member's stream keeps the file open
        member = next((member for member in archive.infolist() if member.header_offset == header_at), None)
        if member is None:
            raise ValueError("no member of this archive")
        if member.file_size > largest:  # no more than it says is unpacked
            raise ValueError("a member of an archive is too large")
        return cast(BinaryIO, archive.open(member))


def _inflated(stream: BinaryIO, unpack: zlib._Decompress) -> Iterator[bytes]:
    """Pieces of at most a step each: a bomb is not seen before it is unpacked."""
    while not unpack.eof and (raw := unpack.unconsumed_tail or stream.read(_STEP)):
        yield unpack.decompress(raw, _STEP)


def _length(stream: BinaryIO, start: int, method: int, largest: int) -> tuple[int, int] | None:
    """Where a member of unstated length ends, its trailer included, and its size; `None` where it does not end, or is too large."""
    if method != _DEFLATED:
        return None  # nothing says where it ends
    stream.seek(start)
    unpack, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        for piece in _inflated(stream, unpack):
            size += len(piece)
            if size > largest:
                return None
    except zlib.error:
        return None
    if not unpack.eof:
        return None
    end = stream.tell() - len(unpack.unused_data)
    stream.seek(end)
    after = stream.read(28)
    if len(after) < 12:
        return None
    trailer = 16 if after.startswith(b"PK\7\10") else 12
    if after[trailer : trailer + 2] != b"PK" and after[trailer + 8 : trailer + 10] == b"PK":
        trailer += 8  # long sizes
    return end + trailer, size


def _long(extra: bytes, packed: int, size: int) -> tuple[int, int]:
    """Sizes of 4 GB and more stand in an extra field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            numbers = list(struct.unpack_from(f"<{length // 8}Q", extra, 4)) if len(extra) >= 4 + length else []
            if size == 0xFFFFFFFF and numbers:
                size = numbers.pop(0)
            if packed == 0xFFFFFFFF and numbers:
                packed = numbers.pop(0)
        extra = extra[4 + length :]
    return packed, size
