"""How many labels fine-tuning needs: its macro AUC at growing shares of the labelled patients, against zero-shot's flat line.

Notable choices:
- A point counts as above a line only where the interval of their paired difference excludes zero.
- Where the curves cross is a bracket of numbers of studies that were tried, and beside it the interpolated number with an interval from
  the same resamples: of test patients only, so that another draw of training studies could move it further.
- "Labelled training studies" is not all that is labelled: both sides use the validation split, whose size is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp2l.comparison.resampling import summary, with_normal_p
from hp2l.comparison.scores import Scores
from hp2l.comparison.slices import macro_rows, resample_weights


def efficiency(
    trained: Sequence[tuple[int, Scores]],
    flat: Sequence[Scores],
    targets: Sequence[NDArray[Any]],
    known: Sequence[NDArray[Any]],
    keep: Sequence[NDArray[np.bool_]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The curve of every level.

    Args:
        trained: (labelled training studies, table) of each run; the same studies in the same order in all tables.
        flat: tables of methods that need no labels.
        targets, known, keep: per level (N, K_l), (N, K_l), (K_l,): truth, and classes that enter macro means.

    Returns:
        Level ("1", ...) with a class to measure -> `points`: `{studies, value, low, high, differences}` by number of studies,
        `differences` to each flat line with p; `flat`: method -> `{value, low, high}`; `crossing`: method -> as `crossed`;
        `validation_studies`: labelled ones, which both sides use.
    """
    first = flat[0] if flat else trained[0][1]
    split = np.array(first.split)
    test, labelled = split == "test", np.any([level.any(axis=1) for level in known], axis=0)
    weights = resample_weights(np.array(first.patient_ids)[test], resamples, seed)
    runs = sorted(trained, key=lambda entry: entry[0])
    result: dict[str, Any] = {}
    for level in range(len(targets)):
        if not keep[level].any():
            continue
        truth = targets[level][test] > 0.5, known[level][test] > 0.5, keep[level], weights
        curve = [(studies, macro_rows(table.levels[level][test], *truth)) for studies, table in runs]
        lines = {table.method: macro_rows(table.levels[level][test], *truth) for table in flat}
        points = [
            {"studies": studies}
            | summary(row)
            | {"differences": {name: with_normal_p(row - line) for name, line in lines.items()}}
            for studies, row in curve
        ]
        result[str(level + 1)] = {
            "points": points,
            "flat": {name: summary(line) for name, line in lines.items()},
            "crossing": {name: crossed(curve, points, name, line) for name, line in lines.items()},
            "validation_studies": int((labelled & (split == "val")).sum()),
        }
    return result


def crossed(
    curve: Sequence[tuple[int, NDArray[np.float64]]], points: Sequence[dict[str, Any]], name: str, line: NDArray[np.float64]
) -> dict[str, Any]:
    """Where fine-tuning overtakes a line.

    Returns:
        `above_from`: the smallest number tried from which on every point's difference has an interval above zero, None where the last
        has not; `below_to`: the number tried before it (the last where `above_from` is None), None where there is none before. `value`,
        `low`, `high`: the interpolated crossing and its interval; null is off the tried range, on the side that `sides` names
        (`before`, `within`, `after`), each in the same order.
    """
    shown = [point["differences"][name]["low"] > 0 for point in points]
    place = len(shown)
    while place and shown[place - 1]:
        place -= 1
    studies = [count for count, _ in curve]
    drawn = [crossing([(count, row[r]) for count, row in curve], line[r]) for r in range(line.size)]
    where = np.array([math.inf if found is None else found for found in drawn])
    ends = [where[0], *_quantiles(where[1:])]
    value, low, high = (float(end) if 0 < end < math.inf else None for end in ends)
    return {
        "above_from": studies[place] if place < len(studies) else None,
        "below_to": studies[place - 1] if place else None,
        "value": value,
        "low": low,
        "high": high,
        "sides": ["before" if end == 0 else "after" if end == math.inf else "within" for end in ends],
    }


def _quantiles(values: NDArray[np.float64]) -> list[float]:
    """Ends of the 95 % interval, each one of the values: there may be infinite ones."""
    ordered = np.sort(values)
    return (
        [float(ordered[min(int(share * ordered.size), ordered.size - 1)]) for share in (0.025, 0.975)]
        if values.size
        else [0.0, math.inf]
    )


def crossing(points: Sequence[tuple[float, float]], line: float) -> float | None:
    """Where a curve rises above a line for good, interpolated on a logarithmic axis; 0 where it is above from the first point on, None
    where it ends below."""
    if not points or not points[-1][1] > line:
        return None
    last = max((place for place, (_, value) in enumerate(points) if value <= line), default=None)
    if last is None:
        return 0.0
    (x0, y0), (x1, y1) = points[last], points[last + 1]
    return math.exp(math.log(x0) + (line - y0) / (y1 - y0) * (math.log(x1) - math.log(x0)))
