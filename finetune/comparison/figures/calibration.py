"""Can a score be read as a probability? Reliability before and after calibration: a panel a method, and a panel a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from finetune.comparison.figures.house import (
    DASHES,
    MUTED,
    NARROW,
    PAPER,
    WIDE,
    by_count,
    class_panels,
    colour,
    marker,
    panel_title,
)
from finetune.comparison.words import last_level, method_label

LOOKS: dict[str, dict[str, Any]] = {
    "before": {"linestyle": (0, (1.2, 1)), "color": MUTED},
    "temperature": {"linestyle": (0, (4, 1.2)), "linewidth": 1.5},
    "platt": {"linestyle": (0, (6, 1.5, 1.2, 1.5)), "linewidth": 1.5},
    "isotonic": {"linestyle": "-", "linewidth": 1.8},
}
WORDS = {"before": "as it comes", "temperature": "temperature", "platt": "Platt", "isotonic": "isotonic"}
AFTER = ("platt", "temperature")
"""The scaling that a class's panel shows, the first that there is: a smooth one, as a class has few positives."""
BOTH = 2
"""Methods up to which a class's panel has room for their scores as they come and after scaling; else after scaling only."""


def calibrated_methods(comparison: Mapping[str, Any]) -> list[str]:
    """Methods whose scores are probabilities, so that they could be calibrated."""
    last = _last(comparison)
    return [method for method in comparison["methods"] if "before" in last.get(method, {})]


def stages_shown(comparison: Mapping[str, Any]) -> dict[str, str]:
    """Stages that the comparison has, in order, and what they are called."""
    methods = calibrated_methods(comparison)
    own = _last(comparison)[methods[0]] if methods else {}
    return {stage: words for stage, words in WORDS.items() if stage in own}


def _last(comparison: Mapping[str, Any]) -> Mapping[str, Any]:
    levels = (comparison.get("calibration") or {}).get("levels", {})
    found: Mapping[str, Any] = levels.get(list(comparison["levels"])[-1], {})
    return found


