"""The comparison's figures: every function takes a comparison (see `hp2l.comparison.compare`) and gives one matplotlib figure.

Notable choices:
- Two widths of each figure, 10.4 in for a page and 3.5 in for a phone; one inch is 100 CSS pixels on the page, so that
  letters keep their size instead of shrinking with the figure.
- Okabe-Ito colours; methods also differ in lightness, marker and hatch, for colour blindness and grey print.
- Bars start at 0.5, which is what guessing earns for AUC and for balanced accuracy alike.
- `inline_svg` turns the few colours used here into CSS variables, so that the page decides on light, dark or print.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00")
INK, MUTED, GRID, PAPER = "#1f2430", "#667080", "#e3e6ea", "#fffffe"
MARKERS, HATCHES = ("o", "s", "^", "D", "v"), ("", "////", "....", "xxxx", "----")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1.2, 1)), (0, (6, 1.5, 1.2, 1.5)), (0, (2, 2)))
WIDE, NARROW = 10.4, 3.5
# The font that measures the figure and, for the page, fonts of the same widths.
_ARIAL = "Arial, 'Helvetica Neue', Helvetica, 'Liberation Sans', sans-serif"
_FONTS = dict.fromkeys(("Arial", "Liberation Sans", "Helvetica", "Helvetica Neue"), _ARIAL)
_FONTS["DejaVu Sans"] = "'DejaVu Sans', Verdana, Geneva, sans-serif"  # matplotlib brings it along


def method_label(name: str) -> str:
    """How a method is called in text: `zero_shot` -> `Zero-shot`."""
    known = {"zero_shot": "Zero-shot", "fine_tuned": "Fine-tuned"}
    return known.get(name, name.replace("_", " ").capitalize())


def _font() -> str:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next(name for name in _FONTS if name in installed)


@contextmanager
def style() -> Iterator[None]:
    """House style, for the time of drawing and saving."""
    settings: Any = {
        "font.family": _font(),
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
    }
    with matplotlib.rc_context(settings):
        yield


# --- the figures -----------------------------------------------------------------------------------------------------


def level_bars(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Macro AUC and balanced accuracy of every level and method, with their intervals."""
    figure = Figure(figsize=(NARROW, 5.0) if narrow else (WIDE, 2.95))
    rows, columns = (2, 1) if narrow else (1, 2)
    axes = figure.subplots(rows, columns, sharey=True)
    for axis, metric, title in zip(axes, ("macro_auc", "balanced_accuracy"), ("Macro AUC", "Balanced accuracy"), strict=True):
        _grouped_bars(axis, comparison, metric)
        axis.set_title(title)
    _legend(figure, axes[0], axes[-1], narrow)
    return figure


def _grouped_bars(axis: Axes, comparison: Mapping[str, Any], metric: str) -> None:
    methods, levels = comparison["methods"], comparison["levels"]
    width, lowest = 0.78 / len(methods), 0.5
    for i, method in enumerate(methods):
        for j, level in enumerate(levels.values()):
            entry = level[method][metric]
            if entry["value"] is None:
                continue
            x = j + (i - (len(methods) - 1) / 2) * width
            label = method_label(method) if j == 0 else None
            bar: dict[str, Any] = {"color": colour(i), "hatch": HATCHES[i % 5], "edgecolor": PAPER, "linewidth": 0}
            axis.bar(x, entry["value"] - 0.5, width * 0.92, bottom=0.5, label=label, **bar)
            axis.vlines(x, entry["low"], entry["high"], color=PAPER, linewidth=4)
            axis.vlines(x, entry["low"], entry["high"], color=INK, linewidth=1.5)
            look: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 9, "fontweight": "bold"}
            axis.text(x, entry["high"] + 0.008, f"{entry['value']:.2f}", **look)
            lowest = min(lowest, entry["low"])
    axis.set_xticks(range(len(levels)), [f"Level {key}\n{level['name']}" for key, level in levels.items()])
    axis.grid(axis="x", visible=False)
    axis.set_ylim(max(0.0, lowest - 0.03), 1.0)
    axis.axhline(0.5, color=MUTED, linewidth=0.9)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)


