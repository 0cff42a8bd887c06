"""Differences between methods: paired bootstrap for every metric, DeLong's test beside it for AUC, Holm over the classes of a level.

Shapes: K classes of a level, M methods, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from hlip import metrics
from hp2l.comparison.measured import MACROS, Measured, macros
from hp2l.comparison.resampling import summary, with_normal_p
from hp2l.comparison.scores import Scores
from hp2l.comparison.truth import Truth
from hp2l.statistics.cases import masked
from hp2l.statistics.delong import PairedTest, delong_tests

COMPARED = ("auc", "balanced_accuracy", "average_precision", "sensitivity_at_specificity", "f1")


def level_differences(
    level: int, tables: Mapping[str, Scores], truth: Truth, measured: Measured, reference: str
) -> dict[str, dict[str, Any]]:
    """Method -> its differences to the reference: macro numbers, and per class with Holm-corrected p."""
    others = [method for method in tables if method != reference]
    tests = _delong(level, tables, truth, reference)
    keep, samples = truth.in_macro(level), measured.samples
    base = macros(samples[reference][level], keep)
    result: dict[str, dict[str, Any]] = {}
    for method in others:
        own = macros(samples[method][level], keep)
        entry: dict[str, Any] = {"of": [method, reference]}
        entry |= {name: with_normal_p(own[name] - base[name]) for name in MACROS}
        classes: dict[str, Any] = {name: {} for name in truth.class_names[level]}
        for metric in COMPARED:
            rows = samples[method][level][metric] - samples[reference][level][metric]
            found = [summary(row, paired=True) for row in rows]
            adjusted = metrics.holm([one["p"] for one in found])
            for own_class, one, p in zip(classes.values(), found, adjusted, strict=True):
                own_class[metric] = {**one, "p_holm": float(p)}
        _add_delong(classes, tests[method])
        result[method] = {**entry, "per_class": classes}
    return result


def level_pairs(level: int, methods: Sequence[str], truth: Truth, measured: Measured) -> list[dict[str, Any]]:
    """Every two methods' difference in macro AUC, the later minus the earlier; p Holm-corrected over the pairs of the level."""
    keep = truth.in_macro(level)
    rows = {method: macros(measured.samples[method][level], keep)["macro_auc"] for method in methods}
    pairs: list[dict[str, Any]] = [{"of": [b, a], **with_normal_p(rows[b] - rows[a])} for a, b in combinations(methods, 2)]
    adjusted = metrics.holm([pair["p"] for pair in pairs])
    return [{**pair, "p_holm": float(p)} for pair, p in zip(pairs, adjusted, strict=True)]


def drop(tables: Mapping[str, Scores], truth: Truth, measured: Measured, reference: str) -> dict[str, Any]:
    """What is lost from level 1 to the last level, per method, and the differences of these losses.

    Average precision and F1 are not compared across levels: they fall with prevalence alone.
    """
    last = len(truth.class_names) - 1
    lost = {}
    for method in tables:
        top, bottom = (macros(measured.samples[method][level], truth.in_macro(level)) for level in (0, last))
        lost[method] = {name: top[name] - bottom[name] for name in ("macro_auc", "balanced_accuracy")}
    result: dict[str, Any] = {"levels": [1, last + 1]}
    result |= {method: {name: summary(row) for name, row in rows.items()} for method, rows in lost.items()}
    changes = {
        method: {"of": [method, reference], **{name: with_normal_p(rows[name] - lost[reference][name]) for name in rows}}
        for method, rows in lost.items()
        if method != reference
    }
    return with_differences(result, changes)


def with_differences(entry: dict[str, Any], differences: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with `differences`, and the first of them once more as `difference`."""
    if not differences:
        return entry
    return {**entry, "difference": next(iter(differences.values())), "differences": dict(differences)}


def _delong(level: int, tables: Mapping[str, Scores], truth: Truth, reference: str) -> dict[str, list[PairedTest]]:
    """Method -> a test a class, clustered by patient."""
    rows = truth.split == "test"
    labels = masked(truth.targets[level], truth.known[level])[rows]
    patients = np.unique(truth.patients[rows], return_inverse=True)[1]
    order = [reference, *(method for method in tables if method != reference)]
    found: dict[str, list[PairedTest]] = {method: [] for method in order[1:]}
    if not found:
        return found
    for k in range(labels.shape[1]):
        scores = np.column_stack([tables[method].levels[level][rows, k] for method in order])
        for method, test in zip(order[1:], delong_tests(labels[:, k], scores, patients), strict=True):
            found[method].append(test)
    return found


def _add_delong(classes: Mapping[str, dict[str, Any]], tests: Sequence[PairedTest]) -> None:
    """`delong` beside each class's AUC difference."""
    adjusted = metrics.holm([test.p for test in tests])
    for entry, test, p in zip(classes.values(), tests, adjusted, strict=True):
        entry["auc"]["delong"] = {"standard_error": test.standard_error, "z": test.z, "p": test.p, "p_holm": float(p)}
