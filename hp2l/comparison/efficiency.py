"""How many labels fine-tuning needs: its macro AUC at growing shares of the labelled patients, against zero-shot's flat line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp2l.comparison.resampling import summary
from hp2l.comparison.scores import Scores
from hp2l.comparison.slices import macro_rows, resample_weights


def efficiency(
    trained: Sequence[tuple[int, Scores]],
    flat: Sequence[Scores],
    targets: Sequence[NDArray[Any]],
    known: Sequence[NDArray[Any]],
    keep: Sequence[NDArray[np.bool_]],
    *,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """The curve of every level.

    Args:
        trained: (labelled training studies, table) of each run; the same studies in the same order in all tables.
        flat: tables of methods that need no labels.
        targets, known, keep: per level (N, K_l), (N, K_l), (K_l,): truth, and classes that enter macro means.

    Returns:
        Level ("1", ...) -> `points`: `{studies, value, low, high}` by number of studies; `flat`: method -> `{value, low, high}`;
        `crossing`: method -> number of studies from which fine-tuning stays above it, interpolated on a logarithmic axis; 0 where it
        is above from the first point on, None where it ends below.
    """
    first = flat[0] if flat else trained[0][1]
    test = np.array(first.split) == "test"
    weights = resample_weights(np.array(first.patient_ids)[test], resamples, seed)
    result: dict[str, Any] = {}
    for level in range(len(targets)):
        truth = targets[level][test] > 0.5, known[level][test] > 0.5, keep[level], weights
        points = [
            {"studies": studies} | summary(macro_rows(table.levels[level][test], *truth))
            for studies, table in sorted(trained, key=lambda entry: entry[0])
        ]
        lines = {table.method: summary(macro_rows(table.levels[level][test], *truth)) for table in flat}
        crossings = {
            name: crossing([(p["studies"], p["value"]) for p in points], line["value"]) for name, line in lines.items()
        }
        result[str(level + 1)] = {"points": points, "flat": lines, "crossing": crossings}
    return result


def crossing(points: Sequence[tuple[float, float]], line: float) -> float | None:
    """Where a curve rises above a line for good; see `efficiency`."""
    if not points or not points[-1][1] > line:
        return None
    last = max((place for place, (_, value) in enumerate(points) if value <= line), default=None)
    if last is None:
        return 0.0
    (x0, y0), (x1, y1) = points[last], points[last + 1]
    return math.exp(math.log(x0) + (line - y0) / (y1 - y0) * (math.log(x1) - math.log(x0)))
