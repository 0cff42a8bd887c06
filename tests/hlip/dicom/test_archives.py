"""Members of zip archives that were cut short: whole ones are found with their bytes, others are not."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hlip.dicom.archives import members_before_damage, open_member

LARGEST = 1 << 30
CONTENT = {f"a/{n}.dcm": np.random.default_rng(n).integers(0, 40, 3000 + 500 * n, dtype=np.uint8).tobytes() for n in range(6)}


class Pipe(io.RawIOBase):
    """An output that cannot be gone back in: sizes then follow the content."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        self.content += data
        return len(data)


def packed(method: int, piped: bool) -> tuple[bytes, list[int]]:
    """An archive, and where its members begin."""
    out: io.IOBase = Pipe() if piped else io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:  # type: ignore[call-overload]
        archive.writestr("a/", b"")
        for name, content in CONTENT.items():
            archive.writestr(name, content)
        starts = [info.header_offset for info in archive.infolist()]
    return bytes(out.content) if isinstance(out, Pipe) else out.getvalue(), starts  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "piped"), [(zipfile.ZIP_STORED, False), (zipfile.ZIP_DEFLATED, False), (zipfile.ZIP_DEFLATED, True)]
)
@pytest.mark.parametrize("place", [0, 1, 4, 6])
def test_members_before_the_cut(tmp_path: Path, method: int, piped: bool, place: int) -> None:
    content, starts = packed(method, piped)
    file = tmp_path / "cut.zip"
    file.write_bytes(content[: starts[place] + 100])
    found = list(members_before_damage(file, LARGEST))
    assert [member.name for member in found] == list(CONTENT)[: max(0, place - 1)]
    for member in found:
        assert open_member(file, member.header_at, LARGEST).read() == CONTENT[member.name]
        assert member.size == len(CONTENT[member.name])


@pytest.mark.parametrize("piped", [False, True])
def test_a_changed_byte_is_noticed(tmp_path: Path, piped: bool) -> None:
    content, starts = packed(zipfile.ZIP_DEFLATED, piped)
    file = tmp_path / "cut.zip"
    whole = bytearray(content[: starts[4]])
    whole[starts[4] - 500] ^= 0xFF
    file.write_bytes(whole)
    for member in members_before_damage(file, LARGEST):
        if member.name == "a/2.dcm":
            with pytest.raises(Exception, match=r"damaged|decompress"):
                open_member(file, member.header_at, LARGEST)
        else:
            assert open_member(file, member.header_at, LARGEST).read() == CONTENT[member.name]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_of_one_name_are_told_apart_whatever_packed_them(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in CONTENT.values():
            archive.writestr("IM1", content)
        starts = [info.header_offset for info in archive.infolist()]
    assert [open_member(tmp_path / "x.zip", start, LARGEST).read() for start in starts] == list(CONTENT.values())


def test_what_is_too_large_is_passed_over(tmp_path: Path) -> None:
    content, starts = packed(zipfile.ZIP_DEFLATED, False)
    (tmp_path / "cut.zip").write_bytes(content[: starts[5]])
    assert [member.name for member in members_before_damage(tmp_path / "cut.zip", 3600)] == ["a/0.dcm", "a/1.dcm"]


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A member of 400 MB of zeros whose header says 100 bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.dcm", bytes(400 << 20))
        archive.writestr("after.dcm", b"x")
    content = bytearray(out.getvalue())
    struct.pack_into("<I", content, 22, 100)
    (tmp_path / "cut.zip").write_bytes(content[:-100])
    (bomb, *_) = members_before_damage(tmp_path / "cut.zip", LARGEST)
    assert (bomb.name, bomb.size) == ("bomb.dcm", 100)
    tracemalloc.start()
    with pytest.raises(ValueError, match="larger than it says"):
        open_member(tmp_path / "cut.zip", bomb.header_at, bomb.size)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
