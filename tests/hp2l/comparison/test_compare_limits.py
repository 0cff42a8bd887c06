"""What the data cannot say is not said: no validation split, structural zeros, shares of 0 and 1, nothing to measure, leaks."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, rankdata

from hlip import metrics
from hlip.taxonomy import Taxonomy
from hp2l.comparison.compare import CompareError, Scores, compare_tables, mean_of, provenance_of
from hp2l.comparison.resampling import exact
from hp2l.statistics.calibration import fit

TREE = Taxonomy.from_dict(
    {
        "name": "small",
        "level_names": ["category", "subtype"],
        "classes": [
            {"name": "a", "children": [{"name": "a1"}, {"name": "a2"}]},
            {"name": "b", "children": [{"name": "b1"}, {"name": "b2"}]},
            {"name": "normal", "normal": True},
        ],
    }
)
NAMES = [list(level) for level in TREE.levels]


def tables(studies: int = 240, count: int = 2) -> list[Scores]:
    """Methods of rising worth, a study a patient, a third of them validation; one label a study."""
    generator = np.random.default_rng(1)
    leaf = np.eye(5)[generator.integers(5, size=studies)]
    targets = [np.column_stack([leaf[:, :2].max(1), leaf[:, 2:4].max(1), leaf[:, 4]]), leaf]
    ids, split = [f"s{n}" for n in range(studies)], ["val" if n % 3 == 0 else "test" for n in range(studies)]
    found = []
    for place in range(count):
        levels = [1 / (1 + np.exp(-((1 + place) * t + generator.normal(size=t.shape) - 1))) for t in targets]
        source = provenance_of(TREE, checkpoint=f"{place}")
        scores = Scores(f"m{place}", ids, [f"p{n}" for n in range(studies)], split, levels, source)
        found.append(scores.with_truth(NAMES, targets, [np.ones_like(t) for t in targets]))
    return found


def by_children(table: Scores) -> Scores:
    """The first level scored by the highest below it, as zero-shot may."""
    last = table.levels[1]
    top = np.column_stack([last[:, :2].max(1), last[:, 2:4].max(1), last[:, 4]])
    return replace(table, levels=[top, last])


def only(split: str, table: Scores) -> Scores:
    rows = [place for place, own in enumerate(table.split) if own == split]
    assert table.labels is not None
    return replace(
        table,
        **{name: [getattr(table, name)[row] for row in rows] for name in ("study_ids", "patient_ids", "split")},
        levels=[level[rows] for level in table.levels],
        labels=[level[rows] for level in table.labels],
    )


def test_without_validation_only_what_needs_no_threshold_is_measured() -> None:
    found = compare_tables([only("test", table) for table in tables()], resamples=20)
    whole = compare_tables(tables(), resamples=20)
    level, complete = found["levels"]["2"], whole["levels"]["2"]
    assert level["m1"]["macro_auc"] == complete["m1"]["macro_auc"]
    assert level["m1"]["macro_average_precision"]["value"] is not None
    for metric in ("balanced_accuracy", "macro_f1", "macro_sensitivity_at_specificity", "macro_achieved_specificity"):
        assert level["m1"][metric]["value"] is None
        assert complete["m1"][metric]["value"] is not None
    entry = level["m1"]["per_class"]["a1"]
    assert (entry["threshold"], entry["sensitivity"]["value"], entry["specificity"]["value"]) == (None, None, None)
    assert found["calibration"]["levels"]["2"]["m1"] == {}
    assert found["net_benefit"]["levels"]["2"]["methods"]["m1"] == {}
    assert "hierarchical_f1" not in found["tree"]["methods"]["m1"]
    assert found["tree"]["methods"]["m1"]["recovery"]["value"] is not None  # of the highest score as it comes
    assert "most_frequent" not in found["tree"]
    assert found["calibration"]["prevalence"] == {}
    assert "treat_by_prevalence" not in found["net_benefit"]["levels"]["2"]
    assert found["hierarchy"] == {}
    assert found["settings"]["validation_studies"] == 0
    assert [(one["check"], one["state"]) for one in found["checks"]] == [("patients", "ok"), ("validation", "warning")]
    assert len(found["notes"]) == len(whole["notes"])
    assert whole["settings"]["validation_studies"] == 80


def test_unlabelled_validation_studies_are_none() -> None:
    blind = []
    for table in tables():
        rows = np.array(table.split) == "val"
        assert table.labels is not None
        blind.append(replace(table, labels=[np.where(rows[:, None], np.nan, level) for level in table.labels]))
    assert compare_tables(blind, resamples=20)["settings"]["validation_studies"] == 0


def test_recovery_that_cannot_occur_is_marked() -> None:
    first, second = tables()
    first, second = (
        only("test", first),
        only("test", second),
    )  # without validation there is no scaling to part parents from children
    found = compare_tables([by_children(first), second], resamples=20)["tree"]["methods"]
    assert found["m0"]["recovery"] == {
        "value": 0,
        "low": None,
        "high": None,
        "structural": "cannot occur: parents are scored by their children",
    }
    assert found["m1"]["recovery"]["value"] > 0
    assert "structural" not in found["m1"]["recovery"]
    almost = by_children(first)
    almost.levels[0][np.array(almost.split) == "test"] *= 0.999
    assert "structural" not in compare_tables([almost], resamples=20)["tree"]["methods"]["m0"]["recovery"]


def test_nothing_of_so_many_has_the_interval_of_clopper_and_pearson() -> None:
    for value, count in ((0.0, 17), (1.0, 9)):
        hits = int(value * count)
        low = 0.0 if hits == 0 else beta.ppf(0.025, hits, count - hits + 1)
        high = 1.0 if hits == count else beta.ppf(0.975, hits + 1, count - hits)
        entry = exact({"value": value, "low": value, "high": value}, count)
        assert (entry["low"], entry["high"], entry["exact"]) == (pytest.approx(low), pytest.approx(high), True)
    plain = {"value": 0.4, "low": 0.2, "high": 0.6}
    assert exact(plain, 10) == plain
    table = tables()[1]
    table.levels[1][:, 0] = np.where(table.labels[1][:, 0] == 1, 0.9, 0.1)  # type: ignore[index]
    entry = compare_tables([table], resamples=20)["levels"]["2"]["m1"]["per_class"]["a1"]
    assert entry["sensitivity"]["low"] == pytest.approx(0.025 ** (1 / entry["n_positive"]))
    assert entry["specificity"]["low"] == pytest.approx(0.025 ** (1 / entry["n_negative"]))


def test_every_pair_of_methods_is_tested_and_corrected() -> None:
    found = compare_tables(tables(count=3), resamples=200)
    for key, level in found["levels"].items():
        pairs = found["pairs"][key]
        assert [pair["of"] for pair in pairs] == [[b, a] for a, b in combinations(("m0", "m1", "m2"), 2)]
        assert [pair["p_holm"] for pair in pairs] == pytest.approx(metrics.holm([pair["p"] for pair in pairs]))
        for pair in pairs[:2]:
            own = level["differences"][pair["of"][0]]["macro_auc"]
            assert {name: pair[name] for name in own} == own
        third = level["m2"]["macro_auc"]["value"] - level["m1"]["macro_auc"]["value"]
        assert pairs[2]["value"] == pytest.approx(third)
    assert compare_tables(tables(count=1), resamples=20)["pairs"] == {"1": [], "2": []}


def test_pairs_can_be_shown_with_few_resamples() -> None:
    """p follows from the standard error, so that Holm's correction cannot push the least that resamples can show above 0.05."""
    found = compare_tables(tables(count=5), resamples=100)
    assert min(pair["p"] for pair in found["pairs"]["2"]) < 2 / 101


