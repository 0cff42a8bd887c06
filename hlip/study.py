"""Scan, Study and the manifest: JSON lines, one study a line.

    {"study_id": "s001", "patient_id": "p001", "scans": [{"path": "s001/t1.nii.gz", "sequence": "T1"}],
     "report": "...", "labels": ["glioma"], "split": "train"}

Which studies to leave out, and which split they belong to, is data in the manifest, never code. Every problem of a file is
reported at once, with its line and field, so that one round of corrections is enough.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SPLITS = ("train", "val", "test")
_FIELDS = ("study_id", "patient_id", "scans", "report", "sentences", "labels", "split")
_SHOWN = 20  # a manifest with thousands of faults has one cause: the first lines tell it


class ManifestError(ValueError):
    """A manifest cannot be used; the message names file, line and field of each problem."""


@dataclass(frozen=True)
class Scan:
    """One image series of a study: a NIfTI file or a folder holding one DICOM series, or either within a zip (`s.zip/t1.nii.gz`)."""

    path: Path
    sequence: str = ""
    """Free text, e.g. T1, FLAIR, CT. Never used to choose code paths, only shown and stored."""


@dataclass(frozen=True)
class Study:
    """One examination of one patient: 1 to 40 scans, a report, labels if known."""

    study_id: str
    patient_id: str
    scans: tuple[Scan, ...]
    report: str = ""
    sentences: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    """Class names at any level of a taxonomy; `None` means unlabelled, which differs from `()`."""
    split: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """All further fields of the manifest line (sex, age, vendor, ...), kept and passed on."""


def read_manifest(path: str | Path) -> list[Study]:
    """Read and check a manifest. Relative scan paths are taken from the manifest's folder; scan files are not opened.

    Raises:
        ManifestError: the file is missing, empty, or has faults, each named by line and field.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(_no_manifest(path, "no such manifest (expected a JSON-lines file, one study a line)"))
    with path.open("rb") as start:
        if b"\0" in start.read(4096):
            raise ManifestError(_no_manifest(path, "not a text file (a manifest is JSON lines, one study a line)"))
    studies: list[Study] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                problems.append(f"line {number}: not JSON ({error.msg} at column {error.colno})")
                continue
            faults = list(_faults(row))
            if not faults and row["study_id"] in first_line:
                faults = [f"study_id: '{row['study_id']}' stands already on line {first_line[row['study_id']]}"]
            problems += [f"line {number}: {fault}" for fault in faults]
            if not faults:
                first_line[row["study_id"]] = number
                studies.append(_study(row, path.parent))
    problems += _patients_across_splits(studies)
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ManifestError(f"{path}: {len(problems)} problem(s)\n  " + "\n  ".join(problems[:_SHOWN]) + more)
    if not studies:
        raise ManifestError(f"{path}: holds no study")
    return studies


def _no_manifest(path: Path, else_told: str) -> str:
    """What stands in the place of a manifest, and what to do."""
    from hlip.scans.archive import IN_TAR, in_tar  # heavy, and only of use here

    if in_tar(path):
        return f"{path}: {IN_TAR}"
    return f"{path}: {'a folder; `hlip import` makes a manifest of it' if path.is_dir() else else_told}"


def write_manifest(studies: Iterable[Study], path: str | Path) -> None:
    """Write a manifest atomically; scan paths below its folder are written relative to it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        for study in studies:
            out.write(json.dumps(_row(study, path.parent), ensure_ascii=False) + "\n")
    os.replace(partial, path)


def _faults(row: Any) -> Iterable[str]:
    """What is wrong with one parsed line, each with its field."""
    if not isinstance(row, dict):
        yield f"a study must be a JSON object, not {type(row).__name__}"
        return
    study_id = row.get("study_id")
    if not isinstance(study_id, str) or not study_id:
        yield "study_id: missing, or not a non-empty string"
    elif study_id in (".", "..") or any(letter in study_id for letter in "/\\\0"):
        yield f"study_id: '{study_id}' must not hold a path separator (it names a file of the store)"
    if not isinstance(row.get("patient_id"), str) or not row["patient_id"]:
        yield "patient_id: missing, or not a non-empty string (splits and statistics are by patient)"
    scans = row.get("scans")
    if not isinstance(scans, list) or not scans:
        yield "scans: missing or empty (expected a list of {path, sequence})"
    else:
        for place, scan in enumerate(scans):
            if not isinstance(scan, dict) or not isinstance(scan.get("path"), str) or not scan["path"]:
                yield f"scans[{place}].path: missing, or not a non-empty string"
            elif not isinstance(scan.get("sequence", ""), str):
                yield f"scans[{place}].sequence: not a string"
    if not isinstance(row.get("report", ""), str):
        yield "report: not a string"
    for name in ("sentences", "labels"):
        value = row.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            yield f"{name}: not a list of strings"
    if row.get("split") is not None and row["split"] not in SPLITS:
        yield f"split: '{row['split']}' is none of {', '.join(SPLITS)}"


def _patients_across_splits(studies: list[Study]) -> list[str]:
    """A patient in two splits leaks: the test score would be a memory."""
    home: dict[str, Study] = {}
    problems = []
    for study in studies:
        if study.split is None:
            continue
        other = home.setdefault(study.patient_id, study)
        if other.split != study.split:
            problems.append(
                f"patient_id: '{study.patient_id}' is in {other.split} (study {other.study_id}) "
                f"and in {study.split} (study {study.study_id})"
            )
    return problems


def _study(row: dict[str, Any], folder: Path) -> Study:
    scans = tuple(Scan(folder / scan["path"], scan.get("sequence", "")) for scan in row["scans"])
    labels = row.get("labels")
    return Study(
        study_id=row["study_id"],
        patient_id=row["patient_id"],
        scans=scans,
        report=row.get("report", ""),
        sentences=tuple(row.get("sentences") or ()),
        labels=None if labels is None else tuple(labels),
        split=row.get("split"),
        extra={key: value for key, value in row.items() if key not in _FIELDS},
    )


def _row(study: Study, folder: Path) -> dict[str, Any]:
    def relative(path: Path) -> str:
        absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
        return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)

    row: dict[str, Any] = {
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "scans": [{"path": relative(scan.path), "sequence": scan.sequence} for scan in study.scans],
    }
    if study.report:
        row["report"] = study.report
    if study.sentences:
        row["sentences"] = list(study.sentences)
    if study.labels is not None:
        row["labels"] = list(study.labels)
    if study.split is not None:
        row["split"] = study.split
    return row | study.extra
