"""`hlip compare`: zero-shot and fine-tuned diagnoses of the same held-out studies, as a report.

Every choice of setting (prompts, synonyms, contrast, how parents are scored; thresholds) is made on the validation split.
The test split is opened here, once, after those choices.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from finetune.report import answer, choose_examples, format_table, write_report
from finetune.tokens import encode
from hlip.inputs import check_spec, pick_device
from hlip.metrics import class_aucs
from hlip.model import HLIP, checkpoint_folder
from hlip.model import load as load_pretrained
from hlip.store import Store, StudyRecord, study_file
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import ZeroShotSettings, embed_studies, score_taxonomy
from hp2l.compare import Scores, compare
from hp2l.diagnoser import Diagnoser
from hp2l.diagnoser import load as load_finetuned
from hp2l.tokens import Tokens

Levels = list[NDArray[np.float64]]


@dataclass
class Cohort:
    """Labelled validation and test studies, and their truth."""

    records: list[StudyRecord]
    targets: Levels
    known: Levels

    def rows(self, split: str) -> NDArray[np.intp]:
        """Places of a split's studies."""
        return np.flatnonzero([record.split == split for record in self.records])


def run(arguments: argparse.Namespace) -> None:
    """Compare, write the report, print its table and place; a report of the same inputs is shown, not made again."""
    inputs = inputs_digest(arguments)
    if not arguments.again and (made := report_of(arguments.out, inputs)):
        show(
            made, arguments.out / "index.html", note=" (from before: nothing it depends on has changed; --again makes it anew)"
        )
        return
    device = pick_device(arguments.device)
    given = Taxonomy.load(arguments.taxonomy) if arguments.taxonomy else None
    pretrained, finetuned = load_pretrained(arguments.pretrained, device), load_finetuned(arguments.finetuned, device, given)
    store, taxonomy = Store(arguments.store), finetuned.taxonomy
    for spec in (pretrained.volume_spec, finetuned.encoder.volume_spec):
        if spec is not None:
            check_spec(store, spec)
    cohort = labelled(store, taxonomy)
    zero_levels, chosen = zero_shot(pretrained, store, cohort, taxonomy)
    tuned_levels = fine_tuned(finetuned, store, cohort)
    provenance = provenance_of(arguments, pretrained, finetuned, store, taxonomy)
    provenance |= {"zero_shot_settings": chosen, "inputs": inputs}
    methods = {
        name: score_table(name, levels, cohort, taxonomy)
        for name, levels in (("zero_shot", zero_levels), ("fine_tuned", tuned_levels))
    }
    names = [list(level) for level in taxonomy.levels]
    comparison = compare(
        methods,
        cohort.targets,
        cohort.known,
        names,
        normal=taxonomy.normal,
        level_names=list(taxonomy.level_names),
        edges=[taxonomy.edges(level) for level in range(1, taxonomy.depth)],
        train_prevalence=prevalence(store, taxonomy),
        resamples=arguments.resamples,
        seed=arguments.seed,
        simulated=is_simulated(cohort.records),
        provenance=provenance,
    )
    examples = choose_examples(methods, cohort.targets, cohort.known, names)
    for example in examples:
        example |= picture(store, example["study_id"])
    curves = training_curves({"pretraining": arguments.pretrained, "fine-tuning": arguments.finetuned})
    page = write_report(comparison, methods, arguments.out, title=arguments.title, examples=examples, curves=curves)
    show(comparison, page)


def show(comparison: dict[str, Any], page: Path, note: str = "") -> None:
    """The result as a table, in words, and where the report is."""
    console = Console()
    console.print(format_table(comparison))
    console.print(answer(comparison), highlight=False)
    print(f"\nreport: {page.resolve()}{note}")


def inputs_digest(arguments: argparse.Namespace) -> str:
    """16 hex digits of everything the report depends on: weights, studies (by size and time), training logs, options, version."""
    folders = checkpoint_folder(arguments.pretrained), checkpoint_folder(arguments.finetuned)
    files = [*(path for folder in folders for path in sorted(folder.rglob("*.safetensors"))), *folders[1].glob("config.json")]
    store = Store(arguments.store)
    logs = [run / "metrics.jsonl" for run in (arguments.pretrained, arguments.finetuned)]
    studies = [study_file(store.path, record.study_id) for split in ("val", "test") for record in store.split(split)]
    facts = [
        [_sha256(path) for path in (*files, store.path / "index.jsonl")],
        [[stat.st_size, stat.st_mtime_ns] for path in (*studies, *logs) if path.is_file() and (stat := path.stat())],
        store.spec.digest(),
        [str(getattr(arguments, name)) for name in ("taxonomy", "resamples", "seed", "title")],
        version("hlip-hp2l"),
    ]
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


def labelled(store: Store, taxonomy: Taxonomy) -> Cohort:
    """Labelled studies of the validation and test splits.

    Raises:
        ValueError: one of the splits has none.
    """
    records = [record for split in ("val", "test") for record in store.split(split) if record.labels is not None]
    for split in ("val", "test"):
        if not any(record.split == split for record in records):
            raise ValueError(
                f"{store.path}: no labelled study in split '{split}': settings need val, the comparison needs test"
            )
    levels = taxonomy.encode_all([r.labels for r in records], names=[r.study_id for r in records])
    return Cohort(records, [targets for targets, _ in levels], [known for _, known in levels])


