"""ROC curves of the last level, a small panel a disease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.comparison.figures.house import DASHES, INK, MUTED, by_count, class_panels, colour, panel_title
from finetune.comparison.words import last_level, method_label

MOST_NUMBERS = 3
"""Methods up to which a panel has room for their AUCs."""


def roc_multiples(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """One small ROC panel a disease of the last level, every method in it."""
    roc, normal = comparison["curves"]["roc"], comparison["settings"]["normal_class"]
    names = [name for name in by_count(comparison) if name != normal and any(name in roc[method] for method in roc)]
    figure, axes = class_panels(len(names), narrow)
    for axis, name in zip(axes, names, strict=True):
        _panel(axis, comparison, name, narrow)
    figure.supxlabel("1 - specificity", fontsize=9, color=MUTED)
    figure.supylabel("Sensitivity", fontsize=9, color=MUTED)
    handles, labels = axes[0].get_legend_handles_labels() if axes else ([], [])
    ncols = 2 if narrow and len(labels) > 3 else max(1, len(labels))
    figure.legend(handles, labels, loc="outside upper right", ncols=ncols, handlelength=2.6, columnspacing=1.2)
    return figure


def _panel(axis: Axes, comparison: Mapping[str, Any], name: str, narrow: bool) -> None:
    roc, level = comparison["curves"]["roc"], last_level(comparison)
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)))
    found = []
    for i, method in enumerate(comparison["methods"]):
        if name in roc[method]:
            look: dict[str, Any] = {"color": colour(i), "linewidth": 1.5, "linestyle": DASHES[i % 5]}
            axis.plot(roc[method][name]["fpr"], roc[method][name]["tpr"], label=method_label(method), **look)
            found.append((i, level[method]["per_class"][name]["auc"]["value"]))
    if narrow and len(found) <= 2:  # no room beside the curves
        panel_title(axis, name, narrow, " → ".join(f"{value:.2f}" for _, value in found))
    else:
        _numbers(axis, found, narrow)
        panel_title(axis, name, narrow)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _numbers(axis: Axes, found: Sequence[tuple[int, float]], narrow: bool) -> None:
    """AUCs: two with an arrow between, three one above another in the legend's order; more would hide the curves."""
    if len(found) > MOST_NUMBERS:
        return
    look: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 7 if narrow else 8.5, "fontweight": "bold"}
    if len(found) <= 2:
        axis.text(0.97, 0.04, " → ".join(f"{value:.2f}" for _, value in found), color=INK, **look)
        return
    step = 0.17 if narrow else 0.115
    for line, (index, value) in enumerate(reversed(found)):
        axis.text(0.97, 0.03 + step * line, f"{value:.2f}", color=colour(index), **look)
