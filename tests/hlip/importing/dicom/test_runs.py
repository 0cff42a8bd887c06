"""Whole trees: damaged and hostile files, workers, second runs, full disks, hanging converters."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from hlip.cli import main
from hlip.importing.dicom import convert, importer, study
from hlip.importing.dicom.importer import import_dicom
from hlip.importing.outcome import ImportingError
from hlip.scans.reading import read_scan

from . import phantom
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
        ("(others files)", "damaged"),
        ("(others files)", "not_dicom"),
    ]
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
    assert len(first) == 5 * 2 + 2


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


def test_one_bad_study_never_stops_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 2, 3):
        phantom.series(tmp_path / "in" / str(n), slices=8, study=f"1.{n}", patient=str(n))

    real = study.convert_layout

    def failing(layout):
        if layout.slices[0].stack.study_uid == "1.2":
            raise RuntimeError("/export/Miller^Mary/IM1 is bad")
        return real(layout)

    monkeypatch.setattr(study, "convert_layout", failing)
    done = run(tmp_path / "in", tmp_path / "out")
    assert len(done.studies) == 2
    assert [item.reason for item in done.left_out] == ["unexpected", "no_usable_series"]
    assert "Miller" not in (tmp_path / "out" / "left_out.csv").read_text()
    monkeypatch.setattr(study, "convert_layout", real)
    assert len(run(tmp_path / "in", tmp_path / "out").studies) == 3, "what failed oddly is tried again"


def test_a_full_disk_stops_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in", slices=8)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "_save", full)
    with pytest.raises(ImportingError, match=r"cannot be written .*No space left.*run it again"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_converter_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in", slices=8)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 30\n")
    slow.chmod(0o755)

    monkeypatch.setattr(convert, "program", lambda: str(slow))
    monkeypatch.setattr(study, "convert_layout", lambda layout: convert.convert_layout(layout, limit=0.2))
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
        done = run(tmp_path / "in", tmp_path / "out")
        assert [(item.path, item.reason) for item in done.left_out] == [("(.zip files)", "damaged_archive")]
        assert any(f"damaged archive, copy it again: {packed}" in note for note in done.notes)
        found = {int(row["files"]): "damaged archive" in row["notes"] for row in rows(tmp_path / "out")}
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
