"""What a missing sequence costs: every sequence of the test studies removed in turn, both models asked again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.comparison.cohort import Cohort
from finetune.comparison.scoring import Method, fine_tuned
from finetune.comparison.zero_shot import last_level_settings
from hlip import metrics
from hlip.store import WithoutSequence
from hlip.zeroshot import embed_studies, score_taxonomy
from hp2l.comparison.resampling import summary, with_normal_p
from hp2l.comparison.scores import Scores
from hp2l.comparison.slices import LEAST_STUDIES, macro_rows, measurable, resample_weights


def robustness(
    methods: Sequence[Method],
    tables: dict[str, Scores],
    cohort: Cohort,
    counted: NDArray[np.bool_] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A row a sequence that at least `LEAST_STUDIES` test studies have beside others.

    Args:
        methods: models, one at least; tables without a model cannot be asked again.
        tables: of `score`, by method; their zero-shot settings stay.
        cohort: whose test split is asked.
        counted: (K,) classes of the last level that enter macro means; all but the normal class where not given.

    Returns:
        `sequence`, `studies`, `classes`, and for each method the last level's macro AUC `with_it`, `without` and their `difference`
        (without minus with, paired) on the same studies.
    """
    test = cohort.rows("test")
    names = sorted({name for row in test for name in cohort.records[row].sequences if name})
    kept = counted if counted is not None else np.array([name != cohort.taxonomy.normal for name in cohort.taxonomy.levels[-1]])
    rows = []
    for sequence in names:
        own = [
            row
            for row in test
            if len(set(cohort.records[row].sequences) - {sequence}) and sequence in cohort.records[row].sequences
        ]
        if len(own) < LEAST_STUDIES:
            continue
        part = _part(cohort, own, sequence)
        targets, known = part.targets[-1] > 0.5, part.known[-1] > 0.5
        keep = kept & measurable(targets, known)
        if not keep.any():
            continue
        weights = resample_weights(np.array([record.patient_id for record in part.records]), resamples, seed)
        found = {}
        for method in methods:
            table = tables[method.name]
            before = macro_rows(table.levels[-1][own], targets, known, keep, weights)
            after = macro_rows(_again(method, table, part), targets, known, keep, weights)
            found[method.name] = {
                "with_it": summary(before),
                "without": summary(after),
                "difference": with_normal_p(after - before),
            }
        adjusted = {name: entry["difference"]["p"] for name, entry in found.items()}
        rows.append({"sequence": sequence, "studies": len(own), "classes": int(keep.sum()), "methods": found, "p": adjusted})
    return _holm(rows, [method.name for method in methods])


def _holm(rows: list[dict[str, Any]], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Corrected over the sequences, a method at a time."""
    for name in methods:
        for row, p in zip(rows, metrics.holm([row["p"][name] for row in rows]), strict=True):
            row["methods"][name]["difference"]["p_holm"] = float(p)
    return [{key: value for key, value in row.items() if key != "p"} for row in rows]


def _part(cohort: Cohort, rows: Sequence[int], sequence: str) -> Cohort:
    """Some studies, as if the sequence had not been scanned."""
    store = WithoutSequence(cohort.store, sequence)
    records = [store.record(cohort.records[row].study_id) for row in rows]
    targets, known = ([level[list(rows)] for level in levels] for levels in (cohort.targets, cohort.known))
    return Cohort(store, records, targets, known, cohort.taxonomy)


def _again(method: Method, table: Scores, part: Cohort) -> Any:
    """(N, K) scores of the last level."""
    if not method.zero_shot:
        return fine_tuned(method.model, part)[-1]  # type: ignore[arg-type]
    features = embed_studies(method.model, part.store, part.records)  # type: ignore[arg-type]
    return score_taxonomy(method.model, features, part.taxonomy, last_level_settings(table.provenance["prompts"]))[-1]  # type: ignore[arg-type]
