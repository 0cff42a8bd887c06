"""Ways of diagnosing beside one another on the same studies: score tables in, one JSON-able comparison out.

Notable choices:
- Thresholds come from the validation split only, a class and a method at a time; every number comes from the test split.
- All methods see the same bootstrap resamples of patients, so a difference is paired.
- The normal class and classes with too few positives or negatives are reported but stay out of every macro mean, by name.
- Whatever had to be decided on the way (a fallback threshold, a class left out) is written to `notes`.

Shapes: N studies, K classes of a level, L levels, R resamples. Levels are 1-based and strings in the result, as in JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlip import metrics
from hp2l.scores import CompareError, Scores, jsonable

__all__ = ["CompareError", "Comparison", "Scores", "compare", "jsonable"]

Comparison = dict[str, Any]
Samples = dict[str, NDArray[np.float64]]  # metric -> (K, 1 + R): column 0 is the value itself, the others its resamples
Edges = Sequence[Sequence[tuple[int, int]]]

METRICS = ("auc", "average_precision", "balanced_accuracy", "sensitivity", "specificity")
MACROS = {
    "macro_auc": "auc",
    "balanced_accuracy": "balanced_accuracy",
    "macro_average_precision": "average_precision",
}
_RESERVED = ("difference", "differences", "name", "classes", "macro_classes", "left_out")


# --- the comparison --------------------------------------------------------------------------------------------------


@dataclass
class _Truth:
    """Truth and splits shared by all methods, in the first method's order of studies."""

    targets: list[NDArray[np.bool_]]
    known: list[NDArray[np.bool_]]
    class_names: list[list[str]]
    normal: str | None
    split: NDArray[np.str_]
    patients: NDArray[np.str_]
    minimum: int
    prevalence: list[NDArray[np.float64]] | None

    def counts(self, level: int, split: str | None, positive: bool) -> NDArray[np.intp]:
        """Positive or negative studies of each class (K_l,) in a split, or in all of them."""
        rows = np.ones(len(self.split), bool) if split is None else self.split == split
        truth = self.targets[level] if positive else ~self.targets[level]
        return (truth & self.known[level])[rows].sum(axis=0)

    def in_macro(self, level: int) -> NDArray[np.bool_]:
        enough = np.minimum(self.counts(level, "test", True), self.counts(level, "test", False)) >= self.minimum
        return enough & np.array([name != self.normal for name in self.class_names[level]], dtype=bool)


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
    tables = _aligned(methods)
    truth = _truth(next(iter(tables.values())), targets, mask, class_names, normal, min_positives, train_prevalence)
    notes: list[str] = []
    thresholds = {name: _thresholds(name, table, truth, notes) for name, table in tables.items()}
    limits = {name: [np.array([entry[0] for entry in level]) for level in found] for name, found in thresholds.items()}
    samples, hierarchy = _bootstrap(tables, truth, limits, edges, resamples, seed)
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
            "cohort": _cohort(truth),
            "curves": _curves(tables, truth),
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


def _aligned(methods: Mapping[str, Scores]) -> dict[str, Scores]:
    """The tables in one order of studies; a CompareError names what differs."""
    if not methods:
        raise CompareError("no score table given")
    (first_name, first), *others = methods.items()
    tables = {first_name: first}
    for name, table in others:
        lacking, extra = (
            set(first.study_ids) - set(table.study_ids),
            set(table.study_ids) - set(first.study_ids),
        )
        if lacking or extra:
            which = f"{name} lacks {len(lacking)} studies {sorted(lacking)[:3]}, has {len(extra)} more {sorted(extra)[:3]}"
            raise CompareError(f"{first_name} and {name} score different studies: {which}")
        ordered = table.reordered(first.study_ids)
        if ordered.split != list(first.split) or ordered.patient_ids != list(first.patient_ids):
            raise CompareError(f"{first_name} and {name} put the same studies into other splits or patients")
        shapes = [level.shape[1] for level in ordered.levels], [level.shape[1] for level in first.levels]
        if shapes[0] != shapes[1] or (table.class_names and first.class_names and table.class_names != first.class_names):
            raise CompareError(f"{first_name} and {name} score different classes (per level {shapes[1]} and {shapes[0]})")
        tables[name] = ordered
    if bad := [name for name in tables if name in _RESERVED]:
        raise CompareError(f"a method cannot be called {', '.join(bad)}")
    return tables


