"""What the list files of public sets share: a key, a column of 0 and 1 a class; studies that were published for evaluation."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hlip.importing.outcome import ImportingError
from hlip.importing.splits import draw_splits
from hlip.importing.tables import read_table
from hlip.study import Study

_YES, _NO, _UNKNOWN = ("1", "1.0", "true"), ("0", "0.0", "false"), ("", "-1", "-1.0", "nan")
Labels = tuple[str, ...] | None
"""Classes that a study has, None where nothing is known of it."""


def read_list(file: Path, key: str, other: Collection[str] = ()) -> dict[str, Labels]:
    """Key -> the columns that say 1. A key that stands twice (a slice, a reconstruction) has what any of its rows has.

    Args:
        other: columns that are no classes.

    Raises:
        ImportingError: no such table or key column, or a cell that is neither 0 nor 1.
    """
    found: dict[str, Labels] = {}
    for number, row in read_table(file, [key]):
        cells = {name: text.lower() for name, text in row.items() if name != key and name not in other}
        odd = [name for name, text in cells.items() if text not in (*_YES, *_NO, *_UNKNOWN)]
        if odd:
            raise ImportingError(f"{file}, line {number}: '{row[odd[0]]}' under {odd[0]} is neither 0 nor 1")
        names = tuple(name for name, text in cells.items() if text in _YES)
        known = any(text not in _UNKNOWN for text in cells.values())
        before = found.get(row[key])
        found[row[key]] = tuple(dict.fromkeys((*(before or ()), *names))) if known else before
    return found


def existing(folder: str | Path) -> Path:
    """A folder as an absolute path.

    Raises:
        ImportingError: there is none.
    """
    place = Path(os.path.abspath(folder))
    if not place.is_dir():
        raise ImportingError(f"{place}: no such folder")
    return place


def columns(file: Path) -> list[str]:
    """Names in the first line of a CSV."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        return [name.strip() for name in next(csv.reader(lines), [])]


def tables_below(folder: Path, *needed: str) -> list[Path]:
    """CSV files in a folder and two levels below it that have these columns, in order."""
    files = sorted(file for depth in ("*", "*/*", "*/*/*") for file in folder.glob(f"{depth}.csv") if file.is_file())
    return [file for file in files if set(needed) <= set(columns(file))]


def for_evaluation(studies: Sequence[Study], shares: Sequence[float] | None, seed: int) -> list[Study]:
    """Without shares all studies are `test`: the set was published to be measured on. With them splits are drawn by patient."""
    if shares is None:
        return [replace(study, split="test") for study in studies]
    drawn = draw_splits(studies, shares, seed)
    return [replace(study, split=drawn[study.patient_id]) for study in studies]


def bar(items: Sequence, unit: str, progress: bool) -> Iterator:
    """Items with a progress bar."""
    from tqdm import tqdm

    yield from tqdm(items, unit=unit, disable=not progress)


def folder_name(text: str) -> str:
    """A study's name as one folder of a file system: what is a separator there becomes two underscores."""
    return re.sub(r"[^\w.+-]+", "_", text.replace("/", "__")).strip(".") or "study"
