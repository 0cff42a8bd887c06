"""`hlip evaluate`: a checkpoint measured by a zero-shot protocol on a labelled cohort."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hlip.inputs import SIMULATED, cohort_store, expected_spec, pick_device, skipped_scans
from hlip.jsonable import jsonable
from hlip.model import SENTENCE, load
from hlip.protocol import Protocol, ProtocolError, evaluate_protocol, protocol_logits
from hlip.store import StudyRecord
from hlip.zeroshot import embed_studies

NOTE = "Intervals: 95 %, bootstrap over patients. A class is called at one half, a choice by its largest score: no threshold from labels."


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a cohort by a protocol, print a table, write OUT/evaluation.json and OUT/logits.csv."""
    protocol = Protocol.load(arguments.protocol)
    if not (arguments.manifest or arguments.store):
        raise ValueError("no cohort: give --manifest M or --store S")
    table = read_labels(arguments.labels, protocol) if arguments.labels else None
    model = load(arguments.checkpoint, pick_device(arguments.device))
    with tempfile.TemporaryDirectory() as scratch:
        store = cohort_store(arguments, expected_spec(model, arguments.checkpoint), Path(scratch))
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
        "note": NOTE,
        "tasks": tasks,
    }
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps(jsonable(result), indent=2) + "\n", encoding="utf-8")
    write_logits(out / "logits.csv", protocol, logits, targets, records)
    print_result(protocol, tasks, counts)
    if simulated:
        Console().print(SIMULATED, style="bold red", markup=False)
    for scan in skipped:
        print(f"skipped: {scan}", file=sys.stderr)
    print(f"\nwritten: {out / 'evaluation.json'}, {out / 'logits.csv'}")


def read_labels(path: Path, protocol: Protocol) -> dict[str, NDArray[np.float64]]:
    """A CSV of labels -> study id -> (K,) of 0, 1, or NaN where the file has no such column.

    The first column holds the study ids, as in the public list files.

    Raises:
        ProtocolError: no column of the protocol, a value that is neither 0 nor 1 (line and column are named), or a study listed twice
            with different labels.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
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
        ProtocolError: no study is left.
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
    return kept, np.stack(rows), counts


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


def print_result(protocol: Protocol, tasks: Mapping[str, Mapping[str, Any]], counts: Mapping[str, int]) -> None:
    """A table a task for people."""
    console = Console(highlight=False)
    facts = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items() if value or key == "studies")
    console.print(f"[bold]{protocol.title}[/bold]: {facts}")
    for name, task in tasks.items():
        if math.isnan(task["auc"]["value"]):
            console.print(f"{name}: nothing to measure, no class has positive and negative studies", markup=False)
            continue
        accuracies = task["balanced_accuracy"] is not None
        table = Table(title=f"{name}: {task['studies']} studies", title_justify="left")
        for column in ("class", "positives", "AUC", "95 %", *(("bal. acc.", "weighted F1") if accuracies else ())):
            table.add_column(column, justify="left" if column == "class" else "right")
        for label, entry in task["classes"].items():
            if math.isnan(entry["auc"]):
                continue
            span = f"{entry['low']:.3f} to {entry['high']:.3f}"
            cells = [_number(entry[key]) for key in ("balanced_accuracy", "weighted_f1")] if accuracies else []
            table.add_row(label, f"{entry['positives']} of {entry['studies']}", _number(entry["auc"]), span, *cells)
        area = task["auc"]
        cells = [_number(task[key]) for key in ("balanced_accuracy", "weighted_f1")] if accuracies else []
        table.add_section()
        table.add_row("mean", "", _number(area["value"]), f"{area['low']:.3f} to {area['high']:.3f}", *cells, style="bold")
        console.print(table)
        if task["left_out"]:
            console.print(
                f"left out of the mean AUC, no positive or no negative study: {', '.join(task['left_out'])}", markup=False
            )
    console.print(NOTE, style="dim", markup=False)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"
