"""What the figures share: sizes, colours, markers, fonts and a legend of the methods.

Notable choices:
- Two widths of each figure, 10.4 in for a page and 3.5 in for a phone; one inch is 100 CSS pixels on the page, so that
  letters keep their size instead of shrinking with the figure.
- Colours that stay apart for colour-blind eyes; methods also differ in lightness, marker, dash and hatch, for grey print.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.comparison.words import last_level, method_label, shown

COLOURS = ("#e69f00", "#0072b2", "#009e73", "#882255", "#cc79a7")
"""Lightness 71, 46, 58, 33, 61: Okabe and Ito's, the fourth Tol's wine."""
INK, MUTED, GRID, PAPER = "#1f2430", "#667080", "#e3e6ea", "#fffffe"
MARKERS, HATCHES = ("o", "s", "^", "D", "v"), ("", "////", "....", "xxxx", "----")
DASHES: tuple[Any, ...] = ((0, (4, 1.2)), "-", (0, (1.2, 1)), (0, (6, 1.5, 1.2, 1.5)), (0, (2, 2)))
WIDE, NARROW = 10.4, 3.5
# The font that measures the figure and, for the page, fonts of the same widths.
_ARIAL = "Arial, 'Helvetica Neue', Helvetica, 'Liberation Sans', sans-serif"
FONTS = dict.fromkeys(("Arial", "Liberation Sans", "Helvetica", "Helvetica Neue"), _ARIAL)
FONTS["DejaVu Sans"] = "'DejaVu Sans', Verdana, Geneva, sans-serif"  # matplotlib brings it along


def font() -> str:
    """The first of `FONTS` that this machine has."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return next(name for name in FONTS if name in installed)


@contextmanager
def style() -> Iterator[None]:
    """House style, for the time of drawing and saving."""
    settings: Any = {
        "font.family": font(),
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.titlecolor": INK,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "hatch.linewidth": 0.6,
        "svg.hashsalt": "hlip",
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.1,  # a browser sets letters a little wider than matplotlib does
    }
    with matplotlib.rc_context(settings):
        yield