def reliability(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Observed share over mean score, all macro classes of the last level together; larger dots hold more pairs."""
    methods, bins = calibrated_methods(comparison), comparison["calibration"]["bins"]
    columns = min(len(methods), 2 if narrow else 5)
    rows = -(-len(methods) // columns)
    side = (NARROW if narrow else min(WIDE, 3.4 * columns)) / columns
    figure = Figure(figsize=(NARROW if narrow else WIDE, rows * (side if narrow else min(side, 3.3)) + 0.7))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in grid.ravel()[len(methods) :]:
        axis.set_visible(False)
    stages = _last(comparison)
    for axis, method in zip(grid.ravel(), methods, strict=False):
        _panel(axis, comparison, stages[method], method, bins)
    figure.supxlabel("Mean score", fontsize=9, color=MUTED)
    for axis in grid[:, 0]:
        axis.set_ylabel("Observed share")
    shown = stages_shown(comparison)
    handles = [Line2D([], [], **{"color": MUTED, **LOOKS[stage]}, label=words) for stage, words in shown.items()]
    ncols = 2 if narrow and len(handles) > 3 else len(handles)
    figure.legend(handles=handles, loc="outside upper right", ncols=ncols, handlelength=2.6, columnspacing=1.2)
    return figure


def _panel(axis: Axes, comparison: Mapping[str, Any], stages: Mapping[str, Any], method: str, bins: int) -> None:
    index = comparison["methods"].index(method)
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)))
    for stage in stages_shown(comparison):
        mean, share, count = pooled(stages[stage]["per_class"], last_level(comparison)["macro_classes"], bins)
        line = {"color": colour(index), **LOOKS[stage]}
        axis.plot(mean, share, **line)
        sizes = 6 + 60 * np.sqrt(count / max(1, count.sum()))
        fill = PAPER if stage == "before" else line["color"]
        axis.scatter(mean, share, sizes, marker=marker(index), color=fill, edgecolors=line["color"], linewidths=1.0, zorder=3)
    _square(axis)
    axis.set_title(method_label(method))


def _square(axis: Axes) -> None:
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    for way in (axis.xaxis, axis.yaxis):
        way.set_major_formatter(lambda value, _: f"{value:g}")


def _own_square(axis: Axes, values: Sequence[float]) -> None:
    """From 0 to the next tenth above all values, both ways: the scores of a rare class fill a corner of the unit square."""
    top = min(1.0, np.ceil(10 * max(values, default=1.0) + 1e-9) / 10)
    axis.plot([0, top], [0, top], color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
    axis.set(xlim=(-0.03 * top, 1.05 * top), ylim=(-0.03 * top, 1.05 * top), xticks=[0, top], yticks=[0, top], aspect="equal")
    for way in (axis.xaxis, axis.yaxis):
        way.set_major_formatter(lambda value, _: f"{value:g}")


def pooled(
    classes: Mapping[str, Any], names: Sequence[str], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean score, observed share and pairs of each filled bin, over several classes."""
    total = np.zeros((3, bins))
    for name in names:
        points = classes[name]["reliability"]
        mean, share, count = (np.array(points[key], dtype=float) for key in ("mean_score", "frequency", "count"))
        place = np.clip((mean * bins).astype(int), 0, bins - 1)
        for row, values in enumerate((mean * count, share * count, count)):
            np.add.at(total[row], place, values)
    filled = total[:, total[2] > 0]
    return filled[0] / filled[2], filled[1] / filled[2], filled[2]


# --- a panel a class -------------------------------------------------------------------------------------------------


def drawn_classes(comparison: Mapping[str, Any]) -> list[str]:
    """Classes of the last level that have a panel: those of the macro mean, frequent ones first."""
    counted = last_level(comparison)["macro_classes"]
    return [name for name in by_count(comparison) if name in counted]


def class_stages(comparison: Mapping[str, Any]) -> list[str]:
    """Stages that a class's panel shows."""
    found = stages_shown(comparison)
    after = next((stage for stage in AFTER if stage in found), "before")
    return list(dict.fromkeys(["before", after])) if len(calibrated_methods(comparison)) <= BOTH else [after]


def reliability_classes(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """A small panel a class of the last level, all methods in it; hollow as they come, filled after scaling."""
    methods, names = calibrated_methods(comparison), drawn_classes(comparison)
    stages, own = class_stages(comparison), _last(comparison)
    figure, axes = class_panels(len(names), narrow, own_scale=True)
    for axis, name in zip(axes, names, strict=True):
        curves = {(m, stage): own[m][stage]["per_class"][name]["reliability"] for m in methods for stage in stages}
        for (method, stage), points in curves.items():
            index = comparison["methods"].index(method)
            look = _class_look(index, stage)
            axis.plot(points["mean_score"], points["frequency"], **{**look, "marker": ""})
            count = np.array(points["count"], dtype=float)
            sizes = 3 + 22 * np.sqrt(count / max(1, count.sum()))
            dots: dict[str, Any] = {"color": look.get("markerfacecolor", colour(index)), "edgecolors": colour(index)}
            axis.scatter(
                points["mean_score"], points["frequency"], sizes, marker=marker(index), linewidths=0.8, zorder=3, **dots
            )
        _own_square(axis, [value for points in curves.values() for key in ("mean_score", "frequency") for value in points[key]])
        panel_title(axis, name, narrow)
    figure.supxlabel("Mean score", fontsize=9, color=MUTED)
    figure.supylabel("Observed share", fontsize=9, color=MUTED)
    handles = []
    for method in methods:
        index = comparison["methods"].index(method)
        for stage in stages:
            words = method_label(method) + (f", {WORDS[stage]}" if len(stages) > 1 else "")
            handles.append(Line2D([], [], **_class_look(index, stage), label=words))
    columns = 1 if narrow else len(handles)
    figure.legend(handles=handles, loc="outside upper right", ncols=columns, handlelength=2.6, columnspacing=1.2)
    return figure


def _class_look(index: int, stage: str) -> dict[str, Any]:
    """A method's own colour, marker and dash; before scaling thin, dotted and hollow."""
    look: dict[str, Any] = {"color": colour(index), "marker": marker(index), "markersize": 3.2}
    if stage == "before":
        return {**look, "linestyle": (0, (1.2, 1)), "linewidth": 1.0, "markerfacecolor": PAPER, "markeredgewidth": 0.8}
    return {**look, "linestyle": DASHES[index % 5], "linewidth": 1.5}
