"""Label efficiency: macro AUC over the number of labelled studies, against zero-shot's flat line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.comparison.figures.house import DASHES, INK, MUTED, colour, legend, level_panels, marker
from finetune.comparison.words import method_label


def label_efficiency(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """A panel a level, the number of labelled studies on a logarithmic axis; shaded where fine-tuning comes to be shown above."""
    levels = comparison["efficiency"]
    figure, axes = level_panels(comparison, list(levels), narrow, (2.4, 3.4), "y")
    for axis, level in zip(axes, levels.values(), strict=True):
        _panel(axis, comparison, level)
    axes[0].set_ylabel("Macro AUC")
    axes[-1].set_xlabel("Labelled training studies")
    legend(figure, axes[0], narrow)
    return figure


def _bracket(axis: Axes, crossing: Mapping[str, Any]) -> None:
    """Between which numbers tried fine-tuning comes to be shown above the line."""
    first, until = crossing.get("above_from"), crossing.get("below_to")
    if first is None or until is None:
        return
    axis.axvspan(until, first, color=INK, alpha=0.07, linewidth=0)
    for end in (until, first):
        axis.axvline(end, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axis.annotate(
        f"{until:,.0f} to {first:,.0f}",
        ((until * first) ** 0.5, 0.03),
        xycoords=("data", "axes fraction"),
        ha="center",
        fontweight="bold",
        fontsize=9,
    )


def _panel(axis: Axes, comparison: Mapping[str, Any], level: Mapping[str, Any]) -> None:
    points, methods = level["points"], comparison["methods"]
    studies = np.array([point["studies"] for point in points], dtype=float)
    value, low, high = (np.array([point[key] for point in points], dtype=float) for key in ("value", "low", "high"))
    trained = next((i for i, method in enumerate(methods) if method not in level["flat"]), len(methods))
    axis.set_xscale("log")
    axis.fill_between(studies, low, high, color=colour(trained), alpha=0.15, linewidth=0)
    look: dict[str, Any] = {"color": colour(trained), "linewidth": 1.8, "markersize": 5.5}
    axis.plot(studies, value, marker=marker(trained), label="Fine-tuned with so many labels", **look)
    for name, entry in level["flat"].items():
        index = methods.index(name) if name in methods else len(methods) + 1
        axis.axhspan(entry["low"], entry["high"], color=colour(index), alpha=0.12, linewidth=0)
        axis.axhline(entry["value"], color=colour(index), linewidth=1.8, linestyle=DASHES[index % 5], label=method_label(name))
        _bracket(axis, level["crossing"].get(name) or {})
    axis.set_xticks(studies, [f"{n:,.0f}" for n in studies])
    axis.set_xticks([], minor=True)
    axis.set_xlim(studies[0] / 1.3, studies[-1] * 1.3)
    if axis.get_ylim()[0] < 0.5:
        axis.axhline(0.5, color=MUTED, linewidth=0.9)