def class_forest(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """AUC of every class of the last level, both methods, and their paired difference; frequent classes first."""
    level, names = _last(comparison), _by_count(comparison)
    paired = "difference" in level
    height = 0.29 * len(names) + 1.0
    if narrow:
        figure = Figure(figsize=(NARROW, height * (2 if paired else 1)))
        axes = list(figure.subplots(2 if paired else 1, 1, squeeze=False).ravel())
    else:
        figure = Figure(figsize=(WIDE, height))
        axes = list(figure.subplots(1, 2 if paired else 1, sharey=True, squeeze=False).ravel())
    for axis in axes:
        _class_rows(axis, level, names, comparison["methods"][0], 20 if narrow else 26)
    _forest(axes[0], level, names, comparison["methods"])
    axes[0].set_title("AUC")
    if paired:
        _forest_difference(axes[1], level, names)
        first, second = (method_label(method).lower() for method in comparison["methods"][:2])
        axes[1].set_title("Difference in AUC" if narrow else f"Difference in AUC, {second} minus {first}")
    _legend(figure, axes[0], axes[0], narrow)
    return figure


def _class_rows(axis: Axes, level: Mapping[str, Any], names: Sequence[str], method: str, width: int) -> None:
    counts = [level[method]["per_class"][name]["n_positive"] for name in names]
    labels = [f"{_wrapped(name, width)} ({count})" for name, count in zip(names, counts, strict=True)]
    axis.set_yticks(range(len(names)), labels)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    for row in range(0, len(names), 2):
        axis.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.45, linewidth=0)


def _forest(axis: Axes, level: Mapping[str, Any], names: Sequence[str], methods: Sequence[str]) -> None:
    lows = [0.5]
    for i, method in enumerate(methods):
        shift = (i - (len(methods) - 1) / 2) * min(0.3, 0.8 / len(methods))
        entries = [level[method]["per_class"][name] for name in names]
        lows += [entry["auc"]["low"] for entry in entries if entry["auc"]["low"] is not None]
        _dots(axis, entries, shift, i, method_label(method))
    axis.axvline(0.5, color=MUTED, linewidth=0.9)
    axis.set_xlim(max(0.0, min(lows) - 0.03), 1.01)


def _forest_difference(axis: Axes, level: Mapping[str, Any], names: Sequence[str]) -> None:
    entries = [level["difference"]["per_class"][name]["auc"] for name in names]
    kept = [name in level["macro_classes"] for name in names]
    for row, (entry, counted) in enumerate(zip(entries, kept, strict=True)):
        if entry["value"] is None:
            continue
        sure = entry["low"] > 0 or entry["high"] < 0
        axis.hlines(row, entry["low"], entry["high"], color=INK if sure else MUTED, linewidth=1.4 if counted else 0.8)
        axis.plot(entry["value"], row, "D", color=INK if sure else PAPER, markeredgecolor=INK if sure else MUTED, markersize=5)
    axis.axvline(0.0, color=MUTED, linewidth=0.9)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:+.1f}" if abs(value) > 1e-9 else "0")


def _dots(axis: Axes, entries: Sequence[Mapping[str, Any]], shift: float, index: int, label: str) -> None:
    """AUC and interval of each class; hollow and thin where the class is not part of the macro mean."""
    for row, entry in enumerate(entries):
        auc, counted = entry["auc"], entry["in_macro"]
        if auc["value"] is None:
            continue
        axis.hlines(row + shift, auc["low"], auc["high"], color=colour(index), linewidth=1.6 if counted else 0.8)
        fill = colour(index) if counted else PAPER
        axis.plot(auc["value"], row + shift, MARKERS[index % 5], color=colour(index), markersize=5, markerfacecolor=fill)
    axis.plot([], [], MARKERS[index % 5], color=colour(index), markersize=5, label=label)


