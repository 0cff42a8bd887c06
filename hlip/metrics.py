"""Numbers for diagnoses and retrieval: NumPy and SciPy, checked against scikit-learn and by hand.

Notable choices:
- A study is positive at `score >= threshold`; balanced accuracy is (sensitivity + specificity) / 2.
- The bootstrap draws patients, not studies: two studies of one patient are not independent evidence.
- A resample is a column of whole-number weights. Scores are sorted once a class (`Ranking`, in `hlip.ranking`).
- A number that does not exist (an AUC without a positive) is NaN, never 0.5 and never silently dropped.

Shapes: N studies, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlip.ranking import Floats, Weights, checked, ratio
from hlip.ranking import Ranking as Ranking

# --- ranking: AUC and average precision ------------------------------------------------------------------------------


def _column(weight: ArrayLike | None, studies: int) -> Floats:
    return np.ones((studies, 1)) if weight is None else np.asarray(weight, dtype=np.float64)[:, None]


def roc_auc(target: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the ROC curve (Mann-Whitney, ties count half); (N,) each; NaN unless both classes have weight."""
    return float(Ranking.of(target, score).areas(_column(weight, np.size(target)))[0][0])


def class_aucs(target: ArrayLike, known: ArrayLike, score: ArrayLike) -> Floats:
    """(K,) ROC AUC of each class among its known studies; NaN where there is no positive or no negative.

    Args:
        target, known, score: (N, K); a study counts for a class where `known` is above zero.
    """
    target, known, score = np.asarray(target) > 0, np.asarray(known) > 0, np.asarray(score)
    columns = zip(target.T, known.T, score.T, strict=True)
    return np.array([roc_auc(positive[rows], values[rows]) for positive, rows, values in columns])


