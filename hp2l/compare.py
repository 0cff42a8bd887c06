"""Ways of diagnosing beside one another on the same studies: score tables in, one JSON-able comparison out.

Notable choices:
- Thresholds come from the validation split only, a class and a method at a time; every number comes from the test split.
- All methods see the same bootstrap resamples of patients, so a difference is paired.
- The normal class and classes with too few positives or negatives are reported but stay out of every macro mean, by name.
- Whatever had to be decided on the way (a fallback threshold, a class left out) is written to `notes`.

Shapes: N studies, K classes of a level, L levels, R resamples. Levels are 1-based and strings in the result, as in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlip import metrics
from hp2l.curves import curves
from hp2l.resampling import METRICS, Edges, Samples, bootstrap, summary
from hp2l.scores import CompareError, Scores, jsonable
from hp2l.truth import Truth, aligned, cohort_sizes, left_out, repeated_patients, truth_of

__all__ = ["CompareError", "Comparison", "Scores", "compare", "jsonable"]

Comparison = dict[str, Any]

MACROS = {
    "macro_auc": "auc",
    "balanced_accuracy": "balanced_accuracy",
    "macro_average_precision": "average_precision",
}


def compare(
    methods: Mapping[str, Scores],
    targets: Sequence[ArrayLike],
    mask: Sequence[ArrayLike],
    class_names: Sequence[Sequence[str]],
    normal: str | None = None,
    level_names: Sequence[str] | None = None,
    *,
    edges: Edges | None = None,
    train_prevalence: Sequence[ArrayLike] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    min_positives: int = 5,
    simulated: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare methods on the test split, with thresholds from the validation split.

    Args:
        methods: name -> scores; the order counts, `difference` is the second minus the first.
        targets: per level (N, K_l), 1 where the class is present; rows in the first method's order of studies.
        mask: per level (N, K_l), false where the truth is unknown (below a coarse label, or an unlabelled study).
        class_names: per level K_l names.
        normal: the class left out of macro means, at whatever level it stands.
        level_names: one name a level, for people.
        edges: per level but the last, (parent index, child index in the next level); adds `hierarchy`.
        train_prevalence: per level (K_l,) share of training studies that are positive, for fallback thresholds and
            the long-tail figure, NaN where unknown; taken from the tables' own training rows where they have some.
        resamples: bootstrap resamples of patients. seed: of these draws.
        min_positives: positives, and negatives, that a class needs in the test split to enter a macro mean.
        simulated: whether the cohort is simulated; the report says so on its first screen.
        provenance: anything further to show in the report.

    Raises:
        CompareError: tables of different studies, splits or classes, or no labelled test study.
    """
    tables = aligned(methods)
    truth = truth_of(next(iter(tables.values())), targets, mask, class_names, normal, min_positives, train_prevalence)
    notes: list[str] = []
    thresholds = {name: _thresholds(name, table, truth, notes) for name, table in tables.items()}
    limits = {name: [np.array([entry[0] for entry in level]) for level in found] for name, found in thresholds.items()}
    samples, hierarchy = bootstrap(tables, truth, limits, edges, resamples, seed)
    _note_left_out(truth, samples, notes)
    names = list(level_names) if level_names else [f"level {level}" for level in range(1, len(class_names) + 1)]
    levels = {str(level + 1): _level(level, name, tables, truth, thresholds, samples) for level, name in enumerate(names)}
    return jsonable(
        {
            "simulated": simulated,
            "methods": list(tables),
            "levels": levels,
            "drop": _drop(list(tables), samples, truth),
            "hierarchy": hierarchy,
            "cohort": cohort_sizes(truth),
            "curves": curves(tables, truth),
            "notes": notes,
            "settings": _settings(resamples, seed, min_positives, normal),
            "provenance": {
                **{name: table.provenance for name, table in tables.items()},
                **(provenance or {}),
            },
        }
    )


def _settings(resamples: int, seed: int, min_positives: int, normal: str | None) -> dict[str, Any]:
    return {
        "resamples": resamples,
        "seed": seed,
        "coverage": 0.95,
        "min_positives": min_positives,
        "normal_class": normal,
        "threshold": "per class and method, the highest (sensitivity + specificity) / 2 on the validation split",
        "interval": "percentile bootstrap over patients, the same resamples for all methods, thresholds held fixed",
        "p": "two-sided paired bootstrap, 2 min(P(d <= 0), P(d >= 0)); p_holm: Holm over the classes of a level",
    }


def _thresholds(method: str, scores: Scores, truth: Truth, notes: list[str]) -> list[list[tuple[float, str]]]:
    """Per level and class (threshold, rule); whatever is not the plain rule is added to `notes`."""
    validation = truth.split == "val"
    found: list[list[tuple[float, str]]] = []
    for level, names in enumerate(truth.class_names):
        found.append([])
        for k, name in enumerate(names):
            rows = validation & truth.known[level][:, k]
            target, score = truth.targets[level][rows, k], scores.levels[level][rows, k]
            threshold, _ = metrics.best_threshold(target, score)
            rule = "validation"
            share = np.nan if truth.prevalence is None else truth.prevalence[level][k]
            if np.isnan(threshold) and np.isfinite(share) and score.size:
                threshold = float(np.quantile(score, 1 - share))
                rule = "validation scores' quantile at the training prevalence"
            elif np.isnan(threshold):
                threshold, rule = 0.5, "0.5"
            found[-1].append((threshold, rule))
            if rule != "validation":
                lack = "positive" if not target.any() else "negative"
                notes.append(f"{method}, level {level + 1}, {name}: no {lack} study for the threshold; rule used: {rule}.")
    return found


