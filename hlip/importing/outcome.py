"""What every import leaves behind: a manifest, and a list of what was left out and why.

hlip import SOURCE ... OUT      OUT is a folder (OUT/manifest.jsonl, OUT/left_out.csv), or the manifest's own name (*.jsonl)
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hlip.files.folders import write_atomically
from hlip.study import Study, write_manifest

SHOWN = 10
"""Faults of an import have one cause: the first tell it."""


class ImportingError(ValueError):
    """Data cannot become a manifest; the message names the files and the remedy."""


@dataclass(frozen=True)
class LeftOut:
    """A file, series or study that is not in the manifest."""

    path: str
    reason: str
    """A short code, for counting."""
    message: str = ""


@dataclass(frozen=True)
class Imported:
    """What an import wrote."""

    manifest: Path
    studies: tuple[Study, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """What a person should know before going on."""

    def __str__(self) -> str:
        patients = len({study.patient_id for study in self.studies})
        scans = Counter(scan.sequence or "(unnamed)" for study in self.studies for scan in study.scans)
        reports = sum(bool(study.report or study.sentences) for study in self.studies)
        labelled = sum(study.labels is not None for study in self.studies)
        lines = [
            f"{len(self.studies)} studies of {patients} patients, {scans.total()} scans, {reports} with a report, "
            f"{labelled} with labels: {self.manifest}",
            "scans: " + ", ".join(f"{name} {count}" for name, count in scans.most_common()),
        ]
        if any(study.split for study in self.studies):
            splits = Counter(study.split or "none" for study in self.studies)
            lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in sorted(splits.items())))
        if self.left_out:
            reasons = Counter(item.reason for item in self.left_out)
            counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            lines.append(f"left out: {counts}; see {left_out_file(self.manifest)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def manifest_file(out: str | Path) -> Path:
    """The manifest's place: OUT itself where it is called *.jsonl, else OUT/manifest.jsonl."""
    out = Path(out)
    return out if out.suffix == ".jsonl" else out / "manifest.jsonl"


def left_out_file(manifest: Path) -> Path:
    """Beside the manifest: left_out.csv, or NAME.left_out.csv of a manifest of another name."""
    return manifest.with_name("left_out.csv" if manifest.name == "manifest.jsonl" else f"{manifest.stem}.left_out.csv")


def write_import(
    source: str, studies: Sequence[Study], manifest: Path, left_out: Sequence[LeftOut] = (), notes: Sequence[str] = ()
) -> Imported:
    """Write manifest and list, each atomically. Every line of the manifest holds `imported`, the source, so that a later run knows its own.
    Where there is no study the list is written all the same, unless it would be that of studies that stand there.

    Raises:
        ImportingError: no study, or a file at the manifest's place that this source did not write.
    """
    check_place(manifest, source)
    if not studies:
        reasons = Counter(item.reason for item in left_out)
        found = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        if manifest.exists():
            raise ImportingError(
                f"{manifest}: left as it was, with its tables; nothing usable was found now"
                + (f" (left out: {found})" if found else "")
            )
        _write_left_out(left_out, left_out_file(manifest))
        why = f" (left out: {found}; see {left_out_file(manifest)})" if found else ""
        raise ImportingError(f"{manifest}: not written, there is no usable study{why}")
    for study in studies:
        study.extra.setdefault("imported", source)
    write_manifest(studies, manifest)
    _write_left_out(left_out, left_out_file(manifest))
    return Imported(manifest, tuple(studies), tuple(left_out), tuple(notes))


def check_place(manifest: Path, source: str) -> None:
    """Only a manifest that this source wrote is written over.

    Raises:
        ImportingError: another file stands there.
    """
    if not manifest.exists():
        return
    try:
        with manifest.open(encoding="utf-8") as lines:
            ours = json.loads(next(lines)).get("imported") == source
    except (OSError, ValueError, AttributeError, StopIteration):
        ours = False
    if not ours:
        raise ImportingError(f"{manifest}: stands there and was not written by this command; name another place, or delete it")


def some(faults: Sequence[str]) -> str:
    """The first faults, a line each, and how many more there are."""
    more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return "\n  " + "\n  ".join(faults[:SHOWN]) + more


def _write_left_out(rows: Sequence[LeftOut], file: Path) -> None:
    if not rows:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "reason", "message"))
    table.writerows((row.path, row.reason, row.message) for row in rows)
    write_atomically(file, text.getvalue().encode())
