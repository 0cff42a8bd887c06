"""What the comparison adds to the `hlip` command line; the work is done elsewhere and imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_compare(commands: Any) -> None:
    """Add `compare` to the `hlip` command line."""
    parser = commands.add_parser(
        "compare",
        help="zero-shot beside fine-tuned on the same held-out studies: tables, figures, one HTML page",
        description="Set any number of ways of diagnosing side by side: models (scored on STORE's validation and test studies) or score tables "
        "of `hlip score`. Every setting is chosen on validation, the test split is opened after that. Writes comparison.json, comparison.md, "
        "figures, score tables and one self-contained index.html into OUT. The first input is the reference of all differences.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="run or checkpoint folder (pretrained: answers zero-shot; or fine-tuned), or a table (.parquet, .csv); NAME=PATH gives it a name",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--store",
        type=Path,
        help="prepared store with labels; needed for models, pictures, groups and all checks but that of patients across splits",
    )
    parser.add_argument(
        "--taxonomy", metavar="T", help="the disease tree; by default that of the fine-tuned models or of the tables"
    )
    parser.add_argument(
        "--mean",
        action="store_true",
        help="also the mean of all inputs, each after Platt scaling fitted on validation, as one more method",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="ask the models again without each sequence in turn; all inputs must be models",
    )
    parser.add_argument(
        "--across-volumes",
        action="store_true",
        help="allow tables made from differently prepared volumes: the preparation is then part of what is compared",
    )
    parser.add_argument(
        "--efficiency",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="fine-tuned with fewer labels: draws AUC over the number of labels; needs STORE, a zero-shot and a fine-tuned input",
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, help="bootstrap resamples over patients, 100 or more (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument(
        "--title", default="Zero-shot beside fine-tuned diagnoses", help="heading of the report (default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="make the report anew even if nothing it depends on has changed")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.set_defaults(run=_compare)


def add_score(commands: Any) -> None:
    """Add `score` to the `hlip` command line."""
    parser = commands.add_parser(
        "score",
        help="a model's scores of a store's labelled studies, as a table for `hlip compare`",
        description="Ask MODEL (pretrained: zero-shot; or fine-tuned) about the labelled validation and test studies of STORE and write one "
        "table: study, patient, split, level, class, score, label, and where it comes from.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="run or checkpoint folder")
    parser.add_argument("store", type=Path, metavar="STORE", help="prepared store with labels")
    parser.add_argument("table", type=Path, metavar="TABLE", help="file to write, .parquet or .csv")
    parser.add_argument("--taxonomy", metavar="T", help="the disease tree; needed for zero-shot")
    parser.add_argument("--name", help="what the method is called (default: zero_shot or fine_tuned)")
    parser.add_argument(
        "--external",
        type=Path,
        metavar="STORE2",
        help="take the test studies from this store instead (all its labelled ones): another cohort, settings still from STORE's validation",
    )
    parser.add_argument(
        "--prompts",
        metavar="SET",
        help="zero-shot with this prompt set (hlip, plain, or a YAML file), synonyms and the phrase of a normal study as contrast; nothing is "
        "chosen then, so that STORE needs no validation split (default: the best of all settings on validation)",
    )
    parser.add_argument(
        "--parents",
        choices=("own", "children"),
        help="with --prompts: inner classes by their own prompts, or by their highest child (default: children)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.set_defaults(run=_score)


def _compare(arguments: argparse.Namespace) -> None:
    from finetune.comparison.run import run

    run(arguments)


def _score(arguments: argparse.Namespace) -> None:
    from finetune.comparison.score import run

    run(arguments)
