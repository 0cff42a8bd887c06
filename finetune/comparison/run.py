"""`hlip compare`: any number of ways of diagnosing the same held-out studies, as a report.

Inputs are models (scored here) or score tables that `hlip score` wrote. Every choice of setting (prompts, contrast, thresholds, calibration)
is made on the validation split; the test split is opened after those choices.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tqdm import tqdm

from finetune.comparison.cohort import Cohort, labelled, prevalence
from finetune.comparison.pictures import pictured
from finetune.comparison.refusals import on_the_stores_studies, refuse_another_tree, refuse_efficiency, refuse_options
from finetune.comparison.report import answer, choose_examples, format_table, write_report
from finetune.comparison.scoring import Method, open_method, score
from finetune.comparison.sections import further
from finetune.comparison.words import method_label
from hlip.inference.inputs import pick_device
from hlip.model import CheckpointError, checkpoint_folder
from hlip.store import Store, study_file
from hlip.taxonomy import Taxonomy
from hp2l.comparison.alignment import likeliest
from hp2l.comparison.compare import compare_tables, mean_of
from hp2l.comparison.scores import CompareError, Scores

TABLES = (".parquet", ".csv")
REVISION = 5
"""Raised with whatever changes numbers or pages, so that earlier reports are made anew."""


@dataclass
class Inputs:
    """What the command was given, opened."""

    tables: list[Scores]
    methods: list[Method]
    """Those of the tables that a model here made."""
    cohort: Cohort | None
    """None without a store."""
    runs: dict[str, Path]
    """Title -> run folder, for their training curves."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of `compare_tables`."""


def run(arguments: argparse.Namespace) -> None:
    """Compare, write the report, print its table and place; a report of the same inputs is shown, not made again."""
    kinds = [(path, path.suffix in TABLES) for _, path in map(named_input, arguments.inputs)]
    refuse_options(arguments, [p for p, table in kinds if not table], [p for p, table in kinds if table])
    inputs = inputs_digest(arguments)
    if not arguments.again and (made := report_of(arguments.out, inputs)):
        note = " (from before: nothing it depends on has changed; --again makes it anew)"
        show(made, arguments.out / "index.html", note)
        return
    given = open_inputs(arguments)
    across = arguments.across_volumes
    mean = "mean" if all(table.method != "mean" for table in given.tables) else "mean_of_inputs"
    tables = [*given.tables, mean_of(given.tables, mean, across)] if arguments.mean else given.tables
    shares = prevalence(given.cohort.store, given.cohort.taxonomy) if given.cohort else None
    comparison = compare_tables(
        tables,
        train_prevalence=shares,
        resamples=arguments.resamples,
        seed=arguments.seed,
        across_volumes=across,
        **given.options,
        provenance={"inputs": inputs, "versions": {"hlip-hp2l": version("hlip-hp2l")}},
    )
    comparison |= further(arguments, comparison, given.cohort, given.methods, given.tables, tables)
    names = given.tables[0].class_names or []
    targets, known = truth_of_table(given.tables[0])
    scaled = {table.method: likeliest(table) for table in given.tables}
    examples = choose_examples(scaled, targets, known, names) if given.cohort else []
    for example in tqdm(examples, desc="example studies", unit="study", disable=not examples):
        assert given.cohort is not None
        named = {table.method: table for table in given.tables}
        example |= pictured(given.cohort.store, given.cohort.taxonomy, example, given.methods, named)
    curves = training_curves(given.runs)
    methods = {table.method: table for table in tables}
    page = write_report(comparison, methods, arguments.out, title=arguments.title, examples=examples, curves=curves)
    show(comparison, page)


