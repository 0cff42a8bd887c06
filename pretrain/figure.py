"""The run's figure: what people look at rather than read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PANELS = {
    "loss": ["loss", "loss_sentence", "loss_report"],
    "zero-shot and retrieval on validation": ["val_auc", "val_recall_1", "val_recall_5"],
    "learning rate": ["lr"],
    "gradient norm (before clipping)": ["grad_norm"],
    "temperatures' factors": ["scale_sentence", "scale_report"],
    "studies a second": ["studies_per_second"],
    "share of time waiting for data": ["wait_share"],
    "peak memory, GB": ["memory_gb"],
}


def draw_run(out: Path) -> Path:
    """RUN/metrics.jsonl -> RUN/training.png: losses, validation, rate, gradients, temperatures, pace over the steps."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(14, 6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 4).flat, PANELS.items(), strict=True):
        for name in names:
            draw_series(axes, rows, name)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1 and axes.lines:
            axes.legend(fontsize=7, frameon=False)
    path = out / "training.png"
    figure.savefig(path, dpi=120)
    return path


def draw_series(axes: Any, rows: list[dict[str, Any]], name: str) -> None:
    """One measure over the steps."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        marker = "." if len(points) < 60 else None
        axes.plot(*zip(*points, strict=True), marker=marker, linewidth=1.2, label=name.replace("_", " "))
