"""Archives of an export: what is read of them gives the volumes of the unpacked files, what is not read is named."""

from __future__ import annotations

import gzip
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hlip.dicom import tars
from hlip.dicom.found import Found
from hlip.importing.dicom.notes import _UNREAD
from hlip.importing.outcome import ImportingError

from ...dicom import phantom
from .made import assert_marks, one_scan, rows, run


def put(archive: Path, folder: Path) -> None:
    """The files of a folder in a tar, compressed as its name says."""
    name = archive.name
    mode = "w:gz" if name.endswith("gz") else "w:bz2" if "bz" in name else "w:xz" if name.endswith("xz") else "w"
    with tarfile.open(archive, mode) as out:
        out.add(folder, "EXPORT/Miller")


def reasons_of(done) -> list[tuple[str, str]]:
    return sorted((item.path, item.reason) for item in done.left_out)


@pytest.mark.parametrize("name", ["x.tar", "X.TAR", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.txz"])
def test_a_tar_is_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "room"))
    phantom.series(tmp_path / "a")
    (tmp_path / "in").mkdir()
    put(tmp_path / "in" / name, tmp_path / "a")
    for place in ("in", f"in/{name}"):  # in a folder, and alone
        done = run(tmp_path / place, tmp_path / f"out{len(place)}")
        assert (len(done.studies), done.left_out) == (1, ())
        assert rows(tmp_path / f"out{len(place)}")[0]["notes"] == ""
        assert_marks(one_scan(tmp_path / f"out{len(place)}"))
    assert "1 of 1 studies are unchanged" in str(run(tmp_path / "in", tmp_path / "out2"))
    assert not list((tmp_path / "room").iterdir())


def test_files_packed_one_by_one_are_read(tmp_path: Path) -> None:
    for number, file in enumerate(phantom.series(tmp_path / "in")):
        name = f"{file}.gz" if number % 2 else f"{file}.dcm.gz"
        Path(name).write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    done = run(tmp_path / "in", tmp_path / "out")
    assert done.left_out == ()
    assert_marks(one_scan(tmp_path / "out"))


