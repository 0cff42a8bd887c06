"""Every metric of every class in the test split, for the cohort itself and for resamples of its patients.

All methods see the same resamples, so that differences are paired. Shapes: N studies, K classes of a level, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip import metrics
from hp2l.scores import Scores
from hp2l.truth import Truth

Samples = dict[str, NDArray[np.float64]]  # metric -> (K, 1 + R): column 0 is the value itself, the others its resamples
Edges = Sequence[Sequence[tuple[int, int]]]

METRICS = ("auc", "average_precision", "balanced_accuracy", "sensitivity", "specificity")


def bootstrap(
    tables: Mapping[str, Scores],
    truth: Truth,
    limits: Mapping[str, list[NDArray[np.float64]]],
    edges: Edges | None,
    resamples: int,
    seed: int,
) -> tuple[dict[str, list[Samples]], dict[str, Any]]:
    """All metrics of all classes, and path consistency, in the test split: values and resamples of every method."""
    rows = np.flatnonzero(truth.split == "test")
    scores = {name: [table[rows] for table in tables[name].levels] for name in tables}
    flagged = {name: [s >= limit for s, limit in zip(scores[name], limits[name], strict=True)] for name in tables}
    positive, known = [t[rows] for t in truth.targets], [m[rows] for m in truth.known]
    rankings = {
        name: [
            [metrics.Ranking.of(positive[i][:, k], level[:, k], known[i][:, k]) for k in range(level.shape[1])]
            for i, level in enumerate(scores[name])
        ]
        for name in tables
    }
    paths = {name: _path_counts(flagged[name], known, edges or []) for name in tables}
    samples = {name: [{m: np.empty((p.shape[1], 1 + resamples)) for m in METRICS} for p in positive] for name in tables}
    path_sums = {name: [np.empty((4, 1 + resamples)) for _ in paths[name]] for name in tables}
    column = 0
    for weight in _weights(truth.patients[rows], resamples, seed):
        block = slice(column, column := column + weight.shape[1])
        for name in tables:
            for i, table in enumerate(samples[name]):
                for k, ranking in enumerate(rankings[name][i]):
                    table["auc"][k, block], table["average_precision"][k, block] = ranking.areas(weight)
                both = metrics.weighted_rates(positive[i], flagged[name][i], known[i], weight)
                table["sensitivity"][:, block], table["specificity"][:, block] = both
                table["balanced_accuracy"][:, block] = (both[0] + both[1]) / 2
            for i, counts in enumerate(paths[name]):
                path_sums[name][i][:, block] = counts @ weight
    return samples, _hierarchy(path_sums)


def _weights(patients: NDArray[np.str_], resamples: int, seed: int) -> Iterator[NDArray[np.floating]]:
    """First the cohort itself (weight 1 each), then its resamples, in blocks (N, <= 128)."""
    yield np.ones((len(patients), 1), dtype=np.float32)
    yield from metrics.patient_bootstrap(list(patients), resamples, seed)


def _path_counts(flagged: list[NDArray], known: list[NDArray], edges: Edges) -> list[NDArray[np.float32]]:
    """Per pair of levels (4, N): flagged children, those with a flagged parent, flagged parents, those with a flagged child.

    Only answers that the truth can judge are counted: parent and child both known.
    """
    found = []
    for level, pairs in enumerate(edges):
        parent, child = (np.array(side, dtype=int) for side in zip(*pairs, strict=True))
        valid = known[level][:, parent] & known[level + 1][:, child]
        up, down = flagged[level][:, parent] & valid, flagged[level + 1][:, child] & valid
        has_child = np.stack([(up & down)[:, parent == p].any(axis=1) for p in np.unique(parent)])
        is_parent = np.stack([up[:, parent == p].any(axis=1) for p in np.unique(parent)])
        rows = [down.sum(1), (up & down).sum(1), is_parent.sum(0), has_child.sum(0)]
        found.append(np.stack(rows).astype(np.float32))
    return found


def _hierarchy(path_sums: Mapping[str, list[NDArray]]) -> dict[str, Any]:
    """Per pair of levels and method: how often a flagged child has a flagged parent, and the other way round."""
    result: dict[str, Any] = {}
    for name, levels in path_sums.items():
        for level, (children, kept, parents, led) in enumerate(levels, start=1):
            with np.errstate(invalid="ignore", divide="ignore"):
                up, down = kept / children, led / parents
            entry = {"child_has_parent": summary(up), "parent_has_child": summary(down)}
            result.setdefault(f"{level}-{level + 1}", {})[name] = entry
    return result


def summary(row: NDArray[np.float64], paired: bool = False) -> dict[str, float]:
    """{value, low, high} of one number (1 + R,); with the p-value of being zero if it is a paired difference."""
    low, high = metrics.interval(row[1:])
    known = not np.isnan(row[0])
    entry = {"value": float(row[0]), "low": low if known else np.nan, "high": high if known else np.nan}
    return {**entry, "p": metrics.bootstrap_p(row[1:]) if known else np.nan} if paired else entry
