"""Levels of the tree: macro numbers at each of them, and what is lost from the coarsest to the finest.

Bars start at 0.5, which is what guessing earns for AUC and for balanced accuracy alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetune.comparison.figures.house import (
    DASHES,
    HATCHES,
    INK,
    MUTED,
    NARROW,
    PAPER,
    WIDE,
    colour,
    dot,
    legend,
    marker,
    shifts,
    stripes,
    zero_line,
)
from finetune.comparison.words import method_label

PANELS = {"macro_auc": "Macro AUC", "balanced_accuracy": "Balanced accuracy"}


def level_bars(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Macro AUC and balanced accuracy of every level and method, with their intervals; what was not measured has no panel."""
    levels, methods = comparison["levels"].values(), comparison["methods"]
    panels = {
        metric: title
        for metric, title in PANELS.items()
        if metric == "macro_auc" or any(level[method][metric]["value"] is not None for level in levels for method in methods)
    }
    figure = Figure(figsize=(NARROW, 2.6 * len(panels)) if narrow else (WIDE, 3.1))
    rows, columns = (len(panels), 1) if narrow else (1, len(panels))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axis, (metric, title) in zip(axes, panels.items(), strict=True):
        _grouped_bars(axis, comparison, metric, narrow)
        axis.set_title(title)
    legend(figure, axes[0], narrow)
    return figure


def _grouped_bars(axis: Axes, comparison: Mapping[str, Any], metric: str, narrow: bool) -> None:
    methods, levels = comparison["methods"], comparison["levels"]
    width, lowest = min(0.4, 0.82 / len(methods)), 0.5
    inch = (0.85 * NARROW if narrow else 0.43 * WIDE) / max(1, len(levels)) * width
    letters: dict[str, Any] = {"fontsize": min(9.0, max(7.0, 33 * inch)), "rotation": 90 if inch < 0.2 else 0}
    for i, method in enumerate(methods):
        for j, level in enumerate(levels.values()):
            entry = level[method][metric]
            if entry["value"] is None:
                continue
            x = j + (i - (len(methods) - 1) / 2) * width
            label = method_label(method) if j == 0 else None
            bar: dict[str, Any] = {"color": colour(i), "hatch": HATCHES[i % 5], "edgecolor": PAPER, "linewidth": 0}
            axis.bar(x, entry["value"] - 0.5, width * 0.92, bottom=0.5, label=label, **bar)
            axis.vlines(x, entry["low"], entry["high"], color=PAPER, linewidth=4)
            axis.vlines(x, entry["low"], entry["high"], color=INK, linewidth=1.5)
            look: dict[str, Any] = {"ha": "center", "va": "bottom", "fontweight": "bold", **letters}
            axis.text(x, entry["high"] + 0.008, f"{entry['value']:.2f}", **look)
            lowest = min(lowest, entry["low"])
    axis.set_xticks(range(len(levels)), [f"Level {key}\n{level['name']}" for key, level in levels.items()])
    axis.grid(axis="x", visible=False)
    axis.set_ylim(max(0.0, lowest - 0.03), 1.0)
    axis.axhline(0.5, color=MUTED, linewidth=0.9)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)


def level_drop(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Macro AUC from the coarsest to the finest level, a line a method; and how much is lost, with intervals."""
    methods, lost = comparison["methods"], comparison["drop"]
    figure = Figure(figsize=(NARROW, 3.0 + 2 * len(methods) * 0.25 + 1.0) if narrow else (WIDE, 3.3))
    ratios: dict[str, Any] = {"height_ratios": [2.6, 1.6]} if narrow else {"width_ratios": [1.5, 1]}
    axes = figure.subplots(*((2, 1) if narrow else (1, 2)), **ratios)
    keys, levels = list(comparison["levels"]), list(comparison["levels"].values())
    for i, method in enumerate(methods):
        entries = [level[method]["macro_auc"] for level in levels]
        x = np.arange(len(levels)) + 0.03 * (i - (len(methods) - 1) / 2)
        value, low, high = (np.array([e[k] for e in entries], dtype=float) for k in ("value", "low", "high"))
        look: dict[str, Any] = {"color": colour(i), "linewidth": 1.8, "markersize": 6, "linestyle": DASHES[i % 5]}
        axes[0].plot(x, value, marker=marker(i), label=method_label(method), **look)
        axes[0].vlines(x, low, high, color=colour(i), linewidth=1.4)
    axes[0].set_xticks(range(len(levels)), [f"Level {k}\n{level['name']}" for k, level in zip(keys, levels, strict=True)])
    axes[0].set_xlim(-0.25, len(levels) - 0.75)
    axes[0].grid(axis="x", visible=False)
    axes[0].set_title("Macro AUC from coarse to fine")
    stripes(axes[1], len(PANELS))
    for row, metric in enumerate(PANELS):
        for i, (method, shift) in enumerate(zip(methods, shifts(methods), strict=True)):
            dot(axes[1], lost[method][metric], row + shift, i)
    axes[1].set_yticks(range(len(PANELS)), [title.replace(" ", "\n") for title in PANELS.values()])
    axes[1].set_title(f"Lost from level {lost['levels'][0]} to {lost['levels'][1]}")
    zero_line(axes[1])
    if narrow:
        axes[1].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))  # signed numbers of two digits
    legend(figure, axes[0], narrow)
    return figure