def test_a_packed_file_that_is_damaged_is_a_slice_that_lacks(tmp_path: Path) -> None:
    """Behind its header, so that only the conversion sees it."""
    noise = np.random.default_rng(0).integers(0, 900, (24, 96, 96))
    for number, file in enumerate(phantom.series(tmp_path / "in", pixels=lambda n: noise[n])):
        packed = bytearray(gzip.compress(file.read_bytes()))
        if number == 11:
            packed[-400] ^= 0x55
        Path(f"{file}.gz").write_bytes(packed)
        file.unlink()
    run(tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["shape"], row["notes"]) == ("96x96x24", "1 missing slices filled in; 1 of 24 files cannot be decoded")


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_tar_that_was_cut_short_is_named_and_what_is_whole_in_it_is_read(tmp_path: Path, name: str) -> None:
    phantom.series(tmp_path / "a")
    (tmp_path / "in").mkdir()
    put(tmp_path / "in" / name, tmp_path / "a")
    content = (tmp_path / "in" / name).read_bytes()
    (tmp_path / "in" / name).write_bytes(content[: len(content) * 3 // 4])
    done = run(tmp_path / "in", tmp_path / "out")
    kind = ".tar" if name.endswith("tar") else ".gz"
    assert reasons_of(done) == [(f"({kind} files)", "damaged_archive")]
    assert any(note == f"damaged archive, copy it again: {tmp_path / 'in' / name}" for note in done.notes)
    (row,) = rows(tmp_path / "out")
    assert 12 < int(row["files"]) < 20
    assert "from a damaged archive: slices may be missing at the end" in row["notes"]


def test_what_is_not_looked_into_is_named(tmp_path: Path) -> None:
    """By its ending or by how it begins, in the folder or in an archive."""
    phantom.series(tmp_path / "in" / "a", slices=6)
    inner = tmp_path / "inner.tar"
    put(inner, tmp_path / "in" / "a")
    here = tmp_path / "in"
    (here / "export.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    (here / "Miller").write_bytes(b"Rar!\x1a\x07\0" + bytes(100))
    (here / "cd.iso").write_bytes(bytes(40_000))
    (here / "nameless").write_bytes(inner.read_bytes())
    (here / "t1.nii.gz").write_bytes(gzip.compress(b"x" * 600))
    (here / "table.csv.gz").write_bytes(gzip.compress(b"x" * 600))
    with zipfile.ZipFile(here / "more.zip", "w") as archive:
        archive.write(inner, "Miller/inner.tar")
        archive.writestr("Miller/IM1.dcm.gz", gzip.compress(b"x"))
        archive.writestr("t1.nii.gz", gzip.compress(b"x"))
    done = run(here, tmp_path / "out")
    assert reasons_of(done) == [
        ("(.7z files)", "archive_not_read"), ("(.gz files)", "archive_not_read"), ("(.gz files)", "not_dicom"),
        ("(.iso files)", "archive_not_read"), ("(.tar files)", "archive_not_read"), ("(other files)", "archive_not_read"),
    ]  # fmt: skip
    named = {note.split(": ", 1)[1] for note in done.notes if note.startswith("an archive that is not looked into")}
    inside = {str(here / "more.zip") + f"!Miller/{name}" for name in ("inner.tar", "IM1.dcm.gz")}
    assert named == {str(here / name) for name in ("export.7z", "Miller", "cd.iso", "nameless")} | inside
    assert "Miller" not in (tmp_path / "out" / "left_out.csv").read_text()


def test_an_encrypted_zip_and_one_of_an_unknown_method_are_named(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in" / "a", slices=6)
    for name, place, value in (("secret.zip", 8, 1), ("later.zip", 10, 9)):  # flags; method
        with zipfile.ZipFile(tmp_path / "in" / name, "w") as archive:
            archive.writestr("IM1", b"x" * 300)
        content = bytearray((tmp_path / "in" / name).read_bytes())
        struct.pack_into("<H", content, content.index(b"PK\1\2") + place, value)
        (tmp_path / "in" / name).write_bytes(content)
    done = run(tmp_path / "in", tmp_path / "out")
    assert reasons_of(done) == [("(.zip files)", "archive_not_read"), ("(.zip files)", "encrypted_archive")]
    assert any(
        note == f"an encrypted archive, unpack it with its password: {tmp_path / 'in/secret.zip'}" for note in done.notes
    )
    shutil.rmtree(tmp_path / "in" / "a")
    with pytest.raises(ImportingError, match=r"archive_not_read 1, encrypted_archive 1\)\n.*secret.zip"):
        run(tmp_path / "in", tmp_path / "other")


def test_a_compressed_tar_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "_SMALL", 0)
    monkeypatch.setattr(tars, "_RATIO", 1)
    phantom.series(tmp_path / "in" / "a", slices=6)
    put(tmp_path / "in" / "x.tgz", tmp_path / "in" / "a")
    done = run(tmp_path / "in", tmp_path / "out")
    assert (len(done.studies), reasons_of(done)) == (1, [("(.tgz files)", "archive_not_read")])


def test_a_damaged_member_of_a_zip_is_a_slice_that_lacks(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "x.zip", "w") as archive:
        for file in phantom.series(tmp_path / "a"):
            archive.write(file, file.name)
        start = archive.infolist()[11].header_offset
    content = bytearray((tmp_path / "in" / "x.zip").read_bytes())
    content[start + 3000] ^= 0x55
    (tmp_path / "in" / "x.zip").write_bytes(content)
    run(tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["reason"], row["notes"]) == ("", "1 missing slices filled in; 1 of 24 files cannot be decoded")


def test_each_reason_of_a_file_has_its_words() -> None:
    reasons = {
        "not_dicom",
        "damaged",
        "damaged_archive",
        "encrypted_archive",
        "archive_not_read",
        "zip_in_zip",
        "no_permission",
        "no_uid",
    }
    assert {reason for reason in _UNREAD if " " not in reason} == reasons


def test_a_zip_whose_names_are_no_text_and_a_file_that_is_called_gz_stop_nothing(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in" / "whole", slices=8)
    for file in sorted((tmp_path / "in" / "whole").iterdir())[:3]:
        file.rename(file.with_name(f"{file.name}.gz"))
    with zipfile.ZipFile(tmp_path / "in" / "bad.zip", "w") as archive:
        archive.writestr("\u00e9\u00e9.dcm", b"0")
    content = (tmp_path / "in" / "bad.zip").read_bytes()
    (tmp_path / "in" / "bad.zip").write_bytes(content.replace("\u00e9\u00e9".encode(), b"\xff\xfe\xff\xfe"))
    imported = run(tmp_path / "in", tmp_path / "out")
    (row,) = (row for row in rows(tmp_path / "out") if row["path"])
    assert row["files"] == "8"
    assert "bad.zip" in " ".join(imported.notes)


def test_an_archive_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "export.zip"
    packed.write_bytes(b"PK")

    def closed(*_: object) -> None:  # nothing is forbidden to root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(zipfile, "ZipFile", closed)
    monkeypatch.setattr(Found, "open", closed)
    with pytest.raises(ImportingError, match=rf"no DICOM series among 1 files \(no_permission 1\)\n  unreadable: {packed}"):
        run(packed, tmp_path / "out")


def test_members_of_one_name_in_a_zip_are_all_read(tmp_path: Path) -> None:
    files = phantom.series(tmp_path / "in", slices=8)
    (tmp_path / "zips").mkdir()
    with zipfile.ZipFile(tmp_path / "zips" / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in files:
            archive.write(file, "IM0001")
    run(tmp_path / "zips", tmp_path / "out")
    (row,) = (row for row in rows(tmp_path / "out") if row["path"])
    assert (row["files"], row["duplicates"], one_scan(tmp_path / "out").shape[2]) == ("8", "0", 8)
