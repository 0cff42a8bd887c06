"""The run's figure: what people look at rather than read."""

from __future__ import annotations

from pathlib import Path

from hlip.training.figure import draw_series, finish, read_log, save_figure

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

    rows = read_log(out)
    figure = Figure(figsize=(14, 6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 4).flat, PANELS.items(), strict=True):
        for name in names:
            draw_series(axes, rows, name)
        finish(axes, title, legend=len(names) > 1)
    return save_figure(figure, out / "training.png")
