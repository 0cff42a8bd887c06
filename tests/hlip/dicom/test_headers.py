"""What a file is called that is no DICOM file: an archive by how it begins, or nothing that matters; what is packed alone has all its bytes."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from hlip.dicom.found import Found
from hlip.dicom.headers import read_chunk
from hlip.dicom.tags import Slice
from hlip.dicom.tars import size_of_gzipped

from . import phantom


def packed(kind: str) -> bytes:
    if kind == "gzip":
        return gzip.compress(b"x" * 600)
    if kind != "zip":
        return kind.encode() * 200
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("IM1", b"x" * 600)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("export.dcm", "zip", "archive_not_read"),
        ("1.2.840", "zip", "archive_not_read"),
        ("closed.zip", "zip", "archive_not_read"),
        ("IM1.dcm", "gzip", "archive_not_read"),
        ("IM1.7", "gzip", "archive_not_read"),
        ("x.tar.bz2", "text", "archive_not_read"),
        ("x.tbz2", "text", "archive_not_read"),
        ("letter.docx", "zip", "not_dicom"),
        ("T1.MGZ", "gzip", "not_dicom"),
        ("t1.nii.gz", "gzip", "not_dicom"),
        ("notes.txt", "text", "not_dicom"),
    ],
)
def test_archives_are_known_by_how_they_begin(tmp_path: Path, name: str, kind: str, reason: str) -> None:
    (tmp_path / name).write_bytes(packed(kind))
    (unread,) = read_chunk([Found(str(tmp_path / name), "", 900, 0)])
    assert unread.reason == reason


def test_a_zip_whose_beginning_is_damaged_is_a_damaged_zip(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(bytes(600))
    (unread,) = read_chunk([Found(str(tmp_path / "x.zip"), "", 600, 0, unopened="damaged_archive")])
    assert (unread.reason, unread.kind) == ("damaged_archive", ".zip")


def test_an_image_packed_in_several_streams_is_whole(tmp_path: Path) -> None:
    (file,) = phantom.series(tmp_path, slices=1)
    content = file.read_bytes()
    target = tmp_path / "IM1.gz"
    target.write_bytes(gzip.compress(content[:-500]) + gzip.compress(content[-500:]))
    (piece,) = read_chunk([Found(str(target), "IM1", size_of_gzipped(str(target)), 0)])
    assert isinstance(piece, Slice)
    assert (piece.whole, piece.file.size) == (True, len(content))
