"""Tables beside the scans: reports, labels and what else is known, joined to studies by a key.

    --reports CSV    KEY and report; or KEY and sections (findings, impression, ...), which are put together under their headers
    --labels CSV     KEY and label (several parted by ;), or KEY and a column of 0 and 1 for each class
    --metadata CSV   KEY and any columns (sex, age, vendor, field_strength, split, ...), which go into the manifest; sex and age in one
                     spelling (`hlip.importing.fields`)

KEY is a column study_id (or patient_id, which then holds for all studies of the patient), or what others call it (`cells.NAMES`).
`hlip.importing.table_files` reads them.

Notable choices:
- The faults of all tables are told at once, each with its line; the same fault on many lines is told once, with their number.
- An empty cell, -1 or nan says nothing of its class. A row of nothing else leaves its study without labels; in any other row the class
  counts as absent, since a manifest knows all classes of a study or none. How often is said.
- A report that is keyed by patient is taken where the patient has one study: of several it does not say which it describes.
- Rows that are the same in all cells count as one.
- An age that is no number of years is left out and counted, not told: a date of birth may stand there.
- Metadata is joined first, so that patients it states are those by which the other tables are joined.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlip.importing import fields
from hlip.importing.cells import NAMES, labels_of, names_of, plain, renamed, report_of, split_of, zeros_lost
from hlip.importing.cells import NO as NO
from hlip.importing.cells import RESERVED as RESERVED
from hlip.importing.cells import SECTIONS as SECTIONS
from hlip.importing.cells import UNKNOWN as UNKNOWN
from hlip.importing.cells import YES as YES
from hlip.importing.cells import put_together as put_together
from hlip.importing.cells import unknown_note as unknown_note
from hlip.importing.outcome import ImportingError
from hlip.importing.splits import REMEDY, check_patients
from hlip.importing.table_files import Faults, Row, read_columns, read_table, require_columns
from hlip.study import Study

if TYPE_CHECKING:
    from hlip.taxonomy import Taxonomy

KEYS = ("study_id", "patient_id")
_IDENTIFIERS = (*KEYS, "accession_number")  # columns that are never a class, nor told
_CALLED = {name for key in _IDENTIFIERS for name in NAMES[key]}
_ZEROS = ": leading zeros were lost, in a spreadsheet?"
KeyOf = Callable[[Study, str], "str | Sequence[str]"]
"""What a study is called under a key column; of several names the first that a row has counts."""


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
    group = source.add_argument_group(
        "tables beside the scans, joined by a column study_id (StudyInstanceUID) or patient_id (PatientID, participant_id)"
    )
    group.add_argument(
        "--reports",
        type=Path,
        metavar="CSV",
        help="report, or its sections (findings, impression, ...; Befund, Beurteilung); of a patient_id: where the patient has one study",
    )
    group.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="label (several parted by ;), or a column of 0 and 1 a class; -1 or nothing under one class counts as absent, and is told",
    )
    group.add_argument("--metadata", type=Path, metavar="CSV", help="sex, age, vendor, split, ...: go into the manifest")
    group.add_argument("--taxonomy", metavar="T", help="a disease tree: labels become its classes by name, synonym or code")


def tables_of(arguments: argparse.Namespace) -> Tables:
    """What `add_tables` parsed."""
    from hlip.taxonomy import Taxonomy

    tree = Taxonomy.load(arguments.taxonomy) if arguments.taxonomy else None
    return Tables(arguments.reports, arguments.labels, arguments.metadata, tree)


def given_fields(tables: Tables) -> set[str]:
    """Fields of a manifest of which there is a table."""
    given = {name for name, file in (("report", tables.reports), ("labels", tables.labels)) if file is not None}
    if tables.metadata is None:
        return given
    columns = read_columns(tables.metadata)
    names = names_of(tuple(columns), KEYS)
    return given | {names.get(name, fields.field_of(name)) for name in columns} | {name.lower() for name in columns}


def join(
    studies: Sequence[Study],
    tables: Tables,
    key_of: KeyOf | None = None,
    keys: Sequence[str] = KEYS,
    others: Collection[str] = (),
) -> tuple[list[Study], list[str]]:
    """Studies with what the tables say, and notes on rows that met no study.

    Args:
        key_of: the value of a study under a key column, or several, of which the first that a row has counts; default its own `study_id`
            or `patient_id`. An importer that renames studies gives the names they came with.
        keys: columns to join by, the first that a table has; `key_of` must know each.
        others: patients of further studies, which are not joined.

    Raises:
        ImportingError: no key column, a key on two rows that differ, an unknown split or label, or no row that meets a study; all at
            once.
    """
    key_of = key_of or (lambda study, key: study.study_id if key == "study_id" else study.patient_id)
    notes: list[str] = []
    problems: list[str] = []
    done = list(studies)
    for file, add in ((tables.metadata, _metadata), (tables.reports, _report), (tables.labels, _labels)):
        if file is None:
            continue
        try:
            done, said = _joined(done, file, add, tables.taxonomy, key_of, keys, others)
            notes += said
        except ImportingError as error:
            problems.append(str(error))
    if problems:
        raise ImportingError("\n".join(problems))
    done, odd = fields.without_odd_ages(studies, done)
    return done, [*notes, *odd]


def check_tables(tables: Tables, keys: Sequence[str] = KEYS) -> None:
    """What can be known of tables without studies: that they are there, their columns, keys and cells. For imports that work for hours before
    they join. Each row counts as if it met a study, since it may.

    Raises:
        ImportingError: as `join`; all of them at once.
    """
    problems: list[str] = []
    for file, add in ((tables.metadata, _metadata), (tables.reports, _report), (tables.labels, _labels)):
        try:
            if file is not None:
                rows = _rows(file, keys)
                names = _unique(_key(file, rows, add, keys), rows, Faults(file))
                anyones = [Study(name, name, ()) for name in names]
                _joined(anyones, file, add, tables.taxonomy, lambda study, _: study.study_id, keys, ())
        except ImportingError as error:
            problems.append(str(error))
    if problems:
        problems.append("every row counts here, as it may meet a study: put it right, or leave it out")
        raise ImportingError("\n".join(problems))


_Add = Callable[[Study, dict[str, str], str, "Taxonomy | None"], Study]


def _rows(file: Path, keys: Sequence[str]) -> list[Row]:
    """Those of `read_table`, the key columns under our names. What others call a key does not go before one that is called as here."""
    rows = read_table(file)
    first = next((place for place, name in enumerate(keys) if name in rows[0][1]), 0)
    return [(line, renamed(row, keys[first:])) for line, row in rows]


def _joined(
    studies: Sequence[Study],
    file: Path,
    add: _Add,
    tree: Taxonomy | None,
    key_of: KeyOf,
    keys: Sequence[str],
    others: Collection[str],
) -> tuple[list[Study], list[str]]:
    """One table's part of `join`."""
    rows = _rows(file, keys)
    columns = list(rows[0][1])
    key = _key(file, rows, add, keys)
    faults = Faults(file)
    by_key = _unique(key, rows, faults)
    called, without_row = _called(studies, by_key, lambda study: key_of(study, key))
    met, bare = set(called) - {None}, called.count(None)
    zeros = zeros_lost([name for name in by_key if name not in met], without_row)
    if add is _labels:
        _check_cells(columns, [by_key[name] for name in by_key if name in met], faults)
    shared = _shared(studies, called, others) if add is _report and key == "patient_id" else set()
    done: list[Study] = []
    for study, name in zip(studies, called, strict=True):
        if name is None or name in shared:
            done.append(study)
            continue
        number, row = by_key[name]
        try:
            done.append(add(study, row, key, tree))
        except ValueError as error:  # TaxonomyError is one
            done.append(study)
            faults.add(number, str(error))
    if not met and not faults:
        name, other = next(iter(zeros.items()), (next(iter(by_key)), next(iter(without_row), "")))
        there = f"{key} '{name}' there, '{other}' here{_ZEROS if zeros else ''}" if studies else "there are no studies"
        raise ImportingError(f"{file}: no row meets a study ({there})")
    faults.stop()
    if add is _metadata:
        lines = {study.study_id: by_key[name][0] for study, name in zip(done, called, strict=True) if name is not None}
        check_patients([study for study in done if study.split], REMEDY, file, lines)
    notes = _unknown(file, columns, [by_key[name][1] for name in met if name is not None]) if add is _labels else []
    if shared:
        notes.append(_on_shared(file, sum(name in shared for name in called), len(shared), keys))
    if twice := len(rows) - len(by_key):
        notes.append(f"{file.name}: {twice} rows are the same as an earlier one in every cell, and not counted")
    if unmet := len(by_key) - len(met):
        few = f", {len(zeros)} of them but for leading zeros{_ZEROS}" if zeros else ""
        notes.append(f"{file.name}: {unmet} of {len(by_key)} rows meet no study{few}")
    if bare:
        notes.append(f"{file.name}: {bare} of {len(studies)} studies have no row")
    return done, notes


