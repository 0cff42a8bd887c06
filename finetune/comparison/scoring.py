"""A model's scores of a store's labelled studies, as a table: zero-shot (`finetune.comparison.zero_shot`) or fine-tuned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.comparison.cohort import Cohort, Levels
from finetune.comparison.zero_shot import Setting, zero_shot
from finetune.tokens import encode, probabilities
from hlip.inference.inputs import check_spec
from hlip.model import HLIP, CheckpointError, checkpoint_folder
from hlip.model import load as load_pretrained
from hlip.store import StudyRecord
from hlip.taxonomy import Taxonomy
from hp2l.comparison.scores import Scores, provenance_of
from hp2l.diagnoser import FORMAT, Diagnoser
from hp2l.diagnoser import load as load_finetuned


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


def score(method: Method, cohort: Cohort, setting: Setting | None = None) -> Scores:
    """The method's table, with truth and provenance; zero-shot in the given way of asking, or in the best on validation.

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
        levels, prompts = zero_shot(method.model, cohort, setting)
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


def fine_tuned(model: Diagnoser, cohort: Cohort) -> Levels:
    """Scores of all studies by the fine-tuned model."""
    return probabilities(model, encode(model, cohort.store, cohort.records, 16, "fine-tuned"))


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
