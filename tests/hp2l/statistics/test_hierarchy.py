"""Measures of a tree, counted by hand and by slow loops over sets."""

from __future__ import annotations

import numpy as np
import pytest

from hlip.taxonomy import Taxonomy
from hp2l.statistics.hierarchy import (
    Lineage,
    broken_paths,
    carried,
    hierarchical,
    mistake_distance,
    path_distances,
    recovery,
    shares,
)
from hp2l.tree_nodes import tree_nodes

COUNTS = (2, 4)
EDGES = [[(0, 0), (0, 1), (1, 2), (1, 3)]]  # A: a1, a2; B: b1, b2
ONE = np.ones((1, 1), dtype=np.float32)


def row(*levels: list[int]) -> list[np.ndarray]:
    return [np.array([level], dtype=bool) for level in levels]


def all_known(levels: list[np.ndarray]) -> list[np.ndarray]:
    return [np.ones(level.shape, bool) for level in levels]


def sums(pairs) -> dict[str, tuple[float, float]]:
    return {name: (above.sum(), below.sum()) for name, (above, below) in pairs.items()}


# --- hierarchical precision and recall -------------------------------------------------------------------------------


def test_hierarchical_precision_and_recall_by_hand() -> None:
    # called a1 and B: with ancestors {a1, A, B}; true b1: {b1, B}; shared {B}
    called, true = row([0, 1], [1, 0, 0, 0]), row([0, 1], [0, 0, 1, 0])
    pairs = hierarchical(called, true, all_known(true), Lineage.of_edges(COUNTS, EDGES))
    assert sums(pairs) == {
        "hierarchical_precision": (1, 3),
        "hierarchical_recall": (1, 2),
        "hierarchical_f1": (2, 5),
    }
    found = shares(pairs, ONE)
    precision, recall = found["hierarchical_precision"], found["hierarchical_recall"]
    assert found["hierarchical_f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_sibling_is_half_right_and_a_stranger_is_not() -> None:
    true = row([1, 0], [1, 0, 0, 0])
    lineage = Lineage.of_edges(COUNTS, EDGES)
    sibling = hierarchical(row([0, 0], [0, 1, 0, 0]), true, all_known(true), lineage)
    stranger = hierarchical(row([0, 0], [0, 0, 1, 0]), true, all_known(true), lineage)
    assert shares(sibling, ONE)["hierarchical_f1"] == pytest.approx([0.5])
    assert shares(stranger, ONE)["hierarchical_f1"] == pytest.approx([0.0])


def test_below_a_coarse_label_nothing_is_judged() -> None:
    true, known = row([1, 0], [0, 0, 0, 0]), row([1, 1], [0, 0, 0, 0])
    called = row([0, 0], [0, 1, 1, 0])  # a2 and b1 cannot be judged, their ancestors A and B can
    pairs = hierarchical(called, true, known, Lineage.of_edges(COUNTS, EDGES))
    assert sums(pairs)["hierarchical_precision"] == (1, 2)
    assert sums(pairs)["hierarchical_recall"] == (1, 1)


def test_nothing_called_or_nothing_true_is_nan() -> None:
    none, some = row([0, 0], [0, 0, 0, 0]), row([1, 0], [1, 0, 0, 0])
    lineage = Lineage.of_edges(COUNTS, EDGES)
    silent = shares(hierarchical(none, some, all_known(some), lineage), ONE)
    assert np.isnan(silent["hierarchical_precision"]).all()
    assert silent["hierarchical_recall"] == silent["hierarchical_f1"] == 0
    healthy = shares(hierarchical(some, none, all_known(none), lineage), ONE)
    assert np.isnan(healthy["hierarchical_recall"]).all()
    nothing = shares(hierarchical(none, none, all_known(none), lineage), ONE)
    assert all(np.isnan(value).all() for value in nothing.values())


def slow(flagged, targets, known, tree: Taxonomy, weight: np.ndarray) -> tuple[float, float]:
    """Hierarchical precision and recall by sets of nodes, a study at a time."""
    nodes = tree_nodes(tree)
    shared = calls = trues = 0.0
    for study, mass in enumerate(weight):
        called, true, judged = set(), set(), set()
        for level, of in enumerate(nodes.of):
            for k, node in enumerate(of):
                if known[level][study, k]:
                    judged.add(node)
                if flagged[level][study, k]:
                    called |= set(nodes.paths[node])
                if known[level][study, k] and targets[level][study, k]:
                    true |= set(nodes.paths[node])
        called &= judged | true
        shared, calls, trues = shared + mass * len(called & true), calls + mass * len(called), trues + mass * len(true)
    return shared / calls, shared / trues


@pytest.mark.parametrize("name", ["brain_mri", "brain_mri_clinical"])
def test_hierarchical_measures_agree_with_a_loop_over_sets(name) -> None:
    tree, generator = Taxonomy.load(name), np.random.default_rng(0)
    flagged, targets, known = ([generator.random((30, count)) < share for count in tree.counts] for share in (0.3, 0.2, 0.8))
    nodes = tree_nodes(tree)
    assert len(nodes.paths) < sum(tree.counts)  # leaves that several levels carry are one node
    weight = generator.integers(0, 3, (30, 4)).astype(np.float32)
    found = shares(hierarchical(flagged, targets, known, Lineage.of_paths(nodes.of, nodes.paths)), weight)
    for column in range(4):
        precision, recall = slow(flagged, targets, known, tree, weight[:, column])
        assert found["hierarchical_precision"][column] == pytest.approx(precision)
        assert found["hierarchical_recall"][column] == pytest.approx(recall)
        assert found["hierarchical_f1"][column] == pytest.approx(2 * precision * recall / (precision + recall))


def test_lineages_of_edges_and_of_paths_agree_where_no_class_is_carried() -> None:
    paths = [(0,), (1,), (0, 2), (0, 3), (1, 4), (1, 5)]
    one, other = Lineage.of_edges(COUNTS, EDGES), Lineage.of_paths([[0, 1], [2, 3, 4, 5]], paths)
    assert np.array_equal(one.line, other.line)
    assert np.array_equal(one.node, other.node)
    deep = Lineage.of_edges((1, 1, 1), [[(0, 0)], [(0, 0)]])
    assert deep.line.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


# --- paths, recovery, distance ---------------------------------------------------------------------------------------


def test_broken_paths_by_hand() -> None:
    flagged = [
        np.array([[1, 0], [1, 1], [1, 0]], dtype=bool),
        np.array([[1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 0]], dtype=bool),
    ]
    known = [np.ones((3, 2), bool), np.array([[1] * 4, [1] * 4, [0] * 4], dtype=bool)]
    pairs = broken_paths(flagged, known, EDGES)
    assert pairs["child_without_parent"][0].tolist() == [2, 0, 0]
    assert pairs["child_without_parent"][1].tolist() == [3, 1, 0]
    assert pairs["parent_without_child"][0].tolist() == [0, 1, 0]
    assert pairs["parent_without_child"][1].tolist() == [1, 2, 0]
    assert shares(pairs, np.array([[1, 0], [1, 3], [1, 1]], np.float32))["child_without_parent"] == pytest.approx([2 / 4, 0])
    assert broken_paths(flagged[:1], known[:1], []) == {}


def test_recovery_by_hand() -> None:
    one_hot = lambda count, best: np.where(np.arange(count) == np.array(best)[:, None], 0.9, 0.1)  # noqa: E731
    truth = [one_hot(2, [0, 0, 1]) > 0.5, one_hot(4, [0, 1, 2]) > 0.5]
    scores = [one_hot(2, [0, 1, 0]), one_hot(4, [0, 1, 3])]  # right, right; wrong, right; wrong, wrong
    none = np.zeros(2, dtype=bool)
    pairs = recovery(scores, truth, all_known(truth), none)
    assert sums(pairs) == {"wrong_first": (2, 3), "recovery": (1, 2), "kept": (1, 1)}
    never_wrong = shares(
        recovery([scores[0][:1], scores[1][:1]], [t[:1] for t in truth], [t[:1] >= 0 for t in truth], none), ONE
    )
    assert np.isnan(never_wrong["recovery"]).all()
    assert recovery(scores[:1], truth[:1], all_known(truth[:1]), none) == {}


def test_a_class_that_stands_at_both_levels_is_not_recovered() -> None:
    one_hot = lambda count, best: np.where(np.arange(count) == np.array(best)[:, None], 0.9, 0.1)  # noqa: E731
    truth = [one_hot(3, [0, 0, 1, 2, 2]) > 0.5, one_hot(5, [0, 1, 2, 4, 4]) > 0.5]  # A: a1, a2; B: b1, b2; normal
    scores = [
        one_hot(3, [1, 0, 0, 0, 2]),
        one_hot(5, [0, 1, 3, 4, 4]),
    ]  # undone; kept; wrong twice; normal by the last level; normal
    everyone = recovery(scores, truth, all_known(truth), np.zeros(3, dtype=bool))
    assert sums(everyone) == {"wrong_first": (3, 5), "recovery": (2, 3), "kept": (2, 2)}
    diseases = recovery(scores, truth, all_known(truth), np.array([False, False, True]))
    assert sums(diseases) == {"wrong_first": (3, 5), "recovery": (1, 2), "kept": (1, 1)}


@pytest.mark.parametrize(("name", "there"), [("brain_mri", {"normal"}), ("leukemia", {"normal", "reactive"})])
def test_carried_classes_of_a_tree(name, there) -> None:
    tree = Taxonomy.load(name)
    found = carried(tree_nodes(tree).of)
    assert {tree.levels[0][k] for k in np.flatnonzero(found)} == there
    assert carried([[0, 1], [2, 3, 4, 5]]).tolist() == [False, False]


def test_distances_by_hand() -> None:
    edges = path_distances([(0, 2), (0, 3), (1, 4), (5,)])
    assert edges.tolist() == [[0, 2, 4, 3], [2, 0, 4, 3], [4, 4, 0, 3], [3, 3, 3, 0]]
    truth = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=bool)
    score = np.eye(4)[[0, 3, 1, 1]]  # right; 3 from either label; by the root; never asked
    above, below = mistake_distance(score, truth, np.ones((4, 4), bool), edges)["distance"]
    assert above.tolist() == [0, 3, 4, 0]
    assert below.tolist() == [0, 1, 1, 0]
