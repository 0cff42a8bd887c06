"""Everything that is measured of every method in the test split, for the cohort itself and for the same resamples of its patients.

Shapes: N test studies, K classes of a level, T thresholds of decision curves, R resamples; a row is (1 + R,), the value first.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip import metrics
from hlip.ranking import Ranking
from hp2l.comparison.by_prevalence import prevalence_scores
from hp2l.comparison.calibrated import Stage, comparable, squared
from hp2l.comparison.decision import STAGES, benefit_rows, pair_rows
from hp2l.comparison.resampling import Drawn, centred, resample
from hp2l.comparison.scores import Scores
from hp2l.comparison.thresholds import Thresholds
from hp2l.comparison.tree_errors import Tree, level_pairs
from hp2l.comparison.truth import Truth
from hp2l.statistics.cases import Bools, Floats, ratio

Samples = dict[str, Floats]
"""Metric -> (K, 1 + R)."""

METRICS = (
    "auc",
    "average_precision",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "f1",
    "sensitivity_at_specificity",
    "achieved_specificity",
)
MACROS = {
    "macro_auc": "auc",
    "balanced_accuracy": "balanced_accuracy",
    "macro_average_precision": "average_precision",
    "macro_sensitivity_at_specificity": "sensitivity_at_specificity",
    "macro_achieved_specificity": "achieved_specificity",
    "macro_f1": "f1",
}
"""Macro number -> the metric that it is the mean of."""


@dataclass(frozen=True)
class Measured:
    """All rows of all methods."""

    samples: dict[str, list[Samples]]
    """Method -> level."""
    tree: dict[str, dict[str, Floats]]
    """Method -> ratio of the tree -> numerator and denominator (2, 1 + R); empty without a tree."""
    paths: dict[str, dict[tuple[str, str], Floats]]
    """Method -> (pair of levels, ratio) -> numerator and denominator (2, 1 + R)."""
    briers: dict[str, list[dict[str, Floats]]]
    """Method -> level -> stage of calibration -> (K, 1 + R)."""
    benefits: dict[str, list[dict[str, Floats]]]
    """Method -> level -> stage -> summed net benefit (T, 1 + R)."""
    pairs: list[Floats]
    """Per level (2, 1 + R): pairs of study and class that decision curves count, positive ones among them."""
    prevalence: Prevalence
    """What the validation split's prevalence alone gives."""


@dataclass(frozen=True)
class Prevalence:
    """Rows of `hp2l.comparison.by_prevalence`; empty without a validation study, `tree` also without a tree."""

    tree: dict[str, Floats]
    """Ratio of the tree that asks for the highest class -> numerator and denominator (2, 1 + R)."""
    briers: list[Floats]
    """Per level (K, 1 + R)."""
    benefits: list[Floats]
    """Per level, summed net benefit (T, 1 + R)."""


def macros(table: Samples, keep: Bools) -> Samples:
    """Macro numbers, each (1 + R,)."""
    return {name: metrics.macro(table[metric], keep) for name, metric in MACROS.items()}


def measure(
    tables: Mapping[str, Scores],
    truth: Truth,
    limits: Mapping[str, Sequence[Thresholds]],
    stages: Mapping[str, list[dict[str, Stage]]],
    tree: Tree | None,
    resamples: int,
    seed: int,
    workers: int | None = None,
) -> Measured:
    """Everything under the same resamples.

    Args:
        limits: method -> a level's thresholds. stages: method -> level -> stage of calibration.
        resamples, seed, workers: as in `hp2l.comparison.resampling.resample`.
    """
    plan = _Plan(truth)
    plan.add_prevalence(tree)
    for method, table in tables.items():
        plan.add_method(method, table, limits[method], stages[method], tree)
    patients = list(truth.patients[truth.split == "test"])
    drawn = resample(patients, plan.rankings, plan.rows, resamples, seed, workers)
    return plan.read(list(tables), drawn)


