"""Several runs of one command: over seeds, over folds, or both, and what they came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.figure import draw_runs, draw_safely
from hlip.metrics import interval

if TYPE_CHECKING:
    from finetune.settings import FinetuneConfig


def expand(config: FinetuneConfig) -> list[FinetuneConfig]:
    """The runs that a command asks for: OUT/seed_0, OUT/fold_0, OUT/seed_0_fold_0, ...; one run keeps OUT itself.

    Runs share the tokens of OUT/tokens, and studies are parted the same way whatever the seed.
    """
    folds = range(config.cohort.folds) if config.cohort.folds and config.cohort.fold < 0 else [config.cohort.fold]
    if config.seeds == 1 and len(folds) == 1:
        return [config]
    runs = []
    for seed in range(config.seeds):
        for fold in folds:
            parts = [f"seed_{seed}"] * (config.seeds > 1) + [f"fold_{fold}"] * (len(folds) > 1)
            runs.append(
                replace(
                    config,
                    out=config.out / "_".join(parts),
                    tokens=config.tokens or config.out / "tokens",
                    seed=config.seed + seed,
                    seeds=1,
                    cohort=replace(config.cohort, fold=fold),
                )
            )
    return runs


def summarise(out: Path, runs: Sequence[Path]) -> str:
    """OUT/summary.json and OUT/summary.md: the best validation of each run, their mean, spread and range; OUT/training.png: their curves.

    Returns:
        The table, Markdown.
    """
    facts = {run.name: json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["facts"] for run in runs}
    measures = [name for name in next(iter(facts.values())) if name.startswith("val_auc")]
    table = {name: {run: facts[run][name] for run in facts} for name in measures}
    overall = {name: spread(list(values.values())) for name, values in table.items()}
    content = {"runs": table, "summary": overall}
    (out / "summary.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    lines = ["| measure | " + " | ".join(facts) + " | mean | standard deviation |", "|---" * (len(facts) + 3) + "|"]
    for name in measures:
        values = " | ".join(f"{table[name][run]:.3f}" for run in facts)
        lines.append(f"| {name} | {values} | {overall[name]['mean']:.3f} | {overall[name]['sd']:.3f} |")
    note = "\nOf the validation studies, each at the step that was best on them: higher than on new patients.\n"
    (out / "summary.md").write_text("\n".join(lines) + "\n" + note, encoding="utf-8")
    draw_safely(lambda: draw_runs(out, runs), print)
    return "\n".join(lines)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (of a sample) and range of a measure over runs."""
    numbers = np.array(values, float)
    low, high = interval(numbers, 1.0)
    return {"mean": float(numbers.mean()), "sd": float(numbers.std(ddof=1)), "low": low, "high": high, "runs": len(numbers)}
