"""One level of the comparison: macro numbers and classes of every method, and their differences to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hp2l.comparison.measured import METRICS, Measured, Samples, macros
from hp2l.comparison.paired import level_differences, with_differences
from hp2l.comparison.resampling import exact, summary
from hp2l.comparison.scores import Scores
from hp2l.comparison.thresholds import Thresholds
from hp2l.comparison.truth import Truth, left_out
from hp2l.statistics.reliability import brier, calibration_error


def level_section(
    level: int,
    name: str,
    tables: Mapping[str, Scores],
    truth: Truth,
    limits: Mapping[str, Sequence[Thresholds]],
    measured: Measured,
    reference: str,
) -> dict[str, Any]:
    """Everything about one level (from 0)."""
    keep, names = truth.in_macro(level), truth.class_names[level]
    result: dict[str, Any] = {"name": name, "classes": names}
    result["macro_classes"] = [n for n, kept in zip(names, keep, strict=True) if kept]
    result["left_out"] = left_out(truth, level)
    for method, table in tables.items():
        samples = measured.samples[method][level]
        result[method] = {macro: summary(row) for macro, row in macros(samples, keep).items()}
        result[method]["per_class"] = {
            n: _per_class(level, k, table, truth, limits[method][level], samples) for k, n in enumerate(names)
        }
    return with_differences(result, level_differences(level, tables, truth, measured, reference))


def _per_class(level: int, k: int, scores: Scores, truth: Truth, limits: Thresholds, samples: Samples) -> dict[str, Any]:
    rows = (truth.split == "test") & truth.known[level][:, k]
    target, score = truth.targets[level][rows, k], scores.levels[level][rows, k]
    probability = bool(score.size) and score.min() >= 0 and score.max() <= 1
    entry: dict[str, Any] = {
        "n_positive": int(target.sum()),
        "n_negative": int((~target).sum()),
        "in_macro": bool(truth.in_macro(level)[k]),
        "threshold": limits.balanced[k],
        "threshold_rule": limits.rules[k],
        "threshold_at_specificity": limits.specific[k],
    }
    entry.update({metric: summary(samples[metric][k]) for metric in METRICS})
    for metric in ("sensitivity", "sensitivity_at_specificity"):
        entry[metric] = exact(entry[metric], entry["n_positive"])
    for metric in ("specificity", "achieved_specificity"):
        entry[metric] = exact(entry[metric], entry["n_negative"])
    entry["brier"] = float(brier(target, score).score[0]) if probability else np.nan
    entry["expected_calibration_error"] = float(calibration_error(target, score)[0]) if probability else np.nan
    return entry
