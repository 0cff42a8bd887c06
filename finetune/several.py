"""Several runs of one command: over seeds, over folds, or both, and what they came to."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.cohort import Labels, macro_auc
from finetune.figures.training import draw_runs, draw_safely
from hlip.files.jsonable import jsonable
from hlip.metrics import interval, macro
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hlip.training.runs import RESUME

if TYPE_CHECKING:
    from finetune.settings import FinetuneConfig

SCORES = "validation.npz"
Table = dict[str, dict[str, float]]
"""Measure -> run or seed -> value, NaN where it is not defined."""


def expand(config: FinetuneConfig) -> list[FinetuneConfig]:
    """The runs that a command asks for: OUT/seed_0, OUT/fold_0, OUT/seed_0_fold_0, ...; one run keeps OUT itself.

    Runs share the tokens of OUT/tokens, and studies are parted the same way whatever the seed.
    """
    folds = range(config.cohort.folds) if config.cohort.folds and config.cohort.fold < 0 else [config.cohort.fold]
    if config.seeds == 1 and len(folds) == 1:
        return [config]
    if config.resume not in RESUME:
        raise ValueError(
            f"--resume {config.resume}: the state of one run, and {config.seeds * len(folds)} are asked for; leave it out"
        )
    tokens = config.tokens or (config.out / "tokens" if config.tuning.encoder == "frozen" else None)
    runs = []
    for seed in range(config.seeds):
        for fold in folds:
            parts = [f"seed_{seed}"] * (config.seeds > 1) + [f"fold_{fold}"] * (len(folds) > 1)
            runs.append(
                replace(
                    config,
                    out=config.out / "_".join(parts),
                    tokens=tokens,
                    seed=config.seed + seed,
                    seeds=1,
                    cohort=replace(config.cohort, fold=fold),
                )
            )
    return runs


def check_folder(out: Path, runs: int) -> None:
    """A folder holds one run, or the runs of several seeds or folds.

    Raises:
        ValueError: it holds the other.
    """
    inside = sorted(path.parent.name for name in ("seed_*", "fold_*") for path in out.glob(f"{name}/config.yaml"))
    if runs > 1 and any((out / name).exists() for name in ("config.yaml", "model")):
        raise ValueError(f"{out}: holds a single run, and {runs} are asked for; choose another --out")
    if runs == 1 and inside:
        raise ValueError(f"{out}: holds the runs {', '.join(inside)}, and a single one is asked for; choose another --out")


def keep_scores(out: Path, studies: Sequence[str], scores: Sequence[Tensor]) -> None:
    """OUT/validation.npz: `studies` and, of each level, `level_1` (N, K_l) float32, the kept model's scores of the validation studies."""
    levels: dict[str, Any] = {f"level_{level}": table.float().numpy() for level, table in enumerate(scores, start=1)}
    partial = out / f".{SCORES}"
    with partial.open("wb") as file:
        np.savez_compressed(file, studies=np.array(studies), **levels)
    os.replace(partial, out / SCORES)


def read_scores(out: Path) -> dict[str, NDArray[Any]]:
    """What `keep_scores` wrote."""
    with np.load(out / SCORES) as arrays:
        return dict(arrays)


