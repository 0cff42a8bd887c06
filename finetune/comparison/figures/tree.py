"""How a method errs in the tree: shares of calls and studies, and how far off mistakes are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from finetune.comparison.figures.house import INK, NARROW, WIDE, dot, legend, name_methods, row_height, shifts, stripes, wrapped

MEASURES = {
    "hierarchical_f1": "Hierarchical F1",
    "hierarchical_precision": "Hierarchical precision",
    "hierarchical_recall": "Hierarchical recall",
    "child_without_parent": "Called child, parent not called",
    "parent_without_child": "Called parent, no child called",
    "wrong_first": "Wrong at level 1",
    "recovery": "Right at last level, wrong at level 1",
    "kept": "Right at last level, right at level 1",
    "wrong_last": "Wrong at the last level",
    "distance": "Edges from a wrong answer to the truth",
}
MOST_FREQUENT = "Always the most frequent class"
CONSTANT: dict[str, Any] = {"color": INK, "markersize": 15, "markeredgewidth": 1.6, "linestyle": "none", "zorder": 2}
LESS_IS_BETTER = ("child_without_parent", "parent_without_child", "wrong_first", "wrong_last", "distance")


def measures(comparison: Mapping[str, Any]) -> dict[str, str]:
    """The measures that the comparison has, in order, and what they are called."""
    found = next(iter(comparison["tree"]["methods"].values()))
    return {name: words for name, words in MEASURES.items() if name in found}


def tree_forest(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """A row a measure, every method with its interval; below it the distance of mistakes, in edges."""
    methods, own = comparison["methods"], comparison["tree"]["methods"]
    frequent = comparison["tree"].get("most_frequent") or {}
    shares = [name for name in measures(comparison) if name != "distance"]
    parts = [shares, *([["distance"]] if "distance" in measures(comparison) else [])]
    height = max(row_height(methods), 0.34) * (1.25 if narrow else 1.0)
    figure = Figure(figsize=(NARROW if narrow else WIDE, height * sum(map(len, parts)) + 1.7))
    axes = figure.subplots(len(parts), 1, height_ratios=[len(part) + 0.2 for part in parts], squeeze=False).ravel()
    for axis, names in zip(axes, parts, strict=True):
        stripes(axis, len(names))
        for row, name in enumerate(names):
            for i, (method, shift) in enumerate(zip(methods, shifts(methods), strict=True)):
                dot(axis, own[method][name], row + shift, i)
            if (value := (frequent.get(name) or {}).get("value")) is not None:
                axis.plot(value, row, "|", **CONSTANT)
        words = [f"{MEASURES[name]}\u00a0{'↓' if name in LESS_IS_BETTER else '↑'}" for name in names]
        axis.set_yticks(range(len(names)), [wrapped(text, 24) if narrow else text for text in words])
    axes[0].set_xlim(-0.01, 1.01)
    axes[0].xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes[0].set_title("Share")
    if len(parts) > 1:
        axes[1].set_title("Edges")
    name_methods(axes[0], methods)
    if frequent:
        axes[0].plot([], [], "|", **CONSTANT, label=MOST_FREQUENT)
    legend(figure, axes[0], narrow)
    return figure
