"""`hlip evaluate`: a checkpoint measured by a zero-shot protocol on a labelled cohort."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hlip.files.jsonable import jsonable
from hlip.inference.inputs import SIMULATED, cohort_store, expected_spec, open_model, skipped_scans
from hlip.inference.protocol import Protocol, ProtocolError, evaluate_protocol, protocol_logits
from hlip.model import SENTENCE
from hlip.store import StudyRecord
from hlip.zeroshot import embed_studies

INTERVALS = "Intervals: 95 %, bootstrap over patients. "
CALLED = "A class is called at one half, a choice by its largest score: no threshold from labels."


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a cohort by a protocol, print a table, write OUT/evaluation.json and OUT/logits.csv."""
    protocol = Protocol.load(arguments.protocol)
    if not (arguments.manifest or arguments.store):
        raise ValueError("no cohort: give --manifest M or --store S")
    table = read_labels(arguments.labels, protocol) if arguments.labels else None
    model = open_model(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        store = cohort_store(arguments, expected_spec(model.volume_spec, arguments.checkpoint), Path(scratch))
        records = [r for r in store.records if arguments.split in (None, r.split)]
        records, targets, counts = labelled(records, protocol, table)
        features = embed_studies(model, store, records, progress="evaluate")
        skipped = skipped_scans(store)
    logits = protocol_logits(model, protocol, features[:, SENTENCE])
    ids, patients = [r.study_id for r in records], [r.patient_id for r in records]
    tasks = evaluate_protocol(protocol, logits, targets, ids, patients, arguments.resamples)
    simulated = bool(model.facts.get("simulated"))
    result = {
        "protocol": protocol.title,
        "checkpoint": str(arguments.checkpoint),
        "volume_spec": store.spec.digest(),
        "cohort": counts | {"skipped_scans": len(skipped)},
        "simulated": simulated,
        "note": note(arguments.resamples),
        "tasks": tasks,
    }
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps(jsonable(result), indent=2) + "\n", encoding="utf-8")
    write_logits(out / "logits.csv", protocol, logits, targets, records)
    print_result(protocol, tasks, counts, arguments.resamples)
    if simulated:
        Console().print(SIMULATED, style="bold red", markup=False)
    for scan in skipped:
        print(f"skipped: {scan}", file=sys.stderr)
    print(f"\nwritten: {out / 'evaluation.json'}, {out / 'logits.csv'}")


def note(resamples: int) -> str:
    """How to read the numbers."""
    return (INTERVALS if resamples else "") + CALLED


def read_labels(path: Path, protocol: Protocol) -> dict[str, NDArray[np.float64]]:
    """A CSV of labels -> study id -> (K,) of 0, 1, or NaN where the file has no such column.

    The first column holds the study ids, as in the public list files.

    Raises:
        ProtocolError: the file cannot be opened, has no column of the protocol, a value that is neither 0 nor 1 (line and column are
            named), or a study listed twice with different labels.
    """
    try:
        file = path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        remedy = f"give a CSV with study ids in the first column and 0 or 1 in columns like {', '.join(protocol.columns[:6])}"
        raise ProtocolError(f"--labels {path}: {(error.strerror or str(error)).lower()}; {remedy}") from error
    with file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or [])
        present = [name for name in protocol.columns if name in header]
        if not present:
            raise ProtocolError(f"{path}: none of the columns of {protocol.title} ({', '.join(protocol.columns[:6])}, ...)")
        table: dict[str, NDArray[np.float64]] = {}
        for line, row in enumerate(reader, start=2):
            values = np.full(len(protocol.columns), math.nan)
            for name in present:
                values[protocol.columns.index(name)] = _binary(row[name], f"{path}, line {line}, column {name}")
            study = row[header[0]]
            if study in table and not np.array_equal(table[study], values, equal_nan=True):
                raise ProtocolError(f"{path}, line {line}: study {study} stands twice with different labels")
            table[study] = values
    return table


def _binary(text: str | None, where: str) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        value = math.nan
    if value not in (0.0, 1.0):
        raise ProtocolError(f"{where}: '{text}' is neither 0 nor 1")
    return value


