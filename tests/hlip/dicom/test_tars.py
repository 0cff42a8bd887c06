"""Members of tar archives, whole and cut short, plain and compressed; single files packed by gzip; what unpacks to too much."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from hlip.dicom import tars
from hlip.dicom.tars import TooLargeError, is_compressed, members_of, open_gzipped, open_piece, size_of_gzipped, unpacked_tar

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
