"""The commands `hlip quality` and `hlip check`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_quality(commands: Any) -> None:
    """`hlip quality STORE`."""
    command = commands.add_parser(
        "quality",
        help="look at a store: counts, flags, the worst scans",
        description="Make STORE/quality.parquet (one row a scan) and STORE/quality.html (a page with counts, histograms, the worst twenty "
        "scans and a sample, before and after) again from what lies in STORE, and print a summary. `hlip prepare` does this at its end.",
    )
    command.add_argument("store", type=Path, metavar="STORE", help="a finished store")
    command.add_argument(
        "--study",
        nargs="+",
        action="extend",
        metavar="ID",
        help="only make a page of all scans of these studies, before and after, with what could be read of skipped ones: "
        "STORE/quality_ID.html, beside the other, which stays as it is",
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="where the page of --study goes instead")
    command.set_defaults(run=_run_quality)


def _run_quality(arguments: argparse.Namespace) -> None:
    from hlip.quality.collect import renew_quality
    from hlip.quality.sheet import NAME, write_studies
    from hlip.store import Store, StoreError

    if arguments.study:
        page = write_studies(arguments.store, Store(arguments.store).quality, arguments.study, arguments.out)
        print(f"to look at: {page}")
        return
    if arguments.out:
        raise StoreError("--out names the page of --study ID; the page of all lies in the store")
    print(renew_quality(arguments.store))
    print(f"to look at: {arguments.store / NAME}")


def add_check(commands: Any) -> None:
    """`hlip check STORE`."""
    command = commands.add_parser(
        "check",
        help="find damaged, missing and foreign files of a store",
        description="Read every file of STORE and compare it with the hashes written when it was prepared; spec, index, table and files are "
        "held against each other. Exit status 0: all is well; 1: something is not, and is named; 2: no finished store.",
    )
    command.add_argument("store", type=Path, metavar="STORE", help="a finished store")
    command.add_argument(
        "--delete", action="store_true", help="delete damaged study files, so that `hlip prepare` makes them again"
    )
    command.add_argument("--workers", type=int, default=None, metavar="N", help="threads (default: one a core, and some)")
    command.set_defaults(run=_run_check)


def _run_check(arguments: argparse.Namespace) -> None:
    from hlip.quality.check import check_store, delete_damaged

    checked = check_store(arguments.store, workers=arguments.workers)
    print(checked)
    if arguments.delete:
        for file in delete_damaged(checked):
            print(f"deleted: {file}")
    if not checked.ok:
        raise SystemExit(1)
