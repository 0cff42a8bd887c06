"""Pictures of one study's diagnosis: what was chosen at each level, and where the model looked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hlip.inference.overlay import Legend
from hlip.taxonomy import Taxonomy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar

MOST = 16
"""Classes shown of a level."""
TIMES = (1, 2, 1 / 2, 4, 1 / 4, 8, 1 / 8, 16, 1 / 16, 1.5, 0.67, 1.25, 0.8, 1.1, 0.9)
LEGENDS = {
    "prompt": Legend(
        name="what differs from an even look",
        ends=("more than even", "less"),
        unit="times an even look (1 is even)",
        ticks={float(np.log2(times)): f"{times:.3g}" for times in TIMES},
        least=float(np.log2(1.5)),
    ),
    "grad_cam": Legend(
        name="what raises the class", ends=("raises it", ""), unit="share of the map's highest", least=1.0, signed=False
    ),
}
"""Kind of map -> how it is read. The prompt's are drawn by their log2, so that twice and half an even look are as strong."""


def draw_levels(
    levels: Sequence[Tensor],
    chosen: Sequence[NDArray[np.float64]],
    near: Sequence[NDArray[np.float64]],
    taxonomy: Taxonomy,
    path: Path,
    title: str,
    warning: str = "",
    kind: str = "score",
    missing: Sequence[set[int]] = (),
) -> None:
    """A row a level: every class's score or probability (1, K_l) with how much of the prompt's attention its prototype got, and beside
    it how near the study lies to the prototype (`prototype_similarity`), where prototypes are averaged.

    No prompt reads the last level's prototypes. Classes that were not learnt (`missing`, their places at each level) are named so and
    have no bar but that of attention.
    """
    from matplotlib.figure import Figure

    rows, columns = [min(MOST, count) + 2 for count in taxonomy.counts], 2 if near else 1
    figure = Figure(figsize=(6.0 + 1.4 * columns, 1.2 + 0.26 * sum(rows)), layout="constrained")
    figure.suptitle(title + (f"\n{warning}" if warning else ""), fontsize=10)
    layout = {"height_ratios": rows, "width_ratios": [1.6, 1.0][:columns]}
    panels = figure.subplots(len(levels), columns, squeeze=False, gridspec_kw=layout)
    near = [row.copy() for row in near]
    for row, places in zip(near, missing, strict=False):
        row[sorted(places)] = 0.0
    low = min([0.0, *(float(row.min()) for row in near)])
    for number, (places, scores) in enumerate(zip(panels, levels, strict=True)):
        absent = missing[number] if missing else set()
        middle, thick = (0.18, 0.36) if number < len(chosen) else (0.0, 0.5)
        order = scores[0].argsort(descending=True)[:MOST].cpu().numpy()[::-1]
        names = [taxonomy.levels[number][place] + (" (not learnt)" if place in absent else "") for place in order]
        cut = f", the highest {MOST} of {taxonomy.counts[number]}" if taxonomy.counts[number] > MOST else ""
        places[0].set_title(f"level {number + 1}: {taxonomy.level_names[number]}{cut}", fontsize=9, loc="left")
        places[0].barh(np.arange(len(order)) + middle, scores[0].cpu().numpy()[order], thick, color="#0072B2", label=kind)
        places[0].set_xlim(0, 1)
        _attention(places[0], number, order, chosen)
        if near:
            _similarity(places[1], near[number][order], low)
        for axes in places:
            axes.set_yticks(np.arange(len(order)), names if axes is places[0] else [])
            axes.set_ylim(-0.6, len(order) - 0.4)  # the same, as both columns share the names
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
    labels = {label: bar for axes in figure.axes for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def _attention(axes: Axes, number: int, order: NDArray[np.int64], chosen: Sequence[NDArray[np.float64]]) -> None:
    """The second bar of each class of a level (number from 0)."""
    if number < len(chosen):
        label = "share of the prompt's attention to its prototype (mean over heads)"
        axes.barh(np.arange(len(order)) - 0.2, chosen[number][order], 0.3, color="#E69F00", label=label)
        axes.axvline(1 / len(chosen[number]), color="0.4", linestyle=":", linewidth=1.2, label="an even look at all prototypes")
    elif chosen:
        axes.set_xlabel("no prompt reads prototypes at the last level", fontsize=8)


def _similarity(axes: Axes, near: NDArray[np.float64], low: float) -> None:
    """Cosines of the classes of a level, on the axis that all levels share."""
    axes.barh(np.arange(len(near)), near, 0.5, color="#009E73", label="cosine of the study with its prototype (-1 to 1)")
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_xlim(1.05 * low, 1)


class ImageRow(NamedTuple):
    """The maps of one kind over a 2-D image."""

    kind: str
    """A key of `LEGENDS`."""
    caption: str
    maps: list[tuple[str, Tensor]]
    """(caption, map (h, w)) of each level: log2 of attention over an even look, or Grad-CAM's share of its highest."""


def limit_of(row: ImageRow) -> float:
    """Where the colours of a row's maps end, the same for all levels."""
    return max(LEGENDS[row.kind].least, *(float(found.abs().max()) for _, found in row.maps))


def colours_of(legend: Legend, limit: float) -> tuple[float, str]:
    """The lowest number of the colours that end at `limit`, and their name."""
    return (-limit, "coolwarm") if legend.signed else (0.0, "inferno")


def draw_image(pixels: NDArray[np.uint8], rows: Sequence[ImageRow], path: Path, title: str) -> None:
    """A 2-D image (H, W, 3) and its maps: a row for each kind of map, the plain image first. Where a map says nothing the image shows
    through."""
    from matplotlib.figure import Figure

    columns = 1 + max(len(row.maps) for row in rows)
    figure = Figure(figsize=(2.9 * columns + 0.8, 3.2 * len(rows) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    tissue = pixels.max(axis=2) > 0
    for row, places in zip(rows, figure.subplots(len(rows), columns, squeeze=False), strict=True):
        for axes in places:
            axes.set_axis_off()
            axes.imshow(pixels)
        places[0].set_title(row.caption, fontsize=9, loc="left")
        legend = LEGENDS[row.kind]
        limit = limit_of(row)
        low, colours = colours_of(legend, limit)
        drawn = None
        for axes, (caption, found) in zip(places[1:], row.maps, strict=False):
            values = enlarged(found, pixels.shape[:2])
            opacity = np.where(tissue, 0.7 * np.abs(values) / limit, 0.0)
            drawn = axes.imshow(values, cmap=colours, alpha=opacity, vmin=low, vmax=limit, interpolation="nearest")
            axes.set_title(caption, fontsize=8)
        if drawn is not None:
            _image_bar(figure.colorbar(drawn, ax=list(places), shrink=0.8, pad=0.01), legend, limit)
    figure.savefig(path, dpi=120)


def _image_bar(bar: Colorbar, legend: Legend, limit: float) -> None:
    """Unit and ticks of a row, in full colours."""
    bar.set_label(legend.unit, fontsize=8)
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    if legend.ticks:
        ticks = legend.ticks_within(limit)
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(labelsize=8)


def enlarged(found: Tensor, size: Any) -> NDArray[np.float32]:
    """A map (h, w) on the image's own (H, W): each pixel the number of its cell."""
    big = F.interpolate(found[None, None].float(), tuple(size), mode="nearest-exact")
    return torch.as_tensor(big[0, 0]).cpu().numpy()
