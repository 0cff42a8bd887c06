"""The comparison: thresholds from validation only, pairing, what is left out and said, the shape of comparison.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from hlip import metrics
from hp2l.comparison.compare import CompareError, Scores, compare

NAMES = [["a", "b", "normal"], ["a1", "a2", "b1", "normal"]]
EDGES = [[(0, 0), (0, 1), (1, 2)]]


def cohort(studies: int = 240, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray], list[str], list[str]]:
    """Targets, mask, patients (two studies each), split (a third val)."""
    generator = np.random.default_rng(seed)
    leaves = (generator.random((studies, 3)) < 0.3).astype(float)
    normal = (leaves.sum(axis=1, keepdims=True) == 0).astype(float)
    top = np.stack([leaves[:, :2].max(axis=1), leaves[:, 2]], axis=1)
    targets = [np.hstack([top, normal]), np.hstack([leaves, normal])]
    patients = [f"p{i // 2}" for i in range(studies)]
    split = ["val" if i < studies // 3 else "test" for i in range(studies)]
    return targets, [np.ones(t.shape, bool) for t in targets], patients, split


def table(method: str, targets: list[np.ndarray], patients: list[str], split: list[str], gain: float, seed: int) -> Scores:
    generator = np.random.default_rng(seed)
    levels = [1 / (1 + np.exp(-(gain * t + generator.normal(size=t.shape) - 1))) for t in targets]
    return Scores(method, [f"s{i}" for i in range(len(patients))], patients, split, levels, {"checkpoint": method})


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    targets, mask, patients, split = cohort()
    methods = {
        "zero_shot": table("zero_shot", targets, patients, split, gain=0.7, seed=1),
        "fine_tuned": table("fine_tuned", targets, patients, split, gain=2.0, seed=2),
    }
    arguments = {"targets": targets, "mask": mask, "class_names": NAMES, "normal": "normal"}
    return {"methods": methods, **arguments, "edges": EDGES, "resamples": 200}


@pytest.fixture(scope="module")
def result(world: dict[str, Any]) -> dict[str, Any]:
    return compare(**world, level_names=["category", "subtype"], simulated=True)


def test_schema_is_the_promised_one_and_strict_json(result: dict[str, Any]) -> None:
    again = json.loads(json.dumps(result, allow_nan=False))
    assert list(again["levels"]) == ["1", "2"]
    for level in again["levels"].values():
        for method in ("zero_shot", "fine_tuned"):
            for metric in ("macro_auc", "balanced_accuracy"):
                entry = level[method][metric]
                assert set(entry) == {"value", "low", "high"}
                assert entry["low"] <= entry["value"] <= entry["high"]
            assert list(level[method]["per_class"]) == level["classes"]
        assert set(level["difference"]["macro_auc"]) == {"value", "low", "high", "p"}
    assert again["simulated"] is True
    assert again["provenance"]["zero_shot"] == {"checkpoint": "zero_shot"}


def test_values_are_those_of_scikit_learn_on_the_test_split(world: dict[str, Any], result: dict[str, Any]) -> None:
    test = np.array(world["methods"]["zero_shot"].split) == "test"
    for method, scores in world["methods"].items():
        target, score = world["targets"][1][test], scores.levels[1][test]
        each = [roc_auc_score(target[:, k], score[:, k]) for k in range(3)]  # without the normal class
        assert result["levels"]["2"][method]["macro_auc"]["value"] == pytest.approx(np.mean(each))
        entry = result["levels"]["2"][method]["per_class"]["a2"]
        assert entry["average_precision"]["value"] == pytest.approx(average_precision_score(target[:, 1], score[:, 1]))
        assert entry["n_positive"] == target[:, 1].sum()


def test_balanced_accuracy_uses_the_threshold_of_validation(world: dict[str, Any], result: dict[str, Any]) -> None:
    scores, target = world["methods"]["fine_tuned"], world["targets"][1][:, 0]
    val = np.array(scores.split) == "val"
    threshold, _ = metrics.best_threshold(target[val], scores.levels[1][val, 0])
    entry = result["levels"]["2"]["fine_tuned"]["per_class"]["a1"]
    assert entry["threshold"] == pytest.approx(threshold)
    expected = metrics.balanced_accuracy(target[~val], scores.levels[1][~val, 0], threshold)
    assert entry["balanced_accuracy"]["value"] == pytest.approx(expected)


def test_test_labels_move_no_threshold_and_validation_labels_no_auc(world: dict[str, Any], result: dict[str, Any]) -> None:
    test = np.array(world["methods"]["zero_shot"].split) == "test"
    for rows, kept in ((test, "threshold"), (~test, "auc")):
        changed = [t.copy() for t in world["targets"]]
        for t in changed:
            t[rows] = 1 - t[rows]
        other = compare(**{**world, "targets": changed})
        for name in NAMES[1]:
            before, after = (r["levels"]["2"]["fine_tuned"]["per_class"][name] for r in (result, other))
            assert before[kept] == after[kept]
            assert before["balanced_accuracy"] != after["balanced_accuracy"]


def test_bootstrap_equals_a_plain_loop_over_resampled_patients(world: dict[str, Any], result: dict[str, Any]) -> None:
    first, second = world["methods"].values()
    test = np.flatnonzero(np.array(first.split) == "test")
    target, patients = world["targets"][1][test], [first.patient_ids[i] for i in test]
    weight = np.concatenate(list(metrics.patient_bootstrap(patients, 200, seed=0)), axis=1)
    gained = []
    for r in range(200):
        rows = np.repeat(test, weight[:, r].astype(int))
        again = np.repeat(np.arange(len(test)), weight[:, r].astype(int))
        aucs = [[roc_auc_score(target[again, k], s.levels[1][rows, k]) for k in range(3)] for s in (first, second)]
        gained.append(np.mean(aucs[1]) - np.mean(aucs[0]))
    entry = result["levels"]["2"]["difference"]["macro_auc"]
    assert (entry["low"], entry["high"]) == pytest.approx(np.quantile(gained, [0.025, 0.975]))
    assert entry["low"] > 0
    assert entry["p"] == pytest.approx(2 * norm.sf(entry["value"] / np.std(gained, ddof=1)))


def test_a_method_against_itself_differs_by_nothing(world: dict[str, Any]) -> None:
    same = world["methods"]["zero_shot"]
    result = compare(**{**world, "methods": {"zero_shot": same, "fine_tuned": same}})
    assert result["levels"]["1"]["difference"]["macro_auc"] == {"value": 0, "low": 0, "high": 0, "p": 1}
    assert result["drop"]["difference"]["macro_auc"]["p"] == 1


def test_drop_is_level_one_minus_last(result: dict[str, Any]) -> None:
    for method in ("zero_shot", "fine_tuned"):
        top, last = (result["levels"][level][method]["macro_auc"]["value"] for level in ("1", "2"))
        assert result["drop"][method]["macro_auc"]["value"] == pytest.approx(top - last)
    assert result["drop"]["levels"] == [1, 2]


def test_rare_and_normal_classes_are_reported_but_not_in_the_macro(world: dict[str, Any]) -> None:
    targets = [t.copy() for t in world["targets"]]
    test = np.flatnonzero(np.array(world["methods"]["zero_shot"].split) == "test")
    targets[1][test, 2] = 0
    targets[1][test[:4], 2] = 1
    level = compare(**{**world, "targets": targets})["levels"]["2"]
    assert level["macro_classes"] == ["a1", "a2"]
    assert level["left_out"]["normal"] == "the normal class"
    assert level["left_out"]["b1"].startswith("4 positive")
    assert level["zero_shot"]["per_class"]["b1"]["auc"]["value"] is not None
    each = [level["zero_shot"]["per_class"][name]["auc"]["value"] for name in ("a1", "a2")]
    assert level["zero_shot"]["macro_auc"]["value"] == pytest.approx(np.mean(each))


def test_a_class_without_validation_positives_falls_back_and_says_so(world: dict[str, Any]) -> None:
    targets = [t.copy() for t in world["targets"]]
    val = np.array(world["methods"]["zero_shot"].split) == "val"
    targets[1][val, 0] = 0
    plain = compare(**{**world, "targets": targets})
    assert plain["levels"]["2"]["zero_shot"]["per_class"]["a1"]["threshold"] == 0.5
    assert any("zero_shot, level 2, a1: no positive" in note for note in plain["notes"])
    prevalence = [[0.4, 0.3, 0.3], [0.25, 0.3, 0.3, 0.3]]
    entry = compare(**{**world, "targets": targets}, train_prevalence=prevalence)["levels"]["2"]["zero_shot"]["per_class"]["a1"]
    share = (world["methods"]["zero_shot"].levels[1][val, 0] >= entry["threshold"]).mean()
    assert share == pytest.approx(0.25, abs=0.02)


def test_masked_truth_is_not_counted(world: dict[str, Any]) -> None:
    mask = [m.copy() for m in world["mask"]]
    test = np.flatnonzero(np.array(world["methods"]["zero_shot"].split) == "test")
    mask[1][test[::2], 0] = False
    entry = compare(**{**world, "mask": mask})["levels"]["2"]["zero_shot"]["per_class"]["a1"]
    rows = test[1::2]
    target, score = world["targets"][1][rows, 0], world["methods"]["zero_shot"].levels[1][rows, 0]
    assert entry["n_positive"] + entry["n_negative"] == len(rows)
    assert entry["auc"]["value"] == pytest.approx(roc_auc_score(target, score))


def test_path_consistency_by_hand() -> None:
    targets = [np.array([[1.0], [0.0]] * 3), np.array([[1.0, 0.0], [0.0, 1.0]] * 3)]
    mask = [np.ones(t.shape, bool) for t in targets]
    split, ids = ["val", "val", "test", "test", "test", "test"], [str(i) for i in range(6)]
    # val separates at 0.5 everywhere; test: parent flagged in studies 2, 3; children (2: c0), (4: c0, c1), (5: c1)
    levels = [
        np.array([[0.9], [0.1], [0.9], [0.9], [0.1], [0.1]]),
        np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.1, 0.1], [0.9, 0.9], [0.1, 0.9]]),
    ]
    scores = Scores("m", ids, ids, split, levels)
    names = [["p"], ["c0", "c1"]]
    found = compare({"m": scores}, targets, mask, names, edges=[[(0, 0), (0, 1)]], resamples=20, min_positives=1)
    entry = found["hierarchy"]["1-2"]["m"]
    assert entry["child_has_parent"]["value"] == pytest.approx(1 / 4)
    assert entry["parent_has_child"]["value"] == pytest.approx(1 / 2)


def test_order_of_studies_does_not_matter(world: dict[str, Any], result: dict[str, Any]) -> None:
    second = world["methods"]["fine_tuned"]
    shuffled = second.reordered([second.study_ids[i] for i in np.random.default_rng(0).permutation(len(second.study_ids))])
    other = compare(**{**world, "methods": {**world["methods"], "fine_tuned": shuffled}})
    assert other["levels"] == {k: {**v, "name": f"level {k}"} for k, v in result["levels"].items()}


def test_any_number_of_methods_each_against_the_first(world: dict[str, Any]) -> None:
    first, second = world["methods"].values()
    mean = Scores(
        "mean",
        *(getattr(first, f) for f in ("study_ids", "patient_ids", "split")),
        levels=[(a + b) / 2 for a, b in zip(first.levels, second.levels, strict=True)],
    )
    level = compare(**{**world, "methods": {**world["methods"], "mean": mean}})["levels"]["1"]
    assert level["difference"]["of"] == ["fine_tuned", "zero_shot"]
    assert level["differences"]["mean"]["of"] == ["mean", "zero_shot"]
    gap = level["mean"]["macro_auc"]["value"] - level["zero_shot"]["macro_auc"]["value"]
    assert level["differences"]["mean"]["macro_auc"]["value"] == pytest.approx(gap)


def test_patients_across_splits_are_called_a_leak(world: dict[str, Any], result: dict[str, Any]) -> None:
    assert not any("LEAK" in note for note in result["notes"])
    methods = {}
    for name, scores in world["methods"].items():
        patients = [scores.patient_ids[-1], *scores.patient_ids[1:]]
        methods[name] = Scores(name, scores.study_ids, patients, scores.split, scores.levels)
    assert any("LEAK: 1 patient" in note for note in compare(**{**world, "methods": methods})["notes"])


def test_tables_that_do_not_belong_together_are_refused(world: dict[str, Any]) -> None:
    good, other = world["methods"].values()
    renamed = Scores("fine_tuned", ["x", *other.study_ids[1:]], other.patient_ids, other.split, other.levels)
    with pytest.raises(CompareError, match=r"lacks 1 stud.*\['s0'\].*1 more.*\['x'\]"):
        compare(**{**world, "methods": {"zero_shot": good, "fine_tuned": renamed}})
    moved = Scores("fine_tuned", other.study_ids, other.patient_ids, ["test", *other.split[1:]], other.levels)
    with pytest.raises(CompareError, match="other splits"):
        compare(**{**world, "methods": {"zero_shot": good, "fine_tuned": moved}})
    with pytest.raises(CompareError, match="expected"):
        compare(**{**world, "class_names": [["a", "b"], NAMES[1]]})
    unseen = Scores("zero_shot", good.study_ids, good.patient_ids, ["val"] * len(good.split), good.levels)
    with pytest.raises(CompareError, match="test split"):
        compare(**{**world, "methods": {"zero_shot": unseen}})


def test_scores_refuse_nan_and_repeated_studies() -> None:
    with pytest.raises(CompareError, match="1 scores are NaN"):
        Scores("m", ["a"], ["p"], ["test"], [np.array([[np.nan]])])
    with pytest.raises(CompareError, match="more than once"):
        Scores("m", ["a", "a"], ["p", "p"], ["test", "test"], [np.zeros((2, 1))])


def test_csv_round_trip_is_exact(world: dict[str, Any], tmp_path: Path) -> None:
    scores = world["methods"]["zero_shot"]
    mask = [m.copy() for m in world["mask"]]
    mask[1][3] = False
    full = scores.with_truth(NAMES, world["targets"], mask)
    full.to_csv(tmp_path / "zero_shot.csv")
    header = (tmp_path / "zero_shot.csv").read_text().splitlines()[0]
    assert header == "study_id,patient_id,split,level,class,score,label"
    again = Scores.from_csv(tmp_path / "zero_shot.csv")
    assert (again.method, again.provenance, again.class_names) == ("zero_shot", {"checkpoint": "zero_shot"}, NAMES)
    assert (again.study_ids, again.patient_ids, again.split) == (scores.study_ids, scores.patient_ids, scores.split)
    for level in range(2):
        np.testing.assert_array_equal(again.levels[level], scores.levels[level])
        assert again.labels is not None
        np.testing.assert_array_equal(again.labels[level], np.where(mask[level], world["targets"][level], np.nan))
    with pytest.raises(CompareError, match="class names"):
        scores.to_csv(tmp_path / "bare.csv")


def test_csv_with_a_hole_is_refused(world: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    world["methods"]["zero_shot"].with_truth(NAMES, world["targets"], world["mask"]).to_csv(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(CompareError, match="level 2: not every study"):
        Scores.from_csv(path)


@pytest.mark.parametrize("name", ["mri", "ct"])
def test_golden_zero_shot_macro_auc_comes_out_of_the_comparison(name: str) -> None:
    from safetensors.numpy import load_file

    golden = Path(__file__).parents[3].parent / "shared" / "golden" / "l_zeroshot_metrics.json"
    if not golden.is_file():
        pytest.skip("shared/golden is not beside this checkout")
    arrays = load_file(golden.with_suffix(".safetensors"))
    target, logits = arrays[f"{name}.target"], arrays[f"{name}.logits"]
    ids = [str(i) for i in range(len(target))]
    scores = Scores("zero_shot", ids, ids, ["test"] * len(ids), [logits])
    classes = [[f"class {k}" for k in range(target.shape[1])]]
    found = compare({"zero_shot": scores}, [target], [np.ones_like(target)], classes, resamples=20)
    expected = json.loads(golden.read_text())[name][f"auc ({name})"]
    assert found["levels"]["1"]["zero_shot"]["macro_auc"]["value"] == pytest.approx(expected, abs=1e-9)
    assert found["levels"]["1"]["zero_shot"]["per_class"]["class 0"]["brier"] is None  # logits are no probabilities


def test_training_rows_give_the_prevalence_and_no_number(world: dict[str, Any], result: dict[str, Any]) -> None:
    first = world["methods"]["zero_shot"]
    extra = [f"t{i}" for i in range(40)]
    methods = {
        name: Scores(
            name,
            [*s.study_ids, *extra],
            [*s.patient_ids, *extra],
            [*s.split, *["train"] * 40],
            [np.vstack([level, np.full((40, level.shape[1]), 0.5)]) for level in s.levels],
        )
        for name, s in world["methods"].items()
    }
    targets = [np.vstack([t, np.tile([1.0] + [0.0] * (t.shape[1] - 1), (40, 1))]) for t in world["targets"]]
    mask = [np.ones(t.shape, bool) for t in targets]
    found = compare(**{**world, "methods": methods, "targets": targets, "mask": mask})
    assert found["cohort"]["classes"]["1"]["a"]["train_prevalence"] == 1.0
    assert found["cohort"]["studies"] == first.split.count("test")
    assert found["levels"]["2"]["difference"] == result["levels"]["2"]["difference"]


@pytest.mark.slow
def test_paired_bootstrap_false_positive_rate_is_about_five_percent() -> None:
    hits = 0
    for seed in range(1000):
        targets, mask, patients, split = cohort(160, seed)
        methods = {m: table(m, targets, patients, split, 1.0, 7 * seed + i) for i, m in enumerate(("one", "two"))}
        found = compare(methods, targets, mask, NAMES, "normal", resamples=200, seed=seed)
        hits += found["levels"]["2"]["difference"]["macro_auc"]["p"] < 0.05
    assert 30 <= hits <= 75
