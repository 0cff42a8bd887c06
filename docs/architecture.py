"""Draws docs/architecture.png, the figure of the README:  python docs/architecture.py

Okabe-Ito colours (safe for colour blindness); what belongs to HLIP is orange, what belongs to HP2L is blue, as zero-shot and fine-tuned are in
the report; files are grey.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

INK, MUTED, PAPER = "#1f2430", "#5b6472", "#ffffff"
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
ORANGE_INK = "#8f5a00"  # orange letters would be too pale to read
TINT = {BLUE: "#e8f2f9", ORANGE: "#fdf2e2", MUTED: "#f3f4f6"}
ARROW = {"arrowstyle": "-|>,head_width=0.22,head_length=0.45", "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
DOWN, BOTH = "-|>,head_width=0.18,head_length=0.35", "<|-|>,head_width=0.18,head_length=0.35"
SANS = ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans"]


def box(
    axes: Axes, x: float, y: float, width: float, height: float, colour: str, *, fill: str | None = None, line: float = 1.3
):
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


def heading(axes: Axes, y: float, verb: str, noun: str, words: str, colour: str) -> None:
    """A panel's first line: the verb as one types it, the noun, how they meet."""
    command(axes, 24, y, verb, colour, ha="left", va="baseline")
    text(axes, 33, y, noun, 10.5, colour, ha="left", va="baseline", weight="bold")
    text(axes, 37.6, y, words, 10, colour, ha="left", va="baseline")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = MUTED) -> None:
    """From one point to another."""
    axes.annotate("", end, start, arrowprops=ARROW | {"color": colour}, zorder=3)


def cells(axes: Axes, x: float, y: float, colours: list[str], size: float, gap: float = 0.25) -> None:
    """A row of small squares: tokens, volumes or classes."""
    for place, colour in enumerate(colours):
        axes.add_patch(Rectangle((x + place * (size + gap), y), size, size, fc=colour, ec=PAPER, lw=0.6, zorder=4))


def archive(axes: Axes) -> None:
    """Files, `hlip prepare`, the store."""
    box(axes, 1, 49, 17, 12.5, MUTED, fill=TINT[MUTED])
    text(axes, 9.5, 58.6, "Archive", 11.5, weight="bold")
    text(axes, 9.5, 54.1, "NIfTI or DICOM scans,\nreports, a few labels", 10, MUTED)
    arrow(axes, (9.5, 49), (9.5, 41))
    command(axes, 10.6, 46.6, "hlip import", ha="left")
    command(axes, 10.6, 44, "hlip prepare", ha="left")
    box(axes, 1, 13, 17, 28, MUTED, fill=TINT[MUTED])
    text(axes, 9.5, 37.6, "Store", 11.5, weight="bold")
    text(axes, 9.5, 32.3, "one file a study,\none uint8 volume\na scan", 10, MUTED)
    for row, scans in enumerate((3, 1, 5, 2)):
        y = 25 - 2.6 * row
        cells(axes, 2.6, y - 0.75, ["#9aa3af"] * scans, 1.5)
        text(axes, 16.7, y, f"{scans} scan{'s' * (scans > 1)}", 9, MUTED, ha="right")
    arrow(axes, (18, 38), (22.5, 38))
    arrow(axes, (18, 17), (22.5, 17))


def pretraining(axes: Axes) -> None:
    """Study encoder, text tower, dual loss."""
    box(axes, 22.5, 34.5, 54.5, 27, ORANGE, fill=TINT[ORANGE])
    heading(axes, 58.8, "pretrain", "HLIP", "from studies and their reports alone", ORANGE_INK)

    box(axes, 24, 46.3, 28.5, 11, ORANGE)
    text(axes, 38.25, 55.3, "Study encoder (ViT)", 11, weight="bold")
    for place, (scope, tone) in enumerate((("slice", "#fbe8c6"), ("scan", "#f5cd86"), ("study", "#edb247"))):
        x = 25.2 + 9.2 * place
        box(axes, x, 50.1, 7.7, 3.2, ORANGE, fill=tone, line=0.8)
        text(axes, x + 3.85, 51.6, scope, 10)
        if place:
            arrow(axes, (x - 1.5, 51.7), (x, 51.7), ORANGE)
    text(axes, 38.25, 48.1, "attention blocks over packed scans", 9.5, MUTED)

    box(axes, 24, 36.3, 28.5, 7.4, ORANGE)
    text(axes, 38.25, 41.5, "Text tower (BERT)", 11, weight="bold")
    text(axes, 38.25, 38.4, "a random sentence, the whole report", 9.5, MUTED)

    box(axes, 61, 36.3, 14.5, 21.2, ORANGE)
    text(axes, 68.25, 54.4, "Dual\ncontrastive loss", 11, weight="bold")
    pairs = ((GREEN, "token 0", "sentence", (54.7, 41.7), 46.7), (PINK, "token 1", "report", (50.2, 38), 40.5))
    for colour, token, words, (above, below), y in pairs:
        for start, label in ((above, token), (below, words)):
            arrow(axes, (52.5, start), (61, start), colour)
            text(axes, 56.3, start + 1.15, label, 9, MUTED)
        cells(axes, 62.4, y - 0.95, [colour], 1.9)
        text(axes, 65.1, y, f"{token} and\n{'its' if colour == PINK else 'a'} {words}", 9.5, ha="left")


