"""How a diagnoser errs in a tree: hierarchical precision and recall, broken paths, mistakes undone further down, how far they lie.

- Hierarchical precision, recall, F1 (Kiritchenko, Matwin, Famili, 2005): the called classes with all their ancestors, against the true
  ones with all theirs, counted over all studies together.
- Child without parent: the share of called classes whose parent is not called, at all pairs of neighbouring levels. Parent without
  child: the share of called classes with children below of which none is called.
- A study is right at a level if its highest-scoring class there is one of its labels; asked only if all the level's truth is known and
  it has a label. Recovery: P(right at the last level | wrong at the first), among studies asked at both and none of whose labels at the
  first level stands at the last as well: such a class (`carried`; "normal", say) meets other rivals there, so that its error is not undone
  but asked again.
- Distance: edges between a study's highest-scoring class and the nearest of its labels, over the studies where it is wrong.

Every share is given as what each study adds to its numerator and denominator (`Pairs`), so that resamples are one product (`shares`).

Shapes: N studies, L levels, K_l classes of level l, C of all levels, V nodes, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hp2l.statistics.cases import Bools, Floats, ratio

Pairs = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Ratio -> what each study (N,) adds to its numerator and to its denominator."""
Edges = Sequence[Sequence[tuple[int, int]]]
"""Per level but the last: (parent index, child index in the next level)."""


def shares(pairs: Pairs, weight: NDArray[np.floating]) -> dict[str, Floats]:
    """Ratio -> its value under each column of `weight` (N, R), (R,); NaN where nothing counts."""
    mass = weight.astype(np.float64)
    return {name: ratio(above @ mass, below @ mass) for name, (above, below) in pairs.items()}


# --- hierarchical precision and recall -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lineage:
    """Which nodes of the tree each class of each level stands for, classes in the order of the levels."""

    node: NDArray[np.intp]
    """(C,) the class's own node; a leaf that several levels carry is several classes, but may be one node."""
    line: Bools
    """(C, V) the class's node and all its ancestors."""

    @classmethod
    def of_edges(cls, counts: Sequence[int], edges: Edges) -> Lineage:
        """Every class a node of its own, linked by the edges of neighbouring levels alone: `counts` are the levels' sizes."""
        start = np.concatenate([[0], np.cumsum(counts)]).astype(int)
        line = np.eye(start[-1], dtype=bool)
        for level, pairs in enumerate(edges):
            for parent, child in pairs:
                line[start[level + 1] + child] |= line[start[level] + parent]
        return cls(np.arange(start[-1]), line)

    @classmethod
    def of_paths(cls, of: Sequence[Sequence[int]], paths: Sequence[Sequence[int]]) -> Lineage:
        """From the node of each class, one list a level, and each node's path from the top down, itself last."""
        node = np.array([n for level in of for n in level], dtype=np.intp)
        line = np.zeros((node.size, len(paths)), dtype=bool)
        for row, own in enumerate(node):
            line[row, list(paths[own])] = True
        return cls(node, line)


def hierarchical(flagged: Sequence[NDArray], targets: Sequence[NDArray], known: Sequence[NDArray], lineage: Lineage) -> Pairs:
    """`hierarchical_precision`, `hierarchical_recall`, `hierarchical_f1` of yes / no answers.

    An answer's ancestors count as called also where the answer itself cannot be judged, its truth being unknown; only nodes of known
    truth are counted, which the ancestors of a true class always are.

    Args:
        flagged, targets, known: per level (N, K_l), above zero where so.
    """
    answer, truth, valid = (
        np.concatenate([np.asarray(level) > 0 for level in tables], axis=1) for tables in (flagged, targets, known)
    )
    line, own = lineage.line.astype(np.float32), np.zeros(lineage.line.shape, dtype=np.float32)
    own[np.arange(len(own)), lineage.node] = 1
    true = (truth & valid) @ line > 0
    judged = (valid @ own > 0) | true
    called = (answer @ line > 0) & judged
    both, calls, trues = (chosen.sum(axis=1).astype(np.float32) for chosen in (called & true, called, true))
    return {
        "hierarchical_precision": (both, calls),
        "hierarchical_recall": (both, trues),
        "hierarchical_f1": (2 * both, calls + trues),
    }


# --- paths -----------------------------------------------------------------------------------------------------------


def broken_paths(flagged: Sequence[Bools], known: Sequence[Bools], edges: Edges) -> Pairs:
    """`child_without_parent` and `parent_without_child`, at all neighbouring levels together.

    Only edges of which the truth of both ends is known. Nothing for a tree of one level.

    Args:
        flagged, known: per level (N, K_l) bool.
    """
    if len(flagged) < 2:
        return {}
    studies = len(flagged[0])
    found: Pairs = {
        name: (np.zeros(studies, np.float32), np.zeros(studies, np.float32))
        for name in ("child_without_parent", "parent_without_child")
    }
    for level, pairs in enumerate(edges):
        for parent, below in _children(pairs).items():
            valid = known[level][:, [parent]] & known[level + 1][:, below]
            up, down = flagged[level][:, parent], flagged[level + 1][:, below] & valid
            called = up & valid.any(axis=1)
            for name, above, total in (
                ("child_without_parent", (down & ~up[:, None]).sum(1), down.sum(1)),
                ("parent_without_child", called & ~down.any(axis=1), called),
            ):
                found[name][0][:] += above
                found[name][1][:] += total
    return found


