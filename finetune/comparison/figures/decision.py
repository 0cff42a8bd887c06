"""Decision curves: what acting on a method is worth at each threshold, against treating all and treating none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.comparison.figures.house import (
    DASHES,
    INK,
    MUTED,
    by_count,
    class_panels,
    colour,
    legend,
    level_panels,
    panel_title,
)
from finetune.comparison.words import method_label

STAGES = ("platt", "temperature", "before")
"""Whose scores are judged: the first that a method has."""
SCALED = {"platt": "after Platt scaling", "temperature": "after temperature scaling", "before": "of scores as they come"}


def judged_levels(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Levels with a class to decide on and a method whose scores are probabilities."""
    levels = (comparison.get("net_benefit") or {}).get("levels", {})
    return {key: level for key, level in levels.items() if level["treat_all"][0] is not None and any(level["methods"].values())}


def judged_stage(level: Mapping[str, Any]) -> str:
    """The stage that the level's curves show."""
    return next(stage for stage in STAGES if any(stage in curves for curves in level["methods"].values()))


def judged_classes(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Class of the last level -> its curves, frequent ones first; empty where the comparison has none."""
    levels = judged_levels(comparison)
    own = (levels.get(list(comparison["levels"])[-1]) or {}).get("per_class") or {}
    return {name: own[name] for name in by_count(comparison) if name in own}


def decision_curves(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Net benefit over the threshold, a panel a level, after scaling where there is one."""
    levels = judged_levels(comparison)
    figure, axes = level_panels(comparison, list(levels), narrow, (2.3, 3.3), "x")
    for axis, level in zip(axes, levels.values(), strict=True):
        stage = judged_stage(level)
        curves = {method: own.get(stage) or own.get("before") for method, own in level["methods"].items()}
        _panel(axis, comparison, level["treat_all"], curves, level.get("treat_by_prevalence"))
    axes[0].set_ylabel("Net benefit")
    axes[-1].set_xlabel("Threshold")
    legend(figure, axes[0], narrow)
    return figure


def decision_classes(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """The same, a small panel a class of the last level, without bands. Every panel has a scale of its own: its top is the class's share."""
    classes = judged_classes(comparison)
    figure, axes = class_panels(len(classes), narrow, own_scale=True)
    for axis, (name, entry) in zip(axes, classes.items(), strict=True):
        _panel(axis, comparison, entry["treat_all"], {m: {"value": value} for m, value in entry["methods"].items()})
        panel_title(axis, name, narrow)
        axis.set_xticks([0, 1] if narrow else [0, 0.5, 1])
        axis.locator_params(axis="y", nbins=3)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}".replace("-", "\N{MINUS SIGN}"))
    figure.supxlabel("Threshold", fontsize=9, color=MUTED)
    figure.supylabel("Net benefit", fontsize=9, color=MUTED)
    legend(figure, axes[0], narrow)
    return figure


def _panel(
    axis: Axes, comparison: Mapping[str, Any], treat_all: Any, curves: Mapping[str, Any], by_prevalence: Any = None
) -> None:
    steps = np.array(comparison["net_benefit"]["thresholds"])
    everyone = np.array(treat_all, dtype=float)
    axis.axhline(0.0, color=INK, linewidth=1.1, label="Treat none")
    axis.plot(steps, everyone, color=MUTED, linewidth=1.1, linestyle=(0, (5, 1, 1, 1)), label="Treat all", zorder=4)
    if by_prevalence is not None:
        axis.plot(
            steps, by_prevalence, color=INK, linewidth=1.1, linestyle=(0, (1, 1.4)), label="Treat by prevalence", zorder=4
        )
    top = max(0.002, everyone[0])
    for i, method in enumerate(comparison["methods"]):
        curve = curves.get(method)
        if not curve:
            continue
        value = np.array(curve["value"], dtype=float)
        high = np.array(curve.get("high", value), dtype=float)
        if "low" in curve:
            axis.fill_between(steps, np.array(curve["low"], dtype=float), high, color=colour(i), alpha=0.15, linewidth=0)
        axis.plot(steps, value, color=colour(i), linewidth=1.7, linestyle=DASHES[i % 5], label=method_label(method))
        top = max(top, float(np.nanmax(high)))
    axis.set_ylim(-0.12 * top, 1.06 * top)
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
