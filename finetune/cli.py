"""What fine-tuning adds to the `hlip` command line; the work is done elsewhere and imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_diagnose(commands: Any) -> None:
    """Add `diagnose` to the `hlip` command line."""
    parser = commands.add_parser(
        "diagnose",
        help="one study through a fine-tuned model: scores of every level, and where its prompt looked",
        description="Score STUDY at every level of the fine-tuned model's tree. With --out also which prototypes HP2L's prompt chose and "
        "where it looked (and Grad-CAM, for a CNN or a 2-D backbone): pictures and NIfTI maps, for 2-D images maps in the image's own "
        "pixels. Slices are drawn as the model sees them, their sides lettered: the patient's left (L) is on the left, not on the right as "
        "radiologists hang them. "
        "dependency.csv (of a head with --head.dependency) lists which classes move which, the strongest first.",
    )
    parser.add_argument("finetuned", type=Path, metavar="FINETUNED", help="run or checkpoint folder of the fine-tuned model")
    parser.add_argument("study", metavar="STUDY", help="folder, file, or study id of --store or --manifest")
    parser.add_argument("--store", type=Path, help="prepared store that holds the study")
    parser.add_argument("--manifest", type=Path, help="manifest that holds the study")
    parser.add_argument("--top", type=int, default=4, metavar="N", help="classes shown of each level (default: 4)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write pictures, maps and scores.json there")
    parser.add_argument("--json", action="store_true", help="print JSON: every score, and the attention over prototypes")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.set_defaults(run=_run_diagnose)


def _run_diagnose(arguments: argparse.Namespace) -> None:
    from finetune.diagnosis.command import diagnose_command

    diagnose_command(arguments)