def _called(
    studies: Sequence[Study], by_key: Mapping[str, Row], names_of_study: Callable[[Study], str | Sequence[str]]
) -> tuple[list[str | None], list[str]]:
    """What each study is called in a table, None where it has no row; and what those would be called, each name of them."""
    called: list[str | None] = []
    without_row: list[str] = []
    for study in studies:
        names = names_of_study(study)
        names = (names,) if isinstance(names, str) else names
        called.append(next((name for name in names if name in by_key), None))
        without_row += names if called[-1] is None else []
    return called, without_row


def _shared(studies: Sequence[Study], called: Sequence[str | None], others: Collection[str]) -> set[str]:
    """Rows that would be of several studies. `others`: patients of further ones."""
    counts = Counter(called)
    return {
        name
        for study, name in zip(studies, called, strict=True)
        if name is not None and (counts[name] > 1 or study.patient_id in others)
    }


def _on_shared(file: Path, studies: int, patients: int, keys: Sequence[str]) -> str:
    better = " or ".join(name for name in keys if name != "patient_id")
    return (
        f"{file.name}: {studies} studies take no report: their {patients} patients have several studies, and a report keyed by patient_id "
        f"does not say which of them it describes; key the table by {better}"
    )


def _key(file: Path, rows: Sequence[Row], add: _Add, keys: Sequence[str]) -> str:
    """The column a table is joined by; all its columns are checked. Of a report the patient comes last."""
    columns = list(rows[0][1])
    there = [name for name in sorted(keys, key=lambda name: add is _report and name == "patient_id") if name in columns]
    key = next((name for name in there if any(row[name] for _, row in rows)), there[0] if there else None)
    if key is None:
        require_columns(file, columns, [f"{' or '.join(keys)} to join by"])
        raise AssertionError
    _CHECKS[add](file, columns)
    return key


