"""Runs that tests make: their arguments, their logs, and stores with other records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from hlip.store import Store, StudyRecord, write_index

TINY = Path(__file__).with_name("tiny.yaml")


def arguments(store: Path, encoder: Path, out: Path, *more: str) -> list[str]:
    return ["--config", str(TINY), "--store", str(store), "--encoder", str(encoder), "--out", str(out), *more]


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def changed_store(store: Path, target: Path, change: Callable[[StudyRecord], StudyRecord]) -> Path:
    """A copy of a store with other records over the same volumes."""
    shutil.copytree(store, target)
    write_index(target, [change(record) for record in Store(store).records])
    return target


CNN = ("--encoder", "cnn", "--cnn.channels", "[T1, FLAIR]", "--cnn.width", "64", "--tuning.encoder", "all")
