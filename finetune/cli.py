"""What fine-tuning adds to the `hlip` command line; the work is done elsewhere and imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_compare(commands: Any) -> None:
    """Add `compare` to the `hlip` command line."""
    parser = commands.add_parser(
        "compare",
        help="zero-shot beside fine-tuned on the same held-out studies: tables, figures, one HTML page",
        description="Score the validation and test studies of STORE with both models, choose every setting on validation, open the test split "
        "once, and write comparison.json, comparison.md, figures, score tables and one self-contained index.html into OUT.",
    )
    parser.add_argument("pretrained", type=Path, metavar="PRETRAINED", help="run or checkpoint folder that answers zero-shot")
    parser.add_argument("finetuned", type=Path, metavar="FINETUNED", help="run or checkpoint folder of the fine-tuned model")
    parser.add_argument("store", type=Path, metavar="STORE", help="prepared store with labels")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--taxonomy", metavar="T", help="refuse to compare unless the fine-tuned model was trained on this tree"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples over patients (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument(
        "--title", default="Zero-shot beside fine-tuned diagnoses", help="heading of the report (default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="make the report anew even if nothing it depends on has changed")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.set_defaults(run=_run)


def add_diagnose(commands: Any) -> None:
    """Add `diagnose` to the `hlip` command line."""
    parser = commands.add_parser(
        "diagnose",
        help="one study through a fine-tuned model: scores of every level, and where its prompt looked",
        description="Score STUDY at every level of the fine-tuned model's tree. With --out also, for each level, where HP2L's prompt looked: a "
        "picture and a NIfTI map.",
    )
    parser.add_argument("finetuned", type=Path, metavar="FINETUNED", help="run or checkpoint folder of the fine-tuned model")
    parser.add_argument("study", metavar="STUDY", help="folder, file, or study id of --store or --manifest")
    parser.add_argument("--store", type=Path, help="prepared store that holds the study")
    parser.add_argument("--manifest", type=Path, help="manifest that holds the study")
    parser.add_argument("--top", type=int, default=4, metavar="N", help="classes shown of each level (default: 4)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write the prompt's maps there")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.set_defaults(run=_run_diagnose)


def _run_diagnose(arguments: argparse.Namespace) -> None:
    from finetune.diagnose import diagnose_command

    diagnose_command(arguments)


def _run(arguments: argparse.Namespace) -> None:
    from finetune.compare import run

    run(arguments)
