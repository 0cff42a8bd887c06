"""Figures out of matplotlib: files, and <svg> elements whose colours the page decides on."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from finetune.comparison.figures.house import COLOURS, FONTS, GRID, INK, MUTED, PAPER, font


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
    svg = re.sub(r"font-family: [^;\"]*", f"font-family: {FONTS[font()]}", svg)
    svg = re.sub(r"(font: [^;\"]*?[\d.]+px) [^;\"]*", rf"\1 {FONTS[font()]}", svg)  # the shorthand of older matplotlib
    opening, rest = svg.split(">", 1)
    return re.sub(r'\s(width|height)="[^"]*"', "", opening) + ">" + rest
