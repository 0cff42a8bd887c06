"""`hlip score`: one model's table of scores, on a store or on another cohort's test studies."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.comparison.cohort import labelled, level_aucs
from finetune.comparison.scoring import Method, open_method, score
from finetune.comparison.zero_shot import Setting
from hlip.inference.inputs import check_spec, pick_device
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import PromptSet
from hp2l.comparison.scores import CompareError

ELSEWHERE = "@external"
"""After a patient id of the other cohort that the own one has too."""


class TwoStores(Store):
    """Validation studies of one store and, as test studies, all labelled ones of another.

    A patient id that both have says nothing: hospitals number their patients on their own. The other cohort's is then marked.

    Raises:
        ValueError: prepared differently, or study ids that both have.
    """

    def __init__(self, own: Store, other: Store) -> None:
        check_spec(other, own.spec)
        self.path, self.spec = other.path, own.spec
        mine = {record.patient_id for record in own.split("val")}
        tests = [
            replace(record, split="test", patient_id=record.patient_id + ELSEWHERE * (record.patient_id in mine))
            for record in other.records
            if record.labels is not None
        ]
        self.records = [*own.split("val"), *tests]
        self._place = {record.study_id: place for place, record in enumerate(self.records)}
        if len(self._place) < len(self.records):
            raise ValueError(f"{own.path} and {other.path} have studies of the same id; rename one cohort's in its manifest")
        self._stores = {record.study_id: own for record in own.split("val")} | {record.study_id: other for record in tests}

    def volumes(self, study_id: str, which: Sequence[int] | None = None) -> torch.Tensor:
        """As of the store that has the study."""
        self.record(study_id)
        return self._stores[study_id].volumes(study_id, which)

    def affines(self, study_id: str) -> NDArray[np.float64]:
        """As of the store that has the study."""
        return self._stores[study_id].affines(study_id)


def fixed_setting(arguments: argparse.Namespace, method: Method) -> Setting | None:
    """The way of asking that `--prompts` fixes; None where validation is to choose.

    Raises:
        CompareError: a fine-tuned model, which is not asked by prompts; or --parents, which would be ignored without --prompts.
    """
    if arguments.prompts is None:
        if arguments.parents:
            raise CompareError("--parents is of a setting that --prompts fixes: give --prompts SET, or leave --parents out")
        return None
    if not method.zero_shot:
        raise CompareError(f"{arguments.model} is fine-tuned and not asked by prompts: leave --prompts out")
    PromptSet.load(arguments.prompts)
    return Setting(arguments.prompts, synonyms=True, contrast=True, parents=arguments.parents or "children")


def run(arguments: argparse.Namespace) -> None:
    """Score, write the table, print its AUCs."""
    if arguments.table.suffix not in (".parquet", ".csv"):
        raise CompareError(f"{arguments.table}: a table ends in .parquet or .csv")
    method = open_method(arguments.model, pick_device(arguments.device), arguments.name)
    store: Store = Store(arguments.store)
    if arguments.external:
        store = TwoStores(store, Store(arguments.external))
    tree = Taxonomy.load(arguments.taxonomy) if arguments.taxonomy else method.taxonomy
    if tree is None:
        raise CompareError(f"{arguments.model}: answers by prompts on any tree: --taxonomy names it")
    fixed = fixed_setting(arguments, method)
    cohort = labelled(store, tree, ("val", "test") if method.zero_shot and fixed is None else ("test",))
    table = score(method, cohort, fixed)
    if arguments.external:
        table.provenance["external"] = Path(arguments.external).resolve().name
    Path(arguments.table).parent.mkdir(parents=True, exist_ok=True)
    table.save(arguments.table)
    for split in ("val", "test"):
        rows = cohort.rows(split)
        if not rows.size:
            print(f"{split}: no labelled study, so that a comparison has neither thresholds nor calibration")
            continue
        areas = level_aucs([level[rows] for level in table.levels], cohort, rows)
        told = ", ".join(f"level {level} {area:.3f}" for level, area in enumerate(areas, start=1))
        print(f"{split}: {len(rows)} studies, macro AUC {told}")
    print(f"table: {arguments.table}")
