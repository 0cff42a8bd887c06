"""`hlip simulate | import | prepare | quality | check | ask | evaluate | explain | embed | export`, and what other packages add (`compare`).

Every command is described here and does its work elsewhere; heavy imports wait until a command runs, so that `hlip --help`
is quick. Expected errors (bad input, missing files) end in one plain line and exit status 2, not in a traceback.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hlip.arguments import add_workers, positive


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script `hlip`."""
    parser = build_parser()
    arguments = _parse(parser, argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        raise SystemExit(2)
    _speak_plainly()
    try:
        arguments.run(arguments)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("HLIP_TRACEBACK"):
            raise
        print(f"hlip {arguments.command}: {error}{_remedy(error)}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print(f"\nhlip {arguments.command}: stopped; the same command continues where it was", file=sys.stderr)
        raise SystemExit(130) from None


def _remedy(error: Exception) -> str:
    """For what the system says without one."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "; make room, then the same command goes on"
    return ""


def _speak_plainly() -> None:
    """What the package reports, and what it warns of, as single lines on stderr."""
    log = logging.getLogger("hlip")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)

    def show(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
        if issubclass(category, UserWarning):  # others are for developers
            print(f"warning: {message}", file=sys.stderr)

    warnings.showwarning = show


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of a command; the words of `ask` may stand on both sides of its options, which argparse alone refuses."""
    arguments, rest = parser.parse_known_args(argv)
    if rest and getattr(arguments, "command", None) == "ask" and not any(word.startswith("-") for word in rest):
        words = [*([] if arguments.study is None else [arguments.study]), *arguments.queries, *rest]
        arguments.study, *arguments.queries = words
    elif rest:
        command = f" {arguments.command}" if arguments.command else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)} (see hlip{command} --help)")
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """All commands, those of installed packages included."""
    parser = argparse.ArgumentParser(
        prog="hlip",
        description="Language-image models on whole radiology studies: prepare data, ask in plain words, compare diagnoses.",
        epilog="Training: accelerate launch pretrain --help, accelerate launch finetune --help",
    )
    from hlip.importing.cli import add_import
    from hlip.prepare_command import add_prepare
    from hlip.quality.cli import add_check, add_quality
    from hlip.reports.cli import add_label, add_reports

    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for add in (
        _simulate,
        add_import,
        add_reports,
        add_label,
        add_prepare,
        add_quality,
        add_check,
        _ask,
        _explain,
        _evaluate,
        _embed,
        _export,
    ):
        add(commands)
    for point in sorted(entry_points(group="hlip.commands"), key=lambda point: point.name):
        point.load()(commands)
    return parser