def _unique(key: str, rows: Sequence[Row], faults: Faults) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for number, row in rows:
        name = row[key]
        if not name:
            faults.add(number, f"no {key}")
        elif name in found and found[name][1] == row:
            continue
        elif name in found:
            faults.add(number, f"{key} '{name}' stands already on line {found[name][0]}")
        else:
            found[name] = (number, row)
    return found


def _report(study: Study, row: dict[str, str], key: str, tree: Taxonomy | None) -> Study:
    return replace(study, report=report_of(row))


def _labels(study: Study, row: dict[str, str], key: str, tree: Taxonomy | None) -> Study:
    if "label" in row:
        return replace(study, labels=labels_of(row["label"], tree))
    columns = {name: row[name].lower() for name in _classes(list(row))}
    names = [name for name, text in columns.items() if text in YES]
    if not any(text in YES | NO for text in columns.values()):
        return replace(study, labels=None)
    return replace(study, labels=tuple(dict.fromkeys(tree.meant_by(name) if tree else name for name in names)))


def _classes(columns: Sequence[str]) -> list[str]:
    """The columns of classes, among those of a table of labels."""
    return [name for name in columns if plain(name) not in _CALLED]


def _check_cells(columns: Sequence[str], rows: Sequence[Row], faults: Faults) -> None:
    """Adds a fault for each column of a class with cells that cannot be."""
    for name in sorted(_classes(columns)) if "label" not in columns else ():
        odd = [(line, row[name]) for line, row in rows if row[name].lower() not in YES | NO | UNKNOWN]
        known = sum(row[name].lower() in YES | NO for _, row in rows)
        for line, _ in odd:
            if len(odd) > known:  # names and dates, maybe: told is where they stand, not what
                faults.add(
                    line, f"{name} is no label column: most cells are neither 0 nor 1; leave it out, or give it by --metadata"
                )
            else:
                faults.add(line, f"'{odd[0][1]}' under {name} is neither 0 nor 1")


def _unknown(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> list[str]:
    """`unknown_note` of rows that were joined."""
    classes = _classes(columns)
    if "label" in classes:
        return []
    said: Counter[str] = Counter()
    empty = 0
    for row in rows:
        silent = [name for name in classes if row[name].lower() in UNKNOWN]
        if len(silent) < len(classes):
            said.update(name for name in silent if row[name])
            empty += sum(not row[name] for name in silent)
    return unknown_note(file, said, empty)


def _metadata(study: Study, row: dict[str, str], key: str, tree: Taxonomy | None) -> Study:
    split = split_of(row.get("split", ""))
    more: dict[str, Any] = {}
    for name, text in row.items():
        if text and name not in (*_IDENTIFIERS, "split"):
            more.setdefault(*fields.told(name, text))
    patient = row["patient_id"] if key == "study_id" and row.get("patient_id") else study.patient_id
    return replace(study, patient_id=patient, split=split or study.split, extra=study.extra | more)


def check_extra_columns(file: Path, columns: Sequence[str]) -> None:
    """
    Raises:
        ImportingError: a column of further fields that would overwrite the manifest's own.
    """
    if taken := [name for name in columns if name in RESERVED]:
        raise ImportingError(f"{file}: the column {taken[0]} would overwrite the manifest's own; rename it")


def _check_report_columns(file: Path, columns: Sequence[str]) -> None:
    wanted = ("report", *SECTIONS)
    if not {*columns, *names_of(tuple(columns), wanted).values()} & set(wanted):
        raise ImportingError(f"{file}: no column report, nor one of {', '.join(SECTIONS)}")


def _check_label_columns(file: Path, columns: Sequence[str]) -> None:
    if not _classes(columns):
        raise ImportingError(f"{file}: no column label, nor a column of 0 and 1 for each class")


_CHECKS: dict[_Add, Callable[[Path, Sequence[str]], None]] = {
    _metadata: check_extra_columns,
    _report: _check_report_columns,
    _labels: _check_label_columns,
}
