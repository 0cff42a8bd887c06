"""What the list files of public sets share: a key, a column of 0 and 1 a class; studies that were published for evaluation."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hlip.importing.outcome import ImportingError
from hlip.importing.splits import draw_splits
from hlip.importing.table_files import Row, read_columns, read_table
from hlip.importing.tables import NO, UNKNOWN, YES, unknown_note
from hlip.study import Study

Labels = tuple[str, ...] | None
"""Classes that a study has, None where nothing is known of it."""


def read_list(file: Path, key: str, other: Collection[str] = (), notes: list[str] | None = None) -> dict[str, Labels]:
    """Key -> the columns that say 1. A key that stands twice (a slice, a reconstruction) has what any of its rows has.

    Args:
        other: columns that are no classes.
        notes: takes what a person should know of cells that are neither 0 nor 1 (`hlip.importing.tables.unknown_note`).

    Raises:
        ImportingError: no such table or key column, or a cell that is neither 0 nor 1.
    """
    rows = read_table(file, [key])
    classes = [name for name in rows[0][1] if name != key and name not in other]
    found: dict[str, Labels] = {}
    silent: dict[tuple[str, str], str] = {}  # (key, class) -> what its cell says instead of 0 or 1
    for number, row in rows:
        cells = {name: row[name].lower() for name in classes}
        for name, text in cells.items():
            if text in UNKNOWN:
                silent[row[key], name] = text or silent.get((row[key], name), "")
            elif text not in YES | NO:
                raise ImportingError(f"{file}, line {number}: '{row[name]}' under {name} is neither 0 nor 1")
        names = tuple(name for name, text in cells.items() if text in YES)
        known = any(text not in UNKNOWN for text in cells.values())
        before = found.get(row[key])
        found[row[key]] = tuple(dict.fromkeys((*(before or ()), *names))) if known else before
    if notes is not None and silent:
        notes += _unknown(file, key, rows, found, silent)
    return found


def _unknown(
    file: Path, key: str, rows: Sequence[Row], found: dict[str, Labels], silent: dict[tuple[str, str], str]
) -> list[str]:
    """Of cells that no other row of their key fills, under keys of which something is known."""
    filled = {
        (row[key], name)
        for _, row in rows
        for name, text in row.items()
        if (row[key], name) in silent and text.lower() in YES | NO
    }
    left = {place: text for place, text in silent.items() if found[place[0]] is not None and place not in filled}
    said = Counter(name for (_, name), text in left.items() if text)
    return unknown_note(file, said, sum(not text for text in left.values()))


def existing(folder: str | Path) -> Path:
    """A folder as an absolute path.

    Raises:
        ImportingError: there is none.
    """
    place = Path(os.path.abspath(folder))
    if not place.is_dir():
        raise ImportingError(f"{place}: no such folder")
    return place


def tables_below(folder: Path, *needed: str, without: Path | None = None) -> list[Path]:
    """CSV files in a folder and two levels below it that have these columns, in order; `without`: a folder whose files do not count."""
    files = sorted(file for depth in ("*", "*/*", "*/*/*") for file in folder.glob(f"{depth}.csv") if file.is_file())
    return [
        file
        for file in files
        if (without is None or not file.is_relative_to(without)) and set(needed) <= set(read_columns(file))
    ]


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
