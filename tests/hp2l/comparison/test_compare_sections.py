"""Every number of the comparison's sections against its slow definition, on a tree with unlabelled studies and an empty class."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from hlip import metrics
from hlip.taxonomy import Taxonomy
from hp2l.comparison.alignment import platt_scaled
from hp2l.comparison.compare import CompareError, Comparison, Scores, compare, compare_tables, mean_of, provenance_of
from hp2l.comparison.decision import THRESHOLDS
from hp2l.statistics.delong import delong_test
from hp2l.statistics.net_benefit import net_benefit, treat_all

TREE = Taxonomy.from_dict(
    {
        "name": "small",
        "level_names": ["category", "subtype"],
        "classes": [
            {"name": "a", "children": [{"name": "a1"}, {"name": "a2"}, {"name": "empty"}]},
            {"name": "b", "children": [{"name": "b1"}]},
            {"name": "normal", "normal": True},
        ],
    }
)
NAMES = [list(level) for level in TREE.levels]
RESAMPLES = 60
METHODS = ("zero_shot", "one", "two", "three")


@cache
def tables() -> tuple[Scores, ...]:
    """Four methods and the mean of two, 300 studies of 200 patients, a third of them validation; every 11th unlabelled below."""
    generator = np.random.default_rng(0)
    studies = 300
    leaves = np.column_stack([generator.random((studies, 2)) < 0.3, np.zeros(studies, bool), generator.random(studies) < 0.2])
    normal = ~leaves.any(axis=1, keepdims=True)
    top = np.stack([leaves[:, :3].any(axis=1), leaves[:, 3]], axis=1)
    targets = [np.hstack([top, normal]).astype(float), np.hstack([leaves, normal]).astype(float)]
    known = [np.ones(level.shape, bool) for level in targets]
    known[1][::11] = False
    known[0][::33] = False
    patients = [f"p{i - (i % 3 == 2)}" for i in range(studies)]
    split = ["val" if i < 99 else "test" for i in range(studies)]
    found = []
    for place, method in enumerate(METHODS):
        levels = [1 / (1 + np.exp(-(0.5 * place * t + generator.normal(size=t.shape) - 0.5))) for t in targets]
        levels[0] = levels[0].round(1)  # ties
        source = provenance_of(TREE, checkpoint=f"{place}", volume_spec="v", simulated=True)
        scores = Scores(method, [f"s{i}" for i in range(studies)], patients, split, levels, source)
        found.append(scores.with_truth(NAMES, targets, known))
    return (*found, mean_of(found[:2], "mean"))


@cache
def result(count: int = 5, reference: str | None = None) -> Comparison:
    return compare_tables(tables()[:count], resamples=RESAMPLES, reference=reference)


def rows_of(split: str, level: int, k: int) -> np.ndarray:
    table = tables()[0]
    assert table.labels is not None
    return np.flatnonzero((np.array(table.split) == split) & ~np.isnan(table.labels[level][:, k]))


def truth(level: int) -> np.ndarray:
    labels = tables()[0].labels
    assert labels is not None
    return labels[level]


@cache
def resampled() -> list[np.ndarray]:
    """Test rows of each resample, as a plain loop has them."""
    test = np.flatnonzero(np.array(tables()[0].split) == "test")
    patients = [tables()[0].patient_ids[i] for i in test]
    weight = np.concatenate(list(metrics.patient_bootstrap(patients, RESAMPLES, 0)), axis=1).astype(int)
    return [test, *(np.repeat(test, column) for column in weight.T)]


def looped(number: Any) -> np.ndarray:
    """A number of test rows, for the cohort and every resample."""
    return np.array([number(rows) for rows in resampled()])


def check(entry: dict[str, Any], rows: np.ndarray) -> None:
    expected = [rows[0], *np.nanquantile(rows[1:], [0.025, 0.975])]
    assert [entry["value"], entry["low"], entry["high"]] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_methods_is_strict_json(count: int) -> None:
    found = json.loads(json.dumps(result(count), allow_nan=False))
    names = [*METHODS, "mean"][:count]
    assert found["methods"] == names
    assert found["reference"] == "zero_shot"
    level = found["levels"]["2"]
    assert set(level.get("differences", {})) == set(names[1:])
    assert set(found["tree"]["differences"]) == set(names[1:])
    assert ("difference" in level) == ("difference" in found["drop"]) == (count > 1)
    if count > 1:
        assert level["difference"] == level["differences"]["one"]
    assert found["simulated"] is True
    assert found["settings"]["normal_class"] == "normal"
    assert "tree" not in found["provenance"]["zero_shot"]["taxonomy"]


def test_a_class_without_positives_is_counted_and_left_out() -> None:
    level = result()["levels"]["2"]
    assert level["left_out"]["empty"].startswith("0 positive")
    assert "empty" not in level["macro_classes"]
    entry = level["two"]["per_class"]["empty"]
    assert entry["n_positive"] == 0
    for metric in ("auc", "average_precision", "f1", "sensitivity_at_specificity", "balanced_accuracy"):
        assert entry[metric] == {"value": None, "low": None, "high": None}
    assert entry["specificity"]["value"] is not None
    assert level["differences"]["two"]["per_class"]["empty"]["auc"]["delong"]["p"] is None
    assert result()["calibration"]["levels"]["2"]["two"]["before"]["per_class"]["empty"]["expected_calibration_error"] is None


@pytest.mark.parametrize(("level", "k"), [(0, 0), (1, 1), (1, 3)])
def test_answers_are_those_of_scikit_learn_with_thresholds_of_validation(level: int, k: int) -> None:
    for table in tables()[1:3]:
        score, target = table.levels[level][:, k], truth(level)[:, k]
        val = rows_of("val", level, k)
        entry = result()["levels"][str(level + 1)][table.method]["per_class"][NAMES[level][k]]
        threshold = metrics.best_threshold(target[val], score[val])[0]
        at = entry["threshold_at_specificity"]
        negative = score[val][target[val] == 0]
        assert (negative < at).mean() >= 0.95
        lower = np.max(score[val][score[val] < at])  # the next lower threshold would not do
        assert (negative < lower).mean() < 0.95

        def known(rows: np.ndarray, target: np.ndarray = target) -> np.ndarray:
            return rows[~np.isnan(target[rows])]

        def f1(rows: np.ndarray, score: np.ndarray = score, target: np.ndarray = target, t: float = threshold) -> float:
            return f1_score(target[known(rows)], score[known(rows)] >= t)

        def sensitivity(rows: np.ndarray, score: np.ndarray = score, target: np.ndarray = target, t: float = at) -> float:
            return (score[known(rows)] >= t)[target[known(rows)] == 1].mean()

        def specificity(rows: np.ndarray, score: np.ndarray = score, target: np.ndarray = target, t: float = at) -> float:
            return (score[known(rows)] < t)[target[known(rows)] == 0].mean()

        check(entry["f1"], looped(f1))
        check(entry["sensitivity_at_specificity"], looped(sensitivity))
        check(entry["achieved_specificity"], looped(specificity))
        check(entry["auc"], looped(lambda rows, s=score, t=target: roc_auc_score(t[known(rows)], s[known(rows)])))


def test_macro_numbers_are_means_over_the_same_classes_and_differences_are_paired() -> None:
    kept = [NAMES[1].index(name) for name in result()["levels"]["2"]["macro_classes"]]
    assert kept == [0, 1, 3]
    first, second = tables()[0], tables()[2]

    def mean_auc(rows: np.ndarray, table: Scores) -> float:
        rows = rows[~np.isnan(truth(1)[rows, 0])]
        return float(np.mean([roc_auc_score(truth(1)[rows, k], table.levels[1][rows, k]) for k in kept]))

    check(result()["levels"]["2"]["two"]["macro_auc"], looped(lambda rows: mean_auc(rows, second)))
    gain = looped(lambda rows: mean_auc(rows, second) - mean_auc(rows, first))
    entry = result()["levels"]["2"]["differences"]["two"]["macro_auc"]
    check(entry, gain)
    assert entry["p"] == pytest.approx(2 * norm.sf(abs(gain[0]) / np.nanstd(gain[1:], ddof=1)))


def test_average_precision_is_centred_on_its_value() -> None:
    rows = looped(
        lambda r: average_precision_score(
            *(x[r[~np.isnan(truth(0)[r, 1])]] for x in (truth(0)[:, 1], tables()[3].levels[0][:, 1]))
        )
    )
    moved = np.append(rows[0], rows[1:] - rows[1:].mean() + rows[0])
    entry = result()["levels"]["1"]["three"]["per_class"]["b"]["average_precision"]
    check(entry, moved)
    low, high = np.quantile(rows[1:], [0.025, 0.975])
    assert [entry["low"] - low, entry["high"] - high] == pytest.approx([rows[0] - rows[1:].mean()] * 2, abs=1e-9)
    assert abs(rows[0] - rows[1:].mean()) > 1e-4  # there is something to move


def test_another_reference_turns_the_differences() -> None:
    other = result(5, "two")
    assert other["reference"] == "two"
    assert set(other["levels"]["1"]["differences"]) == {"zero_shot", "one", "three", "mean"}
    mine, theirs = (found["levels"]["1"]["differences"] for found in (result(), other))
    assert theirs["zero_shot"]["of"] == ["zero_shot", "two"]
    assert theirs["zero_shot"]["macro_f1"]["value"] == pytest.approx(-mine["two"]["macro_f1"]["value"])
    assert theirs["zero_shot"]["macro_f1"]["low"] == pytest.approx(-mine["two"]["macro_f1"]["high"])
    assert other["drop"]["differences"]["one"]["of"] == ["one", "two"]
    with pytest.raises(CompareError, match="no method four"):
        compare_tables(tables(), reference="four")


def test_delong_is_clustered_by_patient_and_corrected_over_classes() -> None:
    classes = result()["levels"]["2"]["differences"]["three"]["per_class"]
    p = []
    for k, name in enumerate(NAMES[1]):
        rows = rows_of("test", 1, k)
        patients = np.array(tables()[0].patient_ids)[rows]
        test = delong_test(truth(1)[rows, k], *(table.levels[1][rows, k] for table in (tables()[0], tables()[3])), patients)
        p.append(test.p)
        if name != "empty":
            assert classes[name]["auc"]["delong"]["p"] == pytest.approx(test.p, abs=1e-12)
            assert classes[name]["auc"]["value"] == pytest.approx(test.difference)
    for name, value in zip(NAMES[1], metrics.holm(p), strict=True):
        assert classes[name]["auc"]["delong"]["p_holm"] == (None if name == "empty" else pytest.approx(value))


def slow_bins(target: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean score, frequency and number of known studies in each of ten equal bins that has any."""
    found = []
    for low in range(10):
        inside = [(t, p) for t, p in zip(target, score, strict=True) if not np.isnan(t) and low <= min(p * 10, 9.5) < low + 1]
        if inside:
            found.append((np.mean([p for _, p in inside]), np.mean([t for t, _ in inside]), len(inside)))
    mean, frequency, count = zip(*found, strict=True)
    return np.array(mean), np.array(frequency), np.array(count)