def open_inputs(arguments: argparse.Namespace) -> Inputs:
    """Models are scored, tables are read; names are made different.

    Raises:
        CompareError: tables that cannot be read, are of another tree than --taxonomy, or of other studies than --store.
    """
    parts = [named_input(text) for text in arguments.inputs]
    device = pick_device(arguments.device)
    opened = [(name, path, None if path.suffix in TABLES else open_method(path, device, name)) for name, path in parts]
    store = Store(arguments.store) if arguments.store else None
    loaded = {path: Scores.load(path) for path in dict.fromkeys(path for _, path, method in opened if method is None)}
    asked = Taxonomy.load(arguments.taxonomy) if arguments.taxonomy else None
    if asked:
        refuse_another_tree(arguments.taxonomy, asked, list(loaded.values()))
    cohort = labelled(store, tree_of(arguments, [m for *_, m in opened if m], list(loaded.values()))) if store else None
    if arguments.efficiency:
        refuse_efficiency([kind_of(method, loaded.get(path)) for _, path, method in opened])
    names = names_of(opened, loaded)
    for (*_, method), name in zip(opened, names, strict=True):
        if method is not None:
            method.name = name
    tables = [
        score(method, cohort) if method and cohort else replace(loaded[path], method=name)
        for (_, path, method), name in zip(opened, names, strict=True)
    ]
    if cohort:
        tables = on_the_stores_studies(truth_as_table(cohort), tables, arguments.across_volumes)
    methods = [method for *_, method in opened if method]
    runs = {method_label(method.name): method.checkpoint for method in methods}
    return Inputs(tables, methods, cohort, runs, tree_options(asked))


def kind_of(method: Method | None, table: Scores | None) -> str | None:
    """`zero_shot` or `fine_tuned`, of a model or of a table that says it."""
    if method is not None:
        return "zero_shot" if method.zero_shot else "fine_tuned"
    return table.provenance.get("kind") if table else None


def tree_options(tree: Taxonomy | None) -> dict[str, Any]:
    """What a tree that was given tells the comparison, for tables that hold none."""
    return {"taxonomy": tree, "normal": tree.normal, "level_names": list(tree.level_names)} if tree else {}


def truth_as_table(cohort: Cohort) -> Scores:
    """The cohort as a table that any other must agree with; its scores mean nothing."""
    records = cohort.records
    places = ([r.study_id for r in records], [r.patient_id for r in records], [r.split or "" for r in records])
    blank = Scores("--store", *places, levels=[np.zeros(level.shape) for level in cohort.targets])
    return blank.with_truth([list(level) for level in cohort.taxonomy.levels], cohort.targets, cohort.known)


def named_input(text: str) -> tuple[str | None, Path]:
    """`name=path` or a path."""
    name, mark, path = text.partition("=")
    if mark and name.isidentifier() and not Path(text).exists():
        return name, Path(path)
    return None, Path(text)


def names_of(opened: Sequence[tuple[str | None, Path, Method | None]], loaded: dict[Path, Scores]) -> list[str]:
    """As given, else zero_shot or fine_tuned where one is of that kind, else after the run's folder or the table's file."""
    plain = [name or (method.name if method else loaded[path].method) for name, path, method in opened]
    stems = [
        (path.resolve().parent if path.name == "model" else path).resolve().stem.replace("-", "_") for _, path, _ in opened
    ]
    found = [
        name if given or plain.count(name) == 1 else stem for (given, *_), name, stem in zip(opened, plain, stems, strict=True)
    ]
    return [name if found.count(name) == 1 else f"{name}_{place}" for place, name in enumerate(found, start=1)]


def tree_of(arguments: argparse.Namespace, methods: Sequence[Method], tables: Sequence[Scores]) -> Taxonomy:
    """The tree that is asked about: given, or that of the fine-tuned models or tables.

    Raises:
        CompareError: nothing says which.
    """
    if arguments.taxonomy:
        return Taxonomy.load(arguments.taxonomy)
    own = [method.taxonomy for method in methods] + [table.taxonomy for table in tables]
    found = [tree for tree in own if tree is not None]
    if not found:
        raise CompareError("no fine-tuned model and no table says which tree is meant: --taxonomy names it")
    return found[0]


