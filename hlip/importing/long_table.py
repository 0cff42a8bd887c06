"""A CSV in long form, one row a scan -> a manifest.

    study_id,path,sequence,patient_id,split,sex,age
    s1,s1/t1.nii.gz,T1,p1,train,F,61
    s1,s1/flair.nii.gz,FLAIR,p1,train,F,61

Notable choices:
- study_id and path are needed; study_id, patient_id, report and its sections may be called as others call them (`cells.NAMES`).
- path is a NIfTI or MGZ file, a DICOM file (which stands for its series) or a folder of one series; relative ones are taken from the
  table's folder, or from --root.
- A sequence that is only spelled otherwise (t1w, T1ce, T2-FLAIR) becomes the name that specs and models know; other names stay.
- patient_id, split, report (or its sections) and label are of the study: they may stand in one of its rows or in all, but may not differ.
- Any other column goes into the manifest, sex and age in one spelling (`hlip.importing.fields`). One whose values differ between the scans
  of a study (echo_time) becomes a list there, a value a scan, in all studies.
- A file that is not there is left out and listed, as is a row without study_id or without path; everything else that is wrong (a study
  that contradicts itself, a file of two studies) is told at once, with its line, and stops the import.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hlip.importing import fields
from hlip.importing.cells import RESERVED, SECTIONS, labels_of, renamed, report_of, split_of
from hlip.importing.files import id_fault
from hlip.importing.options import KEPT_NAMES, Options, add_options, finish, options_of, show
from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file
from hlip.importing.series import b_values_beside, diffusion_scans
from hlip.importing.splits import REMEDY, check_patients
from hlip.importing.table_files import Faults, Row, read_table, require_columns
from hlip.scans.filekind import is_dicom, is_nifti
from hlip.scans.sequence import guess_sequence, spelled
from hlip.study import Scan, Study

if TYPE_CHECKING:
    from hlip.taxonomy import Taxonomy

_OF_STUDY = ("patient_id", "split", "label", "report", *SECTIONS)
_OF_SCAN = ("path", "sequence")
_RENAMED = ("study_id", "patient_id", "report", *SECTIONS)
_BACKSLASHES = "paths with \\ are those of Windows; write / instead, and no drive letter"
LEAK = "counts as a patient of its own; if patients have several studies that is a leak: fill in patient_id"


def import_table(
    table: str | Path, out: str | Path, options: Options | None = None, root: str | Path | None = None, *, progress: bool = True
) -> Imported:
    """Write the manifest of a table of scans. Files are looked for; only diffusion series with a .bval beside them are opened.

    Args:
        table: see the head of this file.
        out: folder for manifest.jsonl, left_out.csv and scans/; or the manifest's own name (*.jsonl).
        root: from where relative paths count; default the table's folder.
        progress: show a bar.

    Raises:
        ImportingError: no usable scan, or faults of the tables, all at once with their lines.
    """
    table, manifest, options = Path(table), manifest_file(out), options or Options()
    root = Path(os.path.abspath(table.parent if root is None else root))
    check_place(manifest, "table")
    rows = [(line, renamed(row, _RENAMED)) for line, row in read_table(table)]
    columns = list(rows[0][1])
    require_columns(table, columns, ["study_id", "path"])
    taken = [name for name in columns if name in RESERVED and name != "report"]
    if taken:
        raise ImportingError(
            f"{table}: the column {taken[0]} would overwrite the manifest's own; rename it (label: its classes)"
        )
    faults = Faults(table)
    by_study, left_out, twice = _by_study(rows, root, faults)
    known = {study_id: _of_study(group, options.tables.taxonomy, faults) for study_id, group in by_study.items()}
    faults.stop()
    extra = [name for name in columns if name not in ("study_id", *_OF_SCAN, *_OF_STUDY)]
    varying = {
        name
        for name in extra
        if any(len({fields.told(name, row[name]) for _, row in group if row[name]}) > 1 for group in by_study.values())
    }
    studies = []
    for study_id, group in tqdm(by_study.items(), unit="study", disable=not progress):
        scans, of_scan, lost = _scans(group, root, manifest.parent / "scans" / study_id, table)
        left_out += lost
        if not scans:
            continue
        further: dict[str, Any] = {}
        for name in extra:
            if name in varying:
                further.setdefault(fields.field_of(name), [fields.told(name, row[name])[1] for row in of_scan])
            elif text := next((row[name] for _, row in group if row[name]), ""):
                further.setdefault(*fields.told(name, text))
        studies.append(Study(study_id, scans=tuple(scans), extra=further, **known[study_id]))
    notes = _respelled(rows)
    notes += [f"{twice} rows of {table.name} are the same as an earlier one in every cell, and not counted"] if twice else []
    alone = sum(study.patient_id == study.study_id for study in studies)
    notes += [f"the patient of {alone} of {len(studies)} studies is not said: each {LEAK}"] if alone else []
    check_patients([study for study in studies if study.split], REMEDY, table, _first_lines(by_study))
    missing = [item.path for item in left_out if item.reason == "missing"]
    windows = [path for path in missing if "\\" in path]
    if missing and not studies and (windows or root == Path(os.path.abspath(table.parent))):
        remedy = _BACKSLASHES if windows else "name the folder from which paths count: --root"
        raise ImportingError(f"{table}: no file is there, e.g. {(windows or missing)[0]}; {remedy}")
    notes += [f"{len(windows)} files are not there: {_BACKSLASHES}"] if windows else []
    return finish("table", studies, out, options, left_out, notes, given=_given(columns, extra))


def _respelled(rows: Sequence[Row]) -> list[str]:
    """A note on sequences that are spelled otherwise here."""
    cells = Counter(row.get("sequence", "") for _, row in rows)
    others = {cell: count for cell, count in cells.items() if spelled(cell) != cell}
    told = ", ".join(f"{cell} -> {spelled(cell)} ({count})" for cell, count in others.items())
    return [f"sequences that are spelled otherwise here: {told}"] if others else []


def _given(columns: Sequence[str], extra: Sequence[str]) -> set[str]:
    """Fields of the manifest that a table with these columns states."""
    given = {fields.field_of(name) for name in extra} | ({"patient_id"} & set(columns))
    given |= {"labels"} if "label" in columns else set()
    return given | ({"report"} if {"report", *SECTIONS} & set(columns) else set())


def _first_lines(by_study: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """Study -> the line of it that says its split."""
    return {name: next((line for line, row in group if row.get("split")), group[0][0]) for name, group in by_study.items()}


def _by_study(rows: Sequence[Row], root: Path, faults: Faults) -> tuple[dict[str, list[Row]], list[LeftOut], int]:
    """Rows of each study, in the table's order; rows that belong to no study or name no file; how many were there before, cell by cell.
    Rows that cannot be are faults."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    row_of: dict[str, Row] = {}
    left_out, twice = [], 0
    for line, row in rows:
        path = str(_file(root, row["path"]))
        if not row["study_id"]:
            message = f"{faults.file}, line {line}: no study_id; where cells were merged in a spreadsheet, fill them down"
            left_out.append(LeftOut(path if row["path"] else str(faults.file), "no_study_id", message))
        elif fault := id_fault(row["study_id"]):
            faults.add(line, fault)
        elif not row["path"]:
            left_out.append(LeftOut(str(faults.file), "no_path", f"{faults.file}, line {line}: no path"))
        elif path in row_of and row_of[path][1] == row:
            twice += 1
        elif path in row_of:
            faults.add(line, f"{row['path']} stands already on line {row_of[path][0]}")
        else:
            row_of[path] = (line, row)
            found[row["study_id"]].append((line, row))
    return dict(found), left_out, twice