def _truth(
    first: Scores,
    targets: Sequence[ArrayLike],
    mask: Sequence[ArrayLike],
    class_names: Sequence[Sequence[str]],
    normal: str | None,
    minimum: int,
    prevalence: Sequence[ArrayLike] | None,
) -> _Truth:
    """Truth checked against the tables' shapes."""
    expected = [(len(first.study_ids), len(names)) for names in class_names]
    for what, given in (("scores", first.levels), ("targets", targets), ("mask", mask)):
        if (found := [np.shape(table) for table in given]) != expected:
            raise CompareError(f"{what} have shapes {found}, expected {expected} (studies, classes of each level)")
    known = [np.asarray(table).astype(bool) for table in mask]
    split = np.asarray(first.split, dtype=str)
    if not any(table[split == "test"].any() for table in known):
        raise CompareError("no labelled study in the test split: nothing to measure")
    positive = [np.asarray(table) > 0.5 for table in targets]
    rates = None if prevalence is None else [np.asarray(level, dtype=np.float64) for level in prevalence]
    if (train := split == "train").any():
        rates = [(t & m)[train].sum(0) / np.maximum(m[train].sum(0), 1) for t, m in zip(positive, known, strict=True)]
    names = [list(level) for level in class_names]
    return _Truth(positive, known, names, normal, split, np.asarray(first.patient_ids, dtype=str), minimum, rates)


# --- thresholds: validation split only -------------------------------------------------------------------------------


def _thresholds(method: str, scores: Scores, truth: _Truth, notes: list[str]) -> list[list[tuple[float, str]]]:
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


# --- values and resamples --------------------------------------------------------------------------------------------


def _bootstrap(
    tables: Mapping[str, Scores],
    truth: _Truth,
    limits: Mapping[str, list[NDArray[np.float64]]],
    edges: Edges | None,
    resamples: int,
    seed: int,
) -> tuple[dict[str, list[Samples]], dict[str, Any]]:
    """All metrics of all classes, and path consistency, in the test split: values and resamples of every method."""
    rows = np.flatnonzero(truth.split == "test")
    scores = {name: [table[rows] for table in tables[name].levels] for name in tables}
    flagged = {name: [s >= limit for s, limit in zip(scores[name], limits[name], strict=True)] for name in tables}
    positive, known = [t[rows] for t in truth.targets], [m[rows] for m in truth.known]
    rankings = {
        name: [
            [metrics.Ranking.of(positive[i][:, k], level[:, k], known[i][:, k]) for k in range(level.shape[1])]
            for i, level in enumerate(scores[name])
        ]
        for name in tables
    }
    paths = {name: _path_counts(flagged[name], known, edges or []) for name in tables}
    samples = {name: [{m: np.empty((p.shape[1], 1 + resamples)) for m in METRICS} for p in positive] for name in tables}
    path_sums = {name: [np.empty((4, 1 + resamples)) for _ in paths[name]] for name in tables}
    column = 0
    for weight in _weights(truth.patients[rows], resamples, seed):
        block = slice(column, column := column + weight.shape[1])
        for name in tables:
            for i, table in enumerate(samples[name]):
                for k, ranking in enumerate(rankings[name][i]):
                    table["auc"][k, block], table["average_precision"][k, block] = ranking.areas(weight)
                both = metrics.weighted_rates(positive[i], flagged[name][i], known[i], weight)
                table["sensitivity"][:, block], table["specificity"][:, block] = both
                table["balanced_accuracy"][:, block] = (both[0] + both[1]) / 2
            for i, counts in enumerate(paths[name]):
                path_sums[name][i][:, block] = counts @ weight
    return samples, _hierarchy(path_sums)


def _weights(patients: NDArray[np.str_], resamples: int, seed: int) -> Iterator[NDArray[np.floating]]:
    """First the cohort itself (weight 1 each), then its resamples, in blocks (N, <= 128)."""
    yield np.ones((len(patients), 1), dtype=np.float32)
    yield from metrics.patient_bootstrap(list(patients), resamples, seed)


