"""Measures that a hand can check."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from finetune.experiments import measures
from finetune.experiments.measures import Measured, Test, exact_interval, leaf_distances, level_numbers, measure
from hlip.taxonomy import Taxonomy

from .small import TREE, records


def one_hot(count: int, best: list[int]) -> np.ndarray:
    """Scores 0.9 for one class a study, 0.1 for the others."""
    return np.where(np.arange(count) == np.array(best)[:, None], 0.9, 0.1)


def test_distances_in_the_tree_are_edges_by_way_of_the_nearest_common_ancestor():
    tree = Taxonomy.load("brain_mri")
    names, edges = tree.levels[-1], leaf_distances(tree)
    far = lambda one, other: edges[names.index(one), names.index(other)]  # noqa: E731
    assert far("glioma", "glioma") == 0
    assert far("glioma", "meningioma") == 2
    assert far("glioma", "Alzheimer's disease") == 4  # tumor - occupying - degeneration
    assert far("glioma", "acute infarction") == 6  # by the root
    assert far("white matter hyperintensity", "acute infarction") == 3  # hangs from vascular directly
    assert far("normal", "glioma") == 4
    assert (leaf_distances(tree.to_depth(1)) == 2 * (1 - np.eye(16))).all()


def test_recovery_and_distance_counted_by_hand():
    labels = [["a1"], ["a1"], ["a2"], ["b1"], ["b2"], ["a1", "b1"]]
    test = Test.of([], records(labels), TREE, resamples=0)
    top = one_hot(2, [0, 1, 1, 1, 0, 0])  # right, wrong, wrong, right, wrong, right
    leaf = one_hot(4, [0, 0, 2, 3, 3, 3])  # right, right (recovered), wrong, wrong, right (recovered), wrong
    pairs = measures.recovery([top, leaf], test)
    sums = {name: (above.sum(), below.sum()) for name, (above, below) in pairs.items()}
    assert sums == {"wrong_first": (3, 6), "recovery": (2, 3), "kept": (1, 3)}
    above, below = measures.distance(leaf, test)["distance"]
    assert above.tolist() == [0, 0, 4, 2, 0, 2]  # b1 for a2: by the root; b2 for b1; b2 where b1 is the nearest of two labels
    assert below.tolist() == [0, 0, 1, 1, 0, 1]


NORMAL = Taxonomy.from_dict(
    {
        **TREE.to_dict(),
        "classes": [*TREE.to_dict()["classes"], {"name": "normal", "normal": True, "levels": [1, 2]}],
    }
)


def test_a_normal_study_is_not_recovered_by_being_asked_twice():
    labels = [["a1"], ["a2"], ["normal"], ["normal"], ["b1"], ["b1"]]
    test = Test.of([], records(labels), NORMAL, resamples=0)
    top = one_hot(3, [1, 0, 0, 2, 0, 0])  # wrong, right, wrong (not asked), right (not asked), wrong, wrong
    leaf = one_hot(5, [0, 1, 4, 4, 2, 3])  # right, right, right, right, right, wrong
    assert NORMAL.levels == (("A", "B", "normal"), ("a1", "a2", "b1", "b2", "normal"))
    pairs = measures.recovery([top, leaf], test)
    sums = {name: (above.sum(), below.sum()) for name, (above, below) in pairs.items()}
    assert sums == {"wrong_first": (4, 6), "recovery": (2, 3), "kept": (1, 1)}
    runs = [{"test": [top, leaf]}, {"test": [top, one_hot(5, [1, 1, 4, 4, 2, 2])]}]
    assert list(measures.recovered_classes(runs, test).items()) == [("b1", 3), ("a1", 1)]
    flat = NORMAL.to_depth(1)
    assert measures.recovered_classes([{"test": [leaf]}], Test.of([], records(labels), flat, resamples=0)) == {}


def test_a_share_of_none_or_of_all_has_the_exact_interval():
    """Clopper and Pearson for none of n: the upper end is 1 - (0.05 / 2) ** (1 / n)."""
    low, high = exact_interval("recovery", 0, 30, 3)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    low, high = exact_interval("kept", 30, 30, 3)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    assert exact_interval("recovery", 1, 30, 3) is None
    assert exact_interval("recovery", 0, 0, 3) is None
    assert exact_interval("distance", 30, 30, 3) is None  # edges, no share
    labels = [["a1"], ["a2"], ["b1"], ["b2"]]
    test = Test.of(records(labels), records(labels), TREE, resamples=20)
    scores = [one_hot(2, [1, 1, 1, 1]), one_hot(4, [1, 0, 2, 3])]
    found = measure([{"val": scores, "test": scores}] * 2, test).summary()
    assert found["recovery"]["counts"] == (0, 4)
    assert (found["recovery"]["low"], found["recovery"]["high"]) == (0.0, pytest.approx(1 - 0.025**0.5))
    assert found["recovery"]["exact"]
    assert (found["kept"]["low"], found["kept"]["high"]) == (pytest.approx(0.025**0.5), 1.0)
    assert "exact" not in found["wrong_first"]  # two of four


def test_a_difference_to_a_share_of_none_is_made_of_both_intervals():
    rows = {"recovery": np.array([0.5, 0.4, 0.6])}
    one = Measured(rows, {"recovery": [0.5]}, {"recovery": (2, 4)}, {}, TREE, {})
    none = Measured({"recovery": np.zeros(3)}, {"recovery": [0.0]}, {"recovery": (0, 2)}, {}, TREE, {})
    entry, upper = one.difference(none)["recovery"], 1 - 0.025**0.5
    assert entry["value"] == pytest.approx(0.5)
    assert entry["low"] == pytest.approx(0.5 - np.hypot(0.5 - one.summary()["recovery"]["low"], upper))
    assert entry["high"] == pytest.approx(one.summary()["recovery"]["high"])
    assert entry["low"] < 0 < none.difference(none)["recovery"]["high"]


def test_studies_without_a_label_at_a_level_are_not_asked():
    test = Test.of([], records([["A"], ["a1"], []]), TREE, resamples=0)  # A alone: its leaf is unknown; []: nothing found
    pairs = measures.recovery([one_hot(2, [1, 1, 1]), one_hot(4, [0, 0, 0])], test)
    assert pairs["wrong_first"][1].tolist() == [0, 1, 0]
    assert pairs["recovery"][0].tolist() == [0, 1, 0]


def test_inconsistent_paths_counted_by_hand():
    test = Test.of([], records([["a1"], ["b1"], ["A"]]), TREE, resamples=0)
    top = np.array([[1, 0], [1, 1], [1, 0]], dtype=bool)
    leaf = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 0]], dtype=bool)
    pairs = measures.paths([top, leaf], test)
    above, below = pairs["child_without_parent"]
    assert above.tolist() == [2, 0, 0]  # b1 and b2 without B; the last study's leaves cannot be judged
    assert below.tolist() == [3, 1, 0]
    above, below = pairs["parent_without_child"]
    assert above.tolist() == [0, 1, 0]  # A, with neither a1 nor a2
    assert below.tolist() == [1, 2, 0]


def test_levels_are_numbered_as_in_the_shared_tree_also_where_it_was_cut():
    tree = Taxonomy.load("brain_mri")
    assert [level_numbers(tree.to_depth(depth), 3) for depth in (1, 2, 3)] == [[3], [1, 3], [1, 2, 3]]
    given = records([["a1"], ["b1"]])
    assert [Test.of([], given, TREE.to_depth(1), resamples=0, ruler=ruler).deepest for ruler in (None, TREE, tree)] == [1, 2, 3]


def test_a_variant_without_some_studies_is_resampled_as_the_others_are():
    given = records([["a1"], ["A"], ["b1"], ["b2"]], ["p0", "p1", "p2", "p0"])
    whole = Test.of([], given, TREE, resamples=50)
    part = Test.of([], [given[0], *given[2:]], TREE.to_depth(1), resamples=50, among=given)
    assert (part.weights == whole.weights[[0, 2, 3]]).all()
    assert part.weights[:, 1:].sum(axis=0).max() > 3  # not drawn among three


@pytest.fixture
def scored() -> tuple[Test, dict[str, list[np.ndarray]]]:
    """120 validation and 120 test studies, two a patient, and scores that know something."""
    generator = np.random.default_rng(0)
    leaves = generator.integers(4, size=240)
    given = records([[TREE.levels[1][leaf]] for leaf in leaves], [f"p{number // 2}" for number in range(240)])
    tops = np.eye(2)[leaves // 2] + generator.normal(0, 0.8, (240, 2))
    bottoms = np.eye(4)[leaves] + generator.normal(0, 0.8, (240, 4))
    tops, bottoms = expit(tops), expit(2 * bottoms - 1)
    scores = {"val": [tops[:120], bottoms[:120]], "test": [tops[120:], bottoms[120:]]}
    return Test.of(given[:120], given[120:], TREE, resamples=200), scores


def test_measures_agree_with_scikit_learn_and_average_over_seeds(scored):
    from sklearn.metrics import roc_auc_score

    test, scores = scored
    worse = {split: [np.random.default_rng(1).random(table.shape) for table in levels] for split, levels in scores.items()}
    both, alone = measure([scores, worse], test), measure([scores], test)
    assert alone.rows["auc_2"][0] == pytest.approx(roc_auc_score(test.rows("test", 1)[0], scores["test"][1]))
    assert both.seeds["auc_2"][0] == pytest.approx(alone.rows["auc_2"][0])
    assert both.rows["auc_2"][0] == pytest.approx(np.mean(both.seeds["auc_2"]))
    assert alone.rows["drop_bacc"][0] == pytest.approx(alone.rows["bacc_1"][0] - alone.rows["bacc_2"][0])
    entry = both.summary()["recovery"]
    assert entry["counts"] == (
        sum(_recovered(s, test)[0] for s in (scores, worse)),
        sum(_recovered(s, test)[1] for s in (scores, worse)),
    )
    assert entry["value"] == pytest.approx(entry["counts"][0] / entry["counts"][1])
    assert entry["low"] <= entry["value"] <= entry["high"]
    assert alone.classes["a1"]["positives"] == test.rows("test", 1)[0][:, 0].sum()


def test_resamples_draw_seeds_as_well_as_patients(scored):
    """Of alike seeds nothing changes; of unlike ones the interval holds the seeds' own spread."""
    test, scores = scored
    draws = test.draws(3)
    assert draws.shape == (3, 201)
    assert (draws.sum(axis=0) == 3).all()
    assert (draws[:, 0] == 1).all()
    assert (test.draws(1) == 1).all()
    worse = {split: [1 - table for table in levels] for split, levels in scores.items()}
    alone, alike, mixed = (measure(runs, test) for runs in ([scores], [scores] * 3, [scores, scores, worse]))
    np.testing.assert_allclose(alike.rows["auc_2"], alone.rows["auc_2"])
    np.testing.assert_allclose(alike.rows["recovery"], alone.rows["recovery"])
    low, high = alone.rows["auc_2"][0], 1 - alone.rows["auc_2"][0]
    expected = (draws[:2].sum(axis=0) * low + draws[2] * high) / 3
    assert np.corrcoef(mixed.rows["auc_2"][1:], expected[1:])[0, 1] > 0.97
    assert mixed.summary()["auc_2"]["high"] - mixed.summary()["auc_2"]["low"] > 0.3


