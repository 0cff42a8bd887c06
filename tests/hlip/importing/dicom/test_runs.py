"""Whole trees: damaged and hostile files, workers, second runs, full disks, hanging converters."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from hlip.cli import main
from hlip.dicom import convert, making, temporary
from hlip.importing.dicom import importer, study
from hlip.importing.dicom.importer import import_dicom
from hlip.importing.outcome import ImportingError
from hlip.scans.reading import read_scan

from ...dicom import phantom
from .made import reasons, rows, run


def test_a_tree_of_everything(tmp_path: Path) -> None:
    """Several patients, archives, other files, a DICOMDIR, a damaged header, a link back to the top."""
    tree = tmp_path / "in"
    phantom.series(tree / "a" / "b", slices=8, study="1.1", patient="A")
    phantom.series(tree / "a", slices=8, study="1.2", patient="A", number=2)
    phantom.series(tmp_path / "packed", slices=8, study="1.3", patient="B")
    with zipfile.ZipFile(tree / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "packed").iterdir():
            archive.write(file, f"DICOM/{file.name}")
    (tree / "notes.txt").write_text("x" * 500)
    (tree / "Miller.Mary").write_text("y" * 500)
    (tree / "damaged").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    (tree / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    shutil.copy(get_testdata_file("DICOMDIR"), tree)
    (tree / "a" / "loop").symlink_to(tree)
    done = run(tree, tmp_path / "out")
    assert len(done.studies) == 3
    assert len({study.patient_id for study in done.studies}) == 2
    assert all(re.fullmatch(r"study-[0-9a-f]{16}", study.study_id) for study in done.studies)
    left = sorted((item.path, item.reason) for item in done.left_out)
    assert left == [
        ("(.txt files)", "not_dicom"),
        ("(.zip files)", "damaged_archive"),
        ("(other files)", "damaged"),
        ("(other files)", "not_dicom"),
    ]
    assert f"not DICOM: {tree / 'Miller.Mary'}, {tree / 'notes.txt'}" in done.notes
    assert any(str(tree / "damaged") in note for note in done.notes), "the terminal names what the tables may not"
    for imported in done.studies:
        read_scan(imported.scans[0].path)


def test_mutated_files_stop_nothing_and_every_file_is_accounted_for(tmp_path: Path) -> None:
    """Bit flips in headers and pixels, and files cut short, beside whole ones."""
    generator = np.random.default_rng(0)
    for nth in range(20):
        tags = {"study": f"1.{nth}", "patient": str(nth)}
        files = phantom.series(tmp_path / "in" / str(nth), slices=8, size=24, spacing=6, step=10, **tags)
        for file in files[:6] if nth % 2 else files[:1]:
            content = bytearray(file.read_bytes())
            if nth % 4 == 3:
                content = content[: generator.integers(1, len(content))]
            else:
                for place in generator.integers(0, 1200 if nth % 3 else len(content), generator.choice([1, 5, 50])):
                    content[place] = generator.integers(256)
            file.write_bytes(bytes(content))
    done = run(tmp_path / "in", tmp_path / "out")
    assert len(done.studies) >= 8
    each = {(row["study_id"], row["series"]): row for row in rows(tmp_path / "out")}.values()
    listed = sum(int(row[name]) for row in each for name in ("files", "duplicates", "damaged"))
    unread = sum(int(item.message.split()[0]) for item in done.left_out if item.path.startswith("("))
    assert unread > 0
    assert listed + unread == 20 * 8


def test_a_study_uid_that_is_no_uid_names_no_folder(tmp_path: Path) -> None:
    def hostile(n: int, data: pydicom.Dataset) -> None:
        data.StudyInstanceUID = ".."

    phantom.series(tmp_path / "in", slices=6, each=hostile)
    run(tmp_path / "in", tmp_path / "out", keep_ids=True)
    assert re.fullmatch(r"study-\w+", rows(tmp_path / "out")[0]["study_id"])


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    for n in range(5):
        phantom.series(
            tmp_path / "in" / str(n), slices=60, size=16, spacing=10, step=2, study=f"1.{n}", patient=str(n), number=n
        )
    (tmp_path / "salt").write_text("ab" * 32)
    for workers in (1, 3):
        import_dicom(tmp_path / "in", tmp_path / str(workers), salt=tmp_path / "salt", workers=workers, progress=False)
    first, second = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "1", tmp_path / "3")
    )
    assert first == second
    assert len(first) == 5 * 2 + 3


def test_a_second_run_converts_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 2):
        phantom.series(tmp_path / "in" / str(n), slices=8, study=f"1.{n}", patient=str(n))
    first = run(tmp_path / "in", tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nii.gz")}
    manifest = first.manifest.read_bytes()
    again = run(tmp_path / "in", tmp_path / "out")
    assert "2 of 2 studies are unchanged" in str(again)
    assert first.manifest.read_bytes() == manifest
    phantom.series(tmp_path / "in" / "1", slices=8, study="1.1", patient="1", number=2, description="T2", **phantom.T2)
    more = run(tmp_path / "in", tmp_path / "out")
    assert "1 of 2 studies are unchanged" in str(more)
    assert sorted(len(study.scans) for study in more.studies) == [1, 2]
    unchanged = next(study for study in more.studies if len(study.scans) == 1).scans[0].path
    assert unchanged.stat().st_mtime_ns == times[unchanged]
    unchanged.unlink()
    assert "1 of 2 studies are unchanged" in str(run(tmp_path / "in", tmp_path / "out"))
    assert unchanged.is_file()


def test_records_of_earlier_rules_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to revision 6 opposed-phase images were left out even where they are all there is."""
    phantom.series(tmp_path / "in", slices=8, ImageType=["DERIVED", "PRIMARY", "OPP_PHASE"])
    with monkeypatch.context() as earlier:
        earlier.setattr(study, "_REVISION", 6)
        run(tmp_path / "in", tmp_path / "out")
        assert "1 of 1 studies are unchanged" in str(run(tmp_path / "in", tmp_path / "out"))
    assert "unchanged" not in str(run(tmp_path / "in", tmp_path / "out"))


