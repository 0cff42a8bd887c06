"""Frequent and rare classes: AUC of every method from frequent to rare, and what is gained over how often a class occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from finetune.comparison.figures.house import (
    INK,
    MUTED,
    NARROW,
    PAPER,
    WIDE,
    colour,
    frequencies,
    legend,
    marker,
    stripes,
    wrapped,
)
from finetune.comparison.words import last_level, lower_label, method_label, others_of, reference_of, shown

_NAMED = 3
"""Dots that bear a name: as many of the largest gains, and the smallest."""


def long_tail(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Classes of the last level from frequent to rare: AUC of every method; beside it gain against frequency (log axis)."""
    level, share, source = last_level(comparison), *frequencies(comparison)
    names = sorted((n for n in share if n != comparison["settings"]["normal_class"]), key=lambda n: -share[n])
    others = others_of(comparison)
    rows, panels = 0.3 * len(names) + 0.5, 2 if others else 1
    if narrow:
        figure = Figure(figsize=(NARROW, rows + (3.1 if others else 0.6)))
        axes = figure.subplots(panels, 1, squeeze=False, height_ratios=[rows, 2.4][:panels]).ravel()
    else:
        figure = Figure(figsize=(WIDE, max(3.6, rows + 0.6)))
        axes = figure.subplots(1, panels, squeeze=False).ravel()
    _areas(axes[0], level, comparison["methods"], names, share, narrow)
    if others:
        _gains(axes[1], comparison, names, share)
        minus = f"Difference in AUC to {lower_label(reference_of(comparison))}"
        axes[1].set_title("Difference in AUC" if narrow else minus)
        axes[1].set_xlabel(f"positive {source} studies, %" if narrow else f"positive among the {source} studies, %")
    legend(figure, axes[0], narrow)
    return figure


def _areas(
    axis: Axes, level: Mapping[str, Any], methods: Sequence[str], names: Sequence[str], share: Mapping[str, float], narrow: bool
) -> None:
    stripes(axis, len(names))
    labels = [f"{wrapped(name, 20 if narrow else 30)} ({_percent(share[name])})" for name in names]
    axis.set_yticks(range(len(names)), labels, fontsize=7.5 if narrow else 8.5)
    table = np.array([[level[m]["per_class"][name]["auc"]["value"] for name in names] for m in methods], dtype=float)
    for row in range(len(names)):
        if np.isfinite(found := table[:, row][~np.isnan(table[:, row])]).sum() > 1:
            axis.hlines(row, found.min(), found.max(), color=MUTED, linewidth=1.2)
    for i, method in enumerate(methods):
        look: dict[str, Any] = {"color": colour(i), "markersize": 6, "linestyle": "none", "label": method_label(method)}
        axis.plot(table[i], range(len(names)), marker(i), **look)
    axis.axvline(0.5, color=MUTED, linewidth=0.9)
    axis.set_title("AUC")


def _gains(axis: Axes, comparison: Mapping[str, Any], names: Sequence[str], share: Mapping[str, float]) -> None:
    level, others = last_level(comparison), others_of(comparison)
    dots: list[tuple[float, str]] = []
    for method in others:
        index = comparison["methods"].index(method)
        table = level["differences"][method]["per_class"]
        for name in names:
            entry = table[name]["auc"]
            if entry["value"] is None or share[name] <= 0:
                continue
            line = colour(index) if len(others) > 1 else INK if shown(entry) else MUTED
            if entry["low"] is not None:
                axis.vlines(share[name], entry["low"], entry["high"], color=line, linewidth=0.8, alpha=0.7)
            mark = marker(index) if len(others) > 1 else "D"
            axis.plot(
                share[name], entry["value"], mark, color=line, markerfacecolor=line if shown(entry) else PAPER, markersize=5
            )
            dots.append((entry["value"], name))
    axis.axhline(0.0, color=MUTED, linewidth=0.9)
    if not dots:
        return
    axis.set_xscale("log")
    shares = [share[name] for _, name in dots]
    axis.set_xlim(min(shares) / 1.6, min(1.0, max(shares) * 1.8))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if value else "0")
    )
    if len(others) == 1:
        _name(axis, sorted(dots), share)


def _name(axis: Axes, dots: Sequence[tuple[float, str]], share: Mapping[str, float]) -> None:
    """The largest gains and the smallest by name, to the side that has room."""
    middle = float(np.sqrt(np.prod(axis.get_xlim())))
    for value, name in {*dots[:1], *dots[-_NAMED:]}:
        left = share[name] > middle
        place: dict[str, Any] = {"xytext": (-6 if left else 6, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(wrapped(name, 22), (share[name], value), ha="right" if left else "left", fontsize=7.5, **place)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"
