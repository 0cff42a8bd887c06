"""Ways of diagnosing beside one another on the same studies: score tables in, one JSON-able comparison out.

Notable choices:
- Thresholds and calibration come from the validation split only, a class and a method at a time; every number comes from the test split.
- All methods see the same bootstrap resamples of patients, so a difference is paired.
- The normal class and classes with too few positives or negatives are reported but stay out of every macro mean, by name.
- Without a labelled validation study there is neither a threshold nor a calibration: what needs them is not measured, and a check says so.
- Whatever had to be decided on the way (a fallback threshold, a class left out) is written to `notes`.

Shapes: N studies, K classes of a level, L levels, R resamples. Levels are 1-based and strings in the result, as in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hlip.taxonomy import Taxonomy
from hp2l.comparison.alignment import aligned, mean_of, without_tree
from hp2l.comparison.by_prevalence import most_frequent
from hp2l.comparison.calibrated import calibration, comparable, stages_of
from hp2l.comparison.class_decisions import class_decisions
from hp2l.comparison.curves import curves
from hp2l.comparison.decision import decision_section
from hp2l.comparison.leaks import Finding, Place, patients_apart
from hp2l.comparison.level_section import level_section
from hp2l.comparison.measured import measure
from hp2l.comparison.notes import left_out_notes, patient_notes, settings, table_notes
from hp2l.comparison.paired import drop, level_pairs
from hp2l.comparison.scores import CompareError, Scores, jsonable, provenance_of
from hp2l.comparison.thresholds import thresholds
from hp2l.comparison.tree_errors import Tree, path_section, tree_section
from hp2l.comparison.truth import Truth, cohort_sizes, truth_of
from hp2l.statistics.hierarchy import Edges

__all__ = ["CompareError", "Comparison", "Scores", "compare", "compare_tables", "jsonable", "mean_of", "provenance_of"]

Comparison = dict[str, Any]


def compare(
    methods: Mapping[str, Scores],
    targets: Sequence[ArrayLike],
    mask: Sequence[ArrayLike],
    class_names: Sequence[Sequence[str]],
    normal: str | None = None,
    level_names: Sequence[str] | None = None,
    *,
    edges: Edges | None = None,
    taxonomy: Taxonomy | None = None,
    reference: str | None = None,
    train_prevalence: Sequence[ArrayLike] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    min_positives: int = 5,
    simulated: bool = False,
    across_volumes: bool = False,
    provenance: Mapping[str, Any] | None = None,
    workers: int | None = None,
) -> Comparison:
    """Compare methods on the test split, with thresholds and calibration from the validation split.

    Args:
        methods: name -> scores, any number of them.
        targets: per level (N, K_l), 1 where the class is present; rows in the first method's order of studies.
        mask: per level (N, K_l), false where the truth is unknown (below a coarse label, or an unlabelled study).
        class_names: per level K_l names.
        normal: the class left out of macro means, at whatever level it stands.
        level_names: one name a level, for people.
        edges: per level but the last, (parent index, child index in the next level); adds `hierarchy` and `tree`.
        taxonomy: the tree of these classes, in place of `edges`: leaves that several levels carry are then one node.
        reference: the method that all others are held against; the first where not given.
        train_prevalence: per level (K_l,) share of training studies that are positive, for fallback thresholds and
            the long-tail figure, NaN where unknown; taken from the tables' own training rows where they have some.
        resamples: bootstrap resamples of patients. seed: of these draws.
        min_positives: positives, and negatives, that a class needs in the test split to enter a macro mean.
        simulated: whether the cohort is simulated; the report says so on its first screen.
        across_volumes: allow tables made from differently prepared volumes.
        provenance: anything further to show in the report.
        workers: threads; as many as processors, at most 8, where not given. The numbers do not depend on it.

    Raises:
        CompareError: tables of different studies, splits, classes or inputs, no labelled test study, or no such reference.
    """
    tables = aligned(methods, across_volumes)
    chosen = _reference(tables, reference)
    truth = truth_of(next(iter(tables.values())), targets, mask, class_names, normal, min_positives, train_prevalence)
    notes = patient_notes(truth) + table_notes(tables)
    limits = {method: thresholds(method, table, truth, notes) for method, table in tables.items()}
    levels = range(len(truth.class_names))
    stages = {method: [stages_of(table, truth, level) for level in levels] for method, table in tables.items()}
    tree = _tree(truth, edges, taxonomy)
    measured = measure(tables, truth, limits, stages, tree, resamples, seed, workers)
    notes += left_out_notes(truth, measured)
    if all(np.isnan(table["auc"][:, 0]).all() for table in next(iter(measured.samples.values()))):
        studies = cohort_sizes(truth)["studies"]
        raise CompareError(
            f"nothing to measure: in {studies} test studies no class has both a positive and a negative one; score more test studies"
        )
    names = list(level_names) if level_names else [f"level {level + 1}" for level in levels]
    result: Comparison = {"simulated": simulated, "methods": list(tables), "reference": chosen}
    result["levels"] = {
        str(level + 1): level_section(level, name, tables, truth, limits, measured, chosen) for level, name in enumerate(names)
    }
    result["pairs"] = {str(level + 1): level_pairs(level, list(tables), truth, measured) for level in levels}
    result["drop"] = drop(tables, truth, measured, chosen)
    result["hierarchy"] = path_section(measured.paths)
    built = [
        method
        for method, table in tables.items()
        if tree
        and tree.from_children(
            [comparable(s[truth.split == "test"], f) for s, f in zip(table.levels, stages[method], strict=True)]
        )
    ]
    result["tree"] = tree_section(measured.tree, chosen, built, measured.prevalence.tree, most_frequent(truth)) if tree else {}
    result["calibration"] = calibration(stages, measured.briers, measured.prevalence.briers, truth)
    result["net_benefit"] = decision_section(measured.benefits, measured.prevalence.benefits, measured.pairs, stages)
    for key, classes in class_decisions(stages, truth).items():
        result["net_benefit"]["levels"][key]["per_class"] = classes
    result |= {"cohort": cohort_sizes(truth), "curves": curves(tables, truth), "notes": notes}
    result["settings"] = settings(resamples, seed, min_positives, normal, chosen, truth.validation)
    result["checks"] = _checks(truth)
    shown = {method: without_tree(table.provenance) for method, table in tables.items()}
    result["provenance"] = {**shown, **(provenance or {})}
    return jsonable(result)


def compare_tables(tables: Sequence[Scores], **options: Any) -> Comparison:
    """Compare score tables that carry their truth and their tree, as `Scores.load` reads them.

    Args:
        tables: one a method; two of the same name are numbered.
        options: of `compare`, but for the truth, the classes and the tree.

    Raises:
        CompareError: as `compare`, or a first table without class names or labels.
    """
    if not tables:
        raise CompareError("no score table given")
    names = [table.method for table in tables]
    named = {
        name if names.count(name) == 1 else f"{name}_{place}": table
        for place, (name, table) in enumerate(zip(names, tables, strict=True), start=1)
    }
    first = tables[0]
    if first.class_names is None or first.labels is None:
        raise CompareError(f"{first.method}: its score table holds no truth; make it with `hlip score` on a labelled store")
    known = [~np.isnan(level) for level in first.labels]
    targets = [np.nan_to_num(level) for level in first.labels]
    tree = first.taxonomy
    if tree is not None:
        options = {"taxonomy": tree, "normal": tree.normal, "level_names": list(tree.level_names), **options}
    simulated = any(table.provenance.get("simulated") is True for table in tables)
    return compare(named, targets, known, first.class_names, **{"simulated": simulated, **options})


def _checks(truth: Truth) -> list[dict[str, Any]]:
    """What score tables alone can say against the result."""
    places = [Place(patient, split) for patient, split in zip(truth.patients.tolist(), truth.split.tolist(), strict=True)]
    found = [patients_apart(places)]
    if truth.validation == 0:
        text = "there is no labelled validation study, so no thresholds and no calibration: balanced accuracy, sensitivity, F1, calibration "
        found.append(
            Finding("validation", "warning", f"{text}and net benefit are not measured; AUC and average precision need neither")
        )
    return [finding.as_dict() for finding in found]


def _reference(tables: Mapping[str, Scores], name: str | None) -> str:
    if name is not None and name not in tables:
        raise CompareError(f"no method {name} to compare with; there are {', '.join(tables)}")
    return name if name is not None else next(iter(tables))


def _tree(truth: Truth, edges: Edges | None, taxonomy: Taxonomy | None) -> Tree | None:
    if taxonomy is not None and [list(level) for level in taxonomy.levels] != truth.class_names:
        raise CompareError(
            f"taxonomy {taxonomy.name} has other classes than the score tables; give the one they were made with"
        )
    return Tree.of([len(level) for level in truth.class_names], edges, taxonomy)
