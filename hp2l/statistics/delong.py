"""DeLong's covariance of AUCs on the same studies, by midranks, and its form for patients with several studies.

Sources:
- DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988: the AUC as a mean of structural components, its covariance from theirs.
- Sun, Xu, IEEE Signal Processing Letters 21, 2014: the components from midranks, O(N log N).
- Obuchowski, Biometrics 53, 1997: components summed within a cluster (patient), which may hold positive and negative studies.

Shapes: N studies, P positive and Q negative, K methods, G clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from hp2l.statistics.cases import Bools, Floats

ROUNDING = 1e-12
"""A smaller standard error is a zero that was rounded."""


@dataclass(frozen=True)
class DeLong:
    """AUCs of K methods and how they vary together."""

    auc: Floats
    """(K,); NaN without both classes."""
    covariance: Floats
    """(K, K); NaN with fewer than two clusters (studies) that hold a positive, or a negative, one."""

    def interval(
        self, method: int = 0, coverage: float = 0.95, scale: Literal["logit", "plain"] = "logit"
    ) -> tuple[float, float]:
        """Interval of one method's AUC (`auc_interval`)."""
        return auc_interval(float(self.auc[method]), float(self.covariance[method, method]), coverage, scale)


class PairedTest(NamedTuple):
    """A paired comparison of two AUCs."""

    difference: float
    """Second minus first."""
    standard_error: float
    z: float
    p: float
    """Two-sided."""


def delong(target: ArrayLike, scores: ArrayLike, clusters: ArrayLike | None = None) -> DeLong:
    """AUCs and their covariance.

    Args:
        target: (N,) 1, 0, or NaN where the truth is unknown; such a study is left out.
        scores: (N, K), a column a method, or (N,) for one; ties count half. No NaN where the truth is known.
        clusters: (N,) patient of each study, of any type that can be compared; without it every study is its own.

    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    positive, table, groups = _checked(target, scores, clusters)
    above, below = components(positive, table)
    if not positive.any() or positive.all():
        return DeLong(np.full(table.shape[1], np.nan), np.full((table.shape[1],) * 2, np.nan))
    return DeLong(above.mean(axis=0), _covariance(above, below, groups[positive], groups[~positive]))


def delong_test(target: ArrayLike, first: ArrayLike, second: ArrayLike, clusters: ArrayLike | None = None) -> PairedTest:
    """Whether two methods' AUCs on the same studies differ; arguments as in `delong`, scores (N,) each.

    Two methods that rank all studies alike have difference 0, z 0 and p 1. Where the variance is zero for another reason or does
    not exist (too few positive or negative studies), z and p are NaN.
    """
    return delong_tests(target, np.column_stack([np.asarray(first), np.asarray(second)]), clusters)[0]


def delong_tests(target: ArrayLike, scores: ArrayLike, clusters: ArrayLike | None = None) -> list[PairedTest]:
    """`delong_test` of every other column of `scores` (N, K) against the first: K - 1 tests."""
    positive, table, groups = _checked(target, scores, clusters)
    others = table.shape[1] - 1
    if not positive.any() or positive.all():
        return [PairedTest(np.nan, np.nan, np.nan, np.nan)] * others
    above, below = components(positive, table)
    # Of the components, not of the covariance: what is equal cancels exactly.
    return [
        _paired(above[:, [k]] - above[:, [0]], below[:, [k]] - below[:, [0]], groups[positive], groups[~positive])
        for k in range(1, others + 1)
    ]


def _paired(above: Floats, below: Floats, groups_above: NDArray[np.intp], groups_below: NDArray[np.intp]) -> PairedTest:
    """The test of one difference from those of the components, (P, 1) and (Q, 1)."""
    difference = float(above.mean())
    error = float(np.sqrt(np.maximum(_covariance(above, below, groups_above, groups_below)[0, 0], 0)))
    if not (above.any() or below.any()):
        return PairedTest(0.0, error, 0.0, 1.0)
    z = difference / error if error > ROUNDING else np.nan
    return PairedTest(difference, error, z, float(2 * norm.sf(abs(z))))


def auc_interval(
    auc: float, variance: float, coverage: float = 0.95, scale: Literal["logit", "plain"] = "logit"
) -> tuple[float, float]:
    """Normal interval of an AUC, on the logit scale (never leaves (0, 1)) or plain, cut to [0, 1].

    On the logit scale an AUC of exactly 0 or 1 has none: (NaN, NaN). Its plain interval is a point, which claims too much.

    Raises:
        ValueError: another scale.
    """
    if scale not in ("logit", "plain"):
        raise ValueError(f"scale {scale!r}: give 'logit' or 'plain'")
    reach = norm.ppf((1 + coverage) / 2) * np.sqrt(np.maximum(variance, 0))
    if np.isnan(auc) or np.isnan(reach):
        return np.nan, np.nan
    if scale == "plain":
        return max(0.0, float(auc - reach)), min(1.0, float(auc + reach))
    if not 0 < auc < 1:
        return np.nan, np.nan
    centre, half = np.log(auc / (1 - auc)), reach / (auc * (1 - auc))
    return float(1 / (1 + np.exp(half - centre))), float(1 / (1 + np.exp(-half - centre)))


def components(positive: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Structural components (P, K) and (Q, K): for each positive study the share of negatives that it outscores, ties half; for each
    negative study the share of positives that outscore it.

    Args:
        positive: (N,) bool. scores: (N, K).
    """
    ranks, count, rest = rankdata(scores, axis=0), int(positive.sum()), int((~positive).sum())
    above = (ranks[positive] - rankdata(scores[positive], axis=0)) / max(rest, 1)
    below = 1 - (ranks[~positive] - rankdata(scores[~positive], axis=0)) / max(count, 1)
    return above, below


