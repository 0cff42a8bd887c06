"""Pictures of one study's diagnosis: what was chosen at each level, and where the model looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hlip.taxonomy import Taxonomy
from hp2l.head import HP2LOutput

MOST = 16
"""Classes shown of a level."""


def prompt_maps(output: HP2LOutput, blocks: tuple[int, int, int]) -> list[Tensor]:
    """(1, d, h, w) of each level: log2 of the prompt's attention over an even look, mean over heads; empty without a prompt."""
    d, h, w = blocks
    maps = []
    for attention in output.prompt_attention or []:
        looked = reduce(attention, "1 heads N -> N", "mean").float().cpu()
        even = looked.sum() / (d * h * w)
        maps.append(rearrange((looked / even).clamp(min=2**-6).log2(), "(d h w) -> 1 d h w", d=d, h=h, w=w))
    return maps


def chosen_prototypes(output: HP2LOutput) -> list[NDArray[np.float64]]:
    """(K_l,) of levels 1 to L-1: the prompt's attention over prototypes, mean over heads, summing to 1; empty without any."""
    return [reduce(row, "1 heads K -> K", "mean").double().cpu().numpy() for row in output.prototype_attention or []]


def draw_levels(
    levels: Sequence[Tensor],
    chosen: Sequence[NDArray[np.float64]],
    taxonomy: Taxonomy,
    path: Path,
    title: str,
    warning: str = "",
    kind: str = "score",
) -> None:
    """A panel a level: every class's score or probability (1, K_l), and beside it how much of the prompt's attention its prototype got."""
    from matplotlib.figure import Figure

    rows = min(MOST, max(taxonomy.counts))
    figure = Figure(figsize=(4.4 * len(levels), 1.3 + 0.26 * rows), layout="constrained")
    figure.suptitle(title + (f"\n{warning}" if warning else ""), fontsize=10)
    for number, (axes, scores) in enumerate(zip(figure.subplots(1, len(levels), squeeze=False)[0], levels, strict=True)):
        order = scores[0].argsort(descending=True)[:MOST].cpu().numpy()[::-1]
        names = [taxonomy.levels[number][place] for place in order]
        axes.barh(np.arange(len(order)) + 0.18, scores[0].cpu().numpy()[order], 0.36, color="#0072B2", label=kind)
        if number < len(chosen):
            label = "share of the prompt's attention to its prototype"
            axes.barh(np.arange(len(order)) - 0.2, chosen[number][order], 0.3, color="#E69F00", label=label)
            axes.axvline(
                1 / len(chosen[number]), color="0.4", linestyle=":", linewidth=1.2, label="an even look at all prototypes"
            )
        axes.set_yticks(np.arange(len(order)), names, fontsize=8)
        axes.set_xlim(0, 1)
        axes.set_title(f"level {number + 1}: {taxonomy.level_names[number]}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


SHOWN = {
    "prompt": ("Where the prompt looked, against an even look", "coolwarm", "times even"),
    "grad_cam": ("Grad-CAM", "inferno", "share of the highest"),
}
"""Kind of map -> caption, colours, what they mean."""


def draw_image(pixels: NDArray[np.uint8], rows: Mapping[str, Sequence[tuple[str, Tensor]]], path: Path, title: str) -> None:
    """A 2-D image and its maps: a row for each kind of map, the plain image first. Where a map says nothing the image shows through.

    Args:
        pixels: (H, W, 3).
        rows: kind (of `SHOWN`) -> (caption, map (h, w)) of each level: log2 of attention over an even look, or Grad-CAM.
    """
    from matplotlib.figure import Figure

    columns = 1 + max(len(maps) for maps in rows.values())
    figure = Figure(figsize=(2.9 * columns + 0.8, 3.0 * len(rows) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    tissue = pixels.max(axis=2) > 0
    for (kind, maps), places in zip(rows.items(), figure.subplots(len(rows), columns, squeeze=False), strict=True):
        name, colours, unit = SHOWN[kind]
        for axes in places:
            axes.set_axis_off()
            axes.imshow(pixels)
        places[0].set_title(name, fontsize=9, loc="left")
        drawn = None
        for axes, (caption, found) in zip(places[1:], maps, strict=False):
            shown, weight, limits = _layer(kind, enlarged(found, pixels.shape[:2]))
            drawn = axes.imshow(shown, cmap=colours, alpha=np.where(tissue, weight, 0.0), vmin=limits[0], vmax=limits[1])
            axes.set_title(caption, fontsize=8)
        if drawn is not None:
            bar = figure.colorbar(drawn, ax=list(places), shrink=0.8, pad=0.01)
            bar.set_label(unit, fontsize=8)
            if bar.solids is not None:
                bar.solids.set_alpha(1)
            if kind == "prompt":
                bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "1", "2", "4"])
            bar.ax.tick_params(labelsize=8)
    figure.savefig(path, dpi=120)


def _layer(kind: str, found: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], tuple[float, float]]:
    """Values, opacity and limits: an even look and a place without evidence are clear."""
    if kind == "prompt":
        return found, np.clip(np.abs(found) / 2, 0, 1) * 0.7, (-2.0, 2.0)
    share = found / found.max() if found.max() > 0 else found
    return share, share * 0.7, (0.0, 1.0)


def enlarged(found: Tensor, size: Any) -> NDArray[np.float32]:
    """A map (h, w) on the image's own (H, W), bilinear."""
    big = F.interpolate(found[None, None].float(), tuple(size), mode="bilinear", align_corners=False)
    return torch.as_tensor(big[0, 0]).cpu().numpy()
