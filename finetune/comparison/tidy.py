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
    f"{name}.csv" for name in ("levels", "pairs", "per_class", "tree", "calibration", "slices", "robustness", "efficiency")
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
    for method, entries in {**tree.get("methods", {}), **changes}.items():
        for metric, entry in entries.items():
            if isinstance(entry, Mapping):
                yield [method, metric, *_numbers(entry)]


def _calibration(comparison: Comparison) -> Iterator[list[Any]]:
    for key, level in (comparison.get("calibration") or {}).get("levels", {}).items():
        for method, stages in level.items():
            for stage, entry in stages.items():
                own = [method, stage]
                yield [key, "macro", *own, "expected_calibration_error", entry["macro_expected_calibration_error"], *[None] * 4]
                yield [key, "macro", *own, "brier", *_numbers(entry["macro_brier"])]
                for name, one in entry["per_class"].items():
                    yield [key, name, *own, "expected_calibration_error", one["expected_calibration_error"], *[None] * 4]
                    yield [key, name, *own, "brier", *_numbers(one["brier"])]


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