def _covariance(above: Floats, below: Floats, groups_above: NDArray[np.intp], groups_below: NDArray[np.intp]) -> Floats:
    """(K, K) from components (P, K), (Q, K) and the cluster number of each; with clusters of one study it is DeLong's own."""
    clusters = 1 + int(max(groups_above.max(), groups_below.max()))
    deviations = []
    for part, groups in ((above, groups_above), (below, groups_below)):
        # Their mean is the AUC, on both sides.
        sums = np.zeros((clusters, part.shape[1]))
        np.add.at(sums, groups, part - part.mean(axis=0))
        deviations.append(sums / len(part))
    holding = [len(np.unique(groups)) for groups in (groups_above, groups_below)]
    if min(holding) < 2:
        return np.full((above.shape[1],) * 2, np.nan)
    up, down = deviations
    cross = up.T @ down * (clusters / (clusters - 1))
    own = [part.T @ part * (count / (count - 1)) for part, count in zip(deviations, holding, strict=True)]
    return own[0] + own[1] + cross + cross.T


def _checked(target: ArrayLike, scores: ArrayLike, clusters: ArrayLike | None) -> tuple[Bools, Floats, NDArray[np.intp]]:
    """Truth (n,), scores (n, K) and cluster numbers (n,) of the studies whose truth is known."""
    labels, table = np.asarray(target, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    groups = np.arange(labels.size) if clusters is None else np.asarray(clusters)
    if labels.ndim != 1 or table.ndim != 2 or len(table) != labels.size or groups.shape != labels.shape:
        raise ValueError(
            f"target {labels.shape}, scores {table.shape} and clusters {groups.shape} must be (N,), (N, K) and (N,)"
        )
    known = ~np.isnan(labels)
    table = table[known]
    if np.isnan(table).any():
        raise ValueError(f"{int(np.isnan(table).sum())} of {table.size} scores are NaN")
    return labels[known] > 0.5, table, np.unique(groups[known], return_inverse=True)[1].reshape(-1)
