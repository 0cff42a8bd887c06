"""The sections that need more than scores: groups of patients, missing sequences, fewer labels, checks on the store."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from finetune.comparison.cohort import Cohort
from finetune.comparison.refusals import trained_on
from finetune.comparison.robustness import robustness
from finetune.comparison.scoring import Method, open_method, score
from hlip.inference.inputs import pick_device
from hlip.taxonomy import Taxonomy
from hp2l.comparison.efficiency import efficiency
from hp2l.comparison.leaks import Finding, images_apart, metadata_alone, patients_apart, prompts_not_in_reports
from hp2l.comparison.scores import Scores
from hp2l.comparison.slices import groups_of, slices

Keep = list[NDArray[np.bool_]]


def further(
    arguments: argparse.Namespace,
    comparison: Mapping[str, Any],
    cohort: Cohort | None,
    methods: Sequence[Method],
    given: Sequence[Scores],
    tables: Sequence[Scores],
) -> dict[str, Any]:
    """All of them, over the classes of the comparison's macro means and with as many resamples.

    Args:
        comparison: of the scores.
        cohort: of the store, None without one. methods: models among the inputs.
        given: the inputs' tables, in the order of the cohort's studies. tables: the same and their mean, if asked.
    """
    own = list(comparison["checks"])
    if cohort is None:
        return {"checks": [*own, *unchecked()], "slices": [], "robustness": [], "efficiency": {}}
    named = {table.method: table for table in tables}
    keep = counted(comparison, cohort.taxonomy)
    options: dict[str, Any] = {"resamples": arguments.resamples, "seed": arguments.seed}
    found: dict[str, Any] = {"checks": [*merged(own, cohort), *store_checks(cohort, tables)]}
    groups = groups_of(cohort.records)
    found["slices"] = slices(named, cohort.targets[-1], cohort.known[-1], keep[-1], groups, **options)
    found["robustness"] = robustness(methods, named, cohort, keep[-1], **options) if arguments.robustness else []
    found["efficiency"] = {}
    if arguments.efficiency:
        runs = efficiency_runs(arguments, cohort, given)
        flat = [table for table in given if table.provenance.get("kind") == "zero_shot"]
        trained = [(trained_on(table), table) for table in runs]
        found["efficiency"] = efficiency(trained, flat, cohort.targets, cohort.known, keep, **options)
        found["provenance"] = {**comparison["provenance"], "efficiency": {table.method: _training(table) for table in runs}}
    return found


def counted(comparison: Mapping[str, Any], taxonomy: Taxonomy) -> Keep:
    """Per level (K_l,): the classes of the macro means."""
    levels = zip(taxonomy.levels, comparison["levels"].values(), strict=True)
    return [np.array([name in entry["macro_classes"] for name in names], dtype=bool) for names, entry in levels]


def efficiency_runs(arguments: argparse.Namespace, cohort: Cohort, given: Sequence[Scores]) -> list[Scores]:
    """What the label-efficiency curve goes through: the runs of `--efficiency` and the first fine-tuned input."""
    device = pick_device(arguments.device)
    runs = [score(open_method(path, device, path.name), cohort) for path in arguments.efficiency]
    return runs + [table for table in given if table.provenance.get("kind") == "fine_tuned"][:1]


def _training(table: Scores) -> dict[str, Any]:
    """How a run was trained: runs of fewer labels may differ in more than their labels."""
    facts = table.provenance.get("facts") or {}
    told = {name: facts[name] for name in ("studies", "fraction", "step", "head", "tuned", "seed") if name in facts}
    return {"checkpoint": table.provenance.get("checkpoint"), **told}


def merged(own: Sequence[Mapping[str, Any]], cohort: Cohort) -> list[Mapping[str, Any]]:
    """Checks of the tables, with the patients of all the store's studies in place of theirs unless theirs leak."""
    whole = patients_apart(cohort.store.records).as_dict()
    return [whole if one["check"] == "patients" and one["state"] == "ok" else one for one in own]


def store_checks(cohort: Cohort, tables: Sequence[Scores]) -> list[dict[str, Any]]:
    """Leak and sanity checks that read the store, over all its splits."""
    prompts = [text for table in tables for text in (table.provenance.get("prompts") or {}).get("texts", [])]
    store, records = cohort.store, cohort.store.records
    found = [
        images_apart(store, records, lambda rows: tqdm(list(rows), desc="check images", unit="study", mininterval=0.5)),
        metadata_alone(records, cohort.taxonomy),
        prompts_not_in_reports(prompts, records),
    ]
    return [finding.as_dict() for finding in found]


def unchecked() -> list[dict[str, Any]]:
    """The same checks without a store."""
    needs = {"images": "the prepared volumes", "metadata": "the manifest's columns", "prompts": "the reports"}
    return [Finding(name, "not checked", f"needs {what}: give --store").as_dict() for name, what in needs.items()]