def colour(index: int) -> str:
    """Colour of the i-th method."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """Marker of the i-th method."""
    return MARKERS[index % len(MARKERS)]


def shifts(methods: Sequence[str], most: float = 0.62) -> list[float]:
    """Where the methods stand within a row of height 1."""
    step = min(0.28, most / len(methods))
    return [(i - (len(methods) - 1) / 2) * step for i in range(len(methods))]


def row_height(methods: Sequence[str]) -> float:
    """Inches of a row that holds a mark a method."""
    return max(0.29, 0.115 * len(methods))


def level_panels(
    comparison: Mapping[str, Any], levels: Sequence[str], narrow: bool, heights: tuple[float, float], shared: str
) -> tuple[Figure, list[Axes]]:
    """A panel a level, side by side or, if narrow, below one another; each named after its level.

    Args:
        levels: keys of `comparison["levels"]`.
        heights: inches of a panel if narrow, and of the whole if not.
        shared: the axis that the panels share, x or y.
    """
    rows, columns = (len(levels), 1) if narrow else (1, len(levels))
    figure = Figure(figsize=(NARROW, heights[0] * rows + 0.6) if narrow else (WIDE, heights[1]))
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=shared == "x", sharey=shared == "y").ravel())
    for axis, key in zip(axes, levels, strict=True):
        axis.set_title(f"Level {key} · {comparison['levels'][key]['name']}")
    return figure, axes


def class_panels(count: int, narrow: bool, own_scale: bool = False) -> tuple[Figure, list[Axes]]:
    """Small panels, five in a row or three if narrow, that share both axes; or have scales of their own, two if narrow. Those of the grid
    beyond `count` are hidden. The lowest panel of each column has the x axis's numbers."""
    columns = (2 if own_scale else 3) if narrow else 5
    rows = max(1, -(-count // columns))
    more = 0.12 if own_scale else 0.0  # every panel names its numbers
    figure = Figure(figsize=(NARROW, (1.45 + more) * rows + 1.1) if narrow else (WIDE, (2.15 + more) * rows + 0.45))
    figure.set_layout_engine("constrained", h_pad=0.04 + more / 2)
    grid = figure.subplots(rows, columns, sharex=not own_scale, sharey=not own_scale, squeeze=False)
    axes = list(grid.ravel())
    for axis in axes[count:]:
        axis.set_visible(False)
    for place in range(max(0, count - columns), 0 if own_scale else count):
        axes[place].tick_params(labelbottom=True)
    return figure, axes[:count]


def panel_title(axis: Axes, name: str, narrow: bool, below: str = "") -> None:
    """A class's name above its small panel of `class_panels`, and a line below it."""
    axis.set_title(
        "\n".join(filter(None, [wrapped(name, 15 if narrow else 26), below])),
        fontsize=7.5 if narrow else 8.5,
        fontweight="normal",
    )


def legend(figure: Figure, source: Axes, narrow: bool) -> None:
    """The methods in a line or two above the figure."""
    handles, labels = source.get_legend_handles_labels()
    columns = len(labels)
    if narrow and sum(len(label) + 4 for label in labels) > 46:
        columns = 2
    figure.legend(handles, labels, loc="outside upper right", ncols=columns, columnspacing=1.2, borderaxespad=0.2)


def by_count(comparison: Mapping[str, Any]) -> list[str]:
    """Classes of the last level by number of positive test studies, the normal class at the end."""
    level, normal = last_level(comparison), comparison["settings"]["normal_class"]
    table = level[comparison["methods"][0]]["per_class"]
    return sorted(level["classes"], key=lambda name: (name == normal, -table[name]["n_positive"]))


def frequencies(comparison: Mapping[str, Any]) -> tuple[dict[str, float], str]:
    """Share of positive studies of each class of the last level, and of which studies: training if known, else test."""
    classes, level = list(comparison["cohort"]["classes"].values())[-1], last_level(comparison)
    if all(entry.get("train_prevalence") is not None for entry in classes.values()):
        return {name: entry["train_prevalence"] for name, entry in classes.items()}, "training"
    table = level[comparison["methods"][0]]["per_class"]
    return {n: e["n_positive"] / max(1, e["n_positive"] + e["n_negative"]) for n, e in table.items()}, "test"


def wrapped(name: str, width: int, lines: int = 2) -> str:
    """A name in so many lines of so many letters at most, the rest as an ellipsis (tables have it whole); long words may stick out."""
    return "\n".join(textwrap.wrap(name, width, max_lines=lines, placeholder=" …", break_long_words=False)) or name


def stripes(axis: Axes, rows: int) -> None:
    """Every second row shaded, the first row on top."""
    axis.set_ylim(rows - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    for row in range(0, rows, 2):
        axis.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.45, linewidth=0)


def dot(axis: Axes, entry: Mapping[str, Any], row: float, index: int, counted: bool = True, label: str | None = None) -> None:
    """Value and interval of a method in a row; hollow and thin where it does not count."""
    if entry["value"] is None:
        return
    if entry["low"] is not None:
        axis.hlines(row, entry["low"], entry["high"], color=colour(index), linewidth=1.6 if counted else 0.8)
    fill = colour(index) if counted else PAPER
    look: dict[str, Any] = {
        "color": colour(index),
        "markersize": 5,
        "markerfacecolor": fill,
        "linestyle": "none",
        "clip_on": False,
    }
    axis.plot(entry["value"], row, marker(index), label=label, **look)


def name_methods(axis: Axes, methods: Sequence[str]) -> None:
    """Entries for a legend, whatever was drawn."""
    for i, method in enumerate(methods):
        axis.plot([], [], marker(i), color=colour(i), markersize=5, linestyle="none", label=method_label(method))


def difference_rows(axis: Axes, entries: Sequence[Mapping[str, Any]], index: int | None, shift: float = 0.0) -> None:
    """Differences with intervals, a row each: filled where the difference is `shown`. `index` of the method, None in ink."""
    for row, entry in enumerate(entries):
        if entry["value"] is None or entry["low"] is None:
            continue
        sure = shown(entry) != 0
        line = (INK if sure else MUTED) if index is None else colour(index)
        axis.hlines(row + shift, entry["low"], entry["high"], color=line, linewidth=1.4 if entry.get("counted", True) else 0.8)
        fill = line if sure else PAPER
        mark = "D" if index is None else marker(index)
        axis.plot(entry["value"], row + shift, mark, color=line, markerfacecolor=fill, markersize=5)


def zero_line(axis: Axes) -> None:
    """A line at zero, and signs on the axis."""
    axis.axvline(0.0, color=MUTED, linewidth=0.9)
    low, high = axis.get_xlim()
    digits = 1 if high - low > 0.3 else 2
    axis.xaxis.set_major_formatter(
        lambda value, _: f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}") if abs(value) > 1e-9 else "0"
    )