def test_one_bad_study_never_stops_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 2, 3):
        phantom.series(tmp_path / "in" / str(n), slices=8, study=f"1.{n}", patient=str(n))

    real = making.convert_layout

    def failing(layout):
        if layout.slices[0].stack.study_uid == "1.2":
            raise RuntimeError("/export/Miller^Mary/IM1 is bad")
        return real(layout)

    monkeypatch.setattr(making, "convert_layout", failing)
    done = run(tmp_path / "in", tmp_path / "out")
    assert len(done.studies) == 2
    assert [item.reason for item in done.left_out] == ["unexpected", "no_usable_series"]
    assert "Miller" not in (tmp_path / "out" / "left_out.csv").read_text()
    monkeypatch.setattr(making, "convert_layout", real)
    assert len(run(tmp_path / "in", tmp_path / "out").studies) == 3, "what failed oddly is tried again"


def test_a_full_disk_stops_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in", slices=8)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "_save", full)
    with pytest.raises(ImportingError, match=r"cannot be written .*No space left.*run it again"):
        run(tmp_path / "in", tmp_path / "out")


def full_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says of a full disk what dcm2niix does."""
    script = tmp_path / "full"
    script.write_text('#!/bin/sh\necho "Error: Unable to write volume.nii (disk full?)" >&2\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setattr(convert, "program", lambda: str(script))


def full_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter reads nothing, and there is no room for what is decoded."""
    monkeypatch.setattr(convert, "program", lambda: "/bin/true")
    full_frames(tmp_path, monkeypatch)


def full_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pydicom.FileDataset, "save_as", full)