def _path_counts(flagged: list[NDArray], known: list[NDArray], edges: Edges) -> list[NDArray[np.float32]]:
    """Per pair of levels (4, N): flagged children, those with a flagged parent, flagged parents, those with a flagged child.

    Only answers that the truth can judge are counted: parent and child both known.
    """
    found = []
    for level, pairs in enumerate(edges):
        parent, child = (np.array(side, dtype=int) for side in zip(*pairs, strict=True))
        valid = known[level][:, parent] & known[level + 1][:, child]
        up, down = flagged[level][:, parent] & valid, flagged[level + 1][:, child] & valid
        has_child = np.stack([(up & down)[:, parent == p].any(axis=1) for p in np.unique(parent)])
        is_parent = np.stack([up[:, parent == p].any(axis=1) for p in np.unique(parent)])
        rows = [down.sum(1), (up & down).sum(1), is_parent.sum(0), has_child.sum(0)]
        found.append(np.stack(rows).astype(np.float32))
    return found


def _hierarchy(path_sums: Mapping[str, list[NDArray]]) -> dict[str, Any]:
    """Per pair of levels and method: how often a flagged child has a flagged parent, and the other way round."""
    result: dict[str, Any] = {}
    for name, levels in path_sums.items():
        for level, (children, kept, parents, led) in enumerate(levels, start=1):
            with np.errstate(invalid="ignore", divide="ignore"):
                up, down = kept / children, led / parents
            entry = {"child_has_parent": _summary(up), "parent_has_child": _summary(down)}
            result.setdefault(f"{level}-{level + 1}", {})[name] = entry
    return result


# --- the result ------------------------------------------------------------------------------------------------------


def _summary(row: NDArray[np.float64], paired: bool = False) -> dict[str, float]:
    """{value, low, high} of one number (1 + R,); with the p-value of being zero if it is a paired difference."""
    low, high = metrics.interval(row[1:])
    known = not np.isnan(row[0])
    entry = {"value": float(row[0]), "low": low if known else np.nan, "high": high if known else np.nan}
    return {**entry, "p": metrics.bootstrap_p(row[1:]) if known else np.nan} if paired else entry


def _macros(table: Samples, keep: NDArray[np.bool_]) -> Samples:
    """Macro metrics, each (1 + R,)."""
    return {macro: metrics.macro(table[metric], keep) for macro, metric in MACROS.items()}


def _level(
    level: int,
    name: str,
    tables: Mapping[str, Scores],
    truth: _Truth,
    thresholds: Mapping[str, list[list[tuple[float, str]]]],
    samples: Mapping[str, list[Samples]],
) -> dict[str, Any]:
    """Everything about one level: each method, and differences to the first method."""
    keep, names = truth.in_macro(level), truth.class_names[level]
    macros = {method: _macros(samples[method][level], keep) for method in tables}
    result: dict[str, Any] = {"name": name, "classes": names}
    result["macro_classes"] = [n for n, kept in zip(names, keep, strict=True) if kept]
    result["left_out"] = _left_out(truth, level)
    for method, table in tables.items():
        result[method] = {macro: _summary(row) for macro, row in macros[method].items()}
        result[method]["per_class"] = {
            n: _per_class(level, k, table, truth, thresholds[method][level][k], samples[method][level])
            for k, n in enumerate(names)
        }
    first, *others = tables
    for method in others:
        change: dict[str, Any] = {m: _summary(macros[method][m] - macros[first][m], True) for m in macros[first]}
        change["per_class"] = _class_differences(names, samples[first][level], samples[method][level])
        result.setdefault("difference", {"of": [method, first], **change})
        if len(others) > 1:
            result.setdefault("differences", {})[method] = {"of": [method, first], **change}
    return result


def _left_out(truth: _Truth, level: int) -> dict[str, str]:
    """Class -> why it is not part of the macro means of this level."""
    positive, negative = truth.counts(level, "test", True), truth.counts(level, "test", False)
    reasons = {}
    for k, (name, kept) in enumerate(zip(truth.class_names[level], truth.in_macro(level), strict=True)):
        if not kept:
            few = f"{positive[k]} positive and {negative[k]} negative test studies, {truth.minimum} of each needed"
            reasons[name] = "the normal class" if name == truth.normal else few
    return reasons


