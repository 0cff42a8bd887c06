"""The same comparison within groups of patients: by sex, age, scanner, number of scans, and what was not scanned.

A group counts as far as the manifest says it: fields of a study (sex, age, vendor, ...) under their usual names, and its scans. Differences
between groups are differences of who is in them too; nothing is adjusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip import metrics
from hlip.store import StudyRecord
from hp2l.comparison.resampling import BLOCK, summary, with_normal_p
from hp2l.comparison.scores import Scores

FIELDS = {
    "sex": ("sex", "PatientSex", "gender"),
    "age": ("age", "PatientAge"),
    "vendor": ("vendor", "manufacturer", "Manufacturer"),
    "field strength": ("field_strength", "MagneticFieldStrength"),
    "source": ("source", "site", "institution", "InstitutionName"),
}
"""Group -> names of the manifest's field, the first that a study has."""
AGES = (18, 40, 60, 75)
"""Years at which a band begins, after the first."""
LEAST_STUDIES = 20
LEAST_CASES = 3
"""Positives, and negatives, of a class within a group to enter its mean."""


def groups_of(records: Sequence[StudyRecord]) -> dict[str, list[str | None]]:
    """Group -> for each study its value in words, None where it is not known; only groups with two values or more."""
    found: dict[str, list[str | None]] = {
        name: [_words(name, _field(record, keys)) for record in records] for name, keys in FIELDS.items()
    }
    found["scans"] = [_scans(len(record.sequences)) for record in records]
    every = {name for record in records for name in record.sequences if name}
    for sequence in sorted(every):
        shares = [sequence in record.sequences for record in records]
        found[f"{sequence} scanned"] = ["yes" if has else "no" for has in shares]
    return {name: values for name, values in found.items() if len({value for value in values if value is not None}) > 1}


def slices(
    tables: Mapping[str, Scores],
    targets: NDArray[Any],
    known: NDArray[Any],
    keep: NDArray[np.bool_],
    groups: Mapping[str, Sequence[str | None]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Macro AUC of the last level within each group of test studies.

    Args:
        tables: method -> scores, all of the same studies in the same order.
        targets, known: (N, K) of the last level.
        keep: (K,) classes that enter macro means at all.
        groups: of `groups_of`, values in the order of the tables' studies.
        resamples: of the group's patients, the same for all methods.

    Returns:
        A row a group and value with at least `LEAST_STUDIES` test studies: `group`, `value`, `studies`, `patients`, `classes`, and for
        each method `{value, low, high}`; `difference` of each later method to the first, with p, and p_holm over all groups.
    """
    first = next(iter(tables.values()))
    test = np.array(first.split) == "test"
    rows: list[dict[str, Any]] = []
    for group, values in groups.items():
        for value in sorted({value for value in values if value is not None}, key=_order):
            inside = test & np.array([own == value for own in values])
            if inside.sum() < LEAST_STUDIES:
                continue
            patients = np.array(first.patient_ids)[inside]
            weights = resample_weights(patients, resamples, seed)
            own_targets, own_known = targets[inside] > 0.5, known[inside] > 0.5
            measured = keep & measurable(own_targets, own_known)
            if not measured.any():
                continue
            means = {
                method: macro_rows(table.levels[-1][inside], own_targets, own_known, measured, weights)
                for method, table in tables.items()
            }
            row: dict[str, Any] = {"group": group, "value": value, "studies": int(inside.sum()), "patients": len(set(patients))}
            row |= {"classes": int(measured.sum()), "methods": {method: summary(mean) for method, mean in means.items()}}
            reference, *others = means
            row["difference"] = {other: with_normal_p(means[other] - means[reference]) for other in others}
            rows.append(row)
    for other in rows[0]["difference"] if rows else ():
        adjusted = metrics.holm([row["difference"][other]["p"] for row in rows])
        for row, p in zip(rows, adjusted, strict=True):
            row["difference"][other]["p_holm"] = None if math.isnan(p) else float(p)
    return rows


def _field(record: StudyRecord, keys: Sequence[str]) -> Any:
    return next((record.extra[key] for key in keys if record.extra.get(key) not in (None, "")), None)


def _words(name: str, value: Any) -> str | None:
    if value is None or name != "age":
        return None if value is None else (f"{value:g}" if isinstance(value, float) else str(value))
    years = _years(value)
    if years is None:
        return None
    edges = [0, *AGES]
    begin = max(edge for edge in edges if edge <= years)
    later = [edge for edge in edges if edge > begin]
    return f"{begin} to {later[0] - 1}" if later else f"{begin} and older"


def _years(value: Any) -> float | None:
    """72, "72", "072Y" (DICOM), "18M"; None where it is no age."""
    text = str(value).strip().upper()
    unit = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}.get(text[-1:])
    try:
        years = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        return None
    return years if math.isfinite(years) and 0 <= years < 130 else None


def _scans(count: int) -> str:
    return "1" if count == 1 else "2 to 3" if count <= 3 else "4 to 6" if count <= 6 else "7 and more"


def _order(value: str) -> tuple[float, str]:
    number: Callable[[str], float] = float
    try:
        return number(value.split()[0]), value
    except ValueError:
        return math.inf, value


def resample_weights(patients: NDArray[np.str_], resamples: int, seed: int) -> NDArray[np.floating]:
    """(N, 1 + R): the group itself, then resamples of its patients."""
    drawn = list(metrics.patient_bootstrap(patients.tolist(), resamples, seed)) if resamples else []
    return np.concatenate([np.ones((len(patients), 1), np.float32), *drawn], axis=1)


def measurable(targets: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K,) classes with `LEAST_CASES` positives and negatives."""
    positive, negative = (targets & known).sum(axis=0), (~targets & known).sum(axis=0)
    return (positive >= LEAST_CASES) & (negative >= LEAST_CASES)


def macro_rows(
    scores: NDArray[np.float64],
    targets: NDArray[np.bool_],
    known: NDArray[np.bool_],
    measured: NDArray[np.bool_],
    weights: NDArray[np.floating],
) -> NDArray[np.float64]:
    """(1 + R,) mean AUC over the classes that can be measured; some resamples at a time, which bounds the memory."""
    rows = []
    for k in np.flatnonzero(measured):
        ranking = metrics.Ranking.of(targets[:, k], scores[:, k], known[:, k])
        blocks = [weights[:, first : first + BLOCK] for first in range(0, weights.shape[1], BLOCK)]
        rows.append(np.concatenate([ranking.areas(block)[0] for block in blocks]))
    return metrics.macro(np.stack(rows)) if rows else np.full(weights.shape[1], np.nan)