def zero_shot(model: HLIP, store: Store, cohort: Cohort, taxonomy: Taxonomy) -> tuple[Levels, dict[str, Any]]:
    """Scores of all studies under the settings with the best mean validation AUC over the levels, and those settings."""
    features = embed_studies(model, store, cohort.records, progress="zero-shot")
    val = cohort.rows("val")
    candidates = [
        ZeroShotSettings(prompts, synonyms, contrast, parents)  # type: ignore[arg-type]
        for prompts, synonyms, contrast, parents in product(
            ("plain", "hlip"), (False, True), (False, True), ("own", "children")
        )
    ]
    areas = [mean_auc(score_taxonomy(model, features[val], taxonomy, s), cohort, val, taxonomy) for s in candidates]
    best = int(np.argmax(areas))
    chosen = asdict(candidates[best]) | {"val_auc": areas[best], "candidates": len(candidates)}
    return score_taxonomy(model, features, taxonomy, candidates[best]), chosen


@torch.no_grad()
def fine_tuned(model: Diagnoser, store: Store, cohort: Cohort) -> Levels:
    """Scores of all studies by the fine-tuned model."""
    tokens = encode(model, store, cohort.records, 16, "fine-tuned")
    parts = []
    for first in range(0, len(cohort.records), 256):
        rows = slice(first, first + 256)
        batch = Tokens(*(part[rows].to(model.encoder.device) for part in tokens))
        parts.append([level.cpu().numpy().astype(np.float64) for level in model(batch).probabilities()])
    return [np.concatenate(level) for level in zip(*parts, strict=True)]


def mean_auc(scores: Levels, cohort: Cohort, rows: NDArray[np.intp], taxonomy: Taxonomy) -> float:
    """Mean over levels of the macro AUC over disease classes that have positives and negatives in these rows."""
    means = []
    for names, table, targets, known in zip(taxonomy.levels, scores, cohort.targets, cohort.known, strict=True):
        areas = class_aucs(targets[rows], known[rows], table)[[name != taxonomy.normal for name in names]]
        if not np.isnan(areas).all():
            means.append(float(np.nanmean(areas)))
    return float(np.mean(means)) if means else 0.0


def score_table(method: str, levels: Levels, cohort: Cohort, taxonomy: Taxonomy) -> Scores:
    """A method's scores with the truth beside them."""
    table = Scores(
        method=method,
        study_ids=[record.study_id for record in cohort.records],
        patient_ids=[record.patient_id for record in cohort.records],
        split=[record.split or "" for record in cohort.records],
        levels=levels,
    )
    return table.with_truth([list(level) for level in taxonomy.levels], cohort.targets, cohort.known)


def prevalence(store: Store, taxonomy: Taxonomy) -> Levels:
    """Share of positive studies among the labelled training studies, a level each; it says how rare a class is."""
    records = [record for record in store.split("train") if record.labels is not None]
    if not records:
        return [np.full(count, np.nan) for count in taxonomy.counts]
    return [
        (targets * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        for targets, known in taxonomy.encode_all([record.labels for record in records])
    ]


def is_simulated(records: Sequence[StudyRecord]) -> bool:
    """Whether any study says of itself that it is simulated."""
    return any(record.extra.get("simulated") is True for record in records)


def picture(store: Store, study_id: str, most_scans: int = 5, slices: int = 6) -> dict[str, Any]:
    """A study as a PNG: a row a scan, some slices from bottom to top."""
    record = store.record(study_id)
    which = list(range(min(most_scans, len(record.sequences))))
    volumes = store.volumes(study_id, which)[:, 0].numpy()
    depths = np.linspace(0.25, 0.8, slices) * (volumes.shape[1] - 1)
    rows = [np.concatenate([scan[int(depth)] for depth in depths], axis=1) for scan in volumes]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(out, format="PNG", optimize=True)
    return {"image": out.getvalue(), "sequence": ", ".join(record.sequences[index] or "?" for index in which)}


def training_curves(runs: dict[str, Path]) -> list[dict[str, Any]]:
    """Losses and validation AUC of both runs, as far as their folders hold them."""
    curves = []
    for title, run in runs.items():
        path = run / "metrics.jsonl"
        if not path.is_file():
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for prefix, label in (("loss", "loss"), ("val_auc", "validation AUC")):
            names = sorted({key for row in rows for key in row if key.startswith(prefix)})
            part = [row for row in rows if any(name in row for name in names)]
            if part:
                series = {series_name(name): [row.get(name) for row in part] for name in names}
                curves.append(
                    {
                        "title": f"{title}: {label}",
                        "x": [row["step"] for row in part],
                        "xlabel": "step",
                        "ylabel": label,
                        "series": series,
                    }
                )
    return curves


def series_name(key: str) -> str:
    """A key of metrics.jsonl in words: loss_report -> report, val_auc_level_1 -> level 1, bare loss -> total."""
    words = key.removeprefix("loss").removeprefix("val_auc").replace("_", " ").strip()
    return words or ("total" if key == "loss" else "all classes")


def provenance_of(
    arguments: argparse.Namespace, pretrained: HLIP, finetuned: Diagnoser, store: Store, taxonomy: Taxonomy
) -> dict[str, Any]:
    """Where the numbers come from: hashes, versions, what the models have seen."""
    head = checkpoint_folder(arguments.finetuned) / "head.safetensors"
    packages = ("hlip-hp2l", "torch", "open_clip_torch", "transformers", "timm", "accelerate")
    return {
        "pretrained": {
            "path": str(arguments.pretrained),
            "sha256": _sha256(checkpoint_folder(arguments.pretrained) / "model.safetensors"),
        },
        "fine_tuned": {"path": str(arguments.finetuned), "sha256": _sha256(head)},
        "pretrained_facts": pretrained.facts,
        "fine_tuned_facts": finetuned.facts,
        "volume_spec": store.spec.digest(),
        "taxonomy": {"name": taxonomy.name, "digest": taxonomy.digest},
        "versions": {name: version(name) for name in packages},
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
