"""`hlip compare`: any number of ways of diagnosing the same held-out studies, as a report.

Inputs are models (scored here) or score tables that `hlip score` wrote. Every choice of setting (prompts, contrast, thresholds, calibration)
is made on the validation split; the test split is opened after those choices.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from tqdm import tqdm

from finetune.comparison.report import answer, choose_examples, format_table, write_report
from finetune.comparison.robustness import robustness
from finetune.comparison.scoring import Cohort, Method, labelled, open_method, prevalence, score
from hlip.inputs import pick_device
from hlip.model import CheckpointError, checkpoint_folder
from hlip.store import Store, study_file
from hlip.taxonomy import Taxonomy
from hp2l.comparison.compare import compare_tables, mean_of
from hp2l.comparison.efficiency import efficiency
from hp2l.comparison.leaks import images_apart, metadata_alone, patients_apart, prompts_not_in_reports
from hp2l.comparison.scores import CompareError, Scores
from hp2l.comparison.slices import groups_of, slices

TABLES = (".parquet", ".csv")


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


def run(arguments: argparse.Namespace) -> None:
    """Compare, write the report, print its table and place; a report of the same inputs is shown, not made again."""
    inputs = inputs_digest(arguments)
    if not arguments.again and (made := report_of(arguments.out, inputs)):
        note = " (from before: nothing it depends on has changed; --again makes it anew)"
        show(made, arguments.out / "index.html", note)
        return
    given = open_inputs(arguments)
    tables = [*given.tables, mean_of(given.tables, "mean")] if arguments.mean else given.tables
    shares = prevalence(given.cohort.store, given.cohort.taxonomy) if given.cohort else None
    comparison = compare_tables(
        tables,
        train_prevalence=shares,
        resamples=arguments.resamples,
        seed=arguments.seed,
        provenance={"inputs": inputs, "versions": {"hlip-hp2l": version("hlip-hp2l")}},
    )
    comparison |= further(arguments, given, tables)
    names = given.tables[0].class_names or []
    targets, known = truth_of_table(given.tables[0])
    examples = choose_examples({table.method: table for table in given.tables}, targets, known, names) if given.cohort else []
    for example in examples:
        assert given.cohort is not None
        example |= picture(given.cohort.store, example["study_id"])
    curves = training_curves(given.runs)
    methods = {table.method: table for table in tables}
    page = write_report(comparison, methods, arguments.out, title=arguments.title, examples=examples, curves=curves)
    show(comparison, page)


def open_inputs(arguments: argparse.Namespace) -> Inputs:
    """Models are scored, tables are read; names are made different.

    Raises:
        CompareError: a model without --store, or tables that cannot be read.
    """
    parts = [named_input(text) for text in arguments.inputs]
    folders = [path for _, path in parts if path.suffix not in TABLES]
    if folders and arguments.store is None:
        raise CompareError(f"{folders[0]} is a model: --store names the prepared store whose studies it is asked about")
    device = pick_device(arguments.device)
    opened = [(name, path, None if path.suffix in TABLES else open_method(path, device, name)) for name, path in parts]
    store = Store(arguments.store) if arguments.store else None
    loaded = {path: Scores.load(path) for _, path, method in opened if method is None}
    cohort = labelled(store, tree_of(arguments, [m for *_, m in opened if m], list(loaded.values()))) if store else None
    for (_, path, method), name in zip(opened, names_of(opened, loaded), strict=True):
        if method is not None:
            method.name = name
        else:
            loaded[path] = replace(loaded[path], method=name)
    tables = [score(method, cohort) if method and cohort else loaded[path] for _, path, method in opened]
    methods = [method for *_, method in opened if method]
    return Inputs(tables, methods, cohort, {method.name.replace("_", " "): method.checkpoint for method in methods})


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
    return [
        name if given or plain.count(name) == 1 else stem for (given, *_), name, stem in zip(opened, plain, stems, strict=True)
    ]


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


def further(arguments: argparse.Namespace, given: Inputs, tables: Sequence[Scores]) -> dict[str, Any]:
    """The sections that need more than scores: groups of patients, missing sequences, fewer labels, checks."""
    if given.cohort is None:
        return {"checks": [], "slices": [], "robustness": [], "efficiency": {}}
    cohort, named = given.cohort, {table.method: table for table in tables}
    keep = [np.array([name != cohort.taxonomy.normal for name in level]) for level in cohort.taxonomy.levels]
    options = {"resamples": min(arguments.resamples, 500), "seed": arguments.seed}
    found: dict[str, Any] = {"checks": checks(cohort.store, cohort.taxonomy, tables)}
    groups = groups_of(cohort.records)
    found["slices"] = slices(named, cohort.targets[-1], cohort.known[-1], keep[-1], groups, **options)
    found["robustness"] = robustness(given.methods, named, cohort, **options) if arguments.robustness else []
    found["efficiency"] = {}
    if arguments.efficiency:
        device = pick_device(arguments.device)
        runs = [score(open_method(path, device, path.name), cohort) for path in arguments.efficiency]
        runs += [table for table in given.tables if table.provenance.get("kind") == "fine_tuned"][:1]
        trained = [(int(table.provenance["facts"]["studies"]), table) for table in runs]
        flat = [table for table in given.tables if table.provenance.get("kind") == "zero_shot"]
        found["efficiency"] = efficiency(trained, flat, cohort.targets, cohort.known, keep, **options)
    return found


def checks(store: Store, taxonomy: Taxonomy, tables: Sequence[Scores]) -> list[dict[str, Any]]:
    """Leak and sanity checks over all splits of the store."""
    prompts = [text for table in tables for text in (table.provenance.get("prompts") or {}).get("texts", [])]
    found = [
        patients_apart(store.records),
        images_apart(
            store, store.records, lambda records: tqdm(list(records), desc="check images", unit="study", mininterval=0.5)
        ),
        metadata_alone(store.records, taxonomy),
        prompts_not_in_reports(prompts, store.records),
    ]
    return [finding.as_dict() for finding in found]


def show(comparison: dict[str, Any], page: Path, note: str = "") -> None:
    """The result as a table, in words, and where the report is."""
    console = Console()
    console.print(format_table(comparison))
    console.print(answer(comparison), highlight=False)
    for finding in comparison.get("checks", []):
        if finding["state"] in ("leak", "warning"):
            console.print(f"{finding['state'].upper()}, {finding['check']}: {finding['text']}", highlight=False, markup=False)
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
    options = ("taxonomy", "resamples", "seed", "title", "mean", "robustness")
    facts += [[str(getattr(arguments, name)) for name in options], version("hlip-hp2l")]
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


def picture(store: Store, study_id: str, most_scans: int = 5, slices: int = 6) -> dict[str, Any]:
    """A study as a PNG: a row a scan, some slices from bottom to top."""
    record = store.record(study_id)
    which = list(range(min(most_scans, len(record.sequences))))
    volumes = store.volumes(study_id, which)[:, 0].numpy()
    depths = np.linspace(0.25, 0.8, slices) * (volumes.shape[1] - 1)
    rows = [np.concatenate([scan[int(depth)] for depth in depths], axis=1) for scan in volumes]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(out, format="PNG", optimize=True)
    names = ", ".join(record.sequences[index] or "?" for index in which)
    return {"image": out.getvalue(), "sequence": names, "scans": len(record.sequences)}


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
