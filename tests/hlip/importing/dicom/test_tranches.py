"""A hospital delivers month by month: the second delivery is added, or put in the first one's place, never silently."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hlip.importing.dicom import importer
from hlip.importing.earlier import How
from hlip.importing.outcome import ImportingError
from hlip.importing.tables import Tables
from hlip.study import read_manifest

from ...dicom import phantom
from .made import rows, run


def test_two_deliveries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    for number, folder in enumerate(("january", "january", "february"), start=1):
        phantom.series(tmp_path / folder / str(number), slices=8, study=f"1.{number}", patient=f"P{number}")
    (tmp_path / "r.csv").write_text("patient_id,report\nP1,One.\nP2,Two.\n")
    first = run(tmp_path / "january", out, tables=Tables(reports=tmp_path / "r.csv"))
    homes = {study.patient_id: study.split for study in first.studies}
    table = rows(out)
    with monkeypatch.context() as patch:
        patch.setattr(importer, "_convert", lambda *_: pytest.fail("hours of conversion before the refusal"))
        with pytest.raises(ImportingError, match=r"holds 2 studies that are not among the 1 found now .*--add keeps them"):
            run(tmp_path / "february", out)
    both = run(tmp_path / "february", out, how="add")
    assert len(both.studies) == 3
    assert {study.patient_id: study.split for study in both.studies}.items() >= homes.items()
    assert all(scan.path.is_file() for study in read_manifest(both.manifest) for scan in study.scans)
    assert rows(out)[:2] == table
    assert len(rows(out)) == 3
    assert not any("not in this manifest" in note for note in both.notes)
    assert sorted(study.report for study in run(tmp_path / "january", out, how="add").studies) == ["", "One.", "Two."]
    one = run(tmp_path / "february", out, how="replace")
    assert len(one.studies) == len(rows(out)) == 1
    assert any(note.startswith("2 studies in") and note.endswith("not in this manifest") for note in one.notes)


def test_a_delivery_under_other_names_is_refused(tmp_path: Path) -> None:
    """With another salt, none, or ids kept, a known patient would be a new one, and might be drawn into another split."""
    out, key = tmp_path / "out", tmp_path / "out.salt.key"
    for number, folder in enumerate(("january", "february"), start=1):
        phantom.series(tmp_path / folder, slices=8, study=f"1.{number}", patient="P1")
    before = run(tmp_path / "january", out)
    manifest = before.manifest.read_bytes()
    right = key.read_text()
    with pytest.raises(ImportingError, match="its ids were hashed, now they would be kept: leave --keep-ids out"):
        run(tmp_path / "february", out, how="add", keep_ids=True)
    key.write_text("ab" * 32)
    with pytest.raises(ImportingError, match=r"its ids were made with another salt than .*out\.salt\.key"):
        run(tmp_path / "february", out, how="add")
    key.unlink()
    with pytest.raises(ImportingError, match=r"the salt of its ids is not at .*out\.salt\.key.* name it with --salt"):
        run(tmp_path / "february", out, how="add")
    assert not key.exists(), "none is drawn on the way"
    assert before.manifest.read_bytes() == manifest
    (tmp_path / "elsewhere.key").write_text(right)
    both = run(tmp_path / "february", out, how="add", salt=tmp_path / "elsewhere.key")
    assert len({study.patient_id for study in both.studies}) == 1
    assert right.strip() not in (out / "manifest.ids.json").read_text()


@pytest.mark.parametrize("how", ["add", "", "replace"])
def test_scans_that_a_manifest_names_stay_where_nothing_usable_takes_their_place(tmp_path: Path, how: How) -> None:
    """Study 1.1 comes again with two slices, beside a whole one."""
    out = tmp_path / "out"
    phantom.series(tmp_path / "first", slices=8, study="1.1", patient="P1")
    first = run(tmp_path / "first", out)
    kept = {scan.path: scan.path.read_bytes() for study in first.studies for scan in study.scans}
    phantom.series(tmp_path / "second" / "a", slices=2, study="1.1", patient="P1")
    phantom.series(tmp_path / "second" / "b", slices=8, study="1.2", patient="P2")
    second = run(tmp_path / "second", out, how=how)
    assert len(second.studies) == (2 if how == "add" else 1)
    left = f"1 studies are not usable now and leave the manifest: {first.studies[0].study_id}"
    assert (left in second.notes) == (how == "")
    assert [row.reason for row in second.left_out] == ["too_few_slices", "no_usable_series"]
    assert {path: path.read_bytes() for path in kept} == kept
    assert all(scan.path.is_file() for study in read_manifest(first.manifest) for scan in study.scans)
    assert sorted(row["reason"] for row in rows(out)) == [""] * len(second.studies) + ["too_few_slices"]
    assert not list((out / "studies").glob(".*"))


def test_a_delivery_without_a_usable_study_leaves_the_tables_as_they_were(tmp_path: Path) -> None:
    out = tmp_path / "out"
    phantom.series(tmp_path / "first" / "a", slices=8, study="1.1", patient="P1")
    phantom.series(tmp_path / "first" / "b", slices=2, study="1.1", patient="P1", uid="1.9", number=2)
    run(tmp_path / "first", out)
    before = {name: (out / name).read_bytes() for name in ("manifest.jsonl", "series.csv", "left_out.csv")}
    phantom.series(tmp_path / "second", slices=2, study="1.2", patient="P2")
    with pytest.raises(
        ImportingError, match=r"left as it was, with its tables; nothing usable was found now .*too_few_slices 1"
    ):
        run(tmp_path / "second", out, how="add")
    assert {name: (out / name).read_bytes() for name in before} == before


def test_a_study_that_came_whole_later_is_left_out_no_more(tmp_path: Path) -> None:
    out = tmp_path / "out"
    phantom.series(tmp_path / "first" / "a", slices=8, study="1.1", patient="P1")
    phantom.series(tmp_path / "first" / "b", slices=2, study="1.2", patient="P2")
    run(tmp_path / "first", out)
    assert "no_usable_series" in (out / "left_out.csv").read_text()
    phantom.series(tmp_path / "second", slices=8, study="1.2", patient="P2")
    assert len(run(tmp_path / "second", out, how="add").studies) == 2
    assert not (out / "left_out.csv").exists()


def test_a_refused_import_leaves_the_scans_that_the_manifest_names(tmp_path: Path) -> None:
    """The tables are joined after conversion; what was converted waits for the next run."""
    out, table = tmp_path / "out", tmp_path / "table.csv"
    phantom.series(tmp_path / "in", slices=8)
    first = run(tmp_path / "in", out)
    before = {file: file.read_bytes() for file in [first.studies[0].scans[0].path, *out.glob("*.*")]}
    phantom.series(tmp_path / "in", slices=8, description="T2 AX", **phantom.T2)
    table.write_text("patient_id,split\nP9,train\n")  # known only once the headers are read and the scans converted
    with pytest.raises(ImportingError, match="no row meets a study"):
        run(tmp_path / "in", out, tables=Tables(metadata=table))
    assert {file: file.read_bytes() for file in before} == before
    (study,) = (out / "studies").glob(".*")
    shutil.copytree(study, study.with_name(".1.2.3"))  # another that waits: it may hold the hospital's ids
    again = run(tmp_path / "in", out)
    assert "1 of 1 studies are unchanged" in str(again)
    assert f"1 studies in {out / 'studies'} (.1.2.3, ...) are of an earlier import and not in this manifest" in again.notes
    assert [(scan.sequence, scan.path.is_file()) for scan in again.studies[0].scans] == [("T2", True)]
    assert {path.name for path in (out / "studies").iterdir()} == {again.studies[0].study_id, ".1.2.3"}


def test_a_later_part_of_a_study_does_not_take_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    phantom.series(tmp_path / "first", slices=8, uid="1.1.1")
    first = run(tmp_path / "first", out)
    (study,) = (out / "studies").iterdir()
    phantom.series(tmp_path / "second", slices=8, uid="1.1.2", number=2, description="T2 AX", **phantom.T2)
    late = sorted((tmp_path / "second").iterdir())[0]
    with pytest.raises(ImportingError, match=rf"1 studies come in part, .*: {study.name} \(e\.g\. {late}\); import a folder"):
        run(tmp_path / "second", out, how="add")
    phantom.series(tmp_path / "second" / "other", slices=8, study="1.2", patient="P2")
    both = run(tmp_path / "second", out, how="add")
    assert [row for row in both.left_out if row.reason == "in_part"] == [row for row in both.left_out if row.path == study.name]
    assert str(tmp_path) not in (out / "left_out.csv").read_text()
    assert any(
        f"their earlier scans stay and the later series are left out: {study.name} (e.g. {late})" in n for n in both.notes
    )
    assert [[scan.sequence for scan in one.scans] for one in both.studies] == [["T1"], ["T1"]]
    assert len(rows(out)) == 2
    assert first.studies[0].scans[0].path.is_file()
    (tmp_path / "first").rename(tmp_path / "second" / "a")
    whole = run(tmp_path / "second", out, how="add")
    by_id = {one.study_id: one for one in whole.studies}
    assert [scan.sequence for scan in by_id[study.name].scans] == ["T1", "T2"]
    assert not whole.left_out
