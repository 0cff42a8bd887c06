"""Leak checks: each finds what was planted, and is quiet where nothing was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hlip.store import Store, StudyRecord, write_index, write_study
from hlip.taxonomy import Taxonomy
from hp2l.comparison import leaks
from hp2l.comparison.leaks import images_apart, metadata_alone, patients_apart, prompts_not_in_reports

TREE = Taxonomy.load("brain_mri")


@pytest.fixture
def records(tiny_store) -> list[StudyRecord]:
    return list(Store(tiny_store).records)


def test_a_patient_in_two_splits(records):
    assert patients_apart(records).state == "ok"
    torn = [replace(record, patient_id="p0") if record.study_id in ("s0", "s12") else record for record in records]
    finding = patients_apart(torn)
    assert (finding.state, finding.cases) == ("leak", ["p0"])
    unsplit = [replace(record, patient_id="p0", split=None) for record in records]
    assert patients_apart(unsplit).state == "ok"


def test_the_same_voxels_in_two_splits(tmp_path, records, tiny_store, monkeypatch):
    assert images_apart(Store(tiny_store), records).state == "ok"
    import shutil

    shutil.copytree(tiny_store, tmp_path / "store")
    store = Store(tmp_path / "store")
    volumes = [volume[0].numpy() for volume in store.volumes("s2")]
    blank = np.zeros_like(volumes[0])
    for study in ("s13", "s14"):  # of the validation split; blank volumes are no evidence
        write_study(store.path, study, [volumes[1], blank], {"affines": [np.eye(4).tolist()] * 2})
    changed = [
        replace(record, sequences=("T1", "T1")) if record.study_id in ("s13", "s14") else record for record in store.records
    ]
    write_index(store.path, changed)
    finding = images_apart(Store(store.path), changed)
    assert finding.state == "leak"
    assert finding.text.startswith("1 volumes are")
    assert finding.cases == [["s2 (train)", "s13 (val)", "s14 (val)"]]
    with monkeypatch.context() as patch:  # a store of an earlier version holds no hashes: the same by reading
        patch.setattr(leaks, "read_metadata", lambda file: {})
        assert images_apart(Store(store.path), changed) == finding
    within = [replace(record, split="train") for record in changed]
    assert images_apart(Store(store.path), within).state == "warning"  # other patients, the same split
    one = [replace(record, patient_id="p") for record in within]
    assert images_apart(Store(store.path), one).state == "ok"


def cohort(told_by_vendor: bool) -> list[StudyRecord]:
    draws, records = np.random.default_rng(0), []
    for number in range(200):
        label = "glioma" if draws.random() < 0.4 else "acute infarction"
        vendor = (
            ("A" if label == "glioma" else "B") if told_by_vendor and draws.random() < 0.9 else str(draws.choice(["A", "B"]))
        )
        extra = {"vendor": vendor, "age": int(draws.integers(20, 90)), "lesions": [1, 2]}
        split = "train" if number < 120 else "test"
        records.append(
            StudyRecord(f"s{number}", f"p{number}", ("T1",) * int(draws.integers(1, 4)), "", (), (label,), split, extra)
        )
    return records


def test_a_label_that_the_scanner_tells():
    finding = metadata_alone(cohort(told_by_vendor=True), TREE, resamples=50)
    assert finding.state == "warning"
    assert {case.split(":")[0] for case in finding.cases} == {"glioma", "acute infarction"}
    assert "vendor" in finding.text
    assert "lesions" not in finding.text  # a list is no plain field
    quiet = metadata_alone(cohort(told_by_vendor=False), TREE, resamples=50)
    assert quiet.state == "ok"
    assert 0.35 < float(quiet.text.split("AUC ")[1].split()[0]) < 0.65
    assert metadata_alone([r for r in cohort(False) if r.split == "test"], TREE).state == "not checked"


def test_a_prompt_taken_from_a_report():
    reports = ["FINDINGS: A rounded mass in the left frontal lobe, with edema.", "Normal brain."]
    records = [StudyRecord(f"s{n}", f"p{n}", ("T1",), text, split="test") for n, text in enumerate(reports)]
    records.append(StudyRecord("s9", "p9", ("T1",), "An old sentence of the training split.", split="train"))
    taken = prompts_not_in_reports(["a rounded mass in the LEFT frontal lobe", "normal brain", "glioma"], records)
    assert taken.state == "warning"
    assert taken.cases == ["s0: a rounded mass in the LEFT frontal lobe"]
    assert prompts_not_in_reports(["an old sentence of the training split", "glioma"], records).state == "ok"
    assert prompts_not_in_reports([], records).state == "not checked"
