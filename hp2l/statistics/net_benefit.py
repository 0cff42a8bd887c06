"""Decision curves: what acting on a score gains, in true positives a study, at every threshold probability.

Net benefit at threshold t is TP / N - FP / N * t / (1 - t): a false alarm costs t / (1 - t) of a finding (Vickers, Elkin, Medical
Decision Making 26, 2006). Treating no one gains 0; whoever acts at t should gain more than that and than treating everyone.

Shapes: N studies, T thresholds, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hlip.metrics import interval
from hp2l.statistics.cases import Floats, cases, ratio

GRID: Floats = np.arange(1, 100) / 100
"""Threshold probabilities from 1 % to 99 %."""


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit over threshold probabilities; every array is (T,), NaN for a class without a positive study."""

    thresholds: Floats
    model: Floats
    treat_all: Floats
    treat_none: Floats
    low: Floats
    """Band of `model`; NaN without resamples."""
    high: Floats


def net_benefit(target: ArrayLike, score: ArrayLike, thresholds: ArrayLike = GRID, weight: ArrayLike | None = None) -> Floats:
    """Net benefit (T, R) of acting at `score >= threshold`.

    Args:
        target: (N,) 1, 0, or NaN where the truth is unknown. score: (N,) probabilities.
        thresholds: (T,) in [0, 1). weight: (N, R); a column without a positive study gives NaN.

    Raises:
        ValueError: a score or a threshold is out of range.
    """
    given, odds = cases(target, score, weight, probability=True), _odds(thresholds)
    flagged = given.score >= np.asarray(thresholds, dtype=np.float64)[:, None]
    found = (flagged & given.truth).astype(np.float64) @ given.weight
    alarms = (flagged & ~given.truth).astype(np.float64) @ given.weight
    return ratio(found - odds[:, None] * alarms, given.total)


def treat_all(target: ArrayLike, thresholds: ArrayLike = GRID, weight: ArrayLike | None = None) -> Floats:
    """Net benefit (T, R) of acting on every study; arguments as in `net_benefit`."""
    return net_benefit(target, np.ones(np.shape(target)), thresholds, weight)


def decision_curve(
    target: ArrayLike,
    score: ArrayLike,
    thresholds: ArrayLike = GRID,
    weight: ArrayLike | None = None,
    coverage: float = 0.95,
) -> DecisionCurve:
    """Net benefit of the scores, with its pointwise band from resamples `weight` (N, R), beside treating all and none."""
    model, everyone = net_benefit(target, score, thresholds)[:, 0], treat_all(target, thresholds)[:, 0]
    band = np.full((model.size, 2), np.nan)
    if weight is not None:
        band = np.array([interval(row, coverage) for row in net_benefit(target, score, thresholds, weight)]).reshape(-1, 2)
    nothing = np.where(np.isnan(everyone), np.nan, 0.0)
    return DecisionCurve(np.asarray(thresholds, dtype=np.float64), model, everyone, nothing, band[:, 0], band[:, 1])


def _odds(thresholds: ArrayLike) -> Floats:
    values = np.asarray(thresholds, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values < 1)).all():
        raise ValueError("thresholds must be (T,) probabilities in [0, 1): at 1 a false alarm costs infinitely much")
    return values / (1 - values)
