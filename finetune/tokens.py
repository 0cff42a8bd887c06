"""A cohort encoded once: with a frozen encoder, its tokens are all that training reads.

The cache is one safetensors file a split, named by what it was made of (encoder weights, store, token blocks), so that a
changed encoder never meets old tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from hlip.data import evaluation_batches
from hlip.model import HLIP
from hlip.store import Store, StudyRecord, study_file
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import Encoder
from hp2l.tokens import Tokens


@torch.no_grad()
def encode(
    model: Diagnoser, store: Store, records: Sequence[StudyRecord], batch_size: int, progress: str | None = None
) -> Tokens:
    """All scans of each study -> tokens on the host, float32."""
    device = model.encoder.device
    patches: list[Tensor] = []
    cls: list[Tensor] = []
    with tqdm(total=len(records), desc=progress, unit="study", mininterval=0.5, disable=progress is None) as bar:
        for batch in evaluation_batches(store, records, batch_size, model.encoder.reader):
            tokens = model.tokens(batch.volumes.to(device), batch.scans_per_study)
            patches.append(tokens.patches.float().cpu())
            cls.append(tokens.cls.float().cpu())
            bar.update(len(batch.study_ids))
    return Tokens(torch.cat(patches), torch.cat(cls))


@torch.no_grad()
def probabilities(model: Diagnoser, tokens: Tokens, batch_size: int = 256) -> list[NDArray[np.float64]]:
    """Tokens of N studies -> (N, K_l) of each level, in [0, 1], on the host."""
    parts = []
    for first in range(0, len(tokens.cls), batch_size):
        batch = Tokens(*(part[first : first + batch_size].to(model.encoder.device) for part in tokens))
        parts.append([level.cpu().numpy().astype(np.float64) for level in model(batch).probabilities()])
    return [np.concatenate(level) for level in zip(*parts, strict=True)]


def encode_once(
    model: Diagnoser,
    store: Store,
    records: Sequence[StudyRecord],
    folder: Path,
    name: str,
    batch_size: int,
    precision: str,
    progress: bool,
) -> Tokens:
    """`encode`, read from the cache in `folder` if the same was encoded before, in the same precision."""
    path = folder / f"{name}-{_digest(model, store, records, precision)}.safetensors"
    if not path.exists():
        tokens = encode(model, store, records, batch_size, f"encode {name}" if progress else None)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{name}-*.safetensors"):
            old.unlink()
        partial = path.with_suffix(".partial")
        save_file(tokens._asdict(), partial)
        os.replace(partial, path)
    return Tokens(**load_file(path))


def _digest(model: Diagnoser, store: Store, records: Sequence[StudyRecord], precision: str) -> str:
    """16 hex digits of everything the tokens depend on, the prepared files' sizes and times included."""
    files = [study_file(store.path, record.study_id).stat() for record in records]
    facts = [
        weights_digest(model.encoder),
        store.spec.digest(),
        list(model.config.blocks),
        list(model.encoder.channels or ()),
        precision,
        [[record.study_id, list(record.sequences)] for record in records],
        [[file.st_size, file.st_mtime_ns] for file in files],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def weights_digest(encoder: Encoder | HLIP) -> str:
    """Hex digest of a vision tower's weights."""
    digest = hashlib.sha256()
    for key, value in sorted(encoder.visual.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
