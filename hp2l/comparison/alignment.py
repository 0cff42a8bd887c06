"""Score tables made to agree: the same studies, patients, splits, classes and inputs, or an error that names what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp2l.comparison.scores import CompareError, Scores
from hp2l.statistics.calibration import calibrate

MEAN_SCALING = "each method after Platt scaling, a class at a time, fitted on validation"
RESERVED = ("difference", "differences", "name", "classes", "macro_classes", "left_out", "levels")
"""Keys of the result, which no method may be called."""


def aligned(methods: Mapping[str, Scores], across_volumes: bool = False) -> dict[str, Scores]:
    """The tables in the first one's order of studies.

    Args:
        across_volumes: allow tables that were made from differently prepared volumes.

    Raises:
        CompareError: tables that must not be compared; the message names the difference and the remedy.
    """
    if not methods:
        raise CompareError("no score table given")
    if bad := [name for name in methods if name in RESERVED]:
        raise CompareError(f"a method cannot be called {', '.join(bad)}")
    (first_name, first), *others = methods.items()
    tables = {first_name: first}
    for name, table in others:
        both = f"{first_name} and {name}"
        _same_studies(both, name, first, table)
        ordered = table if table.study_ids == first.study_ids else table.reordered(first.study_ids)
        _same_column(both, "patients", first.patient_ids, ordered.patient_ids, first.study_ids)
        _same_column(both, "splits", first.split, ordered.split, first.study_ids)
        _same_classes(both, first, ordered)
        _same_taxonomy(both, first, ordered)
        _same_labels(both, first, ordered)
        if not across_volumes:
            _same_volumes(both, first, ordered)
        tables[name] = ordered
    return tables


def mean_of(tables: Sequence[Scores], name: str, across_volumes: bool = False) -> Scores:
    """A method whose score is the mean of others', each brought to probabilities by Platt scaling on validation, a class at a time.

    Methods as they come have scales of their own: the mean would follow whichever spreads its scores more.

    Raises:
        CompareError: tables that `aligned` refuses, scores outside [0, 1], or no labelled validation study.
    """
    for table in tables:
        if not table.probabilities:
            raise CompareError(
                f"{table.method}: scores outside [0, 1] cannot be averaged; leave --mean out, or give probabilities"
            )
    numbered = {
        table.method if [t.method for t in tables].count(table.method) == 1 else f"{table.method}_{i}": table
        for i, table in enumerate(tables, start=1)
    }
    parts = list(aligned(numbered, across_volumes).values())
    scaled = [platt_scaled(part) for part in parts]
    levels = [np.mean(level, axis=0) for level in zip(*scaled, strict=True)]
    shared = {key: value for key, value in parts[0].provenance.items() if key in ("taxonomy", "volume_spec", "versions")}
    sources = {method: without_tree(part.provenance) for method, part in zip(numbered, parts, strict=True)}
    simulated = any(part.provenance.get("simulated") is True for part in parts)
    source = {**shared, "simulated": simulated, "kind": "mean", "scaling": MEAN_SCALING, "mean_of": sources}
    return replace(parts[0], method=name, levels=levels, provenance=source)


def platt_scaled(table: Scores) -> list[NDArray[np.float64]]:
    """Every level's scores (N, K) after Platt scaling fitted on the table's own labelled validation studies.

    Raises:
        CompareError: it has none.
    """
    rows = np.asarray(table.split) == "val"
    if table.labels is None or not any((~np.isnan(labels[rows])).any() for labels in table.labels):
        raise CompareError(
            f"{table.method}: a mean needs labelled validation studies, which bring methods to one scale; leave --mean out"
        )
    found = []
    for labels, scores in zip(table.labels, table.levels, strict=True):
        found.append(calibrate(labels[rows], scores[rows], scores, "platt").scores)
    return found


def likeliest(table: Scores) -> Scores:
    """The table after `platt_scaled`, whose classes can be held against one another; as it is where it cannot be scaled."""
    try:
        return replace(table, levels=platt_scaled(table)) if table.probabilities else table
    except CompareError:
        return table


def without_tree(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance for showing: the taxonomy's name and digest, not all of its classes."""
    entry = provenance.get("taxonomy")
    if not isinstance(entry, Mapping):
        return dict(provenance)
    return {**provenance, "taxonomy": {key: value for key, value in entry.items() if key != "tree"}}


