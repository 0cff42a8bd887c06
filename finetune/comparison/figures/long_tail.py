"""Frequent and rare classes: AUC of every method over how often the class occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.comparison.figures.house import MUTED, NARROW, WIDE, colour, frequencies, legend, marker, wrapped
from finetune.comparison.words import last_level, method_label


def long_tail(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Classes of the last level from frequent to rare: AUC of every method over how often the class occurs."""
    level, share, source = last_level(comparison), *frequencies(comparison)
    names = sorted((n for n in share if n != comparison["settings"]["normal_class"]), key=lambda n: -share[n])
    place, values = range(len(names)), [100 * share[name] for name in names]
    ratios = [3, 1.1]
    if narrow:
        figure = Figure(figsize=(NARROW, 0.3 * len(names) + 1.1))
        auc, bars = figure.subplots(1, 2, sharey=True, width_ratios=ratios)
    else:
        figure = Figure(figsize=(WIDE, 4.4))
        auc, bars = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    for row, name in enumerate(names):
        found = [level[m]["per_class"][name]["auc"]["value"] for m in comparison["methods"]]
        found = [value for value in found if value is not None]
        if len(found) > 1:
            (auc.hlines if narrow else auc.vlines)(row, min(found), max(found), color=MUTED, linewidth=1.2)
    for i, method in enumerate(comparison["methods"]):
        score = np.array([level[method]["per_class"][name]["auc"]["value"] for name in names], dtype=float)
        x, y = (score, place) if narrow else (place, score)
        auc.plot(x, y, marker(i), color=colour(i), markersize=6, label=method_label(method))
    (bars.barh if narrow else bars.bar)(place, values, 0.55, color=MUTED)
    _finish(auc, bars, names, values, source, narrow)
    legend(figure, auc, narrow)
    return figure


def _finish(auc: Axes, bars: Axes, names: Sequence[str], values: Sequence[float], source: str, narrow: bool) -> None:
    auc.set_title("AUC")
    place = range(len(names))
    if narrow:
        auc.set_yticks(place, [wrapped(name, 19) for name in names], fontsize=7.5)
        auc.set_ylim(len(names) - 0.4, -0.6)
        auc.axvline(0.5, color=MUTED, linewidth=0.9)
        bars.set_title("% of studies", fontsize=8, fontweight="normal")
        bars.grid(visible=False)
        bars.xaxis.set_visible(False)
    else:
        auc.axhline(0.5, color=MUTED, linewidth=0.9)
        auc.grid(axis="x", visible=False)
        bars.set_xticks(place, [wrapped(name, 16) for name in names], rotation=40, ha="right", rotation_mode="anchor")
        bars.set_title(f"Frequency, % of {source} studies", fontweight="normal", fontsize=9)
        bars.grid(visible=False)
        bars.yaxis.set_visible(False)
        bars.margins(y=0.35)
    for spine in ("left", "bottom") if narrow else ("left",):
        bars.spines[spine].set_visible(False)
    _counts(bars, values, narrow)


def _counts(bars: Axes, values: Sequence[float], narrow: bool) -> None:
    for row, value in enumerate(values):
        text, shift = (f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"), max(values) * 0.04
        look: dict[str, Any] = {"fontsize": 7.5, "color": MUTED}
        if narrow:
            bars.text(value + shift, row, text, ha="left", va="center", **look)
        else:
            bars.text(row, value + shift, text, ha="center", va="bottom", **look)
    if narrow:
        bars.set_xlim(0, max(values) * 1.6)
