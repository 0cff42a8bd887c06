"""Draws docs/architecture.png, the figure of the README:  python docs/architecture.py

Okabe-Ito colours (safe for colour blindness); what belongs to HLIP is blue, what belongs to HP2L is orange, files are grey.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

INK, MUTED, PAPER = "#1f2430", "#5b6472", "#ffffff"
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d57800", "#009e73", "#cc79a7"
TINT = {BLUE: "#e8f2f9", ORANGE: "#fdf2e2", MUTED: "#f3f4f6"}
SANS = ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans"]


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, *, fill: str | None = None, line: float = 1.3):
    """A rounded box; (x, y) is its lower left corner."""
    style = "round,pad=0,rounding_size=0.9"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, lw=line, ec=colour, fc=fill or PAPER, zorder=2))


def text(axes: Axes, x: float, y: float, words: str, size: float = 9.5, colour: str = INK, **more) -> None:
    """Text centred at (x, y) unless told otherwise."""
    settings = {"ha": "center", "va": "center", "linespacing": 1.3, "zorder": 5} | more
    axes.text(x, y, words, fontsize=size, color=colour, **settings)


def command(axes: Axes, x: float, y: float, words: str, colour: str = INK, **more) -> None:
    """What one types."""
    text(axes, x, y, words, 9.5, colour, family="monospace", weight="bold", **more)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = MUTED, bend: str = "arc3") -> None:
    """From one point to another."""
    style = {"arrowstyle": "-|>,head_width=0.22,head_length=0.45", "lw": 1.5, "color": colour, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style | {"connectionstyle": bend}, zorder=3)


def cells(axes: Axes, x: float, y: float, colours: list[str], size: float, gap: float = 0.25) -> None:
    """A row of small squares: tokens, volumes or classes."""
    for place, colour in enumerate(colours):
        axes.add_patch(Rectangle((x + place * (size + gap), y), size, size, fc=colour, ec=PAPER, lw=0.6, zorder=4))


def archive(axes: Axes) -> None:
    """Files, `hlip prepare`, the store."""
    box(axes, 1, 47, 17, 12.5, MUTED, fill=TINT[MUTED])
    text(axes, 9.5, 56.6, "Studies", 11, weight="bold")
    text(axes, 9.5, 51.6, "NIfTI or DICOM scans,\nreports, some labels", 9.5, MUTED)
    arrow(axes, (9.5, 47), (9.5, 36.5))
    command(axes, 10.5, 41.8, "hlip prepare", ha="left")
    box(axes, 1, 20, 17, 16.5, MUTED, fill=TINT[MUTED])
    text(axes, 9.5, 33.6, "Store", 11, weight="bold")
    text(axes, 9.5, 29.4, "one file a study,\none uint8 volume a scan", 9.5, MUTED)
    for row, scans in enumerate((3, 1, 5)):
        cells(axes, 4.7, 24.7 - 1.7 * row, ["#9aa3af"] * scans, 1.3)
        text(axes, 14.3, 25.3 - 1.7 * row, f"{scans} scan{'s' * (scans > 1)}", 8, MUTED)


def pretraining(axes: Axes) -> None:
    """Study encoder, text tower, dual loss."""
    box(axes, 23, 35.2, 53, 26.3, BLUE, fill=TINT[BLUE])
    command(axes, 24.5, 59.3, "pretrain", BLUE, ha="left")
    text(axes, 35, 59.3, "HLIP: studies and their reports, no labels", 9.5, BLUE, ha="left")

    box(axes, 24.5, 46.3, 30, 11, BLUE)
    text(axes, 39.5, 55.2, "Study encoder (ViT)", 10.5, weight="bold")
    for place, (scope, tone) in enumerate((("slice", "#cfe4f2"), ("scan", "#9ccae6"), ("study", "#5aa5d2"))):
        x = 26 + 9.4 * place
        box(axes, x, 50.2, 8.2, 3.2, BLUE, fill=tone, line=0.8)
        text(axes, x + 4.1, 51.75, scope, 9.5)
        if place:
            arrow(axes, (x - 1.2, 51.8), (x, 51.8), BLUE)
    text(axes, 39.5, 48.2, "attention blocks over packed scans", 9, MUTED)

    box(axes, 24.5, 36.8, 30, 7.3, BLUE)
    text(axes, 39.5, 42, "Text tower (BERT)", 10.5, weight="bold")
    text(axes, 39.5, 38.9, "a random sentence  |  the whole report", 9, MUTED)

    for y, label, colour in ((54.6, "token 0", GREEN), (49.4, "token 1", PINK)):
        arrow(axes, (54.5, y), (61, y), BLUE)
        text(axes, 57.7, y + 1.2, label, 8.5, MUTED)
        cells(axes, 61.2, y - 0.9, [colour], 1.8)
    for x, colour in ((66, GREEN), (70.5, PINK)):
        cells(axes, x - 0.9, 39.6, [colour], 1.8)


def main() -> None:
    """Draw and save."""
    matplotlib.rcParams.update({"font.family": "sans-serif", "font.sans-serif": SANS})
    figure = plt.figure(figsize=(10, 6.4), dpi=160)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 64))
    axes.axis("off")
    archive(axes)
    pretraining(axes)
    figure.savefig(Path(__file__).with_name("architecture.png"), facecolor=PAPER)


if __name__ == "__main__":
    main()
