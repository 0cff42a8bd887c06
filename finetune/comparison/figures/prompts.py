"""How much hangs on the prompts: macro AUC of every zero-shot setting, on validation and on test, a panel a level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from finetune.comparison.figures.house import INK, MUTED, NARROW, PAPER, WIDE, colour, wrapped
from finetune.comparison.findings import is_chosen, spreads
from finetune.comparison.methods_text import PARENT_WORDS
from finetune.comparison.words import method_label

MARKS = {"own": "o", "children": "^", "scaled_children": "s", "any_child": "D"}
"""How inner classes are answered -> its mark."""


def prompt_strips(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """A dot a setting, a line from validation to test; the chosen one in the method's colour."""
    found, levels = spreads(comparison), comparison["levels"]
    rows, columns = len(found), len(levels)
    size = (NARROW, 2.9 * rows + 0.7) if narrow else (WIDE, 3.2 * rows + 0.5)
    figure = Figure(figsize=size)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for line, (method, (chosen, settings)) in zip(grid, found.items(), strict=True):
        shade = colour(comparison["methods"].index(method))
        for place, (axis, key) in enumerate(zip(line, levels, strict=True)):
            _panel(axis, settings, chosen, place, shade, narrow)
            axis.set_title(f"Level {key}" + ("" if narrow else f" · {levels[key]['name']}"))
        line[0].set_ylabel(f"Macro AUC{', ' + method_label(method) if rows > 1 else ''}")
    shade = colour(comparison["methods"].index(next(iter(found))))
    handles = [Line2D([], [], color=shade, marker="*", markersize=9, label="chosen on validation")]
    ways = {setting["parents"] for _, settings in found.values() for setting in settings}
    for way, mark in MARKS.items():
        fill = PAPER if way == "own" else MUTED
        if way in ways:
            text = f"inner classes by {PARENT_WORDS[way]}"
            text = wrapped(text, 36, 3) if narrow else text
            handles.append(
                Line2D([], [], linestyle="none", color=MUTED, markersize=5, marker=mark, markerfacecolor=fill, label=text)
            )
    figure.legend(handles=handles, loc="outside upper right", ncols=1 if narrow else 2)
    return figure


def _panel(
    axis: Axes, settings: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], place: int, shade: str, narrow: bool
) -> None:
    for setting in settings:
        values = [setting[split][place] for split in ("val", "test")]
        if None in values:
            continue
        way = setting["parents"]
        shift = 0.05 * (list(MARKS).index(way) - 1.5)
        x, fill = [shift, 1 + shift], PAPER if way == "own" else MUTED
        axis.plot(x, values, MARKS[way], linestyle="-", color=MUTED, linewidth=0.6, markersize=4.5, markerfacecolor=fill)
        if is_chosen(setting, chosen):
            axis.plot(x, values, "*", linestyle="-", color=shade, linewidth=2.4, markersize=13, markeredgecolor=INK, zorder=4)
    axis.axhline(0.5, color=MUTED, linewidth=0.9)
    axis.set_xticks([0, 1], ["val." if narrow else "validation", "test"])
    axis.set_xlim(-0.35, 1.35)
    axis.grid(axis="x", visible=False)
