"""Members of tar archives, whole and cut short, plain and compressed; single files packed by gzip; what unpacks to too much."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import random
import struct
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from hlip.dicom import tars
from hlip.dicom.found import Found
from hlip.dicom.headers import read_chunk
from hlip.dicom.tars import (
    TooLargeError,
    counted_gzip,
    is_compressed,
    members_of,
    open_gzipped,
    open_piece,
    size_of_gzipped,
    unpacked_tar,
)

CONTENT = {f"a/{n}": random.Random(n).randbytes(700 * n + 1) for n in range(5)}
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def tar_of(content: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """With a folder, a link and a long name among the files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, kind_of in (("a", tarfile.DIRTYPE), ("/etc/link", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind_of, "../../secret"
            archive.addfile(member)
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def read(path: Path) -> dict[str, bytes]:
    return {member.name: open_piece(str(path), member.at, member.size).read() for member in members_of(path)[0]}


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_and_their_bytes(tmp_path: Path, kind: int) -> None:
    long = {"b" * 90 + "/" + "c" * 90: b"long"}
    (tmp_path / "x.tar").write_bytes(tar_of(CONTENT | long, kind))
    assert read(tmp_path / "x.tar") == CONTENT | long
    assert members_of(tmp_path / "x.tar")[1]


def test_a_cut_leaves_the_members_before_it(tmp_path: Path) -> None:
    whole = tar_of(CONTENT)
    (tmp_path / "x.tar").write_bytes(whole)
    starts = [member.at - 512 for member in members_of(tmp_path / "x.tar")[0]]
    for place, start in enumerate(starts):
        for cut in (start, start + 100, start + 512):
            (tmp_path / "cut.tar").write_bytes(whole[:cut])
            assert read(tmp_path / "cut.tar") == dict(list(CONTENT.items())[:place]), (place, cut - start)
            assert not members_of(tmp_path / "cut.tar")[1]


@pytest.mark.parametrize("kind", PACK)
def test_a_compressed_tar_is_its_plain_one(tmp_path: Path, kind: str) -> None:
    whole, packed = tar_of(CONTENT), PACK[kind]
    file, room = tmp_path / f"x.tar.{kind}", tmp_path / "room"
    room.mkdir()
    for number, content in enumerate((packed(whole), packed(whole[:3000]) + packed(whole[3000:]))):  # in two streams, too
        file.write_bytes(content)
        assert is_compressed(str(file))
        copy, ended = unpacked_tar(str(file), room)
        assert (copy, ended) == (room / f"{number:06d}.tar", True)
        assert copy.read_bytes() == whole
    file.write_bytes(packed(whole)[:-40])
    copy, ended = unpacked_tar(str(file), room)
    assert not ended
    assert whole.startswith(copy.read_bytes())


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "_SMALL", 1 << 20)
    bomb = tmp_path / f"x.tar.{kind}"
    bomb.write_bytes(PACK[kind](bytes(40 << 20)))
    (tmp_path / "room").mkdir()
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        unpacked_tar(str(bomb), tmp_path / "room")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20  # xz keeps 8 MB by itself
    tracemalloc.stop()
    assert sum(file.stat().st_size for file in (tmp_path / "room").iterdir()) == 0


@pytest.mark.parametrize("fault", ["long header", "negative size", "noise", "text"])
def test_a_hostile_tar_is_no_member_and_no_loop(tmp_path: Path, fault: str) -> None:
    content = bytearray(tar_of(CONTENT, tarfile.GNU_FORMAT))
    if fault == "noise":
        content = bytearray(random.Random(1).randbytes(5000))
    elif fault == "text":
        content = bytearray(b"not an archive\n" * 100)
    else:
        member = tarfile.TarInfo("x")
        member.type, member.size = (tarfile.GNUTYPE_LONGNAME, 1 << 40) if fault == "long header" else (tarfile.REGTYPE, 0)
        head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
        if fault == "negative size":
            head[124:136] = b"\xff" * 10 + struct.pack(">h", -2048)  # base 256
            head[148:156] = b" " * 8
            head[148:156] = b"%06o\0 " % sum(head)
        content[:0] = head
    (tmp_path / "x.tar").write_bytes(content)
    assert members_of(tmp_path / "x.tar") == ([], False)


def test_tars_that_are_joined_are_read_as_one(tmp_path: Path) -> None:
    first, second = tar_of({"a": b"1"}), tar_of({"b": b"2"})
    file = tmp_path / "x.tar"
    for content, names, whole in (
        (first + second, ["a", "b"], True),
        (first + second[:1536], ["a"], False),
        (first + b"pixels" * 500, ["a"], False),
        (first + bytes(3 << 20), ["a"], True),
    ):
        file.write_bytes(content)
        assert ([member.name for member in members_of(file)[0]], members_of(file)[1]) == (names, whole)
    file.write_bytes(first + second)
    assert read(file) == {"a": b"1", "b": b"2"}


def with_holes(pax: bool) -> bytes:
    """What `tar -S` writes of 600 bytes, of which the first 512 are zeros."""
    member = tarfile.TarInfo("holes.dcm")
    if pax:
        member.pax_headers = {"GNU.sparse.map": "512,88", "GNU.sparse.size": "600"}
        member.size = 88
        return member.tobuf(tarfile.PAX_FORMAT) + bytes(512)
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 88
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"%011o\0%011o\0" % (512, 88)
    head[483:495] = b"%011o\0" % 600
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(512)


@pytest.mark.parametrize("pax", [False, True])
def test_a_file_with_holes_is_named_and_no_other_is_lost(tmp_path: Path, pax: bool) -> None:
    (tmp_path / "x.tar").write_bytes(with_holes(pax) + tar_of({"a": b"1"}))
    members, whole = members_of(tmp_path / "x.tar")
    assert ([member.name for member in members], whole) == (["holes.dcm", "a"], True)
    (unread,) = read_chunk([Found("x.tar", "holes.dcm", members[0].size, 0, tar=str(tmp_path / "x.tar"), at=members[0].at)])
    assert (unread.reason, unread.kind) == ("archive_not_read", ".dcm")


def test_a_full_disk_leaves_no_part_of_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "x.tgz").write_bytes(gzip.compress(tar_of(CONTENT)))

    def full(_: str) -> Iterator[bytes]:
        yield bytes(3 << 20)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tars, "_unpacked", full)
    with pytest.raises(OSError, match="No space"):
        unpacked_tar(str(tmp_path / "x.tgz"), tmp_path / "room")
    assert not list((tmp_path / "room").iterdir())


