"""Classes of the last level: AUC of each, and its paired difference to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.comparison.figures.house import (
    MUTED,
    NARROW,
    WIDE,
    by_count,
    difference_rows,
    dot,
    legend,
    name_methods,
    row_height,
    shifts,
    stripes,
    wrapped,
    zero_line,
)
from finetune.comparison.words import last_level, lower_label, others_of, reference_of


def class_forest(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """AUC of every class of the last level, all methods, and the paired differences; frequent classes first."""
    level, names, methods = last_level(comparison), by_count(comparison), comparison["methods"]
    others = others_of(comparison)
    height = row_height(methods) * len(names) + 1.1
    if narrow:
        figure = Figure(figsize=(NARROW, height * (2 if others else 1)))
        axes = list(figure.subplots(2 if others else 1, 1, squeeze=False).ravel())
    else:
        figure = Figure(figsize=(WIDE, height))
        axes = list(figure.subplots(1, 2 if others else 1, sharey=True, squeeze=False).ravel())
    for axis in axes:
        stripes(axis, len(names))
        counts = [level[methods[0]]["per_class"][name]["n_positive"] for name in names]
        labels = [f"{wrapped(name, 20 if narrow else 26)} ({count})" for name, count in zip(names, counts, strict=True)]
        axis.set_yticks(range(len(names)), labels)
    _areas(axes[0], level, names, methods)
    axes[0].set_title("AUC")
    if others:
        _differences(axes[1], comparison, names)
        reference = lower_label(reference_of(comparison))
        minus = f", {lower_label(others[0])} minus {reference}" if len(others) == 1 else f" to {reference}"
        axes[1].set_title("Difference in AUC" + ("" if narrow else minus))  # on a phone it would be cut
    name_methods(axes[0], methods)
    legend(figure, axes[0], narrow)
    return figure


def _areas(axis: Axes, level: Mapping[str, Any], names: Sequence[str], methods: Sequence[str]) -> None:
    lows = [0.5]
    for i, (method, shift) in enumerate(zip(methods, shifts(methods), strict=True)):
        for row, name in enumerate(names):
            entry = level[method]["per_class"][name]
            dot(axis, entry["auc"], row + shift, i, entry["in_macro"])
            lows += [entry["auc"]["low"]] if entry["auc"]["low"] is not None else []
    axis.axvline(0.5, color=MUTED, linewidth=0.9)
    axis.set_xlim(max(0.0, min(lows) - 0.03), 1.01)


def _differences(axis: Axes, comparison: Mapping[str, Any], names: Sequence[str]) -> None:
    level, methods, others = last_level(comparison), comparison["methods"], others_of(comparison)
    for method, shift in zip(others, shifts(others), strict=True):
        table = level["differences"][method]["per_class"]
        entries = [{**table[name]["auc"], "counted": name in level["macro_classes"]} for name in names]
        difference_rows(axis, entries, methods.index(method) if len(others) > 1 else None, shift)
    zero_line(axis)
