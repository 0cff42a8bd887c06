"""`hlip reports` and `hlip label`, described here and done elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hlip.files.resources import names


def add_reports(commands: Any) -> None:
    """Add `reports` to the `hlip` command line."""
    command = commands.add_parser(
        "reports",
        help="show which sentences of a cohort's reports are kept, and why others are not",
        description="Read every report of MANIFEST by a report spec (sections, boilerplate, anonymisation tokens) and say what is kept "
        "and what is left out. Nothing is changed; hlip prepare --reports SPEC does the same to a store. "
        "Cleaning is not de-identification: names and dates within sentences stay.",
    )
    command.add_argument("manifest", type=Path, metavar="MANIFEST", help="JSON lines, one study a line")
    command.add_argument(
        "--reports",
        default="clean",
        metavar="SPEC",
        help=f"a YAML file or one of {', '.join(names('reports'))} (default: clean)",
    )
    add_language(command)
    command.add_argument("--out", type=Path, metavar="CSV", help="also write every sentence with what became of it")
    command.add_argument("--examples", type=int, default=5, metavar="N", help="sentences shown for each reason (default: 5)")
    command.set_defaults(run=_run_reports)


def add_language(command: argparse.ArgumentParser) -> None:
    """Add --language, which a command hands to `ReportSpec.load`."""
    command.add_argument(
        "--language",
        metavar="LANGUAGE",
        help=f"of the reports: a YAML file or one of {', '.join(names('language'))} (default: the spec's)",
    )


def _run_reports(arguments: argparse.Namespace) -> None:
    from hlip.reports.preview import preview
    from hlip.reports.spec import ReportSpec

    print(
        preview(arguments.manifest, ReportSpec.load(arguments.reports, arguments.language), arguments.out, arguments.examples)
    )


def add_label(commands: Any) -> None:
    """Add `label` to the `hlip` command line."""
    command = commands.add_parser(
        "label",
        help="mine labels from reports by rule: a starting point for a cohort without labels",
        description="Find the classes of TAXONOMY (names, synonyms, prompts) in the reports of MANIFEST, judge each by cues of negation, "
        "uncertainty and history, and write OUT, the manifest with labels where it had none, beside OUT's .evidence.csv, one row a name found, "
        "to be audited. Where labels were given they stay, and precision, recall, F1 and kappa against them are printed. "
        "On 2,400 simulated reports, which are easy, mean F1 is 0.99 at each level of brain_mri. Real reports were not at hand and are harder: "
        "of 30 hard sentences for which no cue was made 18 are judged right, and of 24 made-up reports 18 were read right in every class "
        "at first. "
        "Names of classes are the taxonomy's, and some common ones and short forms (stroke, SDH, GBM) the language file's: what neither "
        "knows is not found; for reports in another language give --language and a TAXONOMY with synonyms in it.",
    )
    command.add_argument("manifest", type=Path, metavar="MANIFEST", help="JSON lines, one study a line")
    command.add_argument("taxonomy", metavar="TAXONOMY", help=f"a YAML file or one of {', '.join(names('taxonomy'))}")
    command.add_argument("out", type=Path, metavar="OUT", help="manifest to write, e.g. labelled.jsonl")
    command.add_argument(
        "--uncertain",
        choices=("negative", "positive", "unlabelled"),
        default="negative",
        help="what is only possible counts as absent (default), as there, or leaves its study without labels. A suspicion (suspicion of, "
        "concern for, Verdacht auf, V.a.) is only possible; a high one, and what is called suspected or suspicious (suspekt auf), is there",
    )
    command.add_argument(
        "--reports",
        default="clean",
        metavar="SPEC",
        help=f"sentences that are read: a YAML file or one of {', '.join(names('reports'))} (default: clean, findings, impression and addenda)",
    )
    add_language(command)
    command.add_argument("--overwrite", action="store_true", help="mined labels replace given ones")
    command.set_defaults(run=_run_label)


def _run_label(arguments: argparse.Namespace) -> None:
    from hlip.reports.labels.label import label
    from hlip.reports.spec import ReportSpec
    from hlip.taxonomy import Taxonomy

    spec = ReportSpec.load(arguments.reports, arguments.language)
    tree = Taxonomy.load(arguments.taxonomy)
    print(
        label(arguments.manifest, tree, arguments.out, spec=spec, uncertain=arguments.uncertain, overwrite=arguments.overwrite)
    )
