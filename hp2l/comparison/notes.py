"""What the comparison says about itself: its settings and definitions, and notes on whatever had to be decided on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hp2l.comparison.measured import Measured
from hp2l.comparison.scores import CompareError, Scores
from hp2l.comparison.thresholds import SPECIFICITY
from hp2l.comparison.truth import Truth, left_out, patients_across_splits


def settings(
    resamples: int, seed: int, min_positives: int, normal: str | None, reference: str, validation: int
) -> dict[str, Any]:
    """Numbers and definitions, for a methods paragraph; `validation` counts the labelled studies of that split."""
    return {
        "resamples": resamples,
        "seed": seed,
        "coverage": 0.95,
        "min_positives": min_positives,
        "validation_studies": validation,
        "normal_class": normal,
        "reference": reference,
        "specificity": SPECIFICITY,
        "threshold": "per class and method, the highest (sensitivity + specificity) / 2 on the validation split",
        "sensitivity_at_specificity": f"test sensitivity at the lowest threshold that spares {SPECIFICITY:.0%} of the validation "
        "split's negatives, per class and method; achieved_specificity is the test split's at it",
        "f1": "of yes / no answers at the threshold of best balanced accuracy, as sensitivity and specificity; hierarchical "
        "precision, recall and F1 at the same",
        "interval": "percentile bootstrap over patients, the same resamples for all methods, thresholds held fixed; Clopper and Pearson's "
        "where a share of cases is 0 or 1",
        "average_precision_interval": "resamples moved so that their mean is the value: a patient drawn twice lifts average "
        "precision; differences likewise",
        "p": "of macro numbers as for pairs; of classes two-sided paired bootstrap, 2 min(P(d <= 0), P(d >= 0)); p_holm: Holm over the classes",
        "delong": "two-sided DeLong test of the difference of AUCs, clustered by patient (Obuchowski); p_holm as for p; classes are counted by "
        "it, because the bootstrap's p cannot be smaller than 2 / (resamples + 1)",
        "pairs": "every two methods' difference in macro AUC, two-sided p of the difference over its bootstrap standard error (normal); "
        "p_holm: Holm over the pairs of a level",
        "calibration": "temperature, Platt and isotonic, per class, fitted on the validation split and measured on the test split; "
        "calibration error over 10 bins, of equal width and of equal mass, without an interval: resamples bias it upward; Brier skill over the "
        "Brier score of the classes' validation prevalences",
        "net_benefit": "all study-class pairs of a level's macro classes pooled, after Platt scaling; pointwise bands; `beyond`: over the best "
        "of treating all, none, and all for the classes whose validation prevalence reaches the threshold",
        "highest_class": "of a study at a level: of its scores after Platt scaling, where there is a validation split",
    }


FEW_PATIENTS = 30
"""Below this intervals over patients are narrower than they should be."""


def patient_notes(truth: Truth) -> list[str]:
    """Where the test split has few patients.

    Raises:
        CompareError: one alone: nothing could be drawn.
    """
    rows = truth.split == "test"
    patients = len(set(np.asarray(truth.patients)[rows]))
    if patients == 1 and rows.sum() > 1:
        raise CompareError(
            f"all {int(rows.sum())} test studies are of one patient: intervals are drawn over patients; check the column patient_id"
        )
    if patients < FEW_PATIENTS:
        return [f"Only {patients} test patients: intervals and p-values are too sure of themselves; take them as a sketch."]
    return []


def table_notes(tables: Mapping[str, Scores]) -> list[str]:
    """Where tables differ in what they were made of, and may: prompts in the taxonomy, volumes where that was allowed."""
    notes = []
    first_name, first = next(iter(tables.items()))
    for name, table in tables.items():
        mine, theirs = (scores.provenance.get("taxonomy") for scores in (first, table))
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping) and mine.get("digest") != theirs.get("digest"):
            notes.append(f"{first_name} and {name}: the same tree, but its texts (prompts, synonyms, codes) differ.")
        mine, theirs = (scores.provenance.get("volume_spec") for scores in (first, table))
        if mine is not None and theirs is not None and mine != theirs:
            notes.append(f"{first_name} and {name}: the volumes were prepared differently (VolumeSpecs {mine} and {theirs}).")
        if not table.provenance:
            notes.append(
                f"{name}: its table does not say where it comes from (model, volumes, taxonomy), so that none of it was checked."
            )
        if not table.probabilities:
            notes.append(f"{name}: scores outside [0, 1], so no calibration and no net benefit.")
    return notes


def left_out_notes(truth: Truth, measured: Measured) -> list[str]:
    """Classes that are in no macro mean, resamples in which a class had no positive or negative, too few resamples, leaks."""
    notes = []
    samples = measured.samples
    table = next(iter(samples.values()))
    for level, names in enumerate(truth.class_names):
        for name, reason in left_out(truth, level).items():
            notes.append(f"Level {level + 1}, {name}: left out of macro means ({reason}).")
        empty = np.isnan(table[level]["auc"][:, 1:]).sum(axis=1)
        for name, count, kept in zip(names, empty, truth.in_macro(level), strict=True):
            if kept and count:
                notes.append(
                    f"Level {level + 1}, {name}: without a positive or negative in {count} resamples, left out of those."
                )
    tests, resamples = max(map(len, truth.class_names)), table[0]["auc"].shape[1] - 1
    if len(samples) > 1 and 2 * tests / (resamples + 1) > 0.05:
        notes.append(
            f"The bootstrap's p of single classes cannot be below 0.05 after Holm's correction with {resamples} resamples and {tests} "
            f"classes (that takes {40 * tests} or more); classes are counted by DeLong's test, which needs none."
        )
    if repeated := patients_across_splits(truth):
        notes.append(f"LEAK: {len(repeated)} patients have studies in more than one split; the test results are not clean.")
    return notes