def summarise(config: FinetuneConfig, runs: Sequence[FinetuneConfig]) -> str:
    """OUT/summary.json and OUT/summary.md: the validation of each run, mean, spread and range, and of all folds the out-of-fold AUC;
    OUT/training.png: their curves.

    Args:
        config: of the command.
        runs: what `expand` made of it.

    Returns:
        The tables, Markdown.
    """
    out, folders = config.out, [run.out for run in runs]
    seeds = {f"seed_{run.seed - config.seed}": [other.out for other in runs if other.seed == run.seed] for run in runs}
    folded = len(runs) > len(seeds)
    table = validation(folders)
    parts = {
        name: {seed: float(macro([row[run.name] for run in own])) for seed, own in seeds.items()} for name, row in table.items()
    }
    crossed = folded and len(seeds) > 1
    columns = "runs" if crossed else "folds" if folded else "seeds"  # what the first table's spread is over
    content: dict[str, Any] = {
        "split": "val",
        "over": columns,
        "runs": table,
        "summary": spreads(table),
    }
    lines = [
        f"Validation of {len(runs)} runs, on the optimistic side: each stands at the step that was best on its own validation studies.",
        f"Macro AUC; mean and standard deviation (sd) over {f'all {len(runs)} runs, seeds and folds alike' if crossed else columns}.",
        "",
        *as_lines(table, content["summary"], columns),
    ]
    if crossed:
        content["by_seed"] = {"runs": parts, "summary": spreads(parts)}
        lines += ["", "Each seed, a mean over its folds; sd over seeds:", ""]
        lines += as_lines(parts, content["by_seed"]["summary"], "seeds")
    if folded and (pooled := out_of_fold(config, seeds)):
        content["out_of_fold"] = {"runs": pooled, "summary": spreads(pooled)}
        lines += [
            "",
            "Out of fold: every labelled study of train and val by the run that did not learn from it; macro AUC of all folds' scores",
            "together, as they are: where folds differ in the scale of their scores, it is lower than each fold's own. Each fold's step was",
            "chosen on its own studies, which is optimistic.",
            "",
            *as_lines(pooled, content["out_of_fold"]["summary"], "seeds"),
        ]
    (out / "summary.json").write_text(json.dumps(jsonable(content), indent=2) + "\n", encoding="utf-8")
    (out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw_safely(lambda: draw_runs(out, folders), print)
    return "\n".join(lines)


def validation(runs: Sequence[Path]) -> Table:
    """Validation AUCs of the runs' kept models."""
    facts = {run.name: json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["facts"] for run in runs}
    measures = [name for name in next(iter(facts.values())) if name.startswith("val_auc")]
    return {name: {run: float("nan") if own[name] is None else own[name] for run, own in facts.items()} for name in measures}


def out_of_fold(config: FinetuneConfig, seeds: dict[str, list[Path]]) -> Table:
    """Macro AUC a level of all folds' validation scores together, for each seed; empty where a run of an earlier version left no scores.

    Args:
        config: of the command.
        seeds: name -> the runs of its folds.
    """
    if not all((run / SCORES).is_file() for own in seeds.values() for run in own):
        return {}
    store, taxonomy = Store(config.store), Taxonomy.load(config.taxonomy)
    found: Table = {f"auc_level_{level}": {} for level in range(1, taxonomy.depth + 1)}
    for seed, own in seeds.items():
        tables = [read_scores(run) for run in own]
        labels = Labels([store.record(str(study)) for table in tables for study in table["studies"]], taxonomy)
        for level, row in enumerate(found.values(), start=1):
            scores = torch.from_numpy(np.concatenate([table[f"level_{level}"] for table in tables]))
            row[seed] = macro_auc(level, scores, labels, taxonomy)
    return found


def as_lines(table: Table, overall: dict[str, dict[str, float]], columns: str) -> list[str]:
    """A Markdown table: a measure a row; behind several columns (`columns` says what they are) their mean and spread."""
    names = list(next(iter(table.values())))
    more = ["mean", f"sd over {len(names)} {columns}"] if len(names) > 1 else []
    lines = [f"| {' | '.join(['measure', *names, *more])} |", "|---" * (1 + len(names) + len(more)) + "|"]
    for measure, row in table.items():
        values = [*row.values(), overall[measure]["mean"], overall[measure]["sd"]][: len(names) + len(more)]
        cells = ["not defined" if np.isnan(value) else f"{value:.3f}" for value in values]
        lines.append(f"| {' | '.join([measure, *cells])} |")
    return lines


def spreads(table: Table) -> dict[str, dict[str, float]]:
    """`spread` of every measure."""
    return {name: spread(list(row.values())) for name, row in table.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (of a sample) and range of a measure over runs, of those where it is defined; NaN for want of them."""
    numbers = np.array([value for value in values if not np.isnan(value)], float)
    low, high = interval(numbers, 1.0)
    sd = float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan")
    return {"mean": float(macro(numbers)), "sd": sd, "low": low, "high": high, "runs": len(numbers)}