def _some(things: Iterable[str]) -> str:
    """How many, and the first three."""
    found = sorted(things)
    return f"{len(found)} {found[:3]}{' and more' if len(found) > 3 else ''}"


def _same_studies(both: str, name: str, first: Scores, table: Scores) -> None:
    mine, theirs = set(first.study_ids), set(table.study_ids)
    if mine != theirs:
        lacking, extra = sorted(mine - theirs), sorted(theirs - mine)
        which = f"{name} lacks {len(lacking)} studies {lacking[:3]}, has {len(extra)} more {extra[:3]}"
        raise CompareError(f"{both} score different studies: {which}; score both on the same store and splits")


def _same_column(both: str, what: str, mine: Sequence[str], theirs: Sequence[str], studies: Sequence[str]) -> None:
    differing = [study for study, a, b in zip(studies, mine, theirs, strict=True) if a != b]
    if differing:
        first = studies.index(differing[0])
        example = f"{differing[0]} is {mine[first]} and {theirs[first]}"
        raise CompareError(
            f"{both} put the same studies into other {what}: {_some(differing)} ({example}); make both from one manifest"
        )


def _same_classes(both: str, first: Scores, table: Scores) -> None:
    mine, theirs = ([level.shape[1] for level in scores.levels] for scores in (first, table))
    remedy = "score both on one taxonomy"
    if first.class_names and table.class_names and first.class_names != table.class_names:
        if len(mine) != len(theirs):
            raise CompareError(f"{both} score different classes: {len(mine)} and {len(theirs)} levels; {remedy}")
        for level, (a, b) in enumerate(zip(first.class_names, table.class_names, strict=True), start=1):
            if set(a) != set(b):
                raise CompareError(
                    f"{both} score different classes: level {level}, only the first has {_some(set(a) - set(b))}, "
                    f"only the second {_some(set(b) - set(a))}; {remedy}"
                )
            if a != b:
                raise CompareError(f"{both} score different classes: level {level}, the same in another order; {remedy}")
    if mine != theirs:
        raise CompareError(f"{both} score different classes (per level {mine} and {theirs}); {remedy}")


def _same_taxonomy(both: str, first: Scores, table: Scores) -> None:
    """The same tree and normal class; prompts and synonyms may differ, for they are part of a method."""
    digests = [
        entry.get("digest") if isinstance(entry := scores.provenance.get("taxonomy"), Mapping) else None
        for scores in (first, table)
    ]
    if None in digests or digests[0] == digests[1]:
        return
    mine, theirs = first.taxonomy, table.taxonomy
    if mine is None or theirs is None or not mine.same_tree(theirs) or mine.normal != theirs.normal:
        raise CompareError(
            f"{both} were scored on different taxonomies, digests {digests[0]} and {digests[1]}; score both on one taxonomy"
        )


def _same_volumes(both: str, first: Scores, table: Scores) -> None:
    mine, theirs = (scores.provenance.get("volume_spec") for scores in (first, table))
    if mine is not None and theirs is not None and mine != theirs:
        raise CompareError(
            f"{both} read volumes of different VolumeSpecs, digests {mine} and {theirs}; prepare one store for both, "
            "or, if the preparation is part of what is compared, allow it (--across-volumes)"
        )


def _same_labels(both: str, first: Scores, table: Scores) -> None:
    if first.labels is None or table.labels is None:
        return
    differing: set[str] = set()
    count = 0
    for mine, theirs in zip(first.labels, table.labels, strict=True):
        unlike = ~((mine == theirs) | (np.isnan(mine) & np.isnan(theirs)))
        count += int(unlike.sum())
        differing |= {first.study_ids[row] for row in np.flatnonzero(unlike.any(axis=1))}
    if differing:
        raise CompareError(
            f"{both} hold different truths: {count} labels of {_some(differing)} studies; make both from one manifest"
        )
