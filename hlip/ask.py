"""`hlip ask`: one study in plain words, or a whole cohort against a tree."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hlip.model import HLIP, SENTENCE, load
from hlip.prepare import prepare
from hlip.scanfile import VolumeError, check_one_patient, find_scans
from hlip.store import Store, StudyRecord
from hlip.study import Study, read_manifest, write_manifest
from hlip.taxonomy import Taxonomy
from hlip.volume import VolumeSpec
from hlip.zeroshot import (
    NORMAL_PHRASE,
    PromptSet,
    ZeroShotSettings,
    contrast_scores,
    embed_classes,
    embed_studies,
    score_taxonomy,
)

MEANING = (
    f"score: two-way softmax of the query against '{NORMAL_PHRASE}' at the model's temperature; 0.5 means as similar as a normal study. "
    "It ranks queries and studies; it is not a probability of disease and no diagnosis. similarity: cosine of study and query."
)
SIMULATED = "This checkpoint has seen SIMULATED data only: on a real study its scores mean nothing clinically."


def ask(arguments: argparse.Namespace) -> None:
    """Score one study against the queries given, or the classes of a taxonomy, and print them."""
    if arguments.out:
        raise ValueError("--out takes a whole cohort's scores; for one STUDY use --json > FILE")
    queries = list(arguments.queries)
    if not queries and not arguments.taxonomy:
        raise ValueError('no QUERY: add one or more texts, e.g. "acute ischemic stroke", or --taxonomy brain_mri')
    if not all(query.strip() for query in queries):
        raise ValueError("a QUERY is empty")
    if arguments.taxonomy:
        tree = Taxonomy.load(arguments.taxonomy)
        queries += [c.prompt for c in tree.classes(tree.depth) if c.prompt not in (*queries, NORMAL_PHRASE)]
    if arguments.templates:
        PromptSet.load(arguments.templates)  # a wrong name shows before the work
    model = load(arguments.checkpoint, pick_device(arguments.device))
    prompts = PromptSet.load(templates_of(arguments, model))
    with tempfile.TemporaryDirectory() as scratch:
        store, record = find_study(arguments, expected_spec(model, arguments.checkpoint), Path(scratch))
        features = embed_studies(model, store, [record])
        sequences, skipped = list(record.sequences), skipped_scans(store, record.study_id)
        notes = scan_notes(store, record.study_id) + folder_notes(store, record.study_id)
    if unknown := unknown_words(model, queries):
        notes.append(f"words this checkpoint's vocabulary does not hold, so they say little to it: {', '.join(unknown)}")
    rows = score_queries(model, features, queries, prompts)
    warnings = [SIMULATED] if model.facts.get("simulated") else []
    if arguments.json:
        answer = {"study": arguments.study, "scans": sequences, "skipped": skipped, "notes": notes, "templates": prompts.name}
        answer["scores"] = rows
        print(json.dumps(answer | {"meaning": MEANING, "warnings": warnings}, indent=2))
    else:
        print_scores(arguments.study, sequences, skipped, notes, rows, warnings)


def ask_cohort(arguments: argparse.Namespace) -> None:
    """Score every study of a manifest or store against every class of a taxonomy, into a CSV."""
    if not arguments.taxonomy or not (arguments.manifest or arguments.store):
        raise ValueError("no STUDY: give one, or --taxonomy T with --manifest M (or --store S) to score a whole cohort")
    if arguments.json:
        raise ValueError("--json is for one STUDY; a whole cohort's scores go to --out as CSV")
    tree = Taxonomy.load(arguments.taxonomy)
    if arguments.templates:
        PromptSet.load(arguments.templates)  # a wrong name, or a place that cannot be written, shows before the work
    out = arguments.out or Path("scores.csv")
    out.parent.mkdir(parents=True, exist_ok=True)
    model = load(arguments.checkpoint, pick_device(arguments.device))
    with tempfile.TemporaryDirectory() as scratch:
        store = cohort_store(arguments, expected_spec(model, arguments.checkpoint), Path(scratch))
        features = embed_studies(model, store, store.records, progress="ask")
        skipped = skipped_scans(store)
    if not store.records:
        raise ValueError("no study with a usable scan\n  " + "\n  ".join(skipped))
    prompts = templates_of(arguments, model)
    contrast, plain = (score_taxonomy(model, features, tree, ZeroShotSettings(prompts, contrast=c)) for c in (True, False))
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["study_id", "patient_id", "split", "level", "class", "score", "similarity"])
        for row, record in enumerate(store.records):
            who = [record.study_id, record.patient_id, record.split or ""]
            for level, names in enumerate(tree.levels, start=1):
                values = zip(names, contrast[level - 1][row], 2 * plain[level - 1][row] - 1, strict=True)
                table.writerows([*who, level, name, f"{score:.6g}", f"{cosine:.6g}"] for name, score, cosine in values)
    print(f"templates: {prompts}")
    print(f"{len(store.records)} studies x {sum(map(len, tree.levels))} classes: {out}")
    for scan in skipped:
        print(f"skipped: {scan}", file=sys.stderr)
    print(MEANING, file=sys.stderr)
    if model.facts.get("simulated"):
        print(SIMULATED, file=sys.stderr)


def templates_of(arguments: argparse.Namespace, model: HLIP) -> str:
    """The prompt set asked for, else the one the checkpoint was validated with, else HLIP's."""
    return str(arguments.templates or model.facts.get("prompts") or "hlip")


