"""Scores made to mean what they say: calibration fitted on one split and applied to another, a class at a time.

- `temperature`: sigmoid(logit(score) / T). Guo et al., ICML 2017, a class at a time.
- `platt`: sigmoid(logit(score) / T + b). Platt, 1999, on the logit of the score, to his targets: (n+ + 1) / (n+ + 2) for the n+ positive
  studies, 1 / (n- + 2) for the others, so that a few studies that the scores part entirely do not make every later score 0 or 1.
- `isotonic`: the nondecreasing step function of least squares (scikit-learn), which ties scores. Zadrozny, Elkan, KDD 2002.

The first two keep the order of a class's scores, so its AUC; they minimise the negative log-likelihood (of these targets), which is
convex in (1 / T, b).
A class with fewer than `minimum` positive or negative studies to fit on gets one temperature of all classes of the level, fitted on
their known entries together; with `platt`, the slope that all classes share and a bias of its own, at which its mean score is its share
of positives, (positives + 1/2) / (studies + 1). If the level's entries are as few, scores stay as they are. What was done is part of the
answer.

Shapes: N studies, K classes of a level.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, logit

from hp2l.statistics.cases import Bools, Floats, cases

if TYPE_CHECKING:  # scikit-learn takes a second to import, and every checkpoint comes by here
    from sklearn.isotonic import IsotonicRegression

Method = Literal["temperature", "platt", "isotonic"]
MINIMUM = 5
HOTTEST = 100.0
"""The temperature lies between 1 / HOTTEST and HOTTEST, the bias between -HOTTEST and HOTTEST: scores that separate the classes
(of a temperature), or rank them the wrong way round, have no optimum."""
SMALLEST = 1e-12
"""Scores are moved this far from 0 and 1 before their logit is taken."""


@dataclass(frozen=True)
class Rule:
    """What is done to one class's scores."""

    method: str
    """`temperature`, `platt`, `isotonic`, `pooled temperature` or `pooled platt` (of the level, for want of studies) or `none`."""
    temperature: float = 1.0
    bias: float = 0.0
    at_limit: bool = False
    """Whether temperature or bias ran into the end of its range: the scores separate the classes, or mislead."""
    positives: int = 0
    """Positive studies of this class in the split that was fitted on."""
    negatives: int = 0
    steps: IsotonicRegression | None = None

    def apply(self, score: ArrayLike) -> Floats:
        """Calibrated scores, of any shape; a NaN stays NaN."""
        values = np.asarray(score, dtype=np.float64)
        if self.method == "none":
            return values
        if self.steps is not None:
            known = ~np.isnan(values)
            result = np.full(values.shape, np.nan)
            if known.any():
                result[known] = self.steps.predict(values[known])
            return result
        return expit(logits(values) / self.temperature + self.bias)

    def summary(self) -> dict[str, Any]:
        """For a report: everything but the step function."""
        return {name: value for name, value in asdict(self).items() if name != "steps"}


class Calibrated(NamedTuple):
    """Calibrated scores and what was done."""

    scores: Floats
    """(N, K)"""
    rules: list[Rule]
    """One a class."""