def average_precision(target: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Average precision as scikit-learn defines it; (N,) each; NaN unless both classes have weight."""
    return float(Ranking.of(target, score).areas(_column(weight, np.size(target)))[1][0])


def roc_curve(target: ArrayLike, score: ArrayLike, most: int = 80) -> tuple[Floats, Floats]:
    """False and true positive rates from (0, 0) to (1, 1) for drawing: corners only, and at most `most` of them."""
    truth, values = checked(target, score)
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(values[order])), truth.size - 1)
    true = np.append(0.0, np.cumsum(truth[order])[last_of_tie] / max(truth.sum(), 1))
    false = np.append(0.0, np.cumsum(~truth[order])[last_of_tie] / max((~truth).sum(), 1))
    flat = (np.diff(true[:-1]) == 0) & (np.diff(true[1:]) == 0)
    steep = (np.diff(false[:-1]) == 0) & (np.diff(false[1:]) == 0)
    corner = np.concatenate([[True], ~(flat | steep), [True]])
    true, false = true[corner], false[corner]
    if true.size > most:
        kept = np.unique(np.linspace(0, true.size - 1, most).round().astype(int))
        true, false = true[kept], false[kept]
    return false, true


# --- thresholds ------------------------------------------------------------------------------------------------------


def rates(target: ArrayLike, flagged: ArrayLike, weight: ArrayLike | None = None) -> tuple[float, float]:
    """Sensitivity and specificity of yes / no answers, (N,) each; NaN where no study of that kind exists."""
    truth, answer = np.asarray(target).astype(bool), np.asarray(flagged).astype(bool)
    mass = np.ones(truth.size) if weight is None else np.asarray(weight, dtype=np.float64)
    sensitivity = ratio(mass[truth & answer].sum(), mass[truth].sum())
    specificity = ratio(mass[~truth & ~answer].sum(), mass[~truth].sum())
    return float(sensitivity), float(specificity)


def balanced_accuracy(target: ArrayLike, score: ArrayLike, threshold: float, weight: ArrayLike | None = None) -> float:
    """(sensitivity + specificity) / 2 at `score >= threshold`; NaN unless both classes have weight."""
    truth, values = checked(target, score)
    return float(np.mean(rates(truth, values >= threshold, weight)))


def best_threshold(target: ArrayLike, score: ArrayLike) -> tuple[float, float]:
    """The threshold of highest balanced accuracy, and that balanced accuracy: for the validation split only.

    Candidates are the midpoints between neighbouring scores (and the lowest score: flag everything); among equals the
    lowest, which is the more sensitive. Returns (NaN, NaN) unless both classes are present.
    """
    truth, values = checked(target, score)
    if truth.all() or not truth.any():
        return float("nan"), float("nan")
    order = np.argsort(values, kind="stable")
    levels, start = np.unique(values[order], return_index=True)
    missed = np.append(0, np.cumsum(truth[order]))[start] / truth.sum()
    spared = np.append(0, np.cumsum(~truth[order]))[start] / (~truth).sum()
    quality = (1 - missed + spared) / 2
    best = int(np.argmax(np.round(quality, 12)))  # rounding: equal fractions must compare equal
    threshold = levels[0] if best == 0 else (levels[best - 1] + levels[best]) / 2
    if best and threshold <= levels[best - 1]:  # two neighbouring floats have no midpoint
        threshold = levels[best]
    return float(threshold), float(quality[best])


def weighted_rates(target: ArrayLike, flagged: ArrayLike, known: ArrayLike, weight: Weights) -> tuple[Floats, Floats]:
    """Sensitivity and specificity of K classes under R weightings: (N, K) x 3, (N, R) -> two (K, R)."""
    truth, answer, valid = (np.asarray(x).astype(bool) for x in (target, flagged, known))

    def total(chosen: NDArray[np.bool_]) -> Floats:
        return (chosen.astype(weight.dtype).T @ weight).astype(np.float64)

    sensitivity = ratio(total(truth & answer & valid), total(truth & valid))
    specificity = ratio(total(~truth & ~answer & valid), total(~truth & valid))
    return sensitivity, specificity


def macro(values: ArrayLike, keep: ArrayLike | None = None) -> Floats:
    """Mean over classes: (K,) or (K, R) -> scalar or (R,); NaN entries are left out, NaN where nothing is left."""
    table = np.asarray(values, dtype=np.float64)
    table = table if keep is None else table[np.asarray(keep, dtype=bool)]
    present = ~np.isnan(table)
    return ratio(np.where(present, table, 0.0).sum(axis=0), present.sum(axis=0))


# --- bootstrap over patients -----------------------------------------------------------------------------------------


def patient_bootstrap(patient_ids: Sequence[str], resamples: int, seed: int, block: int = 128) -> Iterator[Weights]:
    """Weights of resamples in blocks (N, <= block) float32: how often each study's patient was drawn.

    As many patients are drawn, with replacement, as there are; the draws depend on `seed` alone, not on `block`.
    """
    patients, index = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    generator, count = np.random.default_rng(seed), patients.size
    for start in range(0, resamples, block):
        width = min(block, resamples - start)
        drawn = np.empty((count, width), dtype=np.float32)
        for column in range(width):
            drawn[:, column] = np.bincount(generator.integers(count, size=count), minlength=count)
        yield drawn[index]


def interval(samples: ArrayLike, coverage: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap samples (R,); NaN samples are left out; (NaN, NaN) if none is left."""
    values = np.asarray(samples, dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def bootstrap_p(differences: ArrayLike) -> float:
    """Two-sided p-value of a paired difference from its bootstrap samples (R,): 2 min(P(d <= 0), P(d >= 0)).

    One is added to count and total, so p is never below 2 / (R + 1); NaN samples are left out.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return float("nan")
    rarer = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (values.size + 1))


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjusted p-values (K,); NaN stays NaN and does not count as a comparison."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    scaled = p[order] * np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


# --- retrieval -------------------------------------------------------------------------------------------------------


def recall_at_k(similarity: ArrayLike, k: int, match: ArrayLike | None = None) -> float:
    """Share of queries with a match among their k best candidates: similarity (Q, M), match (Q, M) bool or the diagonal.

    A candidate that ties with the match is counted before it, so a constant similarity earns nothing. Queries without any
    match are left out; NaN if none is left.
    """
    table = np.asarray(similarity, dtype=np.float64)
    correct: NDArray[np.bool_] = np.asarray(np.eye(*table.shape) if match is None else match).astype(bool)
    if correct.shape != table.shape:
        raise ValueError(f"similarity {table.shape} and match {correct.shape} must have one shape")
    asked = correct.any(axis=1)
    best = np.where(correct, table, -np.inf).max(axis=1, keepdims=True)
    ahead = ((table >= best) & ~correct).sum(axis=1)
    return float(np.mean(ahead[asked] < k)) if asked.any() else float("nan")