def unknown_words(model: HLIP, queries: Sequence[str]) -> list[str]:
    """Words of the queries that the tokenizer can only spell letter by letter, or not at all."""
    words = dict.fromkeys(word for query in queries for word in re.findall(r"[^\W\d_]{3,}", query))
    pieces = {word: [piece.removeprefix("##") for piece in model.tokenizer.hf.tokenize(word)] for word in words}
    return [word for word, parts in pieces.items() if all(len(part) == 1 or part == "[UNK]" for part in parts)]


def score_queries(model: HLIP, features: torch.Tensor, queries: list[str], prompts: PromptSet) -> list[dict[str, Any]]:
    """Rows of query, score and similarity, highest first, for one study's (1, P, E) features."""
    study = features[:, SENTENCE]
    embedded = embed_classes(model, [[query] for query in [*queries, NORMAL_PHRASE]], prompts).cpu()
    similarity = study @ embedded.T
    scale = float(model.logit_scale_sentence.detach().exp())
    scores = contrast_scores(similarity[:, :-1], similarity[:, -1], scale)[0].tolist()
    rows = zip(queries, scores, similarity[0].tolist(), strict=False)
    return sorted(
        ({"query": query, "score": round(score, 4), "similarity": round(cosine, 4)} for query, score, cosine in rows),
        key=lambda row: -row["score"],
    )


def print_scores(
    study: str, sequences: list[str], skipped: list[str], notes: list[str], rows: list[dict[str, Any]], warnings: list[str]
) -> None:
    """A table for people."""
    console = Console(highlight=False)
    names = ", ".join(name or "?" for name in sequences)
    console.print(f"[bold]{escape(study)}[/bold]: {len(sequences)} volume(s) used ({escape(names)})")
    for note in notes:
        console.print(f"  note: {note}", markup=False)
    for scan in skipped:
        console.print(f"  skipped: {scan}", style="yellow", markup=False)
    table = Table("query", "score", "similarity", "")
    for row in rows:
        bar = "█" * round(20 * row["score"])
        table.add_row(escape(row["query"]), f"{row['score']:.3f}", f"{row['similarity']:+.3f}", bar)
    console.print(table)
    console.print(MEANING, style="dim", markup=False)
    for warning in warnings:
        console.print(warning, style="bold red", markup=False)