def _per_class(
    level: int, k: int, scores: Scores, truth: _Truth, threshold: tuple[float, str], table: Samples
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
    entry.update({metric: _summary(table[metric][k]) for metric in METRICS})
    entry["brier"] = metrics.brier(target, score) if probability else np.nan
    entry["expected_calibration_error"] = metrics.expected_calibration_error(target, score) if probability else np.nan
    return entry


def _class_differences(names: Sequence[str], first: Samples, second: Samples) -> dict[str, Any]:
    """Class -> metric -> {value, low, high, p, p_holm}."""
    result: dict[str, Any] = {name: {} for name in names}
    for metric in ("auc", "balanced_accuracy", "average_precision"):
        entries = [_summary(row, paired=True) for row in second[metric] - first[metric]]
        adjusted = metrics.holm([entry["p"] for entry in entries])
        for name, entry, p in zip(names, entries, adjusted, strict=True):
            result[name][metric] = {**entry, "p_holm": float(p)}
    return result


def _drop(methods: Sequence[str], samples: Mapping[str, list[Samples]], truth: _Truth) -> dict[str, Any]:
    """What is lost from level 1 to the last level, per method, and the difference of these losses.

    Average precision is not compared across levels: it falls with prevalence alone.
    """
    last = len(truth.class_names) - 1
    lost = {}
    for method in methods:
        top, bottom = (_macros(samples[method][level], truth.in_macro(level)) for level in (0, last))
        lost[method] = {macro: top[macro] - bottom[macro] for macro in ("macro_auc", "balanced_accuracy")}
    result: dict[str, Any] = {"levels": [1, last + 1]}
    result.update({method: {macro: _summary(row) for macro, row in rows.items()} for method, rows in lost.items()})
    if len(methods) > 1:
        a, b = lost[methods[0]], lost[methods[1]]
        result["difference"] = {"of": [methods[1], methods[0]], **{m: _summary(b[m] - a[m], True) for m in a}}
    return result


def _note_left_out(truth: _Truth, samples: Mapping[str, list[Samples]], notes: list[str]) -> None:
    """Name the classes that are not in a macro mean, and count resamples in which a class had no positive or negative."""
    table = next(iter(samples.values()))
    for level, names in enumerate(truth.class_names):
        for name, reason in _left_out(truth, level).items():
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
    repeated = sum(len(set(truth.split[truth.patients == patient])) > 1 for patient in _repeated(truth))
    if repeated:
        notes.append(f"LEAK: {repeated} patients have studies in more than one split; the test results are not clean.")


def _repeated(truth: _Truth) -> list[str]:
    patients, count = np.unique(truth.patients, return_counts=True)
    return list(patients[count > 1])


def _cohort(truth: _Truth) -> dict[str, Any]:
    """Sizes of the splits and positives of every class in each of them."""
    present = [split for split in ("train", "val", "test") if (truth.split == split).any()]
    splits = {}
    for split in present:
        rows = truth.split == split
        splits[split] = {"studies": int(rows.sum()), "patients": len(np.unique(truth.patients[rows]))}
    classes: dict[str, Any] = {}
    for level, names in enumerate(truth.class_names):
        counts = {split: truth.counts(level, split, True) for split in present}
        classes[str(level + 1)] = {n: {s: int(counts[s][k]) for s in present} for k, n in enumerate(names)}
        if truth.prevalence is not None:
            for k, n in enumerate(names):
                classes[str(level + 1)][n]["train_prevalence"] = float(truth.prevalence[level][k])
    sizes = {"studies": splits["test"]["studies"], "patients": splits["test"]["patients"]}
    return {**sizes, "splits": splits, "classes": classes}


def _curves(tables: Mapping[str, Scores], truth: _Truth) -> dict[str, Any]:
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
            mean, frequency, count = metrics.reliability_curve(target, score)
            points = {"mean_score": mean, "frequency": frequency, "count": count}
            result["reliability"][method] = {
                **points,
                "ece": metrics.expected_calibration_error(target, score),
            }
    return result