def below_a_miss(flagged: Sequence[Bools], targets: Sequence[Bools], known: Sequence[Bools], above: Sequence[int]) -> Pairs:
    """`true_below_miss` and `false_below_miss`: what is called at the last level where the class above it at the first is not called.

    Of true classes, whose class above is true and missed; of false ones, whose class above is neither true nor called. Nothing for a tree of
    one level.

    Args:
        flagged, targets, known: per level (N, K_l) bool.
        above: for each class of the last level its class at the first; -1 where it has none, or stands at both: not asked.
    """
    if len(flagged) < 2:
        return {}
    asked = [place for place, parent in enumerate(above) if parent >= 0]
    parents = [above[place] for place in asked]
    called, true, sure = flagged[-1][:, asked], targets[-1][:, asked], known[-1][:, asked] & known[0][:, parents]
    open_above = sure & ~flagged[0][:, parents]
    cases = {"true_below_miss": open_above & true, "false_below_miss": open_above & ~true & ~targets[0][:, parents]}
    return {
        name: ((called & case).sum(axis=1).astype(np.float32), case.sum(axis=1).astype(np.float32))
        for name, case in cases.items()
    }


def _children(pairs: Sequence[tuple[int, int]]) -> Mapping[int, list[int]]:
    children: dict[int, list[int]] = {}
    for parent, child in pairs:
        children.setdefault(parent, []).append(child)
    return children


# --- the highest-scoring class ---------------------------------------------------------------------------------------


def right(score: Floats, target: Bools, known: Bools) -> tuple[Bools, Bools]:
    """Per study (N,): whether the highest-scoring class is one of its labels; whether it is asked (all known, and it has a label).

    Args:
        score, target, known: (N, K) of one level.
    """
    best = score.argmax(axis=1)
    asked = np.logical_and(known.all(axis=1), target.any(axis=1))
    return target[np.arange(len(score)), best], asked


def carried(of: Sequence[Sequence[int]]) -> Bools:
    """(K_1,) whether a class of the first level stands at the last as well, from the node of each class, one list a level."""
    return np.isin(np.asarray(of[0], dtype=np.intp), np.asarray(of[-1], dtype=np.intp))


def recovery(scores: Sequence[Floats], targets: Sequence[Bools], known: Sequence[Bools], carried: Bools) -> Pairs:
    """`wrong_first`: wrong at the first level, of all studies asked at both. `recovery`: right at the last level, of those wrong at the first;
    `kept`: of those right at the first; both among studies without a carried label at the first level. Nothing for a tree of one level.

    Args:
        scores, targets, known: per level (N, K_l).
        carried: (K_1,) first-level classes that stand at the last level as well, see `carried`; all False where there are none.
    """
    if len(scores) < 2:
        return {}
    (first, asked_first), (last, asked_last) = (right(scores[level], targets[level], known[level]) for level in (0, -1))
    asked = asked_first & asked_last
    anew = asked & ~targets[0][:, carried].any(axis=1)
    wrong, was_right = anew & ~first, anew & first
    pairs = {"wrong_first": (asked & ~first, asked), "recovery": (wrong & last, wrong), "kept": (was_right & last, was_right)}
    return {name: (above.astype(np.float32), below.astype(np.float32)) for name, (above, below) in pairs.items()}


def mistake_distance(score: Floats, target: Bools, known: Bools, edges: Floats) -> Pairs:
    """`wrong_last`: wrong at this level, of all that are asked. `distance`: edges from the highest-scoring class to the study's nearest
    label, over the studies where it is wrong.

    Args:
        score, target, known: (N, K) of one level. edges: (K, K) of `path_distances`.
    """
    correct, asked = right(score, target, known)
    nearest = np.where(target, edges[score.argmax(axis=1)], np.inf).min(axis=1)
    wrong = asked & ~correct
    whole = wrong.astype(np.float32)
    return {
        "wrong_last": (whole, asked.astype(np.float32)),
        "distance": (np.where(wrong, nearest, 0.0).astype(np.float32), whole),
    }


def path_distances(paths: Sequence[Sequence[int]]) -> Floats:
    """(K, K) edges between nodes given by their paths from the top down, by way of their nearest common ancestor or of a root above."""

    def edges(mine: Sequence[int], theirs: Sequence[int]) -> int:
        shared = sum(a == b for a, b in zip(mine, theirs, strict=False))
        return len(mine) + len(theirs) - 2 * shared

    return np.array([[edges(mine, theirs) for theirs in paths] for mine in paths], dtype=np.float64)