def find_study(arguments: argparse.Namespace, spec: VolumeSpec, scratch: Path) -> tuple[Store, StudyRecord]:
    """The study named on the command line, prepared as the checkpoint wants it.

    Raises:
        ValueError: no such study or path; no readable scan in it.
    """
    name = arguments.study
    if arguments.store and not Path(name).exists():
        store = Store(arguments.store)
        check_spec(store, spec)
        return store, store.record(name)
    if arguments.manifest and not Path(name).exists():
        studies = [study for study in read_manifest(arguments.manifest) if study.study_id == name]
        if not studies:
            raise ValueError(f"{arguments.manifest}: holds no study '{name}'")
        study = studies[0]
    else:
        path = Path(name)
        if not path.exists():
            raise ValueError(f"'{name}' is neither a file nor a folder; a study id needs --store or --manifest")
        study = Study("asked", "asked", tuple(find_scans(path)))
        check_one_patient(path, study.scans)
    store = prepare_few([study], spec, scratch)
    if not store.records:
        raise ValueError(f"'{name}': no usable scan\n  " + "\n  ".join(skipped_scans(store)))
    return store, store.records[0]


def prepare_few(studies: list[Study], spec: VolumeSpec, scratch: Path) -> Store:
    """Prepare studies into a store in a scratch folder."""
    write_manifest(studies, scratch / "manifest.jsonl")
    prepare(scratch / "manifest.jsonl", scratch / "store", spec, workers=1, progress=False)
    return Store(scratch / "store")


def skipped_scans(store: Store, study_id: str | None = None) -> list[str]:
    """One line a scan (of one study, or of all) that could not be used: why, and its file."""
    rows = [row for row in store.quality if row["status"] != "ok" and study_id in (None, row["study_id"])]
    return [f"{row['reason']}: {row['message']}" for row in rows]


def scan_notes(store: Store, study_id: str) -> list[str]:
    """One line a scan of a study that was used, but with something a reader should know."""
    rows = [row for row in store.quality if row["status"] == "ok" and row["study_id"] == study_id and row["notes"]]
    return [f"{row['path']}: {row['notes']}" for row in rows]


def folder_notes(store: Store, study_id: str) -> list[str]:
    """A line when scans of one study came from several folders: they may be several patients' or several visits'."""
    rows = [row for row in store.quality if row["study_id"] == study_id and row["status"] == "ok"]
    folders = sorted({Path(row["path"]).parent.name for row in rows if Path(row["path"]).suffix in (".gz", ".nii")})
    return [f"taken as one study: scans of {len(folders)} folders ({', '.join(folders)})"] if len(folders) > 1 else []


def cohort_store(arguments: argparse.Namespace, spec: VolumeSpec, scratch: Path) -> Store:
    if arguments.store:
        store = Store(arguments.store)
        check_spec(store, spec)
        return store
    prepare(arguments.manifest, scratch / "store", spec, workers=None)
    return Store(scratch / "store")


def check_spec(store: Store, spec: VolumeSpec) -> None:
    if store.spec.digest() == spec.digest():
        return
    ours, theirs = store.spec.as_dict(), spec.as_dict()
    differing = "; ".join(
        f"{key}: {ours.get(key)} here, {value} there" for key, value in theirs.items() if ours.get(key) != value
    )
    raise ValueError(
        f"{store.path}: prepared with another VolumeSpec than the checkpoint was trained on ({differing}); prepare it into a new store "
        "with the checkpoint's own, which stands in its config.json"
    )


def expected_spec(model: HLIP, checkpoint: str) -> VolumeSpec:
    if model.volume_spec is None:
        raise VolumeError("no_spec", f"{checkpoint}: carries no VolumeSpec, so nobody knows how its studies must be prepared")
    return model.volume_spec


def pick_device(name: str) -> torch.device:
    """
    Raises:
        ValueError: not a device's name, or one this machine or this torch does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: cannot be used here ({reason}); cpu always can") from error
    return device