class _Plan:
    """What each study adds to every number."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.test = np.flatnonzero(truth.split == "test")
        self.targets = [level[self.test] for level in truth.targets]
        self.known = [level[self.test] for level in truth.known]
        self.rankings: list[Ranking] = []
        self.rows: dict[Hashable, NDArray[np.floating]] = {}
        """Key -> (k, N): float32 for whole numbers, float64 for others."""
        self.specific: dict[tuple[str, int], Floats] = {}
        self.balanced: dict[tuple[str, int], Floats] = {}
        for level, (target, known) in enumerate(zip(self.targets, self.known, strict=True)):
            self.rows["positive", level] = (target & known).T.astype(np.float32)
            self.rows["negative", level] = (~target & known).T.astype(np.float32)
            self.rows["pairs", level] = pair_rows(truth, level)

    def add_method(
        self,
        method: str,
        table: Scores,
        limits: Sequence[Thresholds],
        stages: Sequence[Mapping[str, Stage]],
        tree: Tree | None,
    ) -> None:
        """Rankings and rows of one method."""
        scores = [level[self.test] for level in table.levels]
        flagged = [score >= limit.balanced for score, limit in zip(scores, limits, strict=True)]
        for level, score in enumerate(scores):
            target, known = self.targets[level], self.known[level]
            self.rankings += [Ranking.of(*column) for column in zip(target.T, score.T, known.T, strict=True)]
            self.specific[method, level], self.balanced[method, level] = limits[level].specific, limits[level].balanced
            specific = score >= limits[level].specific
            for name, answer in (("", flagged[level]), ("specific ", specific)):
                self.rows[name + "found", method, level] = (answer & target & known).T.astype(np.float32)
                self.rows[name + "alarms", method, level] = (answer & ~target & known).T.astype(np.float32)
            for stage, found in stages[level].items():
                self.rows["brier", method, level, stage] = squared(found.score, self.truth, level)
                if stage in STAGES:
                    self.rows["benefit", method, level, stage] = benefit_rows(found.score, self.truth, level)
        if tree is not None:
            answered = self.truth.validation > 0
            highest = [comparable(score, found) for score, found in zip(scores, stages, strict=True)]
            for name, pair in tree.pairs(highest, flagged if answered else None, self.targets, self.known).items():
                self.rows["tree", method, name] = np.stack(pair).astype(np.float32)
            if not answered:
                return
            for place, pair in level_pairs(flagged, self.known, tree.edges).items():
                self.rows["path", method, place] = np.stack(pair).astype(np.float32)

    def add_prevalence(self, tree: Tree | None) -> None:
        """Rows of what needs no image."""
        scores = prevalence_scores(self.truth)
        if scores is None:
            return
        for level, score in enumerate(scores):
            self.rows["prevalence brier", level] = squared(score, self.truth, level)
            self.rows["prevalence benefit", level] = benefit_rows(score, self.truth, level)
        if tree is not None:
            for name, pair in tree.pairs(scores, None, self.targets, self.known).items():
                self.rows["prevalence tree", name] = np.stack(pair).astype(np.float32)

    def read(self, methods: Sequence[str], drawn: Drawn) -> Measured:
        """The numbers, from the areas and sums that were drawn."""
        sums: dict[Any, Floats] = drawn.sums
        samples: dict[str, list[Samples]] = {}
        first = 0
        for method in methods:
            samples[method] = []
            for level, target in enumerate(self.targets):
                rows = slice(first, first := first + target.shape[1])
                areas = {"auc": drawn.auc[rows], "average_precision": centred(drawn.average_precision[rows])}
                samples[method].append({**areas, **self._answers(sums, method, level)})
        known = [sums["positive", level] + sums["negative", level] for level in range(len(self.targets))]
        return Measured(
            samples,
            {method: {key[2]: rows for key, rows in _of("tree", method, sums)} for method in methods},
            {method: {key[2]: rows for key, rows in _of("path", method, sums)} for method in methods},
            {
                method: [
                    {key[3]: ratio(rows, known[level]) for key, rows in _of("brier", method, sums) if key[2] == level}
                    for level in range(len(known))
                ]
                for method in methods
            },
            {
                method: [
                    {key[3]: rows for key, rows in _of("benefit", method, sums) if key[2] == level}
                    for level in range(len(known))
                ]
                for method in methods
            },
            [sums["pairs", level] for level in range(len(known))],
            self._prevalence(sums, known),
        )

    def _prevalence(self, sums: Mapping[Any, Floats], known: Sequence[Floats]) -> Prevalence:
        tree = {key[1]: rows for key, rows in sums.items() if key[0] == "prevalence tree"}
        briers = [rows for key, rows in sums.items() if key[0] == "prevalence brier"]
        benefits = [rows for key, rows in sums.items() if key[0] == "prevalence benefit"]
        return Prevalence(tree, [ratio(*both) for both in zip(briers, known, strict=False)], benefits)

    def _answers(self, counts: Mapping[Any, Floats], method: str, level: int) -> Samples:
        """Metrics of yes / no answers (K, 1 + R)."""
        positive, negative = counts["positive", level], counts["negative", level]
        found, alarms = counts["found", method, level], counts["alarms", method, level]
        sensitivity, specificity = ratio(found, positive), 1 - ratio(alarms, negative)
        usable, answered = (~np.isnan(limits[method, level])[:, None] for limits in (self.specific, self.balanced))
        f1 = np.where(positive > 0, ratio(2 * found, found + alarms + positive), np.nan)
        at, achieved = (
            ratio(counts["specific found", method, level], positive),
            1 - ratio(counts["specific alarms", method, level], negative),
        )
        return {
            "balanced_accuracy": np.where(answered, (sensitivity + specificity) / 2, np.nan),
            "sensitivity": np.where(answered, sensitivity, np.nan),
            "specificity": np.where(answered, specificity, np.nan),
            "f1": np.where(answered, f1, np.nan),
            "sensitivity_at_specificity": np.where(usable, at, np.nan),
            "achieved_specificity": np.where(usable, achieved, np.nan),
        }


def _of(kind: str, method: str, rows: Mapping[Any, Floats]) -> list[tuple[Any, Floats]]:
    return [(key, table) for key, table in rows.items() if key[0] == kind and key[1] == method]