def _macros(table: Samples, keep: NDArray[np.bool_]) -> Samples:
    """Macro metrics, each (1 + R,)."""
    return {macro: metrics.macro(table[metric], keep) for macro, metric in MACROS.items()}


def _level(
    level: int,
    name: str,
    tables: Mapping[str, Scores],
    truth: Truth,
    thresholds: Mapping[str, list[list[tuple[float, str]]]],
    samples: Mapping[str, list[Samples]],
) -> dict[str, Any]:
    """Everything about one level: each method, and differences to the first method."""
    keep, names = truth.in_macro(level), truth.class_names[level]
    macros = {method: _macros(samples[method][level], keep) for method in tables}
    result: dict[str, Any] = {"name": name, "classes": names}
    result["macro_classes"] = [n for n, kept in zip(names, keep, strict=True) if kept]
    result["left_out"] = left_out(truth, level)
    for method, table in tables.items():
        result[method] = {macro: summary(row) for macro, row in macros[method].items()}
        result[method]["per_class"] = {
            n: _per_class(level, k, table, truth, thresholds[method][level][k], samples[method][level])
            for k, n in enumerate(names)
        }
    first, *others = tables
    for method in others:
        change: dict[str, Any] = {m: summary(macros[method][m] - macros[first][m], True) for m in macros[first]}
        change["per_class"] = _class_differences(names, samples[first][level], samples[method][level])
        result.setdefault("difference", {"of": [method, first], **change})
        if len(others) > 1:
            result.setdefault("differences", {})[method] = {"of": [method, first], **change}
    return result


def _per_class(
    level: int, k: int, scores: Scores, truth: Truth, threshold: tuple[float, str], table: Samples
) -> dict[str, Any]:
    rows = (truth.split == "test") & truth.known[level][:, k]
    target, score = truth.targets[level][rows, k], scores.levels[level][rows, k]
    probability = bool(score.size) and score.min() >= 0 and score.max() <= 1
    entry: dict[str, Any] = {
        "n_positive": int(target.sum()),
        "n_negative": int((~target).sum()),
        "in_macro": bool(truth.in_macro(level)[k]),
        "threshold": threshold[0],
        "threshold_rule": threshold[1],
    }
    entry.update({metric: summary(table[metric][k]) for metric in METRICS})
    entry["brier"] = metrics.brier(target, score) if probability else np.nan
    entry["expected_calibration_error"] = metrics.expected_calibration_error(target, score) if probability else np.nan
    return entry


def _class_differences(names: Sequence[str], first: Samples, second: Samples) -> dict[str, Any]:
    """Class -> metric -> {value, low, high, p, p_holm}."""
    result: dict[str, Any] = {name: {} for name in names}
    for metric in ("auc", "balanced_accuracy", "average_precision"):
        entries = [summary(row, paired=True) for row in second[metric] - first[metric]]
        adjusted = metrics.holm([entry["p"] for entry in entries])
        for name, entry, p in zip(names, entries, adjusted, strict=True):
            result[name][metric] = {**entry, "p_holm": float(p)}
    return result


def _drop(methods: Sequence[str], samples: Mapping[str, list[Samples]], truth: Truth) -> dict[str, Any]:
    """What is lost from level 1 to the last level, per method, and the difference of these losses.

    Average precision is not compared across levels: it falls with prevalence alone.
    """
    last = len(truth.class_names) - 1
    lost = {}
    for method in methods:
        top, bottom = (_macros(samples[method][level], truth.in_macro(level)) for level in (0, last))
        lost[method] = {macro: top[macro] - bottom[macro] for macro in ("macro_auc", "balanced_accuracy")}
    result: dict[str, Any] = {"levels": [1, last + 1]}
    result.update({method: {macro: summary(row) for macro, row in rows.items()} for method, rows in lost.items()})
    if len(methods) > 1:
        a, b = lost[methods[0]], lost[methods[1]]
        result["difference"] = {"of": [methods[1], methods[0]], **{m: summary(b[m] - a[m], True) for m in a}}
    return result


def _note_left_out(truth: Truth, samples: Mapping[str, list[Samples]], notes: list[str]) -> None:
    """Name the classes that are not in a macro mean, and count resamples in which a class had no positive or negative."""
    table = next(iter(samples.values()))
    for level, names in enumerate(truth.class_names):
        for name, reason in left_out(truth, level).items():
            notes.append(f"Level {level + 1}, {name}: left out of macro means ({reason}).")
        empty = np.isnan(table[level]["auc"][:, 1:]).sum(axis=1)
        for name, count, kept in zip(names, empty, truth.in_macro(level), strict=True):
            if kept and count:
                text = f"Level {level + 1}, {name}: without a positive or negative in {count} resamples, left out of those."
                notes.append(text)
    tests, resamples = max(map(len, truth.class_names)), table[0]["auc"].shape[1] - 1
    if len(samples) > 1 and 2 * tests / (resamples + 1) > 0.05:
        notes.append(
            f"{resamples} resamples cannot show a Holm-corrected p below 0.05 for {tests} classes: take {40 * tests} or more."
        )
    repeated = sum(len(set(truth.split[truth.patients == patient])) > 1 for patient in repeated_patients(truth))
    if repeated:
        notes.append(f"LEAK: {repeated} patients have studies in more than one split; the test results are not clean.")
