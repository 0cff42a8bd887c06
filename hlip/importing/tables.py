"""Tables beside the scans: reports, labels and what else is known, joined to studies by a key.

    --reports CSV    KEY and report; or KEY and sections (findings, impression, ...), which are put together under their headers
    --labels CSV     KEY and label (several parted by ;), or KEY and a column of 0 and 1 for each class
    --metadata CSV   KEY and any columns (sex, age, vendor, field_strength, split, ...), which go into the manifest

KEY is a column study_id (or patient_id, which then holds for all studies of the patient). Tables are comma- or, called *.tsv, tab-separated.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hlip.importing.outcome import ImportingError, some
from hlip.importing.splits import SPLIT_NAMES
from hlip.study import Study
from hlip.taxonomy import Taxonomy

SECTIONS = ("clinical_information", "indication", "history", "technique", "comparison", "findings", "impression", "conclusion")
"""Columns that hold parts of a report, in the order of one."""
KEYS = ("study_id", "patient_id")
_RESERVED = ("scans", "sentences", "labels", "imported", "report")  # of a manifest; metadata would overwrite them
_SHOWN_COLUMNS = 30  # of a table that lacks one
_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}

Row = tuple[int, dict[str, str]]
"""Line number and cells of a table's row."""


@dataclass(frozen=True)
class Tables:
    """The tables of an import, as the command line names them."""

    reports: Path | None = None
    labels: Path | None = None
    metadata: Path | None = None
    taxonomy: Taxonomy | None = None
    """Labels become its classes, by name, synonym or code."""


def add_tables(source: argparse.ArgumentParser) -> None:
    """Add the options of `Tables` to an import's command line."""
    group = source.add_argument_group("tables beside the scans, joined by a column study_id or patient_id")
    group.add_argument("--reports", type=Path, metavar="CSV", help="report, or its sections (findings, impression, ...)")
    group.add_argument("--labels", type=Path, metavar="CSV", help="label (several parted by ;), or a column of 0 and 1 a class")
    group.add_argument("--metadata", type=Path, metavar="CSV", help="sex, age, vendor, split, ...: go into the manifest")
    group.add_argument("--taxonomy", metavar="T", help="a disease tree: labels become its classes by name, synonym or code")


def tables_of(arguments: argparse.Namespace) -> Tables:
    """What `add_tables` parsed."""
    tree = Taxonomy.load(arguments.taxonomy) if arguments.taxonomy else None
    return Tables(arguments.reports, arguments.labels, arguments.metadata, tree)