def finetuning(axes: Axes) -> None:
    """Cached tokens, three levels, prototypes."""
    box(axes, 22.5, 2.5, 54.5, 27, BLUE, fill=TINT[BLUE])
    heading(axes, 26.8, "finetune", "HP2L", "on top, from a smaller labelled cohort", BLUE)
    arrow(axes, (29.5, 34.5), (29.5, 29.5), ORANGE)
    text(axes, 30.5, 32, "encoder, frozen", 9.5, MUTED, ha="left")

    box(axes, 24, 12.2, 11, 13, ORANGE)
    text(axes, 29.5, 22.6, "Tokens", 11, weight="bold")
    text(axes, 29.5, 18.9, "each study\nencoded once", 9.5, MUTED)
    for row in range(2):
        cells(axes, 26.1, 15.2 - 1.5 * row, ["#edb247"] * 5, 1.2, gap=0.2)

    for place, (name, classes) in enumerate((("category", 4), ("family", 6), ("subtype", 16))):
        x = 38 + 13 * place
        box(axes, x, 12.2, 11, 13, BLUE)
        text(axes, x + 5.5, 22.6, f"Level {place + 1}", 11, weight="bold")
        text(axes, x + 5.5, 19.9, name, 9.5, MUTED)
        for row, first in enumerate(range(0, classes, 8)):
            count = min(8, classes - first)
            cells(axes, x + 5.5 - 0.6 * count + 0.1, 16.6 - 1.3 * row, [BLUE] * count, 1.0, gap=0.2)
        text(axes, x + 5.5, 13.5, f"{classes} classes", 9, MUTED)
        arrow(axes, (x - (3 if not place else 2), 18.7), (x, 18.7), BLUE)
        ends = BOTH if place < 2 else DOWN  # the last level moves its prototypes, but no prompt asks for them
        axes.annotate("", (x + 5.5, 9.2), (x + 5.5, 12.2), arrowprops=ARROW | {"arrowstyle": ends, "color": BLUE}, zorder=3)
    box(axes, 38, 4.2, 37, 5, BLUE, fill="#c9e0f0", line=0.8)
    text(axes, 56.5, 6.6, "prompts choose among class prototypes, moved by EMA", 9.5)


def answers(axes: Axes) -> None:
    """Ask, compare, report."""
    box(axes, 81.5, 40, 17.5, 21.5, ORANGE)
    command(axes, 90.25, 59, "hlip ask", ORANGE_INK)
    text(axes, 90.25, 55.4, "zero-shot answers\nin plain words", 10, MUTED)
    for row, (words, share) in enumerate((("glioma?", 0.85), ("stroke?", 0.3), ("normal?", 0.12))):
        y = 50 - 3.3 * row
        text(axes, 82.7, y, words, 9.5, ha="left")
        axes.add_patch(Rectangle((90.2, y - 0.8), 7.4, 1.6, fc="#e3e9ef", zorder=3))
        axes.add_patch(Rectangle((90.2, y - 0.8), 7.4 * share, 1.6, fc=ORANGE, zorder=4))
    arrow(axes, (77, 50.7), (81.5, 50.7), ORANGE)

    box(axes, 81.5, 2.5, 17.5, 27, MUTED, fill=TINT[MUTED])
    command(axes, 90.25, 27, "hlip compare")
    text(axes, 90.25, 22.4, "both models, the same\nheld-out patients,\nconfidence intervals", 10, MUTED)
    axes.add_patch(Rectangle((85, 4.5), 10.5, 13, fc=PAPER, ec=MUTED, lw=1.2, zorder=3))
    text(axes, 90.25, 15.6, "Report", 10, weight="bold")
    for place, (low, high) in enumerate(((3.4, 5.6), (4.1, 5.2), (3.6, 4.5))):
        for step, (height, colour) in enumerate(((low, ORANGE), (high, BLUE))):
            x = 86.3 + 2.9 * place + 1.1 * step
            axes.add_patch(Rectangle((x, 6.2), 1.0, height, fc=colour, zorder=4))
            axes.plot([x + 0.5] * 2, [6.2 + height - 0.8, 6.2 + height + 0.8], color=INK, lw=1, zorder=5)
    axes.plot([86, 94.8], [6.2, 6.2], color=MUTED, lw=1, zorder=5)
    arrow(axes, (90.25, 40), (90.25, 29.5), ORANGE)
    text(axes, 91.2, 34.8, "zero-shot", 9.5, MUTED, ha="left")
    arrow(axes, (77, 16), (81.5, 16), BLUE)


def main() -> None:
    """Draw and save."""
    matplotlib.rcParams.update({"font.family": "sans-serif", "font.sans-serif": SANS})
    figure = plt.figure(figsize=(10, 6.4), dpi=160)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 64))
    axes.axis("off")
    archive(axes)
    pretraining(axes)
    finetuning(axes)
    answers(axes)
    figure.savefig(Path(__file__).with_name("architecture.png"), facecolor=PAPER)


if __name__ == "__main__":
    main()