def calibrate(
    target: ArrayLike, score: ArrayLike, applied_to: ArrayLike, method: Method = "temperature", minimum: int = MINIMUM
) -> Calibrated:
    """Fit on one split's studies (validation), apply to another's (test).

    Args:
        target, score: (N, K) of the split to fit on; the truth is 1, 0, or NaN where it is unknown, scores are probabilities.
        applied_to: (M, K) scores.

    Raises:
        ValueError: as `fit`.
    """
    rules, table = fit(target, score, method, minimum), np.asarray(applied_to, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(rules):
        raise ValueError(f"scores to calibrate {table.shape} must be (studies, {len(rules)}), as the ones fitted on")
    return Calibrated(np.column_stack([rule.apply(column) for rule, column in zip(rules, table.T, strict=True)]), rules)


def fit(target: ArrayLike, score: ArrayLike, method: Method = "temperature", minimum: int = MINIMUM) -> list[Rule]:
    """One rule a class; arguments as in `calibrate`.

    Raises:
        ValueError: an unknown method, shapes that differ, or a score that is no probability.
    """
    if method not in get_args(Method):
        raise ValueError(f"method {method!r}: give one of {', '.join(get_args(Method))}")
    labels, table = np.asarray(target, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if labels.ndim != 2 or labels.shape != table.shape:
        raise ValueError(f"target {labels.shape} and score {table.shape} must both be (N, K)")
    pooled = _pooled(labels, table, minimum, method)
    rules = []
    for column, values in zip(labels.T, table.T, strict=True):
        truth, kept, _ = cases(column, values, probability=True)
        enough, counts = _enough(truth, minimum)
        rule = _of_class(truth, kept, method) if enough else _own_bias(pooled, truth, kept)
        rules.append(replace(rule, **counts))
    return rules


def logits(score: ArrayLike) -> Floats:
    """Log odds of probabilities, finite also for 0 and 1."""
    return logit(np.clip(np.asarray(score, dtype=np.float64), SMALLEST, 1 - SMALLEST))


def _enough(truth: Bools, minimum: int) -> tuple[bool, dict[str, Any]]:
    positives = int(truth.sum())
    counts = {"positives": positives, "negatives": truth.size - positives}
    return min(counts.values()) >= max(minimum, 1), counts


def _pooled(labels: Floats, table: Floats, minimum: int, method: Method) -> Rule:
    """The rule of classes with too few studies. No bias: the classes' prevalences differ (see `_own_bias`)."""
    truth, values, _ = cases(labels.ravel(), table.ravel(), probability=True)
    if not _enough(truth, minimum)[0]:
        return Rule("none")
    if method == "platt":
        heat, _, limit = _platt(truth, logits(values))
        return Rule("pooled platt", heat, 0.0, limit)
    return Rule("pooled temperature", *_temperature(truth, logits(values)))


def _own_bias(pooled: Rule, truth: Bools, score: Floats) -> Rule:
    """A shared slope with the bias at which a class's mean score is its smoothed share of positives; other rules as they are."""
    if pooled.method != "pooled platt" or not truth.size:
        return pooled
    at, share = logits(score) / pooled.temperature, (truth.sum() + 0.5) / (truth.size + 1)
    reach = HOTTEST + float(np.abs(at).max())
    return replace(pooled, bias=float(brentq(lambda bias: expit(at + bias).mean() - share, -reach, reach)))


def _of_class(truth: Bools, score: Floats, method: Method) -> Rule:
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score, truth.astype(np.float64))
        return Rule(method, steps=steps)
    return Rule(method, *(_temperature if method == "temperature" else _platt)(truth, logits(score)))


def _loss(truth: Bools, at: Floats) -> float:
    """Mean negative log-likelihood of log odds (N,)."""
    return float(np.logaddexp(0.0, np.where(truth, -at, at)).mean())


def _temperature(truth: Bools, at: Floats) -> tuple[float, float, bool]:
    """Temperature, bias 0, and whether the temperature is at its limit."""
    end = np.log(HOTTEST)
    best = minimize_scalar(
        lambda t: _loss(truth, at * np.exp(-t)), bounds=(-end, end), method="bounded", options={"xatol": 1e-8}
    )
    return float(np.exp(best.x)), 0.0, bool(abs(best.x) > end - 1e-4)


def _platt(truth: Bools, at: Floats) -> tuple[float, float, bool]:
    """Temperature, bias, and whether one is at its limit.

    To Platt's own targets (1999, sec. 2.2), (n+ + 1) / (n+ + 2) and 1 / (n- + 2): few studies that the scores part entirely would otherwise
    call for a slope without end, and every new score become 0 or 1.
    """

    soft = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))

    def loss(x: Floats) -> float:
        given = x[0] * at + x[1]
        return float((np.logaddexp(0.0, given) - soft * given).mean())

    def slope_of_loss(x: Floats) -> Floats:
        error = expit(x[0] * at + x[1]) - soft
        return np.array([(error * at).mean(), error.mean()])

    bounds = [(1 / HOTTEST, HOTTEST), (-HOTTEST, HOTTEST)]
    start = np.array([1 / _temperature(truth, at)[0], 0.0])
    best = minimize(loss, start, jac=slope_of_loss, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-10})
    slope, bias = (float(x) for x in best.x)
    limit = not bounds[0][0] * 1.0001 < slope < HOTTEST / 1.0001 or abs(bias) > HOTTEST / 1.0001
    return 1 / slope, bias, limit