def test_what_is_called_below_a_missed_class_counted_by_hand():
    labels = [["a1"], ["a1"], ["a2"], ["b1"]]
    test = Test.of([], records(labels), TREE, resamples=0)
    top = np.array(
        [[0, 0], [0, 1], [1, 0], [0, 0]], bool
    )  # A is missed in the first two, B in the last; B is called falsely in the second
    leaf = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], bool)  # a1, a2, b1, b2
    pairs = measures.below_a_miss([top, leaf], test)
    assert pairs["true_below_miss"][0].tolist() == [1, 0, 0, 1]
    assert pairs["true_below_miss"][1].tolist() == [1, 1, 0, 1]
    assert pairs["false_below_miss"][0].tolist() == [
        1,
        0,
        0,
        0,
    ]  # b1 of the first; of the second B is open, of a2 the class above is there
    assert pairs["false_below_miss"][1].tolist() == [2, 0, 2, 2]
    carried = Test.of([], records([["normal"], ["a1"]]), NORMAL, resamples=0)
    none = [np.zeros((2, 3), bool), np.zeros((2, 5), bool)]
    assert measures.below_a_miss(none, carried)["true_below_miss"][1].tolist() == [0, 1]


def test_the_usual_answer_is_counted_over_all_runs():
    test = Test.of([], records([["a1"], ["b1"], ["b2"]]), TREE, resamples=0)
    runs = [[one_hot(2, best), one_hot(4, [0, 0, 0])] for best in ([0, 1, 1], [1, 1, 1])]
    assert measures.usual_answer(runs, test) == ("B", pytest.approx(5 / 6))


