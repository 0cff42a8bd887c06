"""Groups of patients: macro AUC of the first two methods in each, and their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.comparison.figures.house import (
    INK,
    MUTED,
    NARROW,
    WIDE,
    difference_rows,
    dot,
    legend,
    name_methods,
    shifts,
    stripes,
    zero_line,
)
from finetune.comparison.findings import group_words
from finetune.comparison.words import lower_label


def group_forest(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """A row a group with its number of studies; groups that are too small are absent."""
    rows, methods = comparison["slices"], comparison["methods"][:2]
    paired = len(methods) > 1 and methods[1] in rows[0]["difference"]
    lines = _lines(rows)
    panels = 2 if paired else 1
    height = 0.27 * len(lines) + 1.1
    figure = Figure(figsize=(NARROW, height * panels) if narrow else (WIDE, height))
    axes = figure.subplots(*((panels, 1) if narrow else (1, panels)), sharey=not narrow, squeeze=False).ravel()
    for axis in axes:
        _name_rows(axis, lines)
    for row, (_, entry) in enumerate(lines):
        for i, (method, shift) in enumerate(zip(methods, shifts(methods), strict=True)):
            if entry is not None:
                dot(axes[0], entry["methods"][method], row + shift, i)
    axes[0].axvline(0.5, color=MUTED, linewidth=0.9)
    axes[0].set_title("Macro AUC")
    if paired:
        empty = {"value": None, "low": None}
        difference_rows(axes[1], [empty if entry is None else entry["difference"][methods[1]] for _, entry in lines], None)
        zero_line(axes[1])
        minus = "" if narrow else f", {lower_label(methods[1])} minus {lower_label(methods[0])}"
        axes[1].set_title(f"Difference{minus}")
    name_methods(axes[0], methods)
    legend(figure, axes[0], narrow)
    return figure


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any] | None]]:
    """Rows of the figure: a heading a group and its values; all sequences share one heading."""
    lines: list[tuple[str, Mapping[str, Any] | None]] = []
    for row in rows:
        scanned = row["group"].endswith(" scanned")
        heading = "sequences" if scanned else row["group"]
        if not any(text == heading for text, entry in lines if entry is None):
            lines.append((heading, None))
        words = group_words(row).removeprefix("studies ") if scanned else row["value"]
        lines.append((f"{words} ({row['studies']})", row))
    return lines


def _name_rows(axis: Axes, lines: Sequence[tuple[str, Mapping[str, Any] | None]]) -> None:
    stripes(axis, len(lines))
    axis.set_yticks(range(len(lines)), [text if entry else text[:1].upper() + text[1:] for text, entry in lines])
    for label, (_, entry) in zip(axis.yaxis.get_majorticklabels(), lines, strict=False):
        if entry is None:
            label.set_fontweight("bold")
            label.set_color(INK)
