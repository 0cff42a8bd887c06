"""The labelled validation and test studies of a store with their truth, and areas under the curve on some of them.

Shapes: N studies, K_l classes of level l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlip.metrics import class_aucs
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy

Levels = list[NDArray[np.float64]]
"""Per level (N, K_l)."""


@dataclass
class Cohort:
    """Labelled validation and test studies, and their truth."""

    store: Store
    records: list[StudyRecord]
    targets: Levels
    known: Levels
    taxonomy: Taxonomy

    def rows(self, split: str) -> NDArray[np.intp]:
        """Places of a split's studies."""
        return np.flatnonzero([record.split == split for record in self.records])


def labelled(store: Store, taxonomy: Taxonomy, needed: Sequence[str] = ("val", "test")) -> Cohort:
    """Labelled studies of the validation and test splits.

    Raises:
        ValueError: one of the splits that are `needed` has none.
    """
    records = [record for split in ("val", "test") for record in store.split(split) if record.labels is not None]
    for split in needed:
        if not any(record.split == split for record in records):
            remedy = "settings need val (or zero-shot with --prompts)" if split == "val" else "the comparison needs test"
            raise ValueError(f"{store.path}: no labelled study in split '{split}': {remedy}")
    levels = taxonomy.encode_all([r.labels for r in records], names=[r.study_id for r in records])
    return Cohort(store, records, [targets for targets, _ in levels], [known for _, known in levels], taxonomy)


def level_aucs(scores: Levels, cohort: Cohort, rows: NDArray[np.intp]) -> list[float]:
    """Macro AUC of each level over disease classes that have positives and negatives in these rows, NaN where none has."""
    means = []
    for names, table, targets, known in zip(cohort.taxonomy.levels, scores, cohort.targets, cohort.known, strict=True):
        areas = class_aucs(targets[rows], known[rows], table)[[name != cohort.taxonomy.normal for name in names]]
        means.append(float(np.nanmean(areas)) if not np.isnan(areas).all() else float("nan"))
    return means


def mean_auc(scores: Levels, cohort: Cohort, rows: NDArray[np.intp]) -> float:
    """Mean of `level_aucs` over the levels that have one, NaN where none has."""
    means = np.array(level_aucs(scores, cohort, rows))
    return float(np.nanmean(means)) if not np.isnan(means).all() else float("nan")


def prevalence(store: Store, taxonomy: Taxonomy) -> Levels:
    """Share of positive studies among the labelled training studies, a level each; it says how rare a class is."""
    records = [record for record in store.split("train") if record.labels is not None]
    if not records:
        return [np.full(count, np.nan) for count in taxonomy.counts]
    return [
        (targets * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        for targets, known in taxonomy.encode_all([record.labels for record in records])
    ]