def test_calibration_is_fitted_on_validation_and_measured_on_test() -> None:
    level, k = 1, 0
    table, target = tables()[3], truth(1)[:, 0]
    val, test = rows_of("val", level, k), rows_of("test", level, k)
    found = result()["calibration"]["levels"]["2"]["three"]
    steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(table.levels[1][val, k], target[val])
    rule = found["temperature"]["per_class"]["a1"]["rule"]
    logit = np.log(table.levels[1][:, k] / (1 - table.levels[1][:, k]))
    scores = {
        "before": table.levels[1][:, k],
        "isotonic": steps.predict(table.levels[1][:, k]),
        "temperature": 1 / (1 + np.exp(-logit / rule["temperature"])),
    }
    losses = [
        -np.mean(np.log(np.where(target[val] == 1, p, 1 - p)))
        for p in (1 / (1 + np.exp(-logit[val] / t)) for t in (rule["temperature"] * f for f in (0.98, 1, 1.02)))
    ]
    assert min(losses) == losses[1]
    for stage, score in scores.items():
        entry = found[stage]["per_class"]["a1"]

        def brier(rows: np.ndarray, score: np.ndarray = score) -> float:
            rows = rows[~np.isnan(target[rows])]
            return float(np.mean((score[rows] - target[rows]) ** 2))

        check(entry["brier"], looped(brier))
        mean, frequency, count = slow_bins(target[test], score[test])
        assert entry["expected_calibration_error"] == pytest.approx(np.average(np.abs(mean - frequency), weights=count))
        if stage == "before":  # without ties, of which a bin holds all
            place = (10 * np.argsort(np.argsort(score[test])) + 5) // test.size  # the bin of a study's middle rank
            gaps = [abs((score[test] - target[test])[place == bin_].sum()) for bin_ in range(10)]
            assert entry["equal_mass_calibration_error"] == pytest.approx(sum(gaps) / test.size)
    shares = [truth(1)[rows_of("val", 1, c), c].mean() for c in (0, 1, 3)]

    def skill(rows: np.ndarray) -> float:
        rows = rows[~np.isnan(target[rows])]
        own = [np.mean((table.levels[1][rows, c] - truth(1)[rows, c]) ** 2) for c in (0, 1, 3)]
        base = [np.mean((share - truth(1)[rows, c]) ** 2) for share, c in zip(shares, (0, 1, 3), strict=True)]
        return float(1 - np.mean(own) / np.mean(base))

    check(found["before"]["brier_skill"], looped(skill))
    alone = result()["calibration"]["prevalence"]["2"]
    assert alone["per_class"]["a1"]["expected_calibration_error"] == pytest.approx(abs(shares[0] - target[test].mean()))
    assert alone["brier_skill"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    each = [found["isotonic"]["per_class"][name]["expected_calibration_error"] for name in ("a1", "a2", "b1")]
    assert found["isotonic"]["macro_expected_calibration_error"] == pytest.approx(np.mean(each))
    assert found["isotonic"]["macro_expected_calibration_error"] < found["before"]["macro_expected_calibration_error"]


def test_net_benefit_is_that_of_all_pairs_of_macro_classes() -> None:
    kept = [0, 1, 3]
    table = tables()[1]

    def pooled(rows: np.ndarray) -> np.ndarray:
        rows = rows[~np.isnan(truth(1)[rows, 0])]
        return net_benefit(truth(1)[np.ix_(rows, kept)].ravel(), table.levels[1][np.ix_(rows, kept)].ravel(), THRESHOLDS)[:, 0]

    entry, rows = result()["net_benefit"]["levels"]["2"], looped(pooled)
    curve = entry["methods"]["one"]["before"]
    assert curve["value"] == pytest.approx(rows[0], abs=1e-6)
    assert curve["low"] == pytest.approx(np.quantile(rows[1:], 0.025, axis=0), abs=1e-6)
    assert curve["high"] == pytest.approx(np.quantile(rows[1:], 0.975, axis=0), abs=1e-6)
    test = rows_of("test", 1, 0)
    assert entry["treat_all"] == pytest.approx(treat_all(truth(1)[np.ix_(test, kept)].ravel(), THRESHOLDS)[:, 0], abs=1e-6)
    assert set(entry["methods"]["one"]) == {"before", "platt"}
    shares = np.array([truth(1)[rows_of("val", 1, k), k].mean() for k in kept])

    def by_prevalence(rows: np.ndarray) -> np.ndarray:
        rows = rows[~np.isnan(truth(1)[rows, 0])]
        told = np.tile(shares, (rows.size, 1))
        return net_benefit(truth(1)[np.ix_(rows, kept)].ravel(), told.ravel(), THRESHOLDS)[:, 0]

    def everyone(rows: np.ndarray) -> np.ndarray:
        rows = rows[~np.isnan(truth(1)[rows, 0])]
        return treat_all(truth(1)[np.ix_(rows, kept)].ravel(), THRESHOLDS)[:, 0]

    told = looped(by_prevalence)
    assert entry["treat_by_prevalence"] == pytest.approx(told[0], abs=1e-6)
    beyond = rows - np.maximum(np.maximum(looped(everyone), told), 0)
    assert curve["beyond"]["value"] == pytest.approx(beyond[0], abs=1e-6)
    assert curve["beyond"]["low"] == pytest.approx(np.quantile(beyond[1:], 0.025, axis=0), abs=1e-6)


def test_tree_numbers_follow_their_definitions_study_by_study() -> None:
    table, limits = tables()[3], []
    scaled = platt_scaled(table)  # the highest class is that of comparable scores
    for level, names in enumerate(NAMES):
        classes = result()["levels"][str(level + 1)]["three"]["per_class"]
        limits.append([classes[name]["threshold"] for name in names])
    parents = {"a1": "a", "a2": "a", "empty": "a", "b1": "b"}  # normal is one node of both levels

    def counted(rows: np.ndarray, table: Scores, scaled: list[np.ndarray], limits: list[list[float]]) -> dict[str, float]:
        both = calls = trues = orphans = children = wrong = asked = undone = distance = missed = sure_last = lost = 0
        for row in rows:
            sure = [not np.isnan(truth(level)[row]).any() for level in (0, 1)]
            called: set[str] = set()
            true: set[str] = set()
            for level, names in enumerate(NAMES):
                for k, name in enumerate(names):
                    line = {name, parents.get(name, name)}
                    called |= line if table.levels[level][row, k] >= limits[level][k] else set()
                    true |= line if truth(level)[row, k] == 1 else set()
            judged = {name for level, names in enumerate(NAMES) if sure[level] for name in names} | true
            called_judged = called & judged
            both, calls, trues = both + len(called_judged & true), calls + len(called_judged), trues + len(true)
            if all(sure):
                flagged = [
                    {n for k, n in enumerate(names) if table.levels[level][row, k] >= limits[level][k]}
                    for level, names in enumerate(NAMES)
                ]
                children += len(flagged[1])
                orphans += sum(parents.get(name, name) not in flagged[0] for name in flagged[1])
            best = [NAMES[level][int(scaled[level][row].argmax())] for level in (0, 1)]
            labels = [{n for k, n in enumerate(names) if truth(level)[row, k] == 1} for level, names in enumerate(NAMES)]
            if all(sure):
                asked += 1
                wrong += best[0] not in labels[0]
            if all(sure) and "normal" not in labels[0]:  # it stands at both levels
                lost += best[0] not in labels[0]
                undone += best[0] not in labels[0] and best[1] in labels[1]
            sure_last += bool(sure[1])
            if sure[1] and best[1] not in labels[1]:
                missed += 1

                def edges(one: str, two: str) -> int:
                    if one == two:
                        return 0
                    same = parents.get(one) is not None and parents.get(one) == parents.get(two)
                    return 2 if same else sum(2 if name in parents else 1 for name in (one, two))

                distance += min(edges(best[1], label) for label in labels[1])
        return {
            "hierarchical_precision": both / calls,
            "hierarchical_recall": both / trues,
            "hierarchical_f1": 2 * both / (calls + trues),
            "child_without_parent": orphans / children,
            "wrong_first": wrong / asked,
            "recovery": undone / lost,
            "wrong_last": missed / sure_last,
            "distance": distance / missed,
        }

    found = result()["tree"]["methods"]["three"]
    drawn = [counted(rows, table, scaled, limits) for rows in resampled()]
    base_limits = [
        [result()["levels"][key]["zero_shot"]["per_class"][name]["threshold"] for name in NAMES[int(key) - 1]] for key in "12"
    ]
    first = [counted(rows, tables()[0], platt_scaled(tables()[0]), base_limits) for rows in resampled()]
    for name in drawn[0]:
        check(found[name], np.array([entry[name] for entry in drawn]))
    base, gain = result()["tree"]["methods"]["zero_shot"], result()["tree"]["differences"]["three"]["hierarchical_f1"]
    assert gain["value"] == pytest.approx(found["hierarchical_f1"]["value"] - base["hierarchical_f1"]["value"])
    rows = np.array([one["hierarchical_f1"] for one in drawn]) - np.array([one["hierarchical_f1"] for one in first])
    assert gain["p"] == pytest.approx(2 * norm.sf(abs(rows[0]) / np.nanstd(rows[1:], ddof=1)))


def test_the_most_frequent_class_is_wrong_as_often_as_it_is_absent() -> None:
    frequent = result()["tree"]["most_frequent"]
    val = rows_of("val", 1, 0)
    name = NAMES[1][int(truth(1)[val].mean(axis=0).argmax())]
    assert frequent["classes"][1] == name

    def absent(rows: np.ndarray) -> float:
        rows = rows[~np.isnan(truth(1)[rows, 0])]
        return float(np.mean(truth(1)[rows, NAMES[1].index(name)] == 0))

    check(frequent["wrong_last"], looped(absent))
    assert set(frequent) == {"classes", "wrong_first", "wrong_last", "distance"}


def test_paths_that_are_never_broken_have_an_exact_interval() -> None:
    first = tables()[0]
    sure = [np.where(np.nan_to_num(labels) == 1, 0.9, 0.1) for labels in (truth(0), truth(1))]
    entry = compare_tables([replace(first, levels=sure)], resamples=20)["hierarchy"]["1-2"]["zero_shot"]["child_has_parent"]
    test = np.array(first.split) == "test"
    known = test & ~np.isnan(truth(0)[:, 0]) & ~np.isnan(truth(1)[:, 0])
    calls = int(truth(1)[known].sum())  # every true child is called, and nothing else
    assert (entry["value"], entry["low"]) == (1.0, pytest.approx(0.025 ** (1 / calls)))


def test_files_compare_as_the_tables_they_hold(tmp_path: Path) -> None:
    paths = [tmp_path / f"{table.method}.parquet" for table in tables()[:2]]
    for table, path in zip(tables(), paths, strict=False):
        table.save(path)
    assert compare_tables([Scores.load(path) for path in paths], resamples=RESAMPLES) == result(2)


def test_edges_alone_make_a_tree_without_shared_nodes() -> None:
    table = tables()[3]
    targets, known = [np.nan_to_num(truth(level)) for level in (0, 1)], [~np.isnan(truth(level)) for level in (0, 1)]
    found = compare({"three": table}, targets, known, NAMES, "normal", edges=[TREE.edges(1)], resamples=5)
    mine, theirs = found["tree"]["methods"]["three"], result()["tree"]["methods"]["three"]
    assert mine["kept"]["value"] != theirs["kept"]["value"]  # ... so that it is asked at both
    assert mine["distance"]["value"] > theirs["distance"]["value"]  # normal hangs below another normal
    assert compare({"three": table}, targets, known, NAMES, resamples=5)["tree"] == {}
    with pytest.raises(CompareError, match="other classes"):
        compare({"three": table}, targets, known, [NAMES[0], ["x", *NAMES[1][1:]]], taxonomy=TREE)


def test_logits_have_no_calibration_and_say_so() -> None:
    table = replace(tables()[0], levels=[level * 10 - 5 for level in tables()[0].levels])
    found = compare_tables([table], resamples=5)
    assert found["calibration"]["levels"]["2"]["zero_shot"] == {}
    assert found["net_benefit"]["levels"]["2"]["methods"]["zero_shot"] == {}
    assert any("outside [0, 1]" in note for note in found["notes"])
    assert found["levels"]["2"]["zero_shot"]["macro_auc"]["value"] == result()["levels"]["2"]["zero_shot"]["macro_auc"]["value"]


def test_tables_without_truth_are_refused() -> None:
    bare = Scores("m", ["a"], ["p"], ["test"], [np.zeros((1, 1))])
    with pytest.raises(CompareError, match="holds no truth"):
        compare_tables([bare])
    with pytest.raises(CompareError, match="no score table"):
        compare_tables([])