def truth_of_table(table: Scores) -> tuple[list[Any], list[Any]]:
    """Targets and masks of every level, from a table's labels."""
    if table.labels is None:
        raise CompareError(f"{table.method}: its score table holds no truth; make it with `hlip score` on a labelled store")
    return [np.nan_to_num(level) for level in table.labels], [~np.isnan(level) for level in table.labels]


def show(comparison: dict[str, Any], page: Path, note: str = "") -> None:
    """The result as a table, in words, and where the report is."""
    console = Console()
    console.print(format_table(comparison))
    console.print(answer(comparison), highlight=False)
    checks = comparison.get("checks", [])
    for finding in checks:
        if finding["state"] in ("leak", "warning"):
            console.print(f"{finding['state'].upper()}, {finding['check']}: {finding['text']}", highlight=False, markup=False)
    if unmade := [f"{finding['check']} ({finding['text']})" for finding in checks if finding["state"] == "not checked"]:
        console.print(f"NOT CHECKED: {'; '.join(unmade)}", highlight=False, markup=False)
    print(f"\nreport: {page.resolve()}{note}")


def inputs_digest(arguments: argparse.Namespace) -> str:
    """16 hex digits of everything the report depends on: weights, tables, studies (by size and time), logs, options, version."""
    files: list[Path] = []
    for text in [*arguments.inputs, *map(str, arguments.efficiency or [])]:
        _, path = named_input(text)
        if path.suffix in TABLES:
            files.append(path)
            continue
        try:
            folder = checkpoint_folder(path)
        except CheckpointError:
            files += [path] if path.is_file() else []
            continue
        files += [*sorted(folder.rglob("*.safetensors")), folder / "config.json", path / "metrics.jsonl"]
    facts: list[Any] = [[_sha256(path) for path in files if path.is_file()], list(arguments.inputs)]
    if arguments.store:
        store = Store(arguments.store)
        places = [study_file(store.path, record.study_id) for record in store.records]
        facts += [_sha256(store.path / "index.jsonl"), store.spec.digest()]
        facts += [[stat.st_size, stat.st_mtime_ns] for path in places if path.is_file() and (stat := path.stat())]
    options = ("taxonomy", "resamples", "seed", "title", "mean", "robustness", "across_volumes")
    facts += [[str(getattr(arguments, name)) for name in options], version("hlip-hp2l"), REVISION]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def report_of(folder: Path, inputs: str) -> dict[str, Any] | None:
    """The comparison in `folder`, if it was made from these inputs and its page, written last, is whole."""
    try:
        comparison: dict[str, Any] = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        page = (folder / "index.html").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    whole = inputs in page and page.rstrip().endswith("</html>")
    return comparison if whole and comparison.get("provenance", {}).get("inputs") == inputs else None


def training_curves(runs: dict[str, Path]) -> list[dict[str, Any]]:
    """Losses and validation AUC of the runs, as far as their folders hold them."""
    curves = []
    for title, folder in runs.items():
        path = folder / "metrics.jsonl"
        if not path.is_file():
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for prefix, label in (("loss", "loss"), ("val_auc", "validation AUC")):
            names = sorted({key for row in rows for key in row if key.startswith(prefix)})
            part = [row for row in rows if any(name in row for name in names)]
            if part:
                series = {series_name(name): [row.get(name) for row in part] for name in names}
                axes = {"x": [row["step"] for row in part], "xlabel": "step", "ylabel": label}
                curves.append({"title": f"{title}: {label}", **axes, "series": series})
    return curves


def series_name(key: str) -> str:
    """A key of metrics.jsonl in words: loss_report -> report, val_auc_level_1 -> level 1, bare loss -> total."""
    words = key.removeprefix("loss").removeprefix("val_auc").replace("_", " ").strip()
    return words or ("total" if key == "loss" else "all classes")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
