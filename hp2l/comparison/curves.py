"""Points for drawing: ROC curves and reliability, test split, last level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hlip import metrics
from hp2l.comparison.scores import Scores
from hp2l.comparison.truth import Truth
from hp2l.statistics.reliability import calibration_error, reliability_curve


def curves(tables: Mapping[str, Scores], truth: Truth) -> dict[str, Any]:
    """Points for drawing, test split, last level: ROC of every class, reliability over all classes in a macro mean."""
    level, test = len(truth.class_names) - 1, truth.split == "test"
    keep = truth.in_macro(level)
    result: dict[str, Any] = {"level": level + 1, "roc": {}, "reliability": {}}
    for method, scores in tables.items():
        result["roc"][method] = {}
        for k, name in enumerate(truth.class_names[level]):
            rows = test & truth.known[level][:, k]
            target = truth.targets[level][rows, k]
            if target.any() and not target.all():
                false, true = metrics.roc_curve(target, scores.levels[level][rows, k], most=60)
                result["roc"][method][name] = {"fpr": false.round(4), "tpr": true.round(4)}
        chosen = truth.known[level][test][:, keep]
        score, target = (
            scores.levels[level][test][:, keep][chosen],
            truth.targets[level][test][:, keep][chosen],
        )
        if score.size and score.min() >= 0 and score.max() <= 1:
            mean, frequency, count = reliability_curve(target, score)
            points = {"mean_score": mean, "frequency": frequency, "count": count}
            result["reliability"][method] = {
                **points,
                "ece": float(calibration_error(target, score)[0]),
            }
    return result
