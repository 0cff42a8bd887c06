"""Zero-shot scores of a labelled cohort: every way of asking is tried, the validation split chooses.

A class of the last level is asked by its prompt, in one of the prompt sets, with or without synonyms, alone or against the phrase of a
normal study. A class above is asked by its own prompt, or answered by the classes below it (`PARENTS`): by the highest of their scores as
they come; by the highest after Platt scaling, since classes have scales of their own; or by the chance that any of them is there, were they
independent (noisy-or). What the other ways would have given on test is told as a spread, not chosen from.

Shapes: N studies, K_l classes of level l.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from finetune.comparison.cohort import Cohort, Levels, level_aucs, mean_auc
from hlip.model import HLIP
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import ZeroShotSettings, embed_studies, from_children, highest, score_taxonomy
from hp2l.statistics.calibration import calibrate
from hp2l.statistics.cases import masked

Parents = Literal["own", "children", "scaled_children", "any_child"]
FOLDS = 5
"""Of the validation patients, for scores of their own studies."""
PARENTS: tuple[Parents, ...] = get_args(Parents)


@dataclass(frozen=True)
class Setting:
    """One way of asking."""

    prompts: str
    """Name of the prompt set."""
    synonyms: bool
    contrast: bool
    parents: Parents

    @property
    def of_leaves(self) -> ZeroShotSettings:
        """What it says of the classes of the last level."""
        return ZeroShotSettings(self.prompts, self.synonyms, self.contrast, "own")


def candidates() -> list[Setting]:
    """All settings that are tried; those of one kind of leaves together."""
    return [Setting(*choice) for choice in product(("plain", "hlip"), (False, True), (False, True), PARENTS)]


def zero_shot(model: HLIP, cohort: Cohort, setting: Setting | None = None) -> tuple[Levels, dict[str, Any]]:
    """Scores of all studies under the settings with the best mean validation AUC over the levels, those settings, and the spread.

    Args:
        setting: of own prompts or plain children: the only one asked, without a choice and a spread.
    """
    features = embed_studies(model, cohort.store, cohort.records, progress="zero-shot")
    if setting is not None:
        own_only = score_taxonomy(model, features, cohort.taxonomy, setting.of_leaves)
        levels = with_parents(own_only, setting.parents, cohort, cohort.rows("val"))
        return levels, asdict(setting) | {"texts": prompt_texts(cohort.taxonomy, setting)}
    val, test = cohort.rows("val"), cohort.rows("test")
    settings = candidates()
    own = {
        leaves: score_taxonomy(model, features, cohort.taxonomy, leaves)
        for leaves in dict.fromkeys(s.of_leaves for s in settings)
    }
    tried = [with_parents(own[setting.of_leaves], setting.parents, cohort, val) for setting in settings]
    areas = [mean_auc([level[val] for level in levels], cohort, val) for levels in tried]
    best = 0 if np.isnan(areas).all() else int(np.nanargmax(areas))  # without an AUC the first, as good as any
    told = asdict(settings[best]) | {"val_auc": areas[best], "candidates": len(settings)}
    told["spread"] = spread(tried, settings, cohort, val, test)
    told["texts"] = prompt_texts(cohort.taxonomy, settings[best])
    return tried[best], told


def with_parents(own: Levels, parents: Parents, cohort: Cohort, val: NDArray[np.intp]) -> Levels:
    """Scores (N, K_l) whose upper levels are answered in the way of `parents`, those of the last as they are.

    Scaling is fitted on the validation rows; these themselves are scaled by rules fitted on other patients, in `FOLDS` folds, so that a way
    that has seen labels does not look better there than one that has not.

    Args:
        own: every class by its own prompt, in [0, 1]. val: the validation rows.
    """
    tree = cohort.taxonomy
    if parents == "own":
        return own
    if parents == "children":
        return from_children(own, tree)
    labels = masked(cohort.targets[-1] > 0.5, cohort.known[-1] > 0.5)[val]
    leaves = calibrate(labels, own[-1][val], own[-1], "platt").scores
    fold = np.unique([cohort.records[row].patient_id for row in val], return_inverse=True)[1] % FOLDS
    for number in range(FOLDS):
        away, here = fold != number, fold == number
        if here.any() and away.any():
            leaves[val[here]] = calibrate(labels[away], own[-1][val[away]], own[-1][val[here]], "platt").scores
    scaled = [*own[:-1], leaves]
    return [*from_children(scaled, tree, highest if parents == "scaled_children" else _any)[:-1], own[-1]]


def _any(below: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, children) chances -> (N,) that any is there, were they independent."""
    return 1 - np.prod(1 - below, axis=1)


def spread(
    tried: Sequence[Levels], settings: Sequence[Setting], cohort: Cohort, val: NDArray[np.intp], test: NDArray[np.intp]
) -> list[dict[str, Any]]:
    """What each setting gives: macro AUC of every level, on validation and, told after the choice, on test."""
    return [
        asdict(setting)
        | {name: level_aucs([level[rows] for level in levels], cohort, rows) for name, rows in (("val", val), ("test", test))}
        for levels, setting in zip(tried, settings, strict=True)
    ]


def prompt_texts(taxonomy: Taxonomy, setting: Setting) -> list[str]:
    """Every text that the chosen setting asks, without the templates that all classes share: of parents only if they answer themselves."""
    classes = [item for level in range(1, taxonomy.depth + 1) for item in taxonomy.classes(level)]
    if setting.parents != "own":
        depth = taxonomy.depth
        classes = [item for item in classes if item.level == depth or not taxonomy.subtree_leaves(item.level, item.index)]
    phrases = [phrase for item in classes for phrase in (item.prompt, *(item.synonyms if setting.synonyms else ()))]
    return list(dict.fromkeys(phrases))


def last_level_settings(told: Mapping[str, Any]) -> ZeroShotSettings:
    """The chosen setting of the last level, from a table's provenance."""
    return ZeroShotSettings(told["prompts"], told["synonyms"], told["contrast"], "own")
