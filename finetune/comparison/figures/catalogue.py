"""Which figures a comparison has: one for every section whose data is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from finetune.comparison.figures.calibration import calibrated_methods, drawn_classes, reliability, reliability_classes
from finetune.comparison.figures.classes import class_forest
from finetune.comparison.figures.decision import decision_classes, decision_curves, judged_classes, judged_levels
from finetune.comparison.figures.efficiency import label_efficiency
from finetune.comparison.figures.groups import group_forest
from finetune.comparison.figures.levels import level_bars, level_drop
from finetune.comparison.figures.long_tail import long_tail
from finetune.comparison.figures.missing import missing_sequences
from finetune.comparison.figures.prompts import prompt_strips
from finetune.comparison.figures.roc import roc_multiples
from finetune.comparison.figures.training import training_curves
from finetune.comparison.figures.tree import tree_forest
from finetune.comparison.findings import spreads

Drawing = Callable[[bool], Figure]


def drawings(comparison: Mapping[str, Any], curves: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Drawing]:
    """Name -> function of `narrow` that draws it, for every figure of the report."""
    asked: dict[str, tuple[Any, Callable[[Mapping[str, Any], bool], Figure]]] = {
        "levels": (True, level_bars),
        "classes": (True, class_forest),
        "long_tail": (True, long_tail),
        "roc": (True, roc_multiples),
        "drop": (len(comparison["levels"]) > 1, level_drop),
        "tree": (comparison.get("tree"), tree_forest),
        "calibration": (calibrated_methods(comparison), reliability),
        "calibration_classes": (calibrated_methods(comparison) and drawn_classes(comparison), reliability_classes),
        "decision": (judged_levels(comparison), decision_curves),
        "decision_classes": (judged_classes(comparison), decision_classes),
        "prompts": (spreads(comparison), prompt_strips),
        "groups": (comparison.get("slices"), group_forest),
        "missing": (comparison.get("robustness"), missing_sequences),
        "efficiency": (comparison.get("efficiency"), label_efficiency),
    }
    found: dict[str, Drawing] = {name: _of(draw, comparison) for name, (there, draw) in asked.items() if there}
    if curves:
        found["training"] = lambda narrow: training_curves(curves, narrow)
    return found


def _of(draw: Callable[[Mapping[str, Any], bool], Figure], comparison: Mapping[str, Any]) -> Drawing:
    return lambda narrow: draw(comparison, narrow)
