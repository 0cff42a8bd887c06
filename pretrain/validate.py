"""Zero-shot AUC on the validation split, on all processes, each study counted once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from hlip.metrics import class_aucs
from hlip.model import HLIP
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import ZeroShotSettings, embed_studies, score_taxonomy


@dataclass
class ValidationConfig:
    """What to watch while training."""

    every: int = 500
    """Steps between two validations; 0 watches nothing."""
    taxonomy: str = "brain_mri"
    """Name or path of the tree whose leaves are asked for."""
    prompts: str = "plain"
    """Name or path of the prompt set."""
    split: str = "val"
    """Split of the store that is watched."""
    batch_size: int = 16
    """Studies encoded at once on each process."""


@torch.no_grad()
def validate(accelerator: Accelerator, model: HLIP, store: Store, config: ValidationConfig) -> dict[str, float]:
    """Macro zero-shot AUC over the disease classes of the deepest level that have positives and negatives.

    Returns:
        `val_auc`, and `val_classes` that went into it; nothing when the split is empty or carries no label.
    """
    records = [record for record in store.split(config.split) if record.labels is not None]
    if not records:
        return {}
    taxonomy = Taxonomy.load(config.taxonomy)
    was_training = model.training
    model.eval()
    own = records[accelerator.process_index :: accelerator.num_processes]
    features = embed_studies(model, store, own, config.batch_size)
    scores = score_taxonomy(
        model, features, taxonomy, ZeroShotSettings(prompts=config.prompts, synonyms=False, contrast=False)
    )[-1]
    model.train(was_training)
    pairs = gather_object([(record.study_id, row.tolist()) for record, row in zip(own, scores, strict=True)])
    by_study = dict(pairs)
    table = np.array([by_study[record.study_id] for record in records])
    targets, known = taxonomy.encode_all([record.labels for record in records])[-1]
    diseases = [name != taxonomy.normal for name in taxonomy.levels[-1]]
    areas = class_aucs(targets, known, table)[diseases]
    defined = areas[~np.isnan(areas)]
    return {"val_auc": float(defined.mean()), "val_classes": len(defined)} if len(defined) else {}
