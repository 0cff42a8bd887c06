"""Numbers of a diagnoser that has to answer yes or no: sensitivity at a fixed specificity, predictive values, F1.

Two sensitivities at, say, 95 % specificity:
- As used: the threshold is the lowest that spares 95 % of the validation split's negatives (`threshold_at_specificity`), and the
  sensitivity is that of the test split at it (`answers`). The test split's specificity may then differ from 95 %.
- Of the ROC curve (`sensitivity_at_specificity`): the best sensitivity among thresholds that spare at least 95 % of the same studies'
  negatives. No interpolation between points of the curve. It chooses its threshold on the test split, and again in every resample.

A column of weights without a positive study gives NaN. Shapes: N studies, K classes, R resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlip.metrics import Ranking
from hp2l.statistics.cases import Bools, Floats, cases, ratio

ANSWERS = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value", "f1")


def threshold_at_specificity(target: ArrayLike, score: ArrayLike, specificity: float = 0.95) -> float:
    """The lowest threshold that spares this share of negatives: for the validation split only.

    It lies midway between the last negative that must be spared and the next higher score of any study; just above that negative
    where none is higher. Needs no positive study; NaN without a negative one.

    Args:
        target, score: (N,), truth NaN where unknown.
    """
    given = cases(target, score)
    negatives = np.sort(given.score[~given.truth])
    if not negatives.size:
        return np.nan
    spared = int(np.ceil(specificity * negatives.size - 1e-9))  # 0.95 * 20 may come out above 19
    if not spared:
        return float(given.score.min())
    last = negatives[spared - 1]
    higher = given.score[given.score > last]
    threshold = (last + higher.min()) / 2 if higher.size else np.nextafter(last, np.inf)
    return float(threshold if threshold > last else higher.min())  # two neighbouring floats have no midpoint


def sensitivity_at_specificity(
    target: ArrayLike, score: ArrayLike, specificity: float = 0.95, weight: ArrayLike | None = None
) -> Floats:
    """Sensitivity (R,) of the ROC curve at a specificity of at least `specificity`; NaN without both classes.

    Args:
        target, score: (N,), truth NaN where unknown. weight: (N, R).
    """
    given = cases(target, score, weight)
    return ranked_sensitivity(Ranking.of(given.truth, given.score), given.weight, specificity)


def ranked_sensitivity(ranking: Ranking, weight: NDArray[np.floating], specificity: float = 0.95) -> Floats:
    """`sensitivity_at_specificity` of studies that are ranked already: (N, R) -> (R,)."""
    positives, negatives = (_running(weight[rows]) for rows in (ranking.positive, ranking.negative))
    # Only a threshold at a positive study's score can be best, or one above all scores.
    spared = np.append(negatives[ranking.below], negatives[-1:], axis=0)
    missed = np.append(positives[ranking.first], positives[-1:], axis=0)
    lowest = (spared >= specificity * negatives[-1] - 1e-9 * negatives[-1]).argmax(axis=0)
    sensitivity = 1 - ratio(missed[lowest, np.arange(weight.shape[1])], positives[-1])
    return np.where(negatives[-1] > 0, sensitivity, np.nan)


def answers(target: ArrayLike, flagged: ArrayLike, known: ArrayLike, weight: NDArray[np.floating]) -> dict[str, Floats]:
    """`ANSWERS` of K classes under R weightings, (K, R) each.

    A predictive value is NaN also where no study is flagged (positive) or all are (negative); F1 is then 0.

    Args:
        target, flagged, known: (N, K), above zero where so. weight: (N, R).
    """
    truth, answer, valid = (np.asarray(table) > 0 for table in (target, flagged, known))

    def total(chosen: Bools) -> Floats:
        return (chosen & valid).astype(np.float64).T @ weight

    found, missed, alarms, spared = (
        total(truth & answer),
        total(truth & ~answer),
        total(~truth & answer),
        total(~truth & ~answer),
    )
    table = {
        "sensitivity": ratio(found, found + missed),
        "specificity": ratio(spared, spared + alarms),
        "positive_predictive_value": ratio(found, found + alarms),
        "negative_predictive_value": ratio(spared, spared + missed),
        "f1": ratio(2 * found, 2 * found + missed + alarms),
    }
    return {name: np.where(found + missed > 0, values, np.nan) for name, values in table.items()}


def _running(values: NDArray[np.floating]) -> Floats:
    """Running sums down the rows with a first row of zeros: (n, R) -> (n + 1, R)."""
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    return sums
