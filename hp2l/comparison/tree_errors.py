"""How a diagnoser errs in the tree, for the comparison: what each test study adds to every hierarchical number.

The definitions are those of `hp2l.statistics.hierarchy`. The highest-scoring class is that of the highest score after Platt scaling, see
`hp2l.comparison.calibrated.comparable`. Shapes: N test studies, K classes of a level, R resamples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip.taxonomy import Taxonomy
from hp2l.comparison.resampling import exact, summary, with_normal_p
from hp2l.statistics import hierarchy
from hp2l.statistics.cases import Bools, Floats, ratio
from hp2l.statistics.hierarchy import Edges, Lineage, Pairs
from hp2l.tree_nodes import tree_nodes

DEFINITIONS = {
    "hierarchical_precision": "called classes with all their ancestors: the share that is true; all studies together",
    "hierarchical_recall": "true classes with all their ancestors: the share that is called",
    "hierarchical_f1": "harmonic mean of the two",
    "child_without_parent": "called classes of deeper levels whose parent is not called",
    "parent_without_child": "called classes with children below, none of which is called",
    "wrong_first": "studies whose highest-scoring class of the first level is not one of their labels; all that are asked at both ends",
    "recovery": "studies wrong at the first level that are right at the last; as in the next, without studies of which a first-level label "
    "stands at the last level as well (such as normal): they would be asked the same again among other rivals",
    "kept": "studies right at the first level that are right at the last",
    "wrong_last": "studies whose highest-scoring class of the last level is not one of their labels; all that are asked there",
    "distance": "edges from the highest-scoring class of the last level to the nearest label, where it is wrong",
}

WHOLE = ("hierarchical_f1", "hierarchical_precision", "hierarchical_recall", "distance")
"""Ratios that are no share of independent cases."""
STRUCTURAL = "cannot occur: parents are scored by their children"
WITHOUT_IMAGES = ("wrong_first", "wrong_last", "distance")
"""What answering every study with the most frequent class is told of."""


@dataclass(frozen=True)
class Tree:
    """What links the classes of the levels. Edges alone do not say which class stands at several, so that none does there."""

    edges: Edges
    lineage: Lineage
    distances: Floats
    """(K, K) edges between the classes of the last level."""
    carried: Bools
    """(K_1,) classes of the first level that stand at the last as well."""
    below: Bools
    """(K_1, K) which classes of the last level hang below which of the first."""

    @classmethod
    def of(cls, counts: Sequence[int], edges: Edges | None, taxonomy: Taxonomy | None) -> Tree | None:
        """From the taxonomy, whose repeated leaves are one node; or from edges alone, where every class is its own; or nothing."""
        if taxonomy is not None:
            nodes = tree_nodes(taxonomy)
            own = [taxonomy.edges(level) for level in range(1, taxonomy.depth)]
            paths = [nodes.paths[node] for node in nodes.of[-1]]
            distances, carried = hierarchy.path_distances(paths), hierarchy.carried(nodes.of)
            return cls(own, Lineage.of_paths(nodes.of, nodes.paths), distances, carried, _below(counts, own))
        if not edges:
            return None
        lineage = Lineage.of_edges(counts, edges)
        paths = [tuple(np.flatnonzero(line).tolist()) for line in lineage.line[-counts[-1] :]]
        return cls(edges, lineage, hierarchy.path_distances(paths), np.zeros(counts[0], dtype=bool), _below(counts, edges))

    def from_children(self, scores: Sequence[Floats]) -> bool:
        """Whether every score of the first level is the highest of those below it at the last, so that a wrong first level cannot be
        followed by a right last one.

        Args:
            scores: per level (N, K_l).
        """
        if len(scores) < 2 or not self.below.any():
            return False
        held = self.below.any(axis=1)
        best = np.stack([scores[-1][:, row].max(axis=1) for row in self.below[held]], axis=1)
        return bool(np.array_equal(best, scores[0][:, held]))

    def pairs(
        self, scores: Sequence[Floats], flagged: Sequence[Bools] | None, targets: Sequence[Bools], known: Sequence[Bools]
    ) -> Pairs:
        """Ratio of `DEFINITIONS` -> what each study (N,) adds to numerator and denominator.

        Args:
            scores, flagged, targets, known: per level (N, K_l); without `flagged`, what needs no yes or no.
        """
        answered: Pairs = {}
        if flagged is not None:
            answered |= hierarchy.hierarchical(flagged, targets, known, self.lineage)
            answered |= hierarchy.broken_paths(flagged, known, self.edges)
        return {
            **answered,
            **hierarchy.recovery(scores, targets, known, self.carried),
            **hierarchy.mistake_distance(scores[-1], targets[-1], known[-1], self.distances),
        }


def level_pairs(
    flagged: Sequence[Bools], known: Sequence[Bools], edges: Edges
) -> dict[tuple[str, str], tuple[NDArray, NDArray]]:
    """(`1-2`, ratio) -> what each study adds: how often a called child has a called parent, and the other way round."""
    found = {}
    for level, pairs in enumerate(edges):
        broken = hierarchy.broken_paths(flagged[level : level + 2], known[level : level + 2], [pairs])
        for name, opposite in (("child_has_parent", "child_without_parent"), ("parent_has_child", "parent_without_child")):
            above, below = broken[opposite]
            found[f"{level + 1}-{level + 2}", name] = (below - above, below)
    return found


def _below(counts: Sequence[int], edges: Edges) -> Bools:
    """(K_1, K) what hangs below what, from the edges between neighbouring levels."""
    found = np.eye(counts[0], dtype=bool)
    for size, pairs in zip(counts[1:], edges, strict=False):
        step = np.zeros((found.shape[1], size), dtype=bool)
        for parent, child in pairs:
            step[parent, child] = True
        found = found @ step
    return found


def tree_section(
    sums: Mapping[str, Mapping[str, Floats]],
    reference: str,
    from_children: Collection[str],
    prevalence: Mapping[str, Floats],
    frequent: Sequence[str],
) -> dict[str, Any]:
    """The section of the comparison: each method's numbers, differences to the reference, and what the most frequent class alone gives.

    Args:
        sums: method -> ratio -> numerator and denominator (2, 1 + R).
        from_children: methods whose first level is the highest score below it: their recovery is 0 by construction, which is marked.
        prevalence: ratio -> sums of answering every study with the most frequent class. frequent: that class at each level.
    """
    result: dict[str, Any] = {"definitions": {name: DEFINITIONS[name] for name in sums[reference]}}
    result["methods"] = {method: {name: _entry(name, own[name]) for name in own} for method, own in sums.items()}
    for method in from_children:
        own = result["methods"][method]
        if own.get("recovery", {}).get("value") == 0:
            own["recovery"] = {"value": 0.0, "low": None, "high": None, "structural": STRUCTURAL}
    rows = {method: {name: ratio(*own[name]) for name in own} for method, own in sums.items()}
    result["differences"] = {
        method: {
            "of": [method, reference],
            **{name: with_normal_p(row - rows[reference][name]) for name, row in own.items()},
        }
        for method, own in rows.items()
        if method != reference
    }
    if prevalence:
        told = {name: _entry(name, prevalence[name]) for name in WITHOUT_IMAGES if name in prevalence}
        result["most_frequent"] = {"classes": list(frequent), **told}
    return result


def path_section(sums: Mapping[str, Mapping[tuple[str, str], Floats]]) -> dict[str, Any]:
    """Per pair of levels and method: how often a called child has a called parent, and the other way round; sums (2, 1 + R)."""
    result: dict[str, Any] = {}
    for method, own in sums.items():
        for (pair, name), both in own.items():
            result.setdefault(pair, {}).setdefault(method, {})[name] = exact(summary(ratio(*both)), both[1, 0])
    return result


def _entry(name: str, both: Floats) -> dict[str, Any]:
    entry: dict[str, Any] = summary(ratio(*both))
    return entry if name in WHOLE else exact(entry, both[1, 0])