def test_a_piece_can_be_gone_back_in(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(100)))
    with open_piece(str(tmp_path / "x"), 10, 20) as piece:
        assert piece.read(4) == bytes(range(10, 14))
        assert piece.seek(-3, io.SEEK_END) == 17
        assert piece.read() == bytes(range(27, 30))
        piece.seek(50)
        assert piece.read() == b""
        piece.seek(0)
        assert piece.read() == bytes(range(10, 30))


def test_a_packed_file_is_what_it_says(tmp_path: Path) -> None:
    file, content = tmp_path / "x.gz", random.Random(0).randbytes(50_000)
    packed = bytearray(gzip.compress(content))
    file.write_bytes(packed)
    assert size_of_gzipped(str(file)) == 50_000
    assert open_gzipped(str(file), 50_000).read() == content
    with pytest.raises(ValueError, match="larger than it says"):
        open_gzipped(str(file), 40_000).read()
    flipped = bytearray(packed)
    flipped[9000] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(Exception, match=r"CRC|invalid"):
        open_gzipped(str(file), 50_000).read()
    file.write_bytes(packed[:9000])
    with pytest.raises(EOFError):
        open_gzipped(str(file), 50_000).read()


@pytest.mark.parametrize("kind", ["one", "streams", "blocks", "padded", "padded by one"])
def test_what_a_packed_file_has_is_counted_where_it_does_not_say(tmp_path: Path, kind: str) -> None:
    content = random.Random(0).randbytes(20_000) + bytes(40_000)
    one = gzip.compress(content)
    file = tmp_path / "x.gz"
    file.write_bytes({
        "one": one, "streams": gzip.compress(content[:100]) + gzip.compress(content[100:]),
        "blocks": one + gzip.compress(b""), "padded": one + bytes(100), "padded by one": one + b"\0",
    }[kind])  # fmt: skip
    assert (size_of_gzipped(str(file)) == 60_000) == (kind == "one")
    size = counted_gzip(str(file), size_of_gzipped(str(file)))
    assert size == 60_000
    assert open_gzipped(str(file), size).read() == content
    file.write_bytes(file.read_bytes()[:9000])
    assert counted_gzip(str(file), 7) == 7  # damaged: reading it tells