def long_tail(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Classes of the last level from frequent to rare: AUC of every method over how often the class occurs."""
    level, share, source = _last(comparison), *frequencies(comparison)
    names = sorted((n for n in share if n != comparison["settings"]["normal_class"]), key=lambda n: -share[n])
    place, values = range(len(names)), [100 * share[name] for name in names]
    ratios = [3, 1.1]
    if narrow:
        figure = Figure(figsize=(NARROW, 0.3 * len(names) + 1.1))
        auc, bars = figure.subplots(1, 2, sharey=True, width_ratios=ratios)
    else:
        figure = Figure(figsize=(WIDE, 4.3))
        auc, bars = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    for row, name in enumerate(names):
        found = [level[m]["per_class"][name]["auc"]["value"] for m in comparison["methods"]]
        found = [value for value in found if value is not None]
        if len(found) > 1:
            (auc.hlines if narrow else auc.vlines)(row, min(found), max(found), color=MUTED, linewidth=1.2)
    for i, method in enumerate(comparison["methods"]):
        score = np.array([level[method]["per_class"][name]["auc"]["value"] for name in names], dtype=float)
        x, y = (score, place) if narrow else (place, score)
        auc.plot(x, y, MARKERS[i % 5], color=colour(i), markersize=6, label=method_label(method))
    (bars.barh if narrow else bars.bar)(place, values, 0.55, color=MUTED)
    _finish_long_tail(auc, bars, names, values, source, narrow)
    _legend(figure, auc, auc, narrow)
    return figure


def _finish_long_tail(auc: Axes, bars: Axes, names: Sequence[str], values: Sequence[float], source: str, narrow: bool) -> None:
    auc.set_title("AUC")
    place = range(len(names))
    if narrow:
        auc.set_yticks(place, [_wrapped(name, 19) for name in names], fontsize=7.5)
        auc.set_ylim(len(names) - 0.4, -0.6)
        auc.axvline(0.5, color=MUTED, linewidth=0.9)
        bars.set_title("% of studies", fontsize=8, fontweight="normal")
        bars.grid(visible=False)
        bars.xaxis.set_visible(False)
    else:
        auc.axhline(0.5, color=MUTED, linewidth=0.9)
        auc.grid(axis="x", visible=False)
        bars.set_xticks(place, [_wrapped(name, 16) for name in names], rotation=40, ha="right", rotation_mode="anchor")
        bars.set_title(f"Frequency, % of {source} studies", fontweight="normal", fontsize=9)
        bars.grid(visible=False)
        bars.yaxis.set_visible(False)
        bars.margins(y=0.35)
    for spine in ("left", "bottom") if narrow else ("left",):
        bars.spines[spine].set_visible(False)
    for row, value in enumerate(values):
        text, shift = (f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"), max(values) * 0.04
        look: dict[str, Any] = {"fontsize": 7.5, "color": MUTED}
        if narrow:
            bars.text(value + shift, row, text, ha="left", va="center", **look)
        else:
            bars.text(row, value + shift, text, ha="center", va="bottom", **look)
    if narrow:
        bars.set_xlim(0, max(values) * 1.6)


def roc_multiples(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """One small ROC panel a disease of the last level, every method in it."""
    roc, normal = comparison["curves"]["roc"], comparison["settings"]["normal_class"]
    names = [name for name in _by_count(comparison) if name != normal and any(name in roc[method] for method in roc)]
    columns = 3 if narrow else 5
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(NARROW, 1.4 * rows + 0.6) if narrow else (WIDE, 2.15 * rows + 0.35))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    level = _last(comparison)
    for axis in grid.ravel()[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(grid.ravel(), names, strict=False):
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)))
        for i, method in enumerate(comparison["methods"]):
            if name in roc[method]:
                points = roc[method][name]
                look: dict[str, Any] = {"color": colour(i), "linewidth": 1.5, "linestyle": "-" if i else (0, (4, 1.2))}
                axis.plot(points["fpr"], points["tpr"], label=method_label(method), **look)
        found = [level[method]["per_class"][name]["auc"]["value"] for method in comparison["methods"] if name in roc[method]]
        text = (" → " if len(found) == 2 else "  ").join(f"{value:.2f}" for value in found)
        axis.text(0.97, 0.05, text, ha="right", fontsize=7 if narrow else 8.5, fontweight="bold")
        axis.set_title(_wrapped(name, 16 if narrow else 26), fontsize=7.5 if narrow else 8.5, fontweight="normal")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.supxlabel("1 - specificity", fontsize=9, color=MUTED)
    figure.supylabel("Sensitivity", fontsize=9, color=MUTED)
    handles, labels = grid.ravel()[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=max(1, len(labels)))
    return figure


def level_drop(comparison: Mapping[str, Any], narrow: bool = False) -> Figure:
    """Macro AUC from the coarsest to the finest level, one line a method; and how far scores are probabilities."""
    reliability = comparison["curves"]["reliability"]
    panels = 2 if reliability else 1
    size = (NARROW, 2.9 * panels) if narrow else (WIDE * (1 if panels == 2 else 0.6), 3.3)
    figure = Figure(figsize=size)
    axes = figure.subplots(*((panels, 1) if narrow else (1, panels)), squeeze=False).ravel()
    keys, levels = list(comparison["levels"]), list(comparison["levels"].values())
    for i, method in enumerate(comparison["methods"]):
        entries = [level[method]["macro_auc"] for level in levels]
        x = np.arange(len(levels)) + 0.03 * (i - (len(comparison["methods"]) - 1) / 2)
        value, low, high = (np.array([e[k] for e in entries], dtype=float) for k in ("value", "low", "high"))
        axes[0].plot(x, value, MARKERS[i % 5] + "-", color=colour(i), linewidth=1.8, markersize=6, label=method_label(method))
        axes[0].vlines(x, low, high, color=colour(i), linewidth=1.4)
    axes[0].set_xticks(range(len(levels)), [f"Level {k}\n{level['name']}" for k, level in zip(keys, levels, strict=True)])
    axes[0].set_xlim(-0.25, len(levels) - 0.75)
    axes[0].grid(axis="x", visible=False)
    axes[0].set_title("Macro AUC from coarse to fine")
    _legend(figure, axes[0], axes[0], narrow)
    if reliability:
        _reliability(axes[1], comparison)
    return figure


def _reliability(axis: Axes, comparison: Mapping[str, Any]) -> None:
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)))
    for i, method in enumerate(comparison["methods"]):
        points = comparison["curves"]["reliability"].get(method)
        if points:
            kept = [row for row in zip(points["mean_score"], points["frequency"], strict=True) if row[0] is not None]
            x, y = zip(*kept, strict=True)
            label = f"{method_label(method)} (ECE {points['ece']:.2f})"
            axis.plot(x, y, MARKERS[i % 5] + "-", color=colour(i), linewidth=1.4, markersize=5, label=label, clip_on=False)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="Mean score", ylabel="Observed share")
    axis.set_title("Reliability, all classes of the last level")
    axis.legend(loc="best")


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
            style = {"linestyle": DASHES[i % 5], "marker": mark, "markersize": 3.5}
            axis.plot(known[:, 0], known[:, 1], color=colour(i + 1), linewidth=1.6, label=name, **style)
        axis.set_title(panel.get("title", ""))
        axis.set(xlabel=panel.get("xlabel", ""), ylabel=panel.get("ylabel", ""))
        if len(panel["series"]) > 1:
            axis.legend(loc="best")
    return figure


# --- what the figures share ------------------------------------------------------------------------------------------


def colour(index: int) -> str:
    """Colour of the i-th method."""
    return COLOURS[index % len(COLOURS)]


def _legend(figure: Figure, source: Axes, place: Axes, narrow: bool) -> None:
    """The methods in one line: beside the title of the wide figure, above the narrow one."""
    handles, labels = source.get_legend_handles_labels()
    if narrow:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), columnspacing=1.2)
    else:
        place.legend(handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(labels), borderaxespad=0.0)


def _last(comparison: Mapping[str, Any]) -> Mapping[str, Any]:
    return list(comparison["levels"].values())[-1]


def _by_count(comparison: Mapping[str, Any]) -> list[str]:
    """Classes of the last level by number of positive test studies, the normal class at the end."""
    level, normal = _last(comparison), comparison["settings"]["normal_class"]
    table = level[comparison["methods"][0]]["per_class"]
    return sorted(level["classes"], key=lambda name: (name == normal, -table[name]["n_positive"]))


def frequencies(comparison: Mapping[str, Any]) -> tuple[dict[str, float], str]:
    """Share of positive studies of each class of the last level, and of which studies: training if known, else test."""
    classes, level = list(comparison["cohort"]["classes"].values())[-1], _last(comparison)
    if all(entry.get("train_prevalence") is not None for entry in classes.values()):
        return {name: entry["train_prevalence"] for name, entry in classes.items()}, "training"
    table = level[comparison["methods"][0]]["per_class"]
    return {n: e["n_positive"] / max(1, e["n_positive"] + e["n_negative"]) for n, e in table.items()}, "test"


def _wrapped(name: str, width: int) -> str:
    return "\n".join(textwrap.wrap(name, width)) or name


# --- out of matplotlib -----------------------------------------------------------------------------------------------


def settled(figure: Figure) -> Figure:
    """Lay the figure out once, so that saving it in several formats does not do it again."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write PNG (200 dpi) and SVG on white; within `style()`."""
    figure.savefig(folder / f"{name}.png", dpi=200, facecolor="white")
    figure.savefig(folder / f"{name}.svg", facecolor="white", metadata={"Date": None})


def inline_svg(figure: Figure, prefix: str) -> str:
    """The figure as an <svg> element for a page, within `style()`.

    Text stays text, colours become CSS variables, ids carry the prefix because a page has many figures.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = svg[svg.index("<svg") :].strip()
    variables = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
    variables.update({shade: f"m{i}" for i, shade in enumerate(COLOURS)})
    for shade, variable in variables.items():
        svg = re.sub(shade, f"var(--{variable})", svg, flags=re.IGNORECASE)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    svg = re.sub(r"font-family: [^;\"]*", f"font-family: {_FONTS[_font()]}", svg)
    svg = re.sub(r"(font: [^;\"]*?[\d.]+px) [^;\"]*", rf"\1 {_FONTS[_font()]}", svg)  # the shorthand of older matplotlib
    opening, rest = svg.split(">", 1)
    return re.sub(r'\s(width|height)="[^"]*"', "", opening) + ">" + rest
