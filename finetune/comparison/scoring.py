"""A model's scores of a store's labelled studies, as a table: zero-shot or fine-tuned, whole or with a sequence left out.

Every choice of zero-shot settings (prompts, synonyms, contrast, how parents are scored) is made on the validation split; what the other
settings would have given on test is told as a spread, not chosen from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.tokens import encode
from hlip.inference.inputs import check_spec
from hlip.metrics import class_aucs
from hlip.model import HLIP, CheckpointError, checkpoint_folder
from hlip.model import load as load_pretrained
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import ZeroShotSettings, embed_studies, score_taxonomy
from hp2l.comparison.scores import Scores, provenance_of
from hp2l.diagnoser import FORMAT, Diagnoser
from hp2l.diagnoser import load as load_finetuned
from hp2l.tokens import Tokens

Levels = list[NDArray[np.float64]]


@dataclass
class Cohort:
    """Labelled validation and test studies, and their truth."""

    store: Store
    records: list[StudyRecord]
    targets: Levels
    known: Levels
    taxonomy: Taxonomy

    def rows(self, split: str) -> NDArray[np.intp]:
        """Places of a split's studies."""
        return np.flatnonzero([record.split == split for record in self.records])


@dataclass
class Method:
    """A model that answers, and what is known of it."""

    name: str
    model: HLIP | Diagnoser
    checkpoint: Path

    @property
    def zero_shot(self) -> bool:
        """Whether it answers by prompts."""
        return isinstance(self.model, HLIP)

    @property
    def taxonomy(self) -> Taxonomy | None:
        """The tree it was trained on."""
        return self.model.taxonomy if isinstance(self.model, Diagnoser) else None


def open_method(path: Path, device: torch.device, name: str | None = None) -> Method:
    """A pretrained or a fine-tuned model from its run or checkpoint folder.

    Raises:
        CheckpointError: neither is there.
    """
    try:
        folder = checkpoint_folder(path)
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("format")
    except (CheckpointError, json.JSONDecodeError, OSError):
        kind = None  # an official checkpoint, or a fault that its reader names
    if kind == FORMAT:
        return Method(name or "fine_tuned", load_finetuned(path, device), path)
    return Method(name or "zero_shot", load_pretrained(path, device), path)


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
    return Cohort(store, records, [targets for targets, _ in levels], [known for _, known in levels], taxonomy)


def score(method: Method, cohort: Cohort) -> Scores:
    """The method's table, with truth and provenance.

    Raises:
        ValueError: the store was prepared otherwise than the model wants, or the model was trained on another tree.
    """
    spec = method.model.volume_spec if isinstance(method.model, HLIP) else method.model.encoder.volume_spec
    if spec is not None:
        check_spec(cohort.store, spec)
    if method.taxonomy is not None and not method.taxonomy.same_tree(cohort.taxonomy):
        raise ValueError(f"{method.checkpoint}: trained on taxonomy {method.taxonomy.name}, not on {cohort.taxonomy.name}")
    prompts: dict[str, Any] | None = None
    if isinstance(method.model, HLIP):
        levels, prompts = zero_shot(method.model, cohort)
    else:
        levels = fine_tuned(method.model, cohort)
    table = Scores(
        method=method.name,
        study_ids=[record.study_id for record in cohort.records],
        patient_ids=[record.patient_id for record in cohort.records],
        split=[record.split or "" for record in cohort.records],
        levels=levels,
        provenance=provenance_of(
            cohort.taxonomy,
            checkpoint=weights_digest(method.checkpoint),
            volume_spec=cohort.store.spec.digest(),
            prompts=prompts,
            simulated=is_simulated(cohort.records),
            kind="zero_shot" if method.zero_shot else "fine_tuned",
            path=str(method.checkpoint),
            facts=method.model.facts,
        ),
    )
    return table.with_truth([list(level) for level in cohort.taxonomy.levels], cohort.targets, cohort.known)