def little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails there."""
    monkeypatch.setattr(convert, "program", lambda: "/bin/false")
    monkeypatch.setattr(temporary.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))


@pytest.mark.parametrize("fault", [full_converter, full_decoder, full_frames, little_room])
def test_a_full_temporary_folder_stops_and_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault) -> None:
    if fault is full_frames:
        phantom.enhanced(tmp_path / "in", [0.0])
    else:
        phantom.series(tmp_path / "in", slices=24)
    (tmp_path / "room").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "room"))
        fault(tmp_path, patch)
        with pytest.raises(ImportingError, match=rf"temporary folder is full: {tmp_path / 'room'}.*TMPDIR"):
            run(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("import.json"))
    assert not list((tmp_path / "room").iterdir())
    done = run(tmp_path / "in", tmp_path / "out")
    assert [row["shape"] for row in rows(tmp_path / "out")] == ["40x40x24"]
    assert "unchanged" not in str(done)


def test_a_killed_converter_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 2):
        phantom.series(tmp_path / "in" / str(n), slices=8 * n, study=f"1.{n}", patient=str(n))
    script = tmp_path / "killed"
    script.write_text(f'#!/bin/sh\nfor last; do :; done\n[ -e "$last/000008" ] && kill -9 $$\nexec {convert.program()} "$@"\n')
    script.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(convert, "program", lambda: str(script))
        run(tmp_path / "in", tmp_path / "out")
    assert sorted(reasons(tmp_path / "out")) == ["", "converter_killed"]
    run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == ["", ""]


def test_what_a_killed_import_left_a_day_ago_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    ages = {"hlip-dicom-old": 25, "hlip-frames-old": 25, "hlip-dicom-new": 23, "another": 99, "hlip-dicom-of-another": 25}
    for name, hours in ages.items():
        (tmp_path / "temporary" / name / "in").mkdir(parents=True)
        os.utime(tmp_path / "temporary" / name, (time.time() - 3600 * hours,) * 2)
    (tmp_path / "temporary" / "hlip-dicom-link").symlink_to(tmp_path / "temporary" / "another")
    other = (tmp_path / "temporary" / "hlip-dicom-of-another").lstat().st_ino
    monkeypatch.setattr(temporary, "_owner", lambda found: os.getuid() + (found.st_ino == other))
    phantom.series(tmp_path / "in", slices=6)
    run(tmp_path / "in", tmp_path / "out")
    left = {path.name for path in (tmp_path / "temporary").iterdir()}
    assert left == {"hlip-dicom-new", "another", "hlip-dicom-of-another", "hlip-dicom-link"}


def test_a_converter_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in", slices=8)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 30\n")
    slow.chmod(0o755)

    monkeypatch.setattr(convert, "program", lambda: str(slow))
    monkeypatch.setattr(making, "convert_layout", lambda layout: convert.convert_layout(layout, limit=0.2))
    with pytest.raises(ImportingError, match="converter_timeout 1"):
        run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == ["converter_timeout"]


def test_a_truncated_archive_is_named_and_what_is_whole_in_it_is_read(tmp_path: Path) -> None:
    for patient in ("A", "B"):
        phantom.series(tmp_path / patient, slices=8, patient=patient, study=f"1.{ord(patient)}")
    packed = tmp_path / "in" / "export.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "A").iterdir()) + sorted((tmp_path / "B").iterdir()):
            archive.write(file, f"{file.parent.name}/{file.name}")
        end_of_a = archive.infolist()[8].header_offset
        in_b = archive.infolist()[14].header_offset
    content = packed.read_bytes()
    for cut, studies, noted in ((end_of_a + 50, [8], [True]), (in_b + 200, [8, 6], [True, True]), (90, [], [])):
        packed.write_bytes(content[:cut])
        phantom.series(tmp_path / "in" / "c", slices=7, patient="C", study="1.9")
        done = run(tmp_path / "in", tmp_path / f"out{cut}")
        assert [(item.path, item.reason) for item in done.left_out] == [("(.zip files)", "damaged_archive")]
        assert any(f"damaged archive, copy it again: {packed}" in note for note in done.notes)
        found = {int(row["files"]): "damaged archive" in row["notes"] for row in rows(tmp_path / f"out{cut}")}
        assert found == dict(zip([*studies, 7], [*noted, False], strict=True))


def test_a_killed_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in", slices=6)

    def killed(*_: object) -> None:
        raise ImportingError("a worker was killed, probably out of memory; start again with fewer --workers")

    monkeypatch.setattr(importer, "read_headers", killed)
    with pytest.raises(ImportingError, match="fewer --workers"):
        run(tmp_path / "in", tmp_path / "out")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom.series(tmp_path / "in", slices=24)
    main(["import", "dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--keep-ids", "--workers", "1", "--prepare", "mri"])
    told = capsys.readouterr().out
    assert "1 studies of 1 patients, 1 scans" in told
    assert "not de-identified" in told
    assert "1 of 1 studies ready" in told
    assert json.loads((tmp_path / "out" / "manifest.jsonl").read_text())["study_id"] == "1.2.3.4"