def test_one_patient_alone_is_refused_and_few_are_noted() -> None:
    for patients, told in ((1, None), (20, "Only 20 test patients"), (40, "")):
        few = [replace(table, patient_ids=[f"{s}{n % patients}" for n, s in enumerate(table.split)]) for table in tables()]
        if told is None:
            with pytest.raises(CompareError, match=r"are of one patient: .* check the column patient_id"):
                compare_tables(few, resamples=20)
        else:
            notes = " ".join(compare_tables(few, resamples=20)["notes"])
            assert ("test patients" in notes) == bool(told)
            assert told in notes


def test_a_torn_patient_is_a_leak_in_tables_alone() -> None:
    torn = [replace(table, patient_ids=["p1", *table.patient_ids[1:]]) for table in tables()]
    check = compare_tables(torn, resamples=20)["checks"][0]
    assert (check["check"], check["state"], check["cases"]) == ("patients", "leak", ["p1"])
    assert check["text"] == "1 of 239 patients has studies in several splits"


def test_nothing_to_measure_is_refused() -> None:
    one = [table.reordered(table.study_ids) for table in tables(4)]
    for table in one:
        table.split = ["val", "val", "val", "test"]
    with pytest.raises(CompareError, match="nothing to measure: in 1 test studies no class has both"):
        compare_tables(one, resamples=20)


def test_a_table_without_provenance_is_named() -> None:
    first, second = tables()
    notes = compare_tables([first, replace(second, provenance={})], resamples=20)["notes"]
    assert [note for note in notes if "does not say where it comes from" in note and note.startswith("m1:")]
    assert not any("m0: its table" in note for note in notes)


def test_decision_curves_follow_platt_and_the_temperatures_limit_is_told() -> None:
    """Scores all above one half, which a temperature cannot move below: they would treat all at every threshold up to it."""
    table = tables()[1]
    table.levels = [0.6 + 0.1 * level for level in table.levels]
    found = compare_tables([table], resamples=20)
    stages = found["calibration"]["levels"]["2"]["m1"]
    assert list(stages) == ["before", "temperature", "platt", "isotonic"]
    assert stages["temperature"]["at_limit"] == ["a1", "a2", "b1", "b2"]
    assert stages["platt"]["at_limit"] == []
    assert stages["platt"]["macro_expected_calibration_error"] < 0.5 * stages["temperature"]["macro_expected_calibration_error"]
    level, steps = found["net_benefit"]["levels"]["2"], np.array(found["net_benefit"]["thresholds"])
    place = int(np.flatnonzero(np.isclose(steps, 0.3))[0])
    curve = level["methods"]["m1"]["platt"]
    assert curve["value"][place] > max(level["treat_all"][place], 0) + 0.02


def test_the_mean_is_of_calibrated_scores() -> None:
    first, second = tables()
    narrow = replace(first, levels=[0.5 + 0.01 * level for level in first.levels])
    found = mean_of([narrow, second], "mean")
    again: Any = mean_of([first, second], "mean")
    assert "Platt" in found.provenance["scaling"]
    assert first.labels is not None
    rows = np.array(first.split) == "val"
    parts = []
    for table in (narrow, second):
        rule = fit(first.labels[1][rows], table.levels[1][rows], "platt")[0]
        parts.append(rule.apply(table.levels[1][:, 0]))
    np.testing.assert_allclose(found.levels[1][:, 0], np.mean(parts, axis=0))
    # a method's scale, which says nothing of its worth, hardly matters
    assert np.corrcoef(rankdata(found.levels[1][:, 0]), rankdata(again.levels[1][:, 0]))[0, 1] > 0.98
    with pytest.raises(CompareError, match=r"labelled validation studies.*leave --mean out"):
        mean_of([only("test", first), only("test", second)], "mean")
