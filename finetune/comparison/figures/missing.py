"""Missing sequences: macro AUC with and without each of them, on the studies that have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from finetune.comparison.figures.house import (
    MUTED,
    NARROW,
    WIDE,
    colour,
    difference_rows,
    legend,
    marker,
    name_methods,
    row_height,
    shifts,
    stripes,
    zero_line,
)


def missing_sequences(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Left: from with it (a tick) to without it (a mark). Right: the difference with its interval, filled where it is shown."""
    rows = comparison["robustness"]
    methods = [method for method in comparison["methods"] if method in rows[0]["methods"]]
    height = max(0.38, row_height(methods)) * len(rows) + 1.1
    figure = Figure(figsize=(NARROW, 2 * height) if narrow else (WIDE, height))
    axes = figure.subplots(*((2, 1) if narrow else (1, 2)), sharey=not narrow)
    for axis in axes:
        stripes(axis, len(rows))
        axis.set_yticks(range(len(rows)), [f"{row['sequence']} ({row['studies']})" for row in rows])
    places = {method: comparison["methods"].index(method) for method in methods}
    for method, shift in zip(methods, shifts(methods), strict=True):
        index = places[method]
        for row, entry in enumerate(rows):
            before, after = (entry["methods"][method][key]["value"] for key in ("with_it", "without"))
            axes[0].hlines(row + shift, before, after, color=colour(index), linewidth=1.6)
            look: dict[str, Any] = {"color": colour(index), "markersize": 5.5, "linestyle": "none"}
            axes[0].plot(before, row + shift, "|", markeredgewidth=1.6, **look)
            axes[0].plot(after, row + shift, marker(index), **look)
        difference_rows(axes[1], [entry["methods"][method]["difference"] for entry in rows], index, shift)
    if axes[0].get_xlim()[0] < 0.52:
        axes[0].axvline(0.5, color=MUTED, linewidth=0.9)
    axes[0].set_title("Macro AUC")
    axes[1].set_title("Difference without it")
    zero_line(axes[1])
    if len(methods) == len(comparison["methods"]):
        name_methods(axes[0], methods)
    else:
        _name_some(axes[0], places)
    legend(figure, axes[0], narrow)
    return figure


def _name_some(axis: Any, places: Mapping[str, int]) -> None:
    from finetune.comparison.words import method_label

    for method, index in places.items():
        axis.plot([], [], marker(index), color=colour(index), markersize=5, linestyle="none", label=method_label(method))
