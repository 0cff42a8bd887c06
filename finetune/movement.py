"""How the prototypes move in training: a snapshot at each validation, a figure, a table of distances.

RUN/prototypes/step-000100.safetensors holds `level_1` ... `level_L`, (K_l, C) float32. The figure has one panel a snapshot (at most
six, evenly chosen), all in one plane: the two principal components of the last snapshot, fitted once, so that movement is movement.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hlip.taxonomy import Taxonomy
from hp2l.head import Head
from hp2l.model import HP2L
from hp2l.prototypes import FixedPrototypes, LearnedPrototypes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Snapshot = list[NDArray[np.float32]]
PANELS = 6


def keep_snapshot(head: Head, out: Path, step: int) -> None:
    """Write the prototypes as they are now, if the head has any that move."""
    own = getattr(head, "head", head)  # inside a dependency prior
    if not isinstance(own, HP2L) or own.bank is None or isinstance(own.bank, FixedPrototypes):
        return
    folder = out / "prototypes"
    folder.mkdir(exist_ok=True)
    # learnt ones end a level earlier: the last level's prompt is read by nobody
    levels = range(1, len(own.counts) + 1 - isinstance(own.bank, LearnedPrototypes))
    tensors = {f"level_{level}": own.bank.prototypes(level).detach().float().cpu().numpy() for level in levels}
    save_file(tensors, folder / f"step-{step:09d}.safetensors")


def snapshots(out: Path) -> dict[int, Snapshot]:
    """Step -> (K_l, C) of each level, in order."""
    found = {}
    for path in sorted((out / "prototypes").glob("step-*.safetensors")):
        tensors = load_file(path)
        found[int(path.stem.removeprefix("step-"))] = [tensors[f"level_{level}"] for level in range(1, len(tensors) + 1)]
    return found


def distances(levels: Snapshot, taxonomy: Taxonomy) -> list[dict[str, float]]:
    """For each level below the first the mean distance (in units of sqrt(C), where N(0, 1) starts are sqrt(2) apart) of two classes with
    the same parent and of two with different ones, and their ratio: below 1 the tree shows in the prototypes."""
    rows = []
    for level, points in enumerate(levels[1:], start=2):
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) / points.shape[1] ** 0.5
        parents = [item.parent for item in taxonomy.classes(level)]
        same = np.array([[one == other for other in parents] for one in parents])
        pairs = ~np.eye(len(points), dtype=bool)
        within, between = (float(gaps[kind & pairs].mean()) if (kind & pairs).any() else float("nan") for kind in (same, ~same))
        rows.append({"level": level, "within": within, "between": between, "ratio": within / between})
    return rows


def draw_movement(out: Path, taxonomy: Taxonomy) -> Path | None:
    """RUN/prototypes.png and RUN/prototypes.csv from the snapshots; None where there are fewer than two."""
    kept = snapshots(out)
    if len(kept) < 2:
        return None
    with (out / "prototypes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["step", "level", "within", "between", "ratio"], lineterminator="\n")
        table.writeheader()
        for step, levels in kept.items():
            table.writerows({"step": step, **row} for row in distances(levels, taxonomy))
    from matplotlib.figure import Figure

    steps = sorted({list(kept)[place] for place in np.linspace(0, len(kept) - 1, min(PANELS, len(kept))).round().astype(int)})
    columns = min(3, len(steps))
    rows = -(-len(steps) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows + 0.4), layout="constrained")
    last = np.concatenate(kept[steps[-1]])
    middle = last.mean(axis=0)
    plane = np.linalg.svd(last - middle, full_matrices=False)[2][:2].T
    flat = {step: [(points - middle) @ plane for points in kept[step]] for step in steps}
    every = np.concatenate([points for levels in flat.values() for points in levels])
    margin = 0.06 * np.ptp(every, axis=0)
    low, high = every.min(axis=0) - margin, every.max(axis=0) + margin
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    for axes, step in zip(panels, steps, strict=False):
        axes.set_axis_on()
        draw_panel(axes, flat[step], taxonomy)
        axes.set(title=f"step {step}", xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    path = out / "prototypes.png"
    figure.savefig(path, dpi=130)
    return path


def draw_panel(axes: Axes, levels: Snapshot, taxonomy: Taxonomy) -> None:
    """Classes of all levels, the coarser the larger, in the colour of their top-level class, joined to their parents."""
    from matplotlib import colormaps

    tops = [item.name for item in taxonomy.classes(1)]
    colours = {name: colormaps["tab10"](place % 10) for place, name in enumerate(tops)}
    for level, points in enumerate(levels, start=1):
        for item, place in zip(taxonomy.classes(level), points, strict=True):
            top = item
            while top.parent is not None and top.parent_level is not None and top.parent_index is not None:
                top = taxonomy.classes(top.parent_level)[top.parent_index]
            if item.parent_level is not None and item.parent_index is not None:
                above = levels[item.parent_level - 1][item.parent_index]
                axes.plot(*zip(above, place, strict=True), color=colours[top.name], linewidth=0.6, alpha=0.5, zorder=1)
            size = 90 / level**1.5
            axes.scatter(place[0], place[1], s=size, color=colours[top.name], label=item.name if level == 1 else None, zorder=2)
