"""Arguments that several commands share, and their types: text -> value, or why it is none."""

from __future__ import annotations

import argparse


def add_workers(command: argparse.ArgumentParser) -> None:
    """Add --workers, processes that share the work."""
    command.add_argument("--workers", type=positive, metavar="N", help="processes (default: one a CPU core)")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def shard(text: str) -> tuple[int, int]:
    """`3/8` -> (3, 8)."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"'{text}' is none of 1/N to N/N, e.g. 3/8")
    return int(number), int(count)
