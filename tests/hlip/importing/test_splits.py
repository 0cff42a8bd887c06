"""Splits of an import: drawn by patient where nobody states them, checked where somebody does. (How evenly: test_images.py.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hlip.importing.earlier import Earlier
from hlip.importing.outcome import ImportingError
from hlip.importing.splits import SHARES, check_patients, draw_splits, split_studies
from hlip.study import Scan, Study, write_manifest


def cohort(splits: list[str | None], patients: list[str] | None = None) -> list[Study]:
    names = patients or [f"p{n}" for n in range(len(splits))]
    scans = (Scan(Path("a.nii.gz")),)
    return [Study(f"s{n}", name, scans, split=split) for n, (name, split) in enumerate(zip(names, splits, strict=True))]


def test_none_stated_all_drawn_by_patient() -> None:
    studies = cohort([None] * 60, [f"p{n // 3}" for n in range(60)])
    done, notes = split_studies(studies, None, 5)
    assert notes == []
    assert {study.patient_id: study.split for study in done} == draw_splits(studies, SHARES, 5)
    assert [sum(study.split == name for study in done) for name in ("train", "val", "test")] == [42, 6, 12]
    assert [study.study_id for study in done] == [study.study_id for study in studies]
    only_test, _ = split_studies(studies, (0.0, 0.0, 1.0), 0)
    assert {study.split for study in only_test} == {"test"}


def test_patients_of_an_earlier_import_stay_where_they_are_and_the_new_ones_even_it_out(tmp_path: Path) -> None:
    first, _ = split_studies(cohort([None] * 100), None, 0)
    write_manifest(first, tmp_path / "m.jsonl")
    earlier = Earlier.at(tmp_path / "m.jsonl", "add")
    again, notes = split_studies(cohort([None] * 130), None, 7, earlier)
    assert [study.split for study in again[:100]] == [study.split for study in first]
    assert [sum(study.split == name for study in again) for name in ("train", "val", "test")] == [91, 13, 26]
    assert notes == ["100 patients stay in the split that they had; --replace draws all of them anew"]
    new = [replace(study, study_id=f"t{n}", patient_id=f"q{n}") for n, study in enumerate(cohort([None] * 30))]
    assert [sum(s.split == name for s in split_studies(new, None, 7, earlier)[0]) for name in ("train", "val", "test")] == [
        21,
        3,
        6,
    ]
    redrawn, _ = split_studies(cohort([None] * 100), None, 7, Earlier.at(tmp_path / "m.jsonl", "replace"))
    assert [study.split for study in redrawn] != [study.split for study in first]


def test_patients_that_are_known_later_keep_the_splits_of_their_studies(tmp_path: Path) -> None:
    """s0 and s1 are of one patient, which stays in train; s2 alone is of another; s3 is of one that was known."""
    was = ["test", "train", "val", "train", "test"]
    write_manifest(cohort(was, ["s0", "s1", "s2", "s3", "known"]), tmp_path / "m.jsonl")
    now = cohort([None] * 5, ["a", "a", "b", "known", "known"])
    done, notes = split_studies(now, None, 0, Earlier.at(tmp_path / "m.jsonl"))
    assert [study.split for study in done] == ["train", "train", "val", "test", "test"]
    assert notes[0].startswith("3 patients stay in the split")
    assert notes[1].startswith("2 studies are in another split than before: s0 (test -> train), s3 (train -> test); a model")
    assert len(notes) == 2


def test_splits_that_are_stated_later_are_told_where_they_differ(tmp_path: Path) -> None:
    write_manifest(cohort(["train"] * 7), tmp_path / "m.jsonl")
    stated = cohort(["train", "test", "val", "test", "test", None, "train", "val"])
    _, notes = split_studies(stated, None, 0, Earlier.at(tmp_path / "m.jsonl"))
    assert notes[2].startswith(
        "4 studies are in another split than before: s1 (train -> test), s2 (train -> val), s3 (train -> test), ...;"
    )
    assert split_studies(stated, None, 0, Earlier.at(tmp_path / "m.jsonl", "replace"))[1] == notes[:1]


def test_a_patient_stated_elsewhere_than_in_the_earlier_import_is_a_leak(tmp_path: Path) -> None:
    write_manifest(cohort(["train"]), tmp_path / "m.jsonl")
    new = [replace(cohort(["test"])[0], study_id="later")]
    with pytest.raises(ImportingError, match=r"a leak[\s\S]*p0: test .later., train .s0."):
        split_studies(new, None, 0, Earlier.at(tmp_path / "m.jsonl", "add"))


def test_stated_ones_stay_and_the_rest_is_drawn_beside_them() -> None:
    """20 patients are held out for the test; p0 has a further study, which goes with it; of the 79 others 70 and 10 are wanted elsewhere."""
    stated: list[str | None] = ["test"] * 20
    studies = cohort([*stated, None, *[None] * 79], [*[f"p{n}" for n in range(20)], "p0", *[f"q{n}" for n in range(79)]])
    done, notes = split_studies(studies, None, 0)
    assert [study.split for study in done[:21]] == ["test"] * 21
    assert [sum(study.split == name for study in done) for name in ("train", "val", "test")] == [69, 10, 21]
    assert notes == [
        "80 of 100 studies state no split: 1 take the one that their patient has elsewhere, 79 are drawn by patient, beside the stated ones"
    ]
    done, _ = split_studies(studies, (0.5, 0.5, 0.0), 0)
    assert [sum(study.split == name for study in done) for name in ("train", "val", "test")] == [40, 39, 21]
    assert split_studies(cohort(["train", "test"]), None, 0)[1] == []


def test_stated_ones_are_not_drawn_again() -> None:
    with pytest.raises(ImportingError, match="all 2 studies state their split themselves; leave --splits out"):
        split_studies(cohort(["train", "test"]), SHARES, 0)


def test_a_patient_in_two_splits_is_named() -> None:
    torn = cohort(["train", "test", "val", "val", None], ["p0", "p0", "p1", "p1", "p1"])
    with pytest.raises(ImportingError, match=r"1 patients are in several splits, a leak[\s\S]*p0: test .s1., train .s0."):
        split_studies(torn, None, 0)
    with pytest.raises(ImportingError, match="do this"):
        check_patients(torn, "do this")
    with pytest.raises(ImportingError, match=r"^t.csv: 1 patients [\s\S]*p0: test .line 3., train .line 2."):
        check_patients(torn[:4], "do this", Path("t.csv"), {f"s{n}": n + 2 for n in range(4)})
    split_studies(torn[2:], None, 0)  # a study without a split leaks nothing


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5, 0.5), (-0.1, 0.1, 1.0)])
def test_impossible_shares(shares: tuple[float, ...]) -> None:
    with pytest.raises(ImportingError, match="sum up to 1"):
        split_studies(cohort([None]), shares, 0)


def test_no_split_stays_empty_where_a_patient_may_move() -> None:
    """Three of five patients stand in train; of the two others, which both lean to val, one goes to test."""
    drawn = draw_splits(cohort([None] * 5), (0.05, 0.9, 0.05), 0, dict.fromkeys(("p0", "p1", "p2"), "train"))
    assert sorted(drawn.values()) == ["test", "train", "train", "train", "val"]
