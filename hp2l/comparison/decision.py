"""Decision curves for the comparison: net benefit of each method at a level, all its (study, class) pairs pooled.

Pooled, net benefit is a ratio of sums over studies, so its band comes from the same resamples as every other number; for one class
there is `hp2l.statistics.net_benefit`. Scores are taken as they are and after Platt scaling: a decision curve asks for probabilities, and
a method is not to lose by its scale alone (a temperature cannot move a score across 0.5, so that many methods would treat all).
Pooled, treating all and treating none are weak rivals: whoever knows the classes' prevalences alone treats all for the frequent ones and
none for the others. That rule is drawn beside them, and a method counts as worth something where it gains over the best of the three.

Shapes: N test studies, K classes of a level, T thresholds, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hp2l.comparison.calibrated import Stage
from hp2l.comparison.resampling import summary
from hp2l.comparison.truth import Truth
from hp2l.statistics.cases import Floats, ratio

THRESHOLDS: Floats = np.concatenate([np.arange(1, 10) / 100, np.arange(10, 100, 5) / 100])
STAGES = ("before", "platt")


def benefit_rows(score: Floats, truth: Truth, level: int) -> Floats:
    """(T, N): what each test study adds to true positives less the cost of its false alarms, over the classes of the macro mean."""
    target, judged = _judged(truth, level)
    gain = np.where(target, 1.0, -1.0)
    rows = []
    for threshold in THRESHOLDS:
        worth = np.where(target, gain, gain * threshold / (1 - threshold))
        rows.append(np.where(judged & (score >= threshold), worth, 0.0).sum(axis=1))
    return np.stack(rows)


def pair_rows(truth: Truth, level: int) -> Floats:
    """(2, N): pairs of each test study, and the positive ones among them."""
    target, judged = _judged(truth, level)
    return np.stack([judged.sum(axis=1), (target & judged).sum(axis=1)]).astype(np.float64)


def decision_section(
    benefits: Mapping[str, list[dict[str, Floats]]],
    prevalence: list[Floats],
    pairs: list[Floats],
    stages: Mapping[str, list[dict[str, Stage]]],
) -> dict[str, Any]:
    """The section of the comparison. `beyond` of a method's stage: what it gains over the best of treating all, none, and by prevalence,
    under the same resamples.

    Args:
        benefits: method -> level -> stage -> summed rows (T, 1 + R). prevalence: per level (T, 1 + R), of acting on every study of the
            classes whose validation prevalence reaches the threshold; empty without a validation study.
        pairs: per level (2, 1 + R). stages: method -> level -> stage; only for which there are.
    """
    result: dict[str, Any] = {"thresholds": THRESHOLDS, "treat_none": 0.0, "levels": {}}
    odds = THRESHOLDS / (1 - THRESHOLDS)
    for level, (total, positive) in enumerate(pairs):
        share = ratio(positive, total)
        everyone = share - odds[:, None] * (1 - share)
        entry: dict[str, Any] = {"treat_all": everyone[:, 0].round(6)}
        best = np.maximum(everyone, 0.0)
        if prevalence:
            by_class = ratio(prevalence[level], total)
            entry["treat_by_prevalence"] = by_class[:, 0].round(6)
            best = np.maximum(best, by_class)
        entry["methods"] = {
            method: {
                stage: _curves(ratio(levels[level][stage], total), best) for stage in STAGES if stage in stages[method][level]
            }
            for method, levels in benefits.items()
        }
        result["levels"][str(level + 1)] = entry
    return result


def _judged(truth: Truth, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets and counted entries (N, K) of the test split."""
    test = truth.split == "test"
    return truth.targets[level][test], truth.known[level][test] & truth.in_macro(level)


def _curves(rows: Floats, best: Floats) -> dict[str, Any]:
    return {**_curve(rows), "beyond": _curve(rows - best)}


def _curve(rows: Floats) -> dict[str, list[float]]:
    entries = [summary(row) for row in rows]
    return {key: [round(entry[key], 6) for entry in entries] for key in ("value", "low", "high")}
