"""Decision curves: what acting on a method is worth at each threshold, against treating all and treating none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.comparison.figures.house import DASHES, INK, MUTED, colour, legend, level_panels
from finetune.comparison.words import method_label


def judged_levels(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Levels with a class to decide on and a method whose scores are probabilities."""
    levels = (comparison.get("net_benefit") or {}).get("levels", {})
    return {key: level for key, level in levels.items() if level["treat_all"][0] is not None and any(level["methods"].values())}


def decision_curves(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Net benefit over the threshold, a panel a level, after temperature scaling where there is one."""
    levels = judged_levels(comparison)
    figure, axes = level_panels(comparison, list(levels), narrow, (2.3, 3.3), "x")
    for axis, level in zip(axes, levels.values(), strict=True):
        _panel(axis, comparison, level)
    axes[0].set_ylabel("Net benefit")
    axes[-1].set_xlabel("Threshold")
    legend(figure, axes[0], narrow)
    return figure


def _panel(axis: Axes, comparison: Mapping[str, Any], level: Mapping[str, Any]) -> None:
    steps = np.array(comparison["net_benefit"]["thresholds"])
    everyone = np.array(level["treat_all"], dtype=float)
    axis.axhline(0.0, color=INK, linewidth=1.1, label="Treat none")
    axis.plot(steps, everyone, color=MUTED, linewidth=1.1, linestyle=(0, (5, 1, 1, 1)), label="Treat all", zorder=4)
    top = max(0.01, everyone[0])
    for i, method in enumerate(comparison["methods"]):
        curves = level["methods"].get(method, {})
        curve = curves.get("temperature") or curves.get("before")
        if not curve:
            continue
        value, low, high = (np.array(curve[key], dtype=float) for key in ("value", "low", "high"))
        axis.fill_between(steps, low, high, color=colour(i), alpha=0.15, linewidth=0)
        axis.plot(steps, value, color=colour(i), linewidth=1.7, linestyle=DASHES[i % 5], label=method_label(method))
        top = max(top, float(np.nanmax(high)))
    axis.set_ylim(-0.12 * top, 1.06 * top)
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
