"""How the prototypes move in training: a snapshot at the start and at each validation, a figure, tables of distances.

RUN/prototypes/step-000100.safetensors holds `level_1` ... `level_L`, (K_l, C) float32. The figure has one panel a snapshot (at most
six, evenly chosen; that of the kept model large and with names), all in one plane: the two principal components of the kept model's
snapshot, fitted once, so that movement is movement. prototypes.csv has every pair of classes of a level at the kept step,
prototypes_summary.csv the means within and between parents of every step. A class that no training study had stays at its start: it is
drawn hollow, has `learnt` 0 in the first table, and no part in the second.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.optimize import linear_sum_assignment

from hlip.taxonomy import Taxonomy
from hp2l.head import Head
from hp2l.model import HP2L
from hp2l.prototypes import FixedPrototypes, LearnedPrototypes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Snapshot = list[NDArray[np.float32]]
Still = Sequence[NDArray[np.bool_]]
"""(K_l,) of each level: whether a prototype never left its start."""
RGBA = tuple[float, float, float, float]
PANELS = 6
NAMED = 30
"""Classes that two columns of names have room for."""


def keep_snapshot(head: Head, out: Path, step: int) -> None:
    """Write the prototypes as they are now, if the head has any that move."""
    own = getattr(head, "head", head)  # inside a dependency prior
    if not isinstance(own, HP2L) or own.bank is None or isinstance(own.bank, FixedPrototypes):
        return
    folder = out / "prototypes"
    # learnt ones end a level earlier: the last level's prompt is read by nobody
    levels = range(1, len(own.counts) + 1 - isinstance(own.bank, LearnedPrototypes))
    tensors = {f"level_{level}": own.bank.prototypes(level).detach().float().cpu().numpy() for level in levels}
    if not tensors:  # learnt ones of a tree with one level
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"step-{step:09d}.safetensors")


def snapshots(out: Path) -> dict[int, Snapshot]:
    """Step -> (K_l, C) of each level, in order."""
    found = {}
    for path in sorted((out / "prototypes").glob("step-*.safetensors")):
        tensors = load_file(path)
        found[int(path.stem.removeprefix("step-"))] = [tensors[f"level_{level}"] for level in range(1, len(tensors) + 1)]
    return found


def kept_step(out: Path, steps: Collection[int]) -> int | None:
    """The step of RUN/model; None where there is no model, or no snapshot of its step."""
    described = out / "model" / "config.json"
    own = json.loads(described.read_text(encoding="utf-8"))["facts"].get("step") if described.is_file() else None
    return own if own in steps else None


def unmoved(kept: dict[int, Snapshot], step: int) -> Still:
    """Prototypes that are at this step where they were at step 0; none where that is not known."""
    if 0 not in kept or step == 0:
        return [np.zeros(len(points), bool) for points in kept[step]]
    return [(points == start).all(axis=1) for points, start in zip(kept[step], kept[0], strict=True)]


def distances(levels: Snapshot, taxonomy: Taxonomy, still: Still = ()) -> Iterator[dict[str, object]]:
    """Every pair of classes of a level: {level, class, other, distance, same_parent (1, 0; empty at the first level), learnt (0 if one of
    both is `still` at its start)}.

    Distances are in units of sqrt(C), in which N(0, 1) starts are sqrt(2) apart.
    """
    for level, points in enumerate(levels, start=1):
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) / points.shape[1] ** 0.5
        for one, other in combinations(taxonomy.classes(level), 2):
            row: dict[str, object] = {"level": level, "class": one.name, "other": other.name}
            same = "" if level == 1 else int(one.parent == other.parent)
            learnt = 1 - int(bool(still) and bool(still[level - 1][[one.index, other.index]].any()))
            yield row | {"distance": float(gaps[one.index, other.index]), "same_parent": same, "learnt": learnt}


def summary(levels: Snapshot, taxonomy: Taxonomy, still: Still = ()) -> list[dict[str, float]]:
    """For each level below the first the mean distance of two learnt classes with the same parent and of two with different ones, and
    their ratio: below 1 the tree shows in the prototypes."""
    pairs, rows = [pair for pair in distances(levels, taxonomy, still) if pair["learnt"]], []
    for level in range(2, len(levels) + 1):
        kinds = [
            [float(str(p["distance"])) for p in pairs if (p["level"], p["same_parent"]) == (level, same)] for same in (1, 0)
        ]
        within, between = (float(np.mean(kind)) if kind else float("nan") for kind in kinds)
        ratio = within / between if between else float("nan")  # prototypes that all lie in one place
        rows.append({"level": level, "within": within, "between": between, "ratio": ratio})
    return rows


def draw_movement(out: Path, taxonomy: Taxonomy) -> Path | None:
    """RUN/prototypes.png, RUN/prototypes.csv (`distances` at the kept model's step) and RUN/prototypes_summary.csv (`summary` of every
    step, `kept` 1 at the model's); None for fewer than two snapshots."""
    kept = snapshots(out)
    if len(kept) < 2:
        return None
    own = kept_step(out, kept)
    shown = list(kept)[-1] if own is None else own
    still = unmoved(kept, shown)
    columns = ["step", "level", "class", "other", "distance", "same_parent", "learnt"]
    write_table(out / "prototypes.csv", columns, {shown: distances(kept[shown], taxonomy, still)})
    columns = ["step", "kept", "level", "within", "between", "ratio"]
    means = {
        step: [{"kept": int(step == own), **row} for row in summary(levels, taxonomy, still)] for step, levels in kept.items()
    }
    write_table(out / "prototypes_summary.csv", columns, means)
    figure = movement_figure(kept, taxonomy, own)
    path = out / "prototypes.png"
    figure.savefig(path, dpi=130)
    return path


def write_table(path: Path, columns: Sequence[str], rows: Mapping[int, Iterable[Mapping[str, object]]]) -> None:
    """Rows of every step as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        for step, own in rows.items():
            table.writerows({"step": step, **row} for row in own)


def movement_figure(kept: dict[int, Snapshot], taxonomy: Taxonomy, own: int | None = None) -> Figure:
    """The kept model's snapshot (step `own`; where it is not known, the last) large and with the names of its classes, others small."""
    from matplotlib.figure import Figure

    end = list(kept)[-1]
    shown = end if own is None else own
    others, still = [step for step in kept if step != shown], unmoved(kept, shown)
    places = np.linspace(0, len(others) - 1, min(PANELS - 1, len(others))).round().astype(int)
    steps = [*(others[place] for place in places), shown]
    flat, share = in_plane({step: kept[step] for step in steps}, shown)
    every = np.concatenate([points for levels in flat.values() for points in levels])
    extent = np.ptp(every, axis=0)
    margin = np.where(extent > 0, 0.06 * extent, 1.0)
    low, high = every.min(axis=0) - margin, every.max(axis=0) + margin
    figure = Figure(figsize=(12.5, 6.4), layout="constrained")
    before, after = figure.subfigures(1, 2, width_ratios=[1, 1.45], squeeze=False)[0]
    columns = 1 if len(steps) < 4 else 2
    panels = list(before.subplots(-(-(len(steps) - 1) // columns), columns, squeeze=False).flat)
    for axes in panels[len(steps) - 1 :]:
        axes.set_axis_off()
    large = after.subplots()
    words = {end: " (last)", 0: " (start)"} | ({} if own is None else {own: ", the kept model's"})
    for axes, step in zip([*panels[: len(steps) - 1], large], steps, strict=True):
        draw_panel(axes, flat[step], taxonomy, still)
        axes.set(title=f"step {step}{words.get(step, '')}", xticks=[], yticks=[])
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    name_classes(large, flat[shown], taxonomy)
    title = f"Prototypes up to step {end}" + ("" if own is None else f"; the kept model is that of step {own}")
    if sum(map(len, kept[shown])) == 1:
        title += "\none prototype, which has no plane: drawn along its first channel"
    else:
        title += f"\nplane: the two principal components of step {shown} ({100 * share:.0f} % of its variance)"
    if any(level.any() for level in still):
        title += "\nhollow: still at its start, as no training study up to that step had the class"
    figure.suptitle(title, fontsize=12)
    return figure


def in_plane(kept: dict[int, Snapshot], own: int) -> tuple[dict[int, Snapshot], float]:
    """Every snapshot's points (K_l, 2) in the plane of that of one step, and the share of that one's variance that the plane holds.

    One prototype has no components: its first channel is the first axis, and it is 0 on the second.
    """
    every = np.concatenate(kept[own])
    middle = every.mean(axis=0)
    _, spread, axes = np.linalg.svd(every - middle, full_matrices=False)
    if len(every) == 1:
        axes = np.eye(1, every.shape[1], dtype=every.dtype)
    axes = np.pad(axes, ((0, max(0, 2 - len(axes))), (0, 0)))
    share = float((spread[:2] ** 2).sum() / max((spread**2).sum(), np.finfo(spread.dtype).tiny))
    return {step: [(points - middle) @ axes[:2].T for points in levels] for step, levels in kept.items()}, share


def draw_panel(axes: Axes, levels: Snapshot, taxonomy: Taxonomy, still: Still) -> None:
    """Classes of all levels, the coarser the larger, in the colour of their top-level class, joined to their parents; hollow if `still`."""
    colours = top_colours(taxonomy)
    for level, points in enumerate(levels, start=1):
        for item, place in zip(taxonomy.classes(level), points, strict=True):
            colour = colours[level, item.index]
            if item.parent_level is not None and item.parent_index is not None:
                above = levels[item.parent_level - 1][item.parent_index]
                axes.plot(*zip(above, place, strict=True), color=colour, linewidth=0.6, alpha=0.5, zorder=1)
            inside = "white" if still[level - 1][item.index] else colour
            axes.scatter(place[0], place[1], s=90 / level**1.5, facecolor=[inside], edgecolor=[colour], zorder=2)


def name_classes(axes: Axes, levels: Snapshot, taxonomy: Taxonomy) -> None:
    """Names in two columns beside the points, a thin line from each to its class; no two lines cross.

    The first level bold; all levels if there is room for them, else the coarsest, two at least. A name that several levels have gets its
    level's.
    """
    items = [item for level in range(1, len(levels) + 1) for item in taxonomy.classes(level)]
    deepest = max([level for level in range(1, len(levels) + 1) if sum(i.level <= level for i in items) <= NAMED], default=1)
    items = [item for item in items if item.level <= max(2, deepest)]
    places = {(item.level, item.index): levels[item.level - 1][item.index] for item in items}
    twice = {name for name, times in Counter(name for level in taxonomy.levels for name in level).items() if times > 1}
    by_side = sorted(items, key=lambda item: places[item.level, item.index][0])
    colours = top_colours(taxonomy)
    for side, column in enumerate((by_side[: len(items) // 2], by_side[len(items) // 2 :])):
        edge = 1.03 if side else -0.03
        for height, item in zip(
            heights_of(axes, [places[item.level, item.index] for item in column], edge), column, strict=True
        ):
            axes.annotate(
                f"{item.name} ({taxonomy.level_names[item.level - 1]})" if item.name in twice else item.name,
                places[item.level, item.index],
                (edge, height),
                textcoords="axes fraction",
                ha="left" if side else "right",
                va="center",
                fontsize=8 if item.level <= 2 else 7,
                fontweight="bold" if item.level == 1 else "normal",
                color=colours[item.level, item.index],
                arrowprops={
                    "arrowstyle": "-",
                    "linewidth": 0.4,
                    "color": "#9aa3b0",
                    "relpos": (1.0 - side, 0.5),
                },
            )


def heights_of(axes: Axes, points: Sequence[NDArray[np.float32]], edge: float) -> list[float]:
    """A height (share of the axes) at an upright edge for the name of each point (2,): the shortest lines in all, which never cross."""
    if not points:
        return []
    low, high = np.array([axes.get_xlim(), axes.get_ylim()], np.float64).T
    ends = (np.stack(points) - low) / (high - low)
    slots = np.array(apart(axes, sorted(point[1] for point in points)))
    _, chosen = linear_sum_assignment(np.hypot(ends[:, :1] - edge, ends[:, 1:] - slots))
    return [float(slots[slot]) for slot in chosen]


def apart(axes: Axes, wanted: Sequence[float]) -> list[float]:
    """Heights (shares of the axes, rising) near those of the points, far enough from one another for a line of text."""
    low, high = axes.get_ylim()
    heights, gap = [(value - low) / (high - low) for value in wanted], min(0.04, 0.96 / max(1, len(wanted)))
    for place in range(len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + gap if place else 0.02)
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], heights[place + 1] - gap if place + 1 < len(heights) else 0.98)
    return heights


def top_colours(taxonomy: Taxonomy) -> dict[tuple[int, int], RGBA]:
    """(level, index) of a class -> the colour of its top-level class."""
    from matplotlib import colormaps

    found: dict[tuple[int, int], RGBA] = {}
    for level in range(1, taxonomy.depth + 1):
        for item in taxonomy.classes(level):
            top = item.parent_level is None or item.parent_index is None
            above = (item.parent_level or 0, item.parent_index or 0)
            found[level, item.index] = colormaps["tab10"](item.index % 10) if top else found[above]
    return found
