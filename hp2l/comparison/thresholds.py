"""Where a score becomes a yes: thresholds from the validation split, a method and a class at a time.

Shapes: K classes of a level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlip import metrics
from hp2l.comparison.scores import Scores
from hp2l.comparison.truth import Truth
from hp2l.statistics.cases import masked
from hp2l.statistics.operating import threshold_at_specificity

SPECIFICITY = 0.95
"""At which sensitivity is reported."""


@dataclass(frozen=True)
class Thresholds:
    """One method's thresholds at one level."""

    balanced: NDArray[np.float64]
    """(K,) of best balanced accuracy; all NaN without a labelled validation study, else never NaN."""
    rules: list[str]
    """How each of `balanced` was found."""
    specific: NDArray[np.float64]
    """(K,) at specificity `SPECIFICITY`; NaN without a negative validation study."""


def thresholds(method: str, scores: Scores, truth: Truth, notes: list[str]) -> list[Thresholds]:
    """One entry a level; whatever is not the plain rule is added to `notes`."""
    if truth.validation == 0:
        nothing = [np.full(len(names), np.nan) for names in truth.class_names]
        return [Thresholds(none, ["no validation split"] * none.size, none) for none in nothing]
    found = []
    for level, names in enumerate(truth.class_names):
        pairs = [_balanced(method, scores, truth, level, k, notes) for k in range(len(names))]
        validation = truth.split == "val"
        labels = masked(truth.targets[level], truth.known[level])[validation]
        columns = zip(labels.T, scores.levels[level][validation].T, strict=True)
        specific = np.array([threshold_at_specificity(label, score, SPECIFICITY) for label, score in columns])
        for k in np.flatnonzero(np.isnan(specific)).tolist():
            notes.append(
                f"{method}, level {level + 1}, {names[k]}: no negative validation study, so no sensitivity at {100 * SPECIFICITY:.0f} % "
                "specificity."
            )
        found.append(Thresholds(np.array([pair[0] for pair in pairs]), [pair[1] for pair in pairs], specific))
    return found


def _balanced(method: str, scores: Scores, truth: Truth, level: int, k: int, notes: list[str]) -> tuple[float, str]:
    """(threshold, rule) of one class."""
    rows = (truth.split == "val") & truth.known[level][:, k]
    target, score = truth.targets[level][rows, k], scores.levels[level][rows, k]
    threshold, _ = metrics.best_threshold(target, score)
    if not np.isnan(threshold):
        return threshold, "validation"
    share = np.nan if truth.prevalence is None else truth.prevalence[level][k]
    threshold, rule = 0.5, "0.5"
    if np.isfinite(share) and score.size:
        threshold = float(np.quantile(score, 1 - share))
        rule = "validation scores' quantile at the training prevalence"
    lack = "positive" if not target.any() else "negative"
    name = truth.class_names[level][k]
    notes.append(f"{method}, level {level + 1}, {name}: no {lack} study for the threshold; rule used: {rule}.")
    return threshold, rule
