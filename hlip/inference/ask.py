"""`hlip ask`: one study in plain words, or a whole cohort against a tree."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hlip.inference.inputs import (
    SIMULATED,
    cohort_store,
    expected_spec,
    find_study,
    folder_notes,
    open_model,
    scan_notes,
    skipped_scans,
    templates_of,
    vocabulary_notes,
)
from hlip.model import HLIP, SENTENCE
from hlip.taxonomy import Taxonomy
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
    model = open_model(arguments)
    prompts = PromptSet.load(templates_of(arguments, model))
    with tempfile.TemporaryDirectory() as scratch:
        store, record = find_study(arguments, expected_spec(model.volume_spec, arguments.checkpoint), Path(scratch))
        features = embed_studies(model, store, [record])
        sequences, skipped = list(record.sequences), skipped_scans(store, record.study_id)
        notes = scan_notes(store, record.study_id) + folder_notes(store, record.study_id)
    notes += vocabulary_notes(model, queries)
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
    out = arguments.out or Path("scores.csv")
    out.parent.mkdir(parents=True, exist_ok=True)
    model = open_model(arguments)
    prompts = templates_of(arguments, model)
    PromptSet.load(prompts)  # a wrong name shows before the work
    with tempfile.TemporaryDirectory() as scratch:
        store = cohort_store(arguments, expected_spec(model.volume_spec, arguments.checkpoint), Path(scratch))
        features = embed_studies(model, store, store.records, progress="ask")
        skipped = skipped_scans(store)
    if not store.records:
        raise ValueError("no study with a usable scan\n  " + "\n  ".join(skipped))
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
