"""A run's log as curves: what the figures of both training verbs are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]
"""Lines of a metrics.jsonl, each with its `step`."""


def read_log(run: Path) -> Rows:
    """RUN/metrics.jsonl, without a last line that a crash cut short."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def points(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one measure, where it has one."""
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


def draw_series(axes: Axes, rows: Rows, name: str, dots: int = 60, **look: Any) -> None:
    """One measure over the steps, if the run has any of it.

    Args:
        axes: where.
        rows: of the log.
        name: of the measure, and its label where `look` has none.
        dots: fewer points than this get a dot each.
        look: of `Axes.plot`.
    """
    steps, values = points(rows, name)
    if steps:
        usual = {"marker": "." if len(steps) < dots else None, "linewidth": 1.2, "label": name.replace("_", " ")}
        axes.plot(steps, values, **usual | look)


def finish(axes: Axes, title: str, legend: bool = True, **place: Any) -> None:
    """Title, grid and small letters, alike in all panels.

    Args:
        axes: the panel, its curves drawn.
        title: of the panel.
        legend: name the curves.
        place: of `Axes.legend`.
    """
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))
    axes.yaxis.set_offset_position("right")  # a power of ten, where the title is not
    axes.yaxis.get_offset_text().set_fontsize(8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.lines:
        axes.legend(fontsize=7, frameon=False, **place)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the PNG, whole or not at all: somebody may be looking at the older one."""
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=120, format="png")
    partial.replace(path)
    return path