def read_table(file: str | Path, needed: Sequence[str] = ()) -> list[Row]:
    """Rows of a CSV or TSV in UTF-8, cells stripped.

    Raises:
        ImportingError: missing, no such table, no row, a column twice, or a needed column that is not there.
    """
    file = Path(file)
    if not file.is_file():
        raise ImportingError(f"{file}: no such table")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, dialect="excel-tab" if file.suffix.lower() == ".tsv" else "excel")
            reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
            rows = [(reader.line_num, {name: (text or "").strip() for name, text in row.items() if name}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImportingError(f"{file}: no table in UTF-8 ({error}); save it as such") from error
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ImportingError(f"{file}: the column {twice[0]} stands there twice")
    if missing := [name for name in needed if name not in columns]:
        raise ImportingError(
            f"{file}: no column {' and '.join(missing)}; its columns are {', '.join(columns[:_SHOWN_COLUMNS])}"
        )
    if not rows:
        raise ImportingError(f"{file}: holds no row")
    return rows


def join(
    studies: Sequence[Study], tables: Tables, key_of: Callable[[Study, str], str] | None = None
) -> tuple[list[Study], list[str]]:
    """Studies with what the tables say, and notes on rows that met no study.

    Args:
        key_of: the value of a study under a key column; default its own `study_id` or `patient_id`. An importer that renames studies
            gives the names they came with.

    Raises:
        ImportingError: no key column, a key twice, an unknown split, or no row that meets a study.
        TaxonomyError: a label that stands for none of the classes.
    """
    key_of = key_of or (lambda study, key: study.study_id if key == "study_id" else study.patient_id)
    notes: list[str] = []
    done = list(studies)
    for file, add in ((tables.reports, _report), (tables.labels, _labels), (tables.metadata, _metadata)):
        if file is None:
            continue
        rows = read_table(file)
        key = next((name for name in KEYS if name in rows[0][1]), None)
        if key is None:
            raise ImportingError(f"{file}: no column study_id or patient_id to join by; rename the one that is it")
        by_key = _unique(file, key, rows)
        keys = [key_of(study, key) for study in done]
        met = set(keys) & set(by_key)
        if not met:
            example = f"{key} '{next(iter(by_key))}' there, '{keys[0]}' here" if keys else "there are no studies"
            raise ImportingError(f"{file}: no row meets a study ({example})")
        done = [
            add(file, study, *by_key[name], key, tables.taxonomy) if name in met else study
            for study, name in zip(done, keys, strict=True)
        ]
        if unmet := len(by_key) - len(met):
            notes.append(f"{file.name}: {unmet} of {len(by_key)} rows meet no study")
        if bare := sum(name not in met for name in keys):
            notes.append(f"{file.name}: {bare} of {len(done)} studies have no row")
    return done, notes


def put_together(sections: dict[str, str]) -> str:
    """A report from its sections: "FINDINGS: ...", one below the other; empty ones are passed over."""
    return "\n".join(f"{name.replace('_', ' ').upper()}: {sections[name]}" for name in SECTIONS if sections.get(name))


def _unique(file: Path, key: str, rows: Sequence[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    faults = []
    for number, row in rows:
        name = row[key]
        if name in found:
            faults.append(f"line {number}: {key} '{name}' stands already on line {found[name][0]}")
        elif name:
            found[name] = (number, row)
    if faults:
        raise ImportingError(f"{file}: {len(faults)} keys stand there twice{some(faults)}")
    return found


def _report(file: Path, study: Study, number: int, row: dict[str, str], key: str, tree: Taxonomy | None) -> Study:
    cells = {name.lower().replace(" ", "_"): text for name, text in row.items()}
    if "report" not in cells and not any(name in cells for name in SECTIONS):
        raise ImportingError(f"{file}: no column report, nor one of {', '.join(SECTIONS)}")
    return replace(study, report=cells.get("report") or put_together(cells))


def _labels(file: Path, study: Study, number: int, row: dict[str, str], key: str, tree: Taxonomy | None) -> Study:
    if "label" in row:
        names = [name.strip() for name in row["label"].split(";") if name.strip()]
        known = bool(names)
    else:
        columns = {name: text.lower() for name, text in row.items() if name not in KEYS}
        odd = [name for name, text in columns.items() if text and text not in _YES | _NO | {"-1", "-1.0", "nan"}]
        if odd:
            raise ImportingError(f"{file}, line {number}: '{row[odd[0]]}' under {odd[0]} is neither 0 nor 1")
        names = [name for name, text in columns.items() if text in _YES]
        known = any(text in _YES | _NO for text in columns.values())
    if tree is not None:
        names = [tree.meant_by(name) for name in names]
    return replace(study, labels=tuple(dict.fromkeys(names)) if known else None)


def _metadata(file: Path, study: Study, number: int, row: dict[str, str], key: str, tree: Taxonomy | None) -> Study:
    split = row.get("split", "").lower()
    if split and split not in SPLIT_NAMES:
        raise ImportingError(f"{file}, line {number}: split '{row['split']}' is none of {', '.join(SPLIT_NAMES)}")
    if taken := [name for name in row if name in _RESERVED]:
        raise ImportingError(f"{file}: the column {taken[0]} would overwrite the manifest's own; rename it")
    more = {name: text for name, text in row.items() if text and name not in (*KEYS, "split")}
    patient = row["patient_id"] if key == "study_id" and row.get("patient_id") else study.patient_id
    return replace(study, patient_id=patient, split=SPLIT_NAMES.get(split, study.split), extra=study.extra | more)