def _recovered(scores, test) -> tuple[int, int]:
    """By the highest class after logistic regression on the validation log odds, a class at a time."""
    right = []
    for level in (0, 1):
        target, chance = test.rows("val", level)[0], []
        for k, (val, own) in enumerate(zip(scores["val"][level].T, scores["test"][level].T, strict=True)):
            truth = target[:, k]
            soft = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))  # Platt's targets
            twice = np.tile(logit(val)[:, None], (2, 1)), np.repeat([True, False], len(val)), np.concatenate([soft, 1 - soft])
            model = LogisticRegression(C=np.inf, tol=1e-8).fit(*twice)
            chance.append(model.predict_proba(logit(own)[:, None])[:, 1])
        right.append(test.rows("test", level)[0][np.arange(120), np.argmax(chance, axis=0)])
    first, last = right
    return int((~first & last).sum()), int((~first).sum())


def test_thresholds_come_from_validation_alone(scored):
    test, scores = scored
    shifted = {"val": scores["val"], "test": [table + 100.0 for table in scores["test"]]}
    assert measure([shifted], test).rows["bacc_2"][0] == pytest.approx(0.5)  # everything is above the thresholds
    assert measure([scores], test).rows["bacc_2"][0] > 0.65


def test_differences_are_paired_and_only_between_the_same_classes(scored):
    test, scores = scored
    one = measure([scores], test)
    assert one.difference(one)["auc_2"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    renamed = json.loads(json.dumps(TREE.to_dict()).replace('"A"', '"C"'))
    other = Measured(one.rows, one.seeds, one.counts, one.classes, Taxonomy.from_dict(renamed), {}, deepest=2)
    shared = set(other.difference(one))
    assert {"auc_2", "bacc_2", "recovery"} <= shared
    assert not shared & {"auc_1", "bacc_1", "drop_auc", "drop_bacc"}
