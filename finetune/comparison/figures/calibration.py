"""Can a score be read as a probability? Reliability before and after calibration, a panel a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from finetune.comparison.figures.house import MUTED, NARROW, PAPER, WIDE, colour, marker
from finetune.comparison.words import last_level, method_label

LOOKS: dict[str, dict[str, Any]] = {
    "before": {"linestyle": (0, (1.2, 1)), "color": MUTED},
    "temperature": {"linestyle": (0, (4, 1.2)), "linewidth": 1.5},
    "isotonic": {"linestyle": "-", "linewidth": 1.8},
}
WORDS = {"before": "as it comes", "temperature": "temperature", "isotonic": "isotonic"}


def calibrated_methods(comparison: Mapping[str, Any]) -> list[str]:
    """Methods whose scores are probabilities, so that they could be calibrated."""
    levels = (comparison.get("calibration") or {}).get("levels", {})
    last = levels.get(list(comparison["levels"])[-1], {})
    return [method for method in comparison["methods"] if "before" in last.get(method, {})]


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
    stages = comparison["calibration"]["levels"][list(comparison["levels"])[-1]]
    for axis, method in zip(grid.ravel(), methods, strict=False):
        _panel(axis, comparison, stages[method], method, bins)
    figure.supxlabel("Mean score", fontsize=9, color=MUTED)
    for axis in grid[:, 0]:
        axis.set_ylabel("Observed share")
    handles = [grid.ravel()[0].plot([], [], **{"color": MUTED, **look}, label=WORDS[stage])[0] for stage, look in LOOKS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, handlelength=2.6, columnspacing=1.2)
    return figure


def _panel(axis: Axes, comparison: Mapping[str, Any], stages: Mapping[str, Any], method: str, bins: int) -> None:
    index = comparison["methods"].index(method)
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)))
    for stage, look in LOOKS.items():
        mean, share, count = pooled(stages[stage]["per_class"], last_level(comparison)["macro_classes"], bins)
        line = {"color": colour(index), **look}
        axis.plot(mean, share, **line)
        sizes = 6 + 60 * np.sqrt(count / max(1, count.sum()))
        fill = PAPER if stage == "before" else line["color"]
        axis.scatter(mean, share, sizes, marker=marker(index), color=fill, edgecolors=line["color"], linewidths=1.0, zorder=3)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    for way in (axis.xaxis, axis.yaxis):
        way.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_title(method_label(method))


def pooled(
    classes: Mapping[str, Any], names: list[str], bins: int
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
