"""A fine-tuning run as a picture, RUN/training.png, while it runs; and several runs of one command in one, OUT/training.png."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hlip.training.figure import Rows, draw_series, finish, points, read_log, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LAYOUT: Any = [["loss", "levels", "extra"], ["auc", "auc", "lr"]]
# fixed, where a layout engine would take as long again as drawing
MARGINS = {"left": 0.045, "right": 0.99, "bottom": 0.085, "top": 0.955, "wspace": 0.2, "hspace": 0.32}
INK, MUTED = "#1f2430", "#667080"
COLOURS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # Okabe-Ito; a level has the same in every panel
NO_LOSS = ("step", "seconds", "loss", "lr")


def draw_safely(draw: Callable[[], object], say: Callable[[str], None], name: str = "training.png") -> None:
    """Draw; what goes wrong is said and stops no run."""
    try:
        draw()
    except Exception as error:  # a full disk or a broken font must not cost the run
        say(f"{name} was not drawn: {error}")


def draw_run(out: Path) -> Path:
    """RUN/metrics.jsonl -> RUN/training.png: losses in all and by level, consistency and a head's own terms, validation AUC by level with
    the step of the kept checkpoint, learning rate."""
    return _draw([read_log(out)], out / "training.png")


def draw_runs(out: Path, runs: Sequence[Path]) -> Path:
    """OUT/training.png of several runs: each a thin line, and their mean over the steps that all of them have."""
    return _draw([read_log(run) for run in runs], out / "training.png")


def best_step(rows: Rows) -> tuple[int, float] | None:
    """Step and mean AUC of the first validation that no other surpasses, as the run chooses; None before the first that has one."""
    steps, values = points(rows, "val_auc")
    return None if not steps else (steps[int(np.argmax(values))], max(values))


def mean_of(logs: Sequence[Rows], name: str) -> Rows:
    """Mean of a measure over runs, as lines of a log; only steps that every run has."""
    tables = [dict(zip(*points(rows, name), strict=True)) for rows in logs]
    common = sorted(set(tables[0]).intersection(*tables[1:]))
    return [{"step": step, name: float(np.mean([table[step] for table in tables]))} for step in common]


def _draw(logs: Sequence[Rows], path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.4))
    panels = figure.subplot_mosaic(LAYOUT, gridspec_kw=MARGINS)
    names = list(dict.fromkeys(name for rows in logs for row in rows for name in row))
    losses = [name for name in names if name not in NO_LOSS and not name.startswith("val_")]
    levels = {name: _level(name) for name in names if _level(name)}

    _curves(panels["loss"], logs, {"loss": INK})
    finish(panels["loss"], "loss, weighted sum", legend=False)
    _curves(panels["levels"], logs, {name: _colour(levels[name]) for name in losses if name.startswith("bce_")})
    finish(panels["levels"], "loss by level")
    extra = [name for name in losses if not name.startswith("bce_")]
    _curves(panels["extra"], logs, dict(zip(extra, [INK, *COLOURS[3:], *COLOURS[:3]], strict=False)))
    finish(panels["extra"], "consistency and the head's own losses" if len(extra) > 1 else "consistency", legend=len(extra) > 1)
    areas = {name: _colour(level) for name, level in levels.items() if name.startswith("val_auc")}
    _curves(panels["auc"], logs, areas | ({"val_auc": INK} if "val_auc" in names else {}))
    title = _mark_best(panels["auc"], logs)
    finish(panels["auc"], f"validation AUC{title}", loc="upper right", bbox_to_anchor=(1, -0.07), ncols=8)
    _curves(panels["lr"], [max(logs, key=len)], {"lr": INK})
    finish(panels["lr"], "learning rate of the head", legend=False)
    return save_figure(figure, path)


def _curves(axes: Axes, logs: Sequence[Rows], colours: dict[str, str]) -> None:
    """These measures; of several runs thin lines and, above them, the mean."""
    for name, colour in colours.items():
        label = _label(name)
        if len(logs) == 1:
            draw_series(axes, logs[0], name, color=colour, label=label, linewidth=2.2 if name == "val_auc" else 1.3)
            continue
        for rows in logs:
            draw_series(axes, rows, name, color=colour, label=None, linewidth=0.6, alpha=0.45, dots=2)
        draw_series(axes, mean_of(logs, name), name, color=colour, label=label, linewidth=2.2, dots=2)


def _mark_best(axes: Axes, logs: Sequence[Rows]) -> str:
    """A line at the step of a run's kept checkpoint, or a ring at that of each of several; returns what the title says of it."""
    found = [best for rows in logs if (best := best_step(rows))]
    if not found:
        return ": not defined" if any("val_auc" in row for rows in logs for row in rows) else ""
    if len(logs) == 1:
        step, value = found[0]
        axes.axvline(step, color=MUTED, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
        axes.plot([step], [value], "o", color=INK, markersize=7, markerfacecolor="none")
        return f": best mean {value:.3f} at step {step}, the checkpoint kept"
    axes.plot(*zip(*found, strict=True), "o", color=INK, markersize=6, markerfacecolor="none")
    return f" of {len(logs)} runs: thin, each; thick, their mean while all go on; rings, each run's best"


def _level(name: str) -> int:
    """2 of bce_2 and of val_auc_level_2; 0 of other names."""
    found = re.fullmatch(r"(?:bce|val_auc_level)_(\d+)", name)
    return int(found[1]) if found else 0


def _label(name: str) -> str:
    if level := _level(name):
        return f"level {level}"
    return "mean of the levels" if name == "val_auc" else name.replace("_", " ")


def _colour(level: int) -> Any:
    return COLOURS[(level - 1) % len(COLOURS)]
