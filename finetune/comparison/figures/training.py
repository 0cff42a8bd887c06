"""How the models were trained: losses and validation numbers over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.comparison.figures.house import DASHES, NARROW, WIDE, colour


def training_curves(panels: Sequence[Mapping[str, Any]], narrow: bool = False) -> Figure:
    """Lines over steps: each panel {title, xlabel, ylabel, x, series: {name: y}}; None in y is a gap."""
    columns = 1 if narrow else 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(NARROW, 2.5 * rows) if narrow else (WIDE, 2.9 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in grid[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(grid, panels, strict=False):
        for i, (name, line) in enumerate(panel["series"].items()):
            points = zip(panel.get("x", range(len(line))), line, strict=True)
            known = np.array([point for point in points if point[1] is not None], dtype=float).reshape(-1, 2)
            mark = "o" if len(known) <= 12 else ""  # few points: show them, a line alone would claim more
            style = {"linestyle": DASHES[(i + 1) % 5], "marker": mark, "markersize": 3.5}
            axis.plot(known[:, 0], known[:, 1], color=colour(i + 1), linewidth=1.6, label=name, **style)
        lines = _names(axis, panel, narrow)
        axis.set_title(panel.get("title", ""), pad=6 + 14 * lines)
        axis.set(xlabel=panel.get("xlabel", ""), ylabel=panel.get("ylabel", ""))
    return figure


def _names(axis: Axes, panel: Mapping[str, Any], narrow: bool) -> int:
    """A legend above the panel (within it, it would cover a line sooner or later), and how many lines it has; none for one series."""
    count, columns = len(panel["series"]), 2 if narrow else 4
    if count < 2:
        return 0
    look: dict[str, Any] = {"borderaxespad": 0.1, "handlelength": 1.8, "columnspacing": 1.2, "labelspacing": 0.25}
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(columns, count), **look)
    return -(-count // columns)
