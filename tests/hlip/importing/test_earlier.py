"""A second tranche: nothing is dropped unsaid, nothing that was left out is forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hlip.importing.earlier import Earlier
from hlip.importing.options import Options, finish
from hlip.importing.outcome import ImportingError, LeftOut
from hlip.importing.tables import Tables
from hlip.study import Scan, Study, read_manifest

from .nifti_trees import table


def tranche(*numbers: int, report: str = "") -> list[Study]:
    return [Study(f"s{n}", f"p{n}", (Scan(Path(f"/d/{n}.nii.gz"), "T1"),), report) for n in numbers]


def ids(manifest: Path) -> list[str]:
    return [study.study_id for study in read_manifest(manifest)]


def test_a_second_tranche_is_refused_added_or_put_in_its_place(tmp_path: Path) -> None:
    lost = [LeftOut("/d/8", "mask", "one"), LeftOut("/d/9", "mask", "two")]
    first = finish("bids", tranche(0, 1, 2), tmp_path, Options(), lost)
    with pytest.raises(
        ImportingError, match=r"holds 2 studies that are not among the 2 found now \(s0, s1\); --add keeps them"
    ):
        finish("bids", tranche(2, 3), tmp_path, Options())
    assert ids(first.manifest) == ["s0", "s1", "s2"]
    added = finish("bids", tranche(2, 3, report="Late."), tmp_path, Options(how="add"), [lost[1], LeftOut("/d/7", "mask")])
    assert ids(first.manifest) == ["s0", "s1", "s2", "s3"]
    assert [study.report for study in read_manifest(first.manifest)] == ["", "", "Late.", "Late."]
    assert [row.path for row in added.left_out] == ["/d/8", "/d/9", "/d/7"]
    assert added.notes[-2:] == (
        "2 studies of earlier imports are kept, 1 are new",
        "1 studies were there before: what was found now stands in their place",
    )
    homes = {study.patient_id: study.split for study in added.studies}
    assert {study.patient_id: study.split for study in first.studies}.items() <= homes.items()
    replaced = finish("bids", tranche(5), tmp_path, Options(how="replace"))
    assert ids(first.manifest) == ["s5"]
    assert replaced.left_out == replaced.notes == ()


def test_what_became_a_scan_is_left_out_no_more(tmp_path: Path) -> None:
    """Its file, a folder above it, or a row of its study; the rows of kept studies stay."""
    lost = [LeftOut(path, "missing") for path in ("/d/1.nii.gz", "/d", "s1/003", "/d/2.nii.gz", "/e", "s0/003")]
    finish("table", tranche(0), tmp_path, Options(), lost)
    added = finish("table", tranche(1), tmp_path, Options(how="add"))
    assert [row.path for row in added.left_out] == ["/d/2.nii.gz", "/e", "s0/003"]


def test_the_same_again_is_no_second_tranche(tmp_path: Path) -> None:
    first = finish("bids", tranche(*range(20)), tmp_path, Options())
    before = first.manifest.read_bytes()
    again = finish("bids", tranche(*range(20)), tmp_path, Options(seed=3))
    assert again.manifest.read_bytes() == before
    assert again.notes == ("20 patients stay in the split that they had; --replace draws all of them anew",)


def test_what_no_table_is_given_for_stays_as_it_was(tmp_path: Path) -> None:
    """Reports, labels and a site come first; then labels alone, of s0; then another site, with s1 as the only study."""
    reports = table(tmp_path / "r.csv", "study_id,report", "s0,Zero.", "s1,One.")
    labels = table(tmp_path / "l.csv", "study_id,label", "s0,a", "s1,b")
    sites = table(tmp_path / "m.csv", "study_id,site,patient_id", "s0,X,q", "s1,Y,q")
    alone = [replace(study, patient_id=study.study_id) for study in tranche(0, 1)]
    finish("folders", alone, tmp_path, Options(Tables(reports, labels, sites)))
    less = Options(Tables(labels=table(tmp_path / "m2.csv", "study_id,label", "s0,c")), how="add")
    again = finish("folders", alone, tmp_path, less)
    assert [(study.report, study.labels, study.extra["site"], study.patient_id) for study in read_manifest(again.manifest)] == [
        ("Zero.", ("c",), "X", "q"),
        ("One.", None, "Y", "q"),
    ]
    assert (
        "kept from earlier imports, as no table is given for it now (--replace starts from nothing): patient_id of 2 studies, report of 2 "
        "studies, site of 2 studies"
    ) in again.notes
    assert "no longer there, as the tables given now do not state it: labels of 1 studies" in again.notes
    moved = finish("folders", [replace(alone[1], extra={"site": "Z"})], tmp_path, Options(how="add"))
    assert [study.extra["site"] for study in moved.studies] == ["X", "Z"]
    assert "not what earlier imports had: site of 1 studies" in moved.notes
    bare = finish("folders", alone, tmp_path, Options(how="replace"))
    assert [(study.report, study.labels, study.patient_id) for study in bare.studies] == [("", None, "s0"), ("", None, "s1")]


def test_of_unchanged_files_it_was_a_table_that_said_otherwise(tmp_path: Path) -> None:
    before = [replace(study, extra={"sex": "F", "scan_notes": ["x"]}) for study in tranche(0, 1)]
    now = [replace(study, extra={"sex": "M"}) for study in tranche(0, 1)]
    done, _ = Earlier(tmp_path / "m.jsonl", tuple(before)).fields(now, (), {"s0"})
    assert [study.extra for study in done] == [{"sex": "F"}, {"sex": "M"}]


def test_nothing_earlier(tmp_path: Path) -> None:
    earlier = Earlier.at(tmp_path / "m.jsonl")
    assert (earlier.splits, earlier.studies, earlier.beside(tranche(1))) == ({}, (), (tranche(1), []))


def test_a_study_that_became_unusable_leaves_by_name_and_stops_nothing(tmp_path: Path) -> None:
    finish("table", tranche(0, 1), tmp_path, Options())
    again = finish("table", tranche(1), tmp_path, Options(), [LeftOut("/d/0.nii.gz", "unreadable")])
    assert again.notes[-1] == "1 studies are not usable now and leave the manifest: s0"
    assert ids(again.manifest) == ["s1"]
