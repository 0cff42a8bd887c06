"""Watching a run on the validation split: zero-shot AUC and retrieval, on all processes, each study counted once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from hlip.metrics import class_aucs, recall_at_k
from hlip.model import HLIP, REPORT
from hlip.reports import split_sentences
from hlip.store import Store, StudyRecord, readable_study
from hlip.taxonomy import Taxonomy
from hlip.training.engine import whole_weights
from hlip.zeroshot import PromptSet, ZeroShotSettings, embed_studies, score_taxonomy


@dataclass
class ValidationConfig:
    """What to watch while training."""

    every: int = 500
    """Steps between two validations; 0 watches nothing."""
    taxonomy: str = "brain_mri"
    """Name or path of the tree whose leaves are asked for, where studies carry labels."""
    prompts: str = "plain"
    """Name or path of the prompt set."""
    split: str = "val"
    """Split of the store that is watched."""
    batch_size: int = 16
    """Studies encoded at once on each process."""
    recall_at: tuple[int, ...] = (1, 5, 10)
    """Retrieval: share of studies whose own report is among the k nearest reports of the split, and of reports likewise."""
    best: str = "val_auc"
    """Measure whose best model is kept in RUN/best: val_auc, or val_recall_K; the first of recall_at where it is not defined."""

    def __post_init__(self) -> None:
        self.recall_at = tuple(self.recall_at)
        known = ["val_auc", *(f"val_recall_{k}" for k in self.recall_at)]
        if self.best not in known:
            raise ValueError(f"validation.best '{self.best}' is none of {', '.join(known)}")


def check_validation(store: Store, config: ValidationConfig) -> list[str]:
    """What will be watched can be: taxonomy, prompts and labels are read now, not after the first hours.

    Returns:
        Notes: studies that cannot be read and are left out; a split that is empty.

    Raises:
        TaxonomyError: a label is not in the tree; the message names the study. ResourceError: no such taxonomy or prompt set.
    """
    records = store.split(config.split)
    labelled = [record for record in records if record.labels is not None]
    if labelled:
        PromptSet.load(config.prompts)
        Taxonomy.load(config.taxonomy).encode_all([r.labels for r in labelled], names=[r.study_id for r in labelled])
    damaged = [record.study_id for record in records if not readable_study(store, record.study_id)]
    notes = (
        [f"left out of validation, cannot be read: {', '.join(damaged[:5])}{' ...' if len(damaged) > 5 else ''}"]
        if damaged
        else []
    )
    return notes if records else [f"no study in split '{config.split}': nothing is watched"]


@torch.no_grad()
def validate(accelerator: Accelerator, model: HLIP, store: Store, config: ValidationConfig) -> dict[str, float]:
    """Measures of the model on the split; all processes call it, and all get the same.

    Returns:
        `val_auc`: macro zero-shot AUC over the disease classes of the deepest level that have positives and negatives, and `val_classes`
        that went into it, where studies carry labels; `val_recall_K` where they have reports; nothing when the split is empty.
    """
    records = [record for record in store.split(config.split) if readable_study(store, record.study_id)]
    if not records:
        return {}
    was_training = model.training
    model.eval()
    with whole_weights(accelerator, model):
        own = records[accelerator.process_index :: accelerator.num_processes]
        features = embed_studies(model, store, own, config.batch_size) if own else torch.empty(0)
        values = zero_shot(accelerator, model, features, own, records, config)
        values |= retrieval(accelerator, model, features, own, records, config)
    model.train(was_training)
    return values


def zero_shot(
    accelerator: Accelerator,
    model: HLIP,
    features: torch.Tensor,
    own: list[StudyRecord],
    records: list[StudyRecord],
    config: ValidationConfig,
) -> dict[str, float]:
    """Macro AUC of the class names as queries; `own` are this process's studies, of which `features` (B, P, E) are."""
    labelled = [record for record in records if record.labels is not None]
    if not labelled:
        return {}
    taxonomy = Taxonomy.load(config.taxonomy)
    settings = ZeroShotSettings(prompts=config.prompts, synonyms=False, contrast=False)
    scores = score_taxonomy(model, features, taxonomy, settings)[-1].tolist() if own else []
    by_study = dict(gather_object([(record.study_id, row) for record, row in zip(own, scores, strict=True)]))
    table = np.array([by_study[record.study_id] for record in labelled])
    targets, known = taxonomy.encode_all([record.labels for record in labelled])[-1]
    areas = class_aucs(targets, known, table)[[name != taxonomy.normal for name in taxonomy.levels[-1]]]
    defined = areas[~np.isnan(areas)]
    return {"val_auc": float(defined.mean()), "val_classes": len(defined)} if len(defined) else {}


def retrieval(
    accelerator: Accelerator,
    model: HLIP,
    features: torch.Tensor,
    own: list[StudyRecord],
    records: list[StudyRecord],
    config: ValidationConfig,
) -> dict[str, float]:
    """Recall at k between studies and whole reports, the mean of both directions; equal reports count as each other's."""
    rows = []
    for start in range(0, len(own), config.batch_size):
        part = [
            (place, text) for place in range(start, min(start + config.batch_size, len(own))) if (text := report_of(own[place]))
        ]
        if part:
            words = model.encode_text([model.config.prefix + text for _, text in part]).float().cpu().numpy()
            images = features[[place for place, _ in part], min(REPORT, features.shape[1] - 1)].float().cpu().numpy()
            rows += [(own[place].study_id, text, *pair) for (place, text), *pair in zip(part, images, words, strict=True)]
    order = {record.study_id: number for number, record in enumerate(records)}
    found = sorted(gather_object(rows), key=lambda row: order[row[0]])
    if len(found) < 2:
        return {}
    texts = [row[1] for row in found]
    images, words = (np.stack([row[place] for row in found]) for place in (2, 3))
    same = np.array([[one == other for other in texts] for one in texts])
    return {f"val_recall_{k}": both_ways(images @ words.T, same, k) for k in config.recall_at if k < len(texts)}


def both_ways(similarity: NDArray[np.float32], same: NDArray[np.bool_], k: int) -> float:
    """Mean of study to report and report to study."""
    return (recall_at_k(similarity, k, same) + recall_at_k(similarity.T, k, same.T)) / 2


def report_of(record: StudyRecord) -> str:
    """The whole report, sentences in order."""
    return " ".join(record.sentences or split_sentences(record.report))
