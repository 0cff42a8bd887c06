"""`hlip prepare` on the command line, and the limits that imports which prepare at once share with it.

add_prepare(commands)
add_limits(group) ... limits_of(arguments) -> Limits ... prepare(manifest, store, spec, time_limit=limits.seconds, memory_gb=limits.memory_gb)
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlip.arguments import add_workers, shard


@dataclass(frozen=True)
class Limits:
    """What one scan may cost before it is skipped."""

    seconds: float | None = 600.0
    """`None`: as long as it takes."""
    memory_gb: float | None = None
    """Of each process, on top of its programs (Linux); `None`: all."""


def add_limits(group: Any) -> None:
    """Add --time-limit and --memory to a parser or one of its groups."""
    group.add_argument(
        "--time-limit",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds that one scan may take before it is skipped (default: 600; 0: as long as it takes)",
    )
    group.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="what each process may take; a scan that needs more is skipped (default: all)",
    )


def limits_of(arguments: argparse.Namespace) -> Limits:
    """What `add_limits` parsed."""
    return Limits(arguments.time_limit or None, arguments.memory)


def add_prepare(commands: Any) -> None:
    """Add `prepare` to the commands of `hlip`."""
    from hlip.files.resources import names
    from hlip.reports.cli import add_language

    command = commands.add_parser(
        "prepare",
        help="turn scans (NIfTI, DICOM) of a manifest into a store",
        description="Orient, resample, window and size every scan of MANIFEST once, into STORE; quality.parquet names what was done, or why a "
        "scan was skipped, quality.html shows it. Started again, it does only what is missing. On a cluster: "
        "an array of jobs with --shard 1/N to --shard N/N, then once without --shard, which checks that all is there and writes the index.",
    )
    command.add_argument("manifest", type=Path, metavar="MANIFEST", help="JSON lines, one study a line")
    command.add_argument("store", type=Path, metavar="STORE", help="folder to write")
    command.add_argument(
        "--spec",
        default="mri",
        metavar="SPEC",
        help=f"how a scan becomes a volume: a YAML file or one of {', '.join(names('volume'))}",
    )
    command.add_argument(
        "--reports",
        default="as_written",
        metavar="SPEC",
        help=f"which sentences of the reports are kept: a YAML file or one of {', '.join(names('reports'))} (default: as_written); "
        "cleaning is not de-identification: names and dates within sentences stay",
    )
    add_language(command)
    command.add_argument("--montage", type=Path, metavar="PNG", help="also draw a picture of some prepared scans to look at")
    command.add_argument("--replace", action="store_true", help="make studies anew that STORE holds in another spec")
    command.add_argument("--shard", type=shard, metavar="I/N", help="only every N-th study, from the I-th (I from 1 to N)")
    add_limits(command)
    add_workers(command)
    command.set_defaults(run=_run_prepare)


def _run_prepare(arguments: argparse.Namespace) -> None:
    from hlip.prepare import prepare
    from hlip.reports.spec import ReportSpec
    from hlip.volume import VolumeSpec

    spec, reports = VolumeSpec.load(arguments.spec), ReportSpec.load(arguments.reports, arguments.language)
    limits = limits_of(arguments)
    summary = prepare(
        arguments.manifest,
        arguments.store,
        spec,
        reports=reports,
        workers=arguments.workers,
        shard=arguments.shard,
        replace=arguments.replace,
        time_limit=limits.seconds,
        memory_gb=limits.memory_gb,
    )
    print(summary)
    if arguments.montage and arguments.shard:
        print("montage: none of a shard")
    elif arguments.montage and not summary.studies_ready:
        print("montage: none, there is no usable scan")
    elif arguments.montage:
        from hlip.prepare.montage import montage
        from hlip.store import Store

        print(f"montage: {montage(Store(arguments.store), arguments.montage)}")
    if not summary.studies_ready and not arguments.shard:
        raise SystemExit(1)  # a script should not go on to train on nothing