def _of_study(group: Sequence[Row], tree: Taxonomy | None, faults: Faults) -> dict[str, Any]:
    """What rows say of their study, as arguments of `Study`; what they contradict each other in is a fault."""
    said: dict[str, str] = {}
    for name in _OF_STUDY:
        values = {row[name]: line for line, row in reversed(group) if row.get(name)}  # value -> first line that says so
        if len(values) > 1:
            (first, first_line), (second, second_line) = sorted(values.items(), key=lambda item: item[1])[:2]
            where = f"study '{group[0][1]['study_id']}' has {name} '{_short(first)}' on line {first_line}"
            faults.add(second_line, f"{where}, but '{_short(second)}' here")
        said[name] = next(iter(values), "")
    line, row = group[0]
    study: dict[str, Any] = {"patient_id": said["patient_id"] or row["study_id"], "report": report_of(said)}
    try:
        study["split"] = split_of(said["split"])
        study["labels"] = labels_of(said["label"], tree)
    except ValueError as error:  # TaxonomyError is one
        faults.add(line, str(error))
    return study


def _short(text: str) -> str:
    """In one line, for a message."""
    return " ".join(text.split())[:40]


def _file(root: Path, path: str) -> Path:
    """A file of the table; where it is not there, with / for the \\ of Windows."""
    file = Path(os.path.normpath(root / path))
    other = Path(os.path.normpath(root / path.replace("\\", "/")))
    return other if "\\" in path and other.exists() and not file.exists() else file


def _scans(
    group: Sequence[Row], root: Path, split_into: Path, table: Path
) -> tuple[list[Scan], list[dict[str, str]], list[LeftOut]]:
    """Scans, the row of each, and what is left out."""
    scans: list[Scan] = []
    rows: list[dict[str, str]] = []
    left_out: list[LeftOut] = []
    for line, row in group:
        file = _file(root, row["path"])
        if not file.exists():
            left_out.append(LeftOut(str(file), "missing", f"{table}, line {line}: no file {file}"))
            continue
        if not (file.is_dir() or is_nifti(file) or is_dicom(file)):
            left_out.append(LeftOut(str(file), "not_a_scan", f"{table}, line {line}: {file} is neither NIfTI, MGZ nor DICOM"))
            continue
        found = [Scan(file, spelled(row.get("sequence", "")) or guess_sequence(file.name))]
        if is_nifti(file) and (b_values := b_values_beside(file)):
            found, lost = diffusion_scans(file, b_values, split_into)
            left_out += [lost] if lost else []
        scans += found
        rows += [row] * len(found)
    return scans, rows, left_out


def add_table(sources: Any) -> None:
    """Add `hlip import table`."""
    source = sources.add_parser(
        "table",
        help="a CSV, a row a scan: study_id, path, sequence, ...",
        description="Columns study_id and path; if known sequence, patient_id, split, label (several parted by ;), report or its sections; "
        "any other column goes into the manifest. Files are NIfTI, MGZ or DICOM (a file of a series, or its folder). A diffusion series with "
        "a .bval beside it becomes b0, DWI and ADC under OUT/scans; other series of volumes are refused when they are prepared."
        + KEPT_NAMES,
    )
    source.add_argument("table", type=Path, metavar="CSV", help="a row a scan; *.tsv is read as tab-separated")
    source.add_argument("out", type=Path, metavar="OUT", help="folder to write: manifest.jsonl, left_out.csv, scans/")
    source.add_argument(
        "--root", type=Path, metavar="FOLDER", help="from where relative paths count (default: the folder of CSV)"
    )
    add_options(source)
    source.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    options = options_of(arguments)
    show(import_table(arguments.table, arguments.out, options, arguments.root), options)