def zero_shot(model: HLIP, cohort: Cohort) -> tuple[Levels, dict[str, Any]]:
    """Scores of all studies under the settings with the best mean validation AUC over the levels, those settings, and the spread."""
    taxonomy = cohort.taxonomy
    features = embed_studies(model, cohort.store, cohort.records, progress="zero-shot")
    val, test = cohort.rows("val"), cohort.rows("test")
    candidates = [
        ZeroShotSettings(prompts, synonyms, contrast, parents)  # type: ignore[arg-type]
        for prompts, synonyms, contrast, parents in product(
            ("plain", "hlip"), (False, True), (False, True), ("own", "children")
        )
    ]
    tried = [score_taxonomy(model, features, taxonomy, candidate) for candidate in candidates]
    areas = [mean_auc([level[val] for level in levels], cohort, val) for levels in tried]
    best = int(np.argmax(areas))
    told = asdict(candidates[best]) | {"val_auc": areas[best], "candidates": len(candidates)}
    told["spread"] = spread(tried, candidates, cohort, val, test)
    told["texts"] = prompt_texts(taxonomy, candidates[best])
    return tried[best], told


def spread(
    tried: Sequence[Levels],
    candidates: Sequence[ZeroShotSettings],
    cohort: Cohort,
    val: NDArray[np.intp],
    test: NDArray[np.intp],
) -> list[dict[str, Any]]:
    """What each setting gives: macro AUC of every level, on validation and, told after the choice, on test."""
    return [
        asdict(candidate)
        | {name: level_aucs([level[rows] for level in levels], cohort, rows) for name, rows in (("val", val), ("test", test))}
        for levels, candidate in zip(tried, candidates, strict=True)
    ]


def prompt_texts(taxonomy: Taxonomy, settings: ZeroShotSettings) -> list[str]:
    """Every text that the chosen settings ask, without the templates that all classes share: of parents only if they answer themselves."""
    classes = [item for level in range(1, taxonomy.depth + 1) for item in taxonomy.classes(level)]
    if settings.parents == "children":
        depth = taxonomy.depth
        classes = [item for item in classes if item.level == depth or not taxonomy.subtree_leaves(item.level, item.index)]
    phrases = [phrase for item in classes for phrase in (item.prompt, *(item.synonyms if settings.synonyms else ()))]
    return list(dict.fromkeys(phrases))


@torch.no_grad()
def fine_tuned(model: Diagnoser, cohort: Cohort) -> Levels:
    """Scores of all studies by the fine-tuned model."""
    tokens = encode(model, cohort.store, cohort.records, 16, "fine-tuned")
    parts = []
    for first in range(0, len(cohort.records), 256):
        rows = slice(first, first + 256)
        batch = Tokens(*(part[rows].to(model.encoder.device) for part in tokens))
        parts.append([level.cpu().numpy().astype(np.float64) for level in model(batch).probabilities()])
    return [np.concatenate(level) for level in zip(*parts, strict=True)]


def level_aucs(scores: Levels, cohort: Cohort, rows: NDArray[np.intp]) -> list[float]:
    """Macro AUC of each level over disease classes that have positives and negatives in these rows, NaN where none has."""
    means = []
    for names, table, targets, known in zip(cohort.taxonomy.levels, scores, cohort.targets, cohort.known, strict=True):
        areas = class_aucs(targets[rows], known[rows], table)[[name != cohort.taxonomy.normal for name in names]]
        means.append(float(np.nanmean(areas)) if not np.isnan(areas).all() else float("nan"))
    return means


def mean_auc(scores: Levels, cohort: Cohort, rows: NDArray[np.intp]) -> float:
    """Mean of `level_aucs` over the levels that have one; 0 where none has."""
    means = np.array(level_aucs(scores, cohort, rows))
    return float(np.nanmean(means)) if not np.isnan(means).all() else 0.0


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


def weights_digest(path: Path) -> str | None:
    """SHA-256 over all weights of a checkpoint; None of an official one, which is read as it is."""
    try:
        folder = checkpoint_folder(path)
    except CheckpointError:
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
