"""Who is learnt from: shares and folds by patient, and how often each study is drawn."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from finetune.cohort import (
    CohortConfig,
    Labels,
    classes_without,
    cohort,
    draw_weights,
    fitted,
    fold,
    labelled,
    only_read,
    rarest_class,
    share,
    unfitted,
)
from finetune.comparison.cohort import Cohort, mean_auc
from hlip.store import Store, StoreError, StudyRecord
from hlip.taxonomy import Taxonomy, TaxonomyError
from hp2l.encoders import ScanReader

from .made import changed_store

TREE = Taxonomy.load("brain_mri")


def studies(labels: list[tuple[str, ...]], per_patient: int = 1) -> list[StudyRecord]:
    return [StudyRecord(f"s{n}", f"p{n // per_patient}", ("T1",), "", (), names, "train", {}) for n, names in enumerate(labels)]


def test_a_share_is_taken_by_patient_and_is_part_of_every_larger_one():
    records = studies([("glioma",)] * 40, per_patient=2)
    shares = [{record.study_id for record in share(records, fraction, 3)} for fraction in (0.05, 0.25, 0.5, 1.0)]
    assert [len(ids) for ids in shares] == [2, 10, 20, 40]
    for small, large in itertools.pairwise(shares):
        assert small < large
    for ids in shares:
        assert all((f"s{2 * n}" in ids) == (f"s{2 * n + 1}" in ids) for n in range(20))
    assert shares[1] != {record.study_id for record in share(records, 0.25, 4)}


def test_labels_of_levels_that_were_cut_away_count_as_the_class_above_or_leave_the_study_out():
    records = studies([("tumor",), ("occupying", "tumor", "glioma"), ("vascular", "glioma"), (), ("acute infarction",)])
    given = CohortConfig(labelled_in="brain_mri")
    kept = lambda tree: {record.study_id: record.labels for record in fitted(records, given, tree)}  # noqa: E731
    everywhere = {"s3": (), "s4": ("acute infarction",)}
    both = {"s1": ("occupying", "glioma"), "s2": ("vascular", "glioma")}
    assert kept(TREE.to_depth(2)) == {"s0": ("occupying",), **both, **everywhere}
    assert kept(TREE.to_depth(1)) == {
        "s1": ("glioma",),
        **everywhere,
    }  # whether s2's vessels are ill is not known at the leaves
    assert fitted(records, CohortConfig(), TREE) == records
    with pytest.raises(TaxonomyError, match="tumour"):
        fitted(studies([("tumour",)]), given, TREE.to_depth(1))
    with pytest.raises(SystemExit, match="no train study has labels"):
        fitted(records[:1], given, TREE.to_depth(1))
    store = SimpleNamespace(split=lambda split: records if split == "train" else records[3:])
    told = unfitted(store, given, TREE.to_depth(1))
    assert told == "left out, labelled only above the levels of this tree: 2 of 9 studies (train 2, val 0, test 0; s0, s2)"
    assert unfitted(store, CohortConfig(), TREE) == ""


def test_folds_part_patients_and_keep_classes_even():
    records = studies([("glioma",), ("meningioma",), ("normal",), ("normal",)] * 10, per_patient=2)
    seen = []
    for number in range(5):
        parts = fold(records, CohortConfig(folds=5, fold=number), TREE)
        patients = [{record.patient_id for record in parts[split]} for split in ("train", "val")]
        assert not patients[0] & patients[1]
        assert len(parts["train"]) + len(parts["val"]) == 40
        assert 1 <= sum(record.labels == ("glioma",) for record in parts["val"]) <= 3
        seen += [record.study_id for record in parts["val"]]
    assert sorted(seen) == sorted(record.study_id for record in records)
    with pytest.raises(ValueError, match="20 patients cannot be parted into 21 folds"):
        fold(records, CohortConfig(folds=21), TREE)
    few = studies([("glioma",), ("meningioma",), ("normal",)] * 4)
    said = r"cohort.folds 5: .* by their rarest class, and the largest such group has 4; 4 folds at most"
    with pytest.raises(ValueError, match=said):
        fold(few, CohortConfig(folds=5), TREE)
    assert len(fold(few, CohortConfig(folds=4), TREE)["val"]) == 3
    with pytest.raises(ValueError, match="the largest such group has 1; they cannot be parted so"):
        fold(few[:3], CohortConfig(folds=2), TREE)


def test_the_rarest_class_decides_how_often_a_study_is_drawn():
    """Of four studies three have a glioma, one also a meningioma: chances 4/3 and 4 at balance 1."""
    labels = Labels(studies([("glioma",), ("glioma",), ("glioma", "meningioma"), ("normal",)]), TREE)
    names = [TREE.levels[-1][place] for place in rarest_class(labels)]
    assert names == ["glioma", "glioma", "meningioma", "normal"]
    assert draw_weights(labels, 1.0) == pytest.approx([4 / 3, 4 / 3, 4, 4])
    assert draw_weights(labels, 0.5) == pytest.approx([(4 / 3) ** 0.5, (4 / 3) ** 0.5, 2, 2])
    assert draw_weights(labels, 0.0) is None
    coarse = Labels(studies([("vascular",), ("normal",)]), TREE)
    assert draw_weights(coarse, 1.0) == pytest.approx([2.0, 2.0])  # known at the first level alone: by its class there


def test_a_mean_auc_that_is_not_defined_is_no_zero():
    """Two gliomas: every class has only positives or only negatives; with a normal study beside, the mean over those that have both is 1."""
    for names, expected in (([("glioma",)] * 2, float("nan")), ([("glioma",), ("glioma",), ("normal",)], 1.0)):
        records = studies(names)
        levels = TREE.encode_all([record.labels for record in records])
        scored = Cohort(None, records, [t for t, _ in levels], [k for _, k in levels], TREE)
        scores = [targets.astype(float) for targets, _ in levels]
        assert mean_auc(scores, scored, np.arange(len(records))) == pytest.approx(expected, nan_ok=True)


def test_classes_without_a_study_are_named():
    labels = Labels(studies([(name,) for name in TREE.levels[-1] if name != "meningioma"]), TREE)
    assert classes_without(labels, TREE) == ["meningioma (level 3)"]


def test_a_cohort_of_a_store(tiny_store):
    store = Store(tiny_store)
    whole = cohort(store, CohortConfig(), TREE)
    assert {split: len(records) for split, records in whole.items()} == {"train": 24, "val": 8}
    part = cohort(store, CohortConfig(fraction=0.5, folds=4, fold=1), TREE)
    assert {split: len(records) for split, records in part.items()} == {"train": 12, "val": 8}
    with pytest.raises(SystemExit, match="no labelled study in split 'other'"):
        labelled(store, "other")


def test_faults_of_the_labels_of_all_splits_are_told_at_once(tiny_store, tmp_path):
    wrong = {
        "s4": ("glyoma", "infarct?"),
        "s12": ("normal", "glioma"),
        "s13": ("glioma", "normal"),
        "s16": ("glyoma",),
        "s20": ("glyoma",),
    }
    wrong |= {f"s{22 + n}": ("x" * 400 + str(n),) for n in range(12)}
    store = Store(changed_store(tiny_store, tmp_path / "store", lambda r: replace(r, labels=wrong.get(r.study_id, r.labels))))
    assert [store.record(study).split for study in ("s4", "s12", "s16")] == ["train", "val", "test"]
    with pytest.raises(TaxonomyError) as caught:
        cohort(store, CohortConfig(), TREE)
    first, most, *rest, last = str(caught.value).splitlines()
    splits = Counter(store.record(study).split for study in wrong)
    told = ", ".join(f"{split} {splits[split]}" for split in ("train", "val", "test"))
    assert first == f"17 studies have labels that do not fit the tree ({told})"
    assert most.endswith("(nearest: 'glioma', 'normal', 'meningioma'), in 3: s4 (train), s20 (train), s16 (test)")
    text = "\n".join(rest)
    assert "'infarct?'" in text
    assert "labelled 'normal' and also 'glioma': they contradict, in 2: s12 (val), s13 (val)" in text
    assert len(rest) == 9
    assert last == "  and 5 more such faults"
    assert max(map(len, rest)) < 250
    wrong = {"s16": ("glyoma",)}
    tested = Store(changed_store(tiny_store, tmp_path / "tested", lambda r: replace(r, labels=wrong.get(r.study_id, r.labels))))
    with pytest.raises(TaxonomyError, match=r"^1 study has labels that do not fit the tree\n.*, in 1: s16 \(test\)$"):
        cohort(tested, CohortConfig(), TREE)


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [("labels", "glioma", '"glioma"'), ("labels", float("nan"), "NaN"), ("labels", [1], r"\[1\]"), ("sequences", "T1", '"T1"')],
)
def test_an_index_whose_names_are_no_list_is_refused_by_field(tiny_store, tmp_path, field, value, shown):
    (tmp_path / "store").mkdir()
    shutil.copy(tiny_store / "volume_spec.json", tmp_path / "store")
    rows = [json.loads(line) for line in (tiny_store / "index.jsonl").read_text().splitlines()]
    rows[2][field] = value
    (tmp_path / "store" / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        StoreError, match=rf"index.jsonl, line 3: damaged \({field} must be a list of strings, or null: not {shown}\)"
    ):
        Store(tmp_path / "store")


@pytest.mark.parametrize("settings", [{"fraction": 0.0}, {"folds": 1}, {"folds": 3, "fold": 3}, {"balance": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="cohort"):
        CohortConfig(**settings)


def test_scans_that_every_study_has_are_told_without_zeros():
    """Of a 2-D image red, green and blue; where one lacks, how many lack it."""
    one, other = (SimpleNamespace(study_id=name, sequences=names) for name, names in (("a", ["T1", "T2"]), ("b", ["T1"])))
    told: list[str] = []
    only_read({"train": [one], "val": [one]}, ScanReader(("T1", "T2")), told.append)
    only_read({"train": [one], "val": [other]}, ScanReader(("T1", "T2")), told.append)
    assert told == [
        "the encoder reads T1, T2 of all 2 studies",
        "the encoder reads, of 2 studies: T1 2, T2 1; what a study lacks is zeros",
    ]
