"""Scores before and after calibration fitted on the validation split: temperature, Platt and isotonic, a class at a time.

A temperature moves no score across 0.5; where scores stand far from their class's prevalence it runs into its limit and says nothing,
which `at_limit` names. Platt scaling has a bias besides and is what decision curves, means of methods and the highest class of a study use.
Calibration error is given over bins of equal width, and over bins of equal numbers of studies: most scores of a rare class lie in the
lowest bin of equal width, whatever they say. Brier skill is 1 - Brier / Brier of the prevalence (`hp2l.comparison.by_prevalence`).

Shapes: N test studies, K classes of a level, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlip import metrics
from hp2l.comparison.by_prevalence import prevalence_scores
from hp2l.comparison.resampling import summary
from hp2l.comparison.scores import Scores
from hp2l.comparison.truth import Truth
from hp2l.statistics.calibration import Method, Rule, calibrate
from hp2l.statistics.cases import Floats, masked, ratio
from hp2l.statistics.reliability import calibration_error, reliability_curve

STAGES = ("before", "temperature", "platt", "isotonic")


@dataclass(frozen=True)
class Stage:
    """One method's test scores at one level, as they are or calibrated."""

    score: Floats
    """(N, K)"""
    rules: list[Rule] | None
    """One a class; None before calibration."""


def squared(score: Floats, truth: Truth, level: int) -> Floats:
    """(K, N) what each test study adds to the sum of squared distances of its scores (N, K); 0 where its truth is unknown."""
    test = truth.split == "test"
    away = (score - truth.targets[level][test]) ** 2
    return np.where(truth.known[level][test], away, 0.0).T


def comparable(score: Floats, stages: Mapping[str, Stage]) -> Floats:
    """Test scores (N, K) that can be held against those of other classes: after Platt scaling, or as they come where there is none.

    A method's classes have scales of their own: the highest score as it comes is that of the class scored highest, not of the likeliest.
    """
    return stages["platt"].score if "platt" in stages else score


def stages_of(scores: Scores, truth: Truth, level: int) -> dict[str, Stage]:
    """Every stage of `STAGES`; none for scores that are no probabilities, or without a labelled validation study."""
    table = scores.levels[level]
    validation, test = truth.split == "val", truth.split == "test"
    if truth.validation == 0 or (table.size and (table.min() < 0 or table.max() > 1)):
        return {}
    labels = masked(truth.targets[level], truth.known[level])[validation]
    found = {"before": Stage(table[test], None)}
    methods: tuple[Method, ...] = ("temperature", "platt", "isotonic")
    for method in methods:
        found[method] = Stage(*calibrate(labels, table[validation], table[test], method))
    return found


def calibration(
    stages: Mapping[str, list[dict[str, Stage]]],
    briers: Mapping[str, list[dict[str, Floats]]],
    prevalence: list[Floats],
    truth: Truth,
) -> dict[str, Any]:
    """The section of the comparison: level -> method -> stage -> macro numbers and classes; and level -> what prevalence alone gives.

    Args:
        stages: method -> level -> stage. briers: the same, Brier scores (K, 1 + R).
        prevalence: per level (K, 1 + R), Brier scores of the validation prevalence; empty without a validation study.
    """
    result: dict[str, Any] = {"fitted_on": "val", "measured_on": "test", "bins": 10, "levels": {}, "prevalence": {}}
    for level in range(len(truth.class_names)):
        result["levels"][str(level + 1)] = {
            method: {
                stage: _stage(found, briers[method][level][stage], prevalence[level], truth, level)
                for stage, found in levels[level].items()
            }
            for method, levels in stages.items()
        }
    for level, (guess, base) in enumerate(zip(prevalence_scores(truth) or [], prevalence, strict=True)):
        result["prevalence"][str(level + 1)] = _stage(Stage(guess, None), base, base, truth, level)
    return result


def _stage(stage: Stage, brier: Floats, base: Floats, truth: Truth, level: int) -> dict[str, Any]:
    test, keep = truth.split == "test", truth.in_macro(level)
    labels = masked(truth.targets[level], truth.known[level])[test]
    classes: dict[str, Any] = {}
    for k, name in enumerate(truth.class_names[level]):
        classes[name] = {
            "expected_calibration_error": float(calibration_error(labels[:, k], stage.score[:, k])[0]),
            "equal_mass_calibration_error": float(calibration_error(labels[:, k], stage.score[:, k], by="mass")[0]),
            "brier": summary(brier[k]),
            "reliability": _points(labels[:, k], stage.score[:, k]),
        }
        if stage.rules is not None:
            classes[name]["rule"] = stage.rules[k].summary()
    errors, masses = ([entry[f"{kind}_calibration_error"] for entry in classes.values()] for kind in ("expected", "equal_mass"))
    own, reference = metrics.macro(brier, keep), metrics.macro(base, keep)
    hot = [name for name, rule, kept in zip(classes, stage.rules or [], keep, strict=False) if kept and rule.at_limit]
    return {
        "at_limit": hot,
        "macro_expected_calibration_error": float(metrics.macro(errors, keep)),
        "macro_equal_mass_calibration_error": float(metrics.macro(masses, keep)),
        "macro_brier": summary(own),
        "brier_skill": summary(1 - ratio(own, reference)),
        "per_class": classes,
    }


def _points(label: Floats, score: Floats) -> dict[str, list[float]]:
    """Points of the reliability curve that hold studies."""
    curve = reliability_curve(label, score)
    filled = curve.studies > 0
    return {
        "mean_score": curve.mean_score[filled].round(4).tolist(),
        "frequency": curve.frequency[filled].round(4).tolist(),
        "count": curve.studies[filled].tolist(),
    }
