"""Decision curves of single classes: net benefit at each threshold, as it is, without bands.

Shapes: N test studies, K classes of a level, T thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hp2l.comparison.calibrated import Stage
from hp2l.comparison.decision import STAGES, THRESHOLDS
from hp2l.comparison.truth import Truth
from hp2l.statistics.cases import Floats, masked
from hp2l.statistics.net_benefit import net_benefit, treat_all


def class_decisions(stages: Mapping[str, list[dict[str, Stage]]], truth: Truth) -> dict[str, Any]:
    """Level ("1", ...) -> class of its macro mean -> `{treat_all: (T,), methods: {method: (T,)}}`, of each method's last stage among
    `STAGES`; methods whose scores are no probabilities are absent.

    Args:
        stages: method -> level -> stage (N, K).
    """
    test = truth.split == "test"
    found: dict[str, Any] = {}
    for level, names in enumerate(truth.class_names):
        labels = masked(truth.targets[level], truth.known[level])[test]
        scores = {method: levels[level][stage].score for method, levels in stages.items() if (stage := _last(levels[level]))}
        found[str(level + 1)] = {
            name: {
                "treat_all": _row(treat_all(labels[:, k], THRESHOLDS)),
                "methods": {
                    method: _row(net_benefit(labels[:, k], score[:, k], THRESHOLDS)) for method, score in scores.items()
                },
            }
            for k, (name, counted) in enumerate(zip(names, truth.in_macro(level), strict=True))
            if counted and scores
        }
    return found


def _last(stages: Mapping[str, Stage]) -> str | None:
    return next((stage for stage in reversed(STAGES) if stage in stages), None)


def _row(benefit: Floats) -> list[float]:
    return np.round(benefit[:, 0], 6).tolist()