def labelled(
    records: Sequence[StudyRecord], protocol: Protocol, table: Mapping[str, NDArray[np.float64]] | None
) -> tuple[list[StudyRecord], NDArray[np.float64], dict[str, int]]:
    """Studies whose truth is known, their targets (N, K), and what was counted on the way.

    Raises:
        ProtocolError: no study is left, or the manifest's labels are none of the protocol's.
    """
    kept, rows = [], []
    for record in records:
        if table is not None:
            if record.study_id in table:
                kept.append(record)
                rows.append(np.nan_to_num(table[record.study_id]))
        elif record.labels is not None:
            said = {label.casefold() for label in record.labels}
            kept.append(record)
            rows.append(np.array([float(bool({c.name.casefold(), c.phrase.casefold()} & said)) for c in protocol.classes]))
    counts = {"studies": len(kept), "without_labels": len(records) - len(kept)}
    if table is not None:
        counts["labels_without_study"] = len(table.keys() - {record.study_id for record in kept})
    if not kept:
        raise ProtocolError(
            f"no study of the cohort has labels for {protocol.title}; give them with --labels CSV or in the manifest"
        )
    targets = np.stack(rows)
    if table is None and not targets.any():
        raise ProtocolError(_strange(sorted({label for record in kept for label in record.labels or ()}), protocol))
    return kept, targets, counts


def _strange(said: list[str], protocol: Protocol) -> str:
    """What to tell where no label of the manifest is a class."""
    wanted = {name.casefold(): f"'{name}'" for c in protocol.classes for name in (c.name, c.phrase)}
    found = []
    for label in said:
        near = get_close_matches(label.casefold(), wanted, n=1, cutoff=0.4)
        found.append(f"'{label}'" + (f" (nearest: {wanted[near[0]]})" if near else ""))
    names = ", ".join(f"'{c.name}'" + (f" or '{c.phrase}'" if c.phrase != c.name else "") for c in protocol.classes[:8])
    more = f" and {len(protocol.classes) - 8} more" if len(protocol.classes) > 8 else ""
    listed = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return (
        f"no label of the manifest is a class of {protocol.title}: found {listed or 'none'}; wanted {names}{more}; "
        "rename them, or give --labels CSV"
    )


def write_logits(
    path: Path, protocol: Protocol, logits: NDArray[np.float64], targets: NDArray[np.float64], records: Sequence[StudyRecord]
) -> None:
    """One row a study and class: temperature x cosine with the present (and the absent) phrase, and the label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["study_id", "patient_id", "class", "logit", "logit_absent", "label"])
        for row, record in enumerate(records):
            for k, name in enumerate(protocol.columns):
                absent, present = logits[row, k]
                values = [f"{present:.6g}", "" if math.isnan(absent) else f"{absent:.6g}", int(targets[row, k])]
                table.writerow([record.study_id, record.patient_id, name, *values])


def print_result(protocol: Protocol, tasks: Mapping[str, Mapping[str, Any]], counts: Mapping[str, int], resamples: int) -> None:
    """A table a task for people; without resamples there are no intervals to show."""
    console = Console(highlight=False)
    facts = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items() if value or key == "studies")
    console.print(f"[bold]{protocol.title}[/bold]: {facts}")
    for name, task in tasks.items():
        if math.isnan(task["auc"]["value"]):
            console.print(f"{name}: nothing to measure, no class has positive and negative studies", markup=False)
            continue
        console.print(_table(name, task, bool(resamples)))
        if task["left_out"]:
            console.print(
                f"left out of the means, no positive or no negative study: {', '.join(task['left_out'])}", markup=False
            )
    console.print(note(resamples), style="dim", markup=False)


def _table(name: str, task: Mapping[str, Any], intervals: bool) -> Table:
    """A row a class, their mean, and of a choice a row of its own: its accuracies are no mean."""
    measures = ("balanced_accuracy", "weighted_f1") if task["balanced_accuracy"] is not None else ()
    table = Table(title=f"{name}: {task['studies']} studies", title_justify="left")
    heads = (
        "class",
        "positives",
        "AUC",
        *(("95 %",) if intervals else ()),
        *(("bal. acc.", "weighted F1") if measures else ()),
    )
    for column in heads:
        table.add_column(column, justify="left" if column == "class" else "right")

    def add(
        label: str, positives: str, area: Mapping[str, Any], value: float, accuracies: Mapping[str, Any], style: str = ""
    ) -> None:
        span = [_span(area)] if intervals else []
        table.add_row(label, positives, _number(value), *span, *(_number(accuracies.get(key)) for key in measures), style=style)

    for label, entry in task["classes"].items():
        if not math.isnan(entry["auc"]):
            add(label, f"{entry['positives']} of {entry['studies']}", entry, entry["auc"], entry)
    table.add_section()
    choice = task["accuracies_of"] == "choice"
    add("mean", "", task["auc"], task["auc"]["value"], {} if choice else task, "bold")
    if choice:
        add("choice of all", "", {}, math.nan, task, "bold")
    return table


def _span(area: Mapping[str, Any]) -> str:
    return f"{area['low']:.3f} to {area['high']:.3f}" if area else ""


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"