def _simulate(commands: Any) -> None:
    command = commands.add_parser(
        "simulate",
        help="write a simulated cohort: NIfTI files, reports, labels",
        description="Write a simulated brain MRI cohort (real anatomy, drawn lesions): NIfTI files, reports, labels, lesion masks, "
        "manifest.jsonl. The same seed gives the same bytes. Started again, it writes only what is missing.",
    )
    command.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    command.add_argument("--studies", type=int, default=600, metavar="N", help="studies in all splits together (default: 600)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    add_workers(command)
    command.set_defaults(run=_run_simulate)


def _run_simulate(arguments: argparse.Namespace) -> None:
    from hlip.simulate import simulate_cohort

    manifest = simulate_cohort(arguments.out, arguments.studies, arguments.seed, workers=arguments.workers)
    print(f"manifest: {manifest}")


def _ask(commands: Any) -> None:
    command = commands.add_parser(
        "ask",
        help="score a study, or a whole cohort, against text queries",
        description="Zero-shot: score STUDY against each QUERY. STUDY is a folder of NIfTI or DICOM files, one file, or a study id of "
        "--store or --manifest. With --manifest (or --store) and --taxonomy but no STUDY, every study is scored against every class "
        "and written to --out as CSV. Scores rank; they are not probabilities of disease.",
    )
    _checkpoint(command)
    command.add_argument("study", nargs="?", metavar="STUDY", help="folder, file, or study id")
    command.add_argument("queries", nargs="*", metavar="QUERY", help='plain words, e.g. "acute ischemic stroke"')
    command.add_argument("--store", type=Path, help="prepared store that holds the study or the cohort")
    command.add_argument("--manifest", type=Path, help="manifest that holds the study or the cohort (prepared on the fly)")
    command.add_argument("--taxonomy", metavar="T", help="a YAML file or a built-in tree: its classes are the queries")
    command.add_argument(
        "--templates",
        metavar="SET",
        help="prompt set: hlip (18 templates), plain, or a YAML file (default: what the checkpoint was validated with, else hlip)",
    )
    command.add_argument("--out", type=Path, metavar="CSV", help="where a cohort's scores go (default: scores.csv)")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _device(command)
    command.set_defaults(run=_run_ask)


def _run_ask(arguments: argparse.Namespace) -> None:
    from hlip.inference.ask import ask, ask_cohort

    if arguments.study is None:
        ask_cohort(arguments)
    else:
        ask(arguments)


def _explain(commands: Any) -> None:
    command = commands.add_parser(
        "explain",
        help="show where in a study the evidence for a query lies",
        description="Write, for each scan of STUDY, a NIfTI map that opens on top of the scan, and one picture: what each patch adds to the "
        "score of QUERY. A map says what moved this model's score, not where a disease is.",
    )
    _checkpoint(command)
    command.add_argument("study", metavar="STUDY", help="folder, file, or study id of --store or --manifest")
    command.add_argument("query", metavar="QUERY", help='plain words, e.g. "glioma"')
    command.add_argument("--out", type=Path, default=Path("explanation"), metavar="DIR", help="default: explanation")
    command.add_argument(
        "--reference",
        choices=("mirror", "air"),
        default="mirror",
        help="what the study is held against: mirror, itself with left and right exchanged (default), or air, an empty study",
    )
    command.add_argument("--store", type=Path, help="prepared store that holds the study")
    command.add_argument(
        "--manifest", type=Path, help="manifest that holds the study; with --store it tells where the scans lie"
    )
    command.add_argument(
        "--templates", metavar="SET", help="prompt set (default: what the checkpoint was validated with, else hlip)"
    )
    _device(command)
    command.set_defaults(run=_run_explain)


def _run_explain(arguments: argparse.Namespace) -> None:
    from hlip.inference.explain import explain_command

    explain_command(arguments)


def _evaluate(commands: Any) -> None:
    from hlip.files.resources import names

    command = commands.add_parser(
        "evaluate",
        help="measure a checkpoint by a zero-shot protocol",
        description="Score the labelled studies of a manifest or store by a zero-shot protocol (classes, phrases, templates, tasks) and write "
        "evaluation.json and logits.csv into --out. No threshold comes from the labels; classes without a positive or a negative study are "
        "named and left out of means.",
    )
    _checkpoint(command)
    command.add_argument("--protocol", required=True, metavar="P", help=f"a YAML file or one of {', '.join(names('protocol'))}")
    command.add_argument("--manifest", type=Path, metavar="M", help="cohort, prepared on the fly")
    command.add_argument("--store", type=Path, metavar="S", help="cohort, prepared")
    command.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="study id in the first column, then 0 or 1 in the protocol's columns (default: the labels of the manifest)",
    )
    command.add_argument("--split", metavar="NAME", help="only studies of this split (default: all)")
    command.add_argument("--out", type=Path, default=Path("evaluation"), metavar="DIR", help="default: evaluation")
    command.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: 1000; 0: no intervals)"
    )
    _device(command)
    command.set_defaults(run=_run_evaluate)


def _run_evaluate(arguments: argparse.Namespace) -> None:
    from hlip.inference.evaluate import evaluate

    evaluate(arguments)


def _embed(commands: Any) -> None:
    command = commands.add_parser(
        "embed",
        help="write the features of every study of a cohort",
        description="Encode every study of SOURCE with CHECKPOINT and write features as safetensors shards with an index into OUT. Started "
        "again, it goes on where it was.",
    )
    _checkpoint(command)
    command.add_argument("source", metavar="SOURCE", help="a manifest (prepared on the fly) or a prepared store")
    command.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    command.add_argument("--tokens", action="store_true", help="also every patch token and its place in mm (large)")
    command.add_argument("--batch-size", type=positive, default=16, metavar="N", help="studies encoded at once (default: 16)")
    _device(command)
    add_workers(command)
    command.set_defaults(run=_run_embed)


def _run_embed(arguments: argparse.Namespace) -> None:
    from hlip.inference.embed import embed_command

    embed_command(arguments)


def _export(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help="write a checkpoint in the official HLIP format",
        description="Write CHECKPOINT as OUT, a folder as the official HLIP code and open_clip lay it out: open_clip_config.json, "
        "open_clip_model.safetensors, tokenizer. It loads here again bit for bit.",
    )
    _checkpoint(command)
    command.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    command.add_argument("--official", action="store_true", default=True, help="the official format (the only one yet)")
    command.set_defaults(run=_run_export)


def _run_export(arguments: argparse.Namespace) -> None:
    from hlip import official
    from hlip.inference.inputs import open_model

    official.export(open_model(arguments), arguments.out)
    print(f"written: {arguments.out}")


def _checkpoint(command: argparse.ArgumentParser) -> None:
    told = "run folder, checkpoint folder, official checkpoint or hub id"
    command.add_argument("checkpoint", metavar="CHECKPOINT", help=told)
    official = command.add_argument_group("official checkpoints that do not say everything of themselves")
    official.add_argument(
        "--variant", metavar="NAME", help="architecture: a name of hlip.list_models(), or a YAML file like those"
    )
    official.add_argument("--text-source", metavar="SOURCE", help="folder or hub id of the text tower and its tokenizer")
    official.add_argument(
        "--spec", metavar="SPEC", help="how studies are prepared: mri, head_ct, chest_ct, ..., or a YAML file"
    )


def _device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")


if __name__ == "__main__":
    main()
