"""What experiments add to the `hlip` command line; the work is done elsewhere and imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_experiments(commands: Any) -> None:
    """Add `experiments` to the `hlip` command line."""
    parser = commands.add_parser(
        "experiments",
        help="all methods and ablations on one cohort, several seeds, intervals: one results page",
        description="Encode STORE once with the frozen ENCODER (unless the configuration trains it), train every variant of every experiment "
        "in configs/experiments (a variant that several share once), score the test split, and write index.html, results.json and results.md "
        "into OUT. Started again with the same OUT it goes on; finished runs are not repeated, and the page shows every built-in experiment "
        "whose runs (same encoder, store, configuration, steps, seeds) are all there, beside those of this call.",
    )
    parser.add_argument(
        "encoder",
        type=Path,
        metavar="ENCODER",
        help="run or checkpoint folder of the pretrained HLIP; or cnn (trained with each head: --config cnn_demo)",
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="prepared store with labels and train, val and test splits")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--config", default="demo", help="the setting that all variants share, as for finetune (default: demo)")
    parser.add_argument("--taxonomy", metavar="T", help="the tree that all variants share: a built-in name or a file")
    parser.add_argument(
        "--override",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="fields of fine-tuning for all variants, such as head.width=72; a variant's own overrides come after them",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: 3)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these experiments alone: names in configs/experiments, or files"
    )
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="these variants of them alone, for a trial")
    parser.add_argument("--steps", type=int, help="optimizer steps of each run (default: those of the configuration)")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="trainings side by side, each in a process of its own (about 1 GB); their number changes no result of the same --threads. "
        "0: one a core, at most 4, with --threads N one for N cores; 1 where a GPU trains (default: 0)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="CPU threads of each training; 0 shares the cores evenly (default: 0). Another number may change a result's last digits",
    )
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples over patients (default: 1000)")
    parser.add_argument("--plan", action="store_true", help="list the runs, which are there already, and stop")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from finetune.experiments.runs import run

    run(arguments)
