"""Tidy CSV files, a number a row, for whoever calculates further. An interval's columns are empty where there is none."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.comparison.tables import class_rows
from finetune.comparison.words import reference_of
from hp2l.comparison.compare import Comparison

NUMBERS = ("value", "low", "high", "p", "p_holm")
TABLES = tuple(
    f"{name}.csv"
    for name in ("levels", "pairs", "per_class", "tree", "calibration", "decision", "slices", "robustness", "efficiency")
)


def write_tables(comparison: Comparison, out: Path) -> list[Path]:
    """`levels.csv` and `per_class.csv`; the others of `TABLES` where there is something to write."""
    tables: dict[str, tuple[Sequence[str], Iterator[list[Any]]]] = {
        "levels": (("level", "method", "metric", *NUMBERS), _levels(comparison)),
        "pairs": (("level", "method", "metric", *NUMBERS), _pairs(comparison)),
        "per_class": (
            ("level", "class", "method", "metric", "n_positive", "n_negative", *NUMBERS, "delong_p", "delong_p_holm"),
            _classes(comparison),
        ),
        "tree": (("method", "metric", *NUMBERS), _tree(comparison)),
        "calibration": (("level", "class", "method", "stage", "metric", *NUMBERS), _calibration(comparison)),
        "decision": (("level", "method", "stage", "threshold", "metric", "value", "low", "high"), _decision(comparison)),
        "slices": (
            ("group", "group_value", "studies", "patients", "classes", "method", "metric", *NUMBERS),
            _slices(comparison),
        ),
        "robustness": (("sequence", "studies", "classes", "method", "metric", *NUMBERS), _robustness(comparison)),
        "efficiency": (("level", "method", "studies", "metric", *NUMBERS), _efficiency(comparison)),
    }
    written = []
    for name, (heads, rows) in tables.items():
        found, path = list(rows), out / f"{name}.csv"
        path.unlink(missing_ok=True)  # of an earlier report
        if found:
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([heads, *found])
            written.append(path)
    return written


def _numbers(entry: Mapping[str, Any]) -> list[Any]:
    return [entry.get(field) for field in NUMBERS]


def _against(method: str, comparison: Comparison) -> str:
    """How a difference is named in the column of methods."""
    return f"{method} - {reference_of(comparison)}"


def _levels(comparison: Comparison) -> Iterator[list[Any]]:
    for key, level in comparison["levels"].items():
        named = {method: level[method] for method in comparison["methods"]}
        named |= {_against(method, comparison): entry for method, entry in (level.get("differences") or {}).items()}
        for method, entries in named.items():
            for metric, entry in entries.items():
                if isinstance(entry, Mapping) and "value" in entry:
                    yield [key, method, metric, *_numbers(entry)]


def _pairs(comparison: Mapping[str, Any]) -> Iterator[list[Any]]:
    for key, pairs in (comparison.get("pairs") or {}).items():
        for entry in pairs:
            yield [key, " - ".join(entry["of"]), "macro_auc", *_numbers(entry)]


def _classes(comparison: Comparison) -> Iterator[list[Any]]:
    for key in comparison["levels"]:
        for row in class_rows(comparison, key):
            changes = {_against(method, comparison): entry for method, entry in row["differences"].items()}
            for method, entries in {**row["methods"], **changes}.items():
                own = [key, row["name"], method]
                counts = [row["n_positive"], row["n_negative"]]
                for metric, entry in entries.items():
                    if isinstance(entry, Mapping):
                        delong = entry.get("delong", {})
                        yield [*own, metric, *counts, *_numbers(entry), delong.get("p"), delong.get("p_holm")]
                    elif metric in ("threshold", "threshold_at_specificity", "brier", "expected_calibration_error"):
                        yield [*own, metric, *counts, entry, *[None] * 6]


def _tree(comparison: Comparison) -> Iterator[list[Any]]:
    tree = comparison.get("tree") or {}
    changes = {_against(method, comparison): entry for method, entry in tree.get("differences", {}).items()}
    constant = {"most frequent class": tree["most_frequent"]} if "most_frequent" in tree else {}
    for method, entries in {**tree.get("methods", {}), **changes, **constant}.items():
        for metric, entry in entries.items():
            if isinstance(entry, Mapping):
                yield [method, metric, *_numbers(entry)]


def _calibration(comparison: Comparison) -> Iterator[list[Any]]:
    section = comparison.get("calibration") or {}
    for key, level in section.get("levels", {}).items():
        entries = [(method, stage, entry) for method, stages in level.items() for stage, entry in stages.items()]
        if key in section.get("prevalence", {}):
            entries.append(("prevalence alone", "", section["prevalence"][key]))
        for method, stage, entry in entries:
            own = [method, stage]
            for kind in ("expected", "equal_mass"):
                yield [key, "macro", *own, f"{kind}_calibration_error", entry[f"macro_{kind}_calibration_error"], *[None] * 4]
            yield [key, "macro", *own, "brier", *_numbers(entry["macro_brier"])]
            yield [key, "macro", *own, "brier_skill", *_numbers(entry["brier_skill"])]
            for name, one in entry["per_class"].items():
                for kind in ("expected", "equal_mass"):
                    yield [key, name, *own, f"{kind}_calibration_error", one[f"{kind}_calibration_error"], *[None] * 4]
                yield [key, name, *own, "brier", *_numbers(one["brier"])]


def _decision(comparison: Comparison) -> Iterator[list[Any]]:
    section = comparison.get("net_benefit") or {}
    for key, level in section.get("levels", {}).items():
        for place, threshold in enumerate(section["thresholds"]):
            for rule in ("treat_all", "treat_by_prevalence"):
                if rule in level:
                    yield [key, rule, "", threshold, "net_benefit", level[rule][place], None, None]
            for method, stages in level["methods"].items():
                for stage, curve in stages.items():
                    for metric, band in (("net_benefit", curve), ("beyond", curve["beyond"])):
                        yield [
                            key,
                            method,
                            stage,
                            threshold,
                            metric,
                            *(band[field][place] for field in ("value", "low", "high")),
                        ]


def _slices(comparison: Comparison) -> Iterator[list[Any]]:
    for row in comparison.get("slices") or []:
        own = [row[field] for field in ("group", "value", "studies", "patients", "classes")]
        for method, entry in row["methods"].items():
            yield [*own, method, "macro_auc", *_numbers(entry)]
        for method, entry in row["difference"].items():
            yield [*own, f"{method} - {next(iter(row['methods']))}", "macro_auc", *_numbers(entry)]


def _robustness(comparison: Comparison) -> Iterator[list[Any]]:
    for row in comparison.get("robustness") or []:
        for method, entries in row["methods"].items():
            for metric, entry in entries.items():
                yield [row["sequence"], row["studies"], row["classes"], method, metric, *_numbers(entry)]


def _efficiency(comparison: Comparison) -> Iterator[list[Any]]:
    for key, level in (comparison.get("efficiency") or {}).items():
        for point in level["points"]:
            yield [key, "fine_tuned", point["studies"], "macro_auc", *_numbers(point)]
            for method, entry in point["differences"].items():
                yield [key, f"fine_tuned - {method}", point["studies"], "macro_auc", *_numbers(entry)]
        for method, entry in level["flat"].items():
            yield [key, method, None, "macro_auc", *_numbers(entry)]
            yield [key, method, None, "crossing_studies", *_numbers(level["crossing"].get(method, {}))]
