"""A cohort encoded once: with a frozen encoder, its tokens are all that training reads.

Each study is encoded once for an encoder, whatever split, fold, seed or share of labels asks for it: a folder holds parts, safetensors
files of some studies each, SPLIT-MADE-PART.safetensors: the split that asked first; a digest of what made the tokens (architecture,
weights, preparation, token blocks, precision), so that a changed encoder never meets old ones; and a digest of the studies. A run reads
its rows from all parts, encodes what none has, and adds parts. Nothing is deleted and a part appears whole, so that any number of runs may
share a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from hlip.data import evaluation_batches
from hlip.files.folders import readable
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
    device, reader = model.encoder.device, model.encoder.reader
    patches: list[Tensor] = []
    cls: list[Tensor] = []
    with tqdm(total=len(records), desc=progress, unit="study", mininterval=0.5, disable=progress is None) as bar:
        for batch in evaluation_batches(store, records, batch_size, reader, reader.axes):
            tokens = model.tokens(batch.volumes.to(device), batch.scans_per_study, batch.axes)
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
    """`encode`, but of the studies alone that no part in `folder` has, of this encoder and precision; the others are read.

    Args:
        name: of the split, for the file and the bar.
        precision: no, fp16 or bf16, in which they are encoded.

    Raises:
        ValueError: a damaged part.
    """
    low = _LOW.get(precision)
    made = _digest(model, store, precision)
    keys = [_study_key(store, record) for record in records]
    found = _places(folder, made)
    missing = {key: record for key, record in zip(keys, records, strict=True) if key not in found}
    parts = [list(missing)[first : first + PART] for first in range(0, len(missing), PART)]
    for number, part in enumerate(parts, start=1):
        title = f"encode {name}" + (f" {number}/{len(parts)}" if len(parts) > 1 else "")
        with torch.autocast(model.encoder.device.type, low, enabled=low is not None):
            tokens = encode(model, store, [missing[key] for key in part], batch_size, title if progress else None)
        _add_part(folder, f"{name}-{made}", part, tokens)
    found = _places(folder, made) if parts else found
    return _gather([found[key] for key in keys])


PART = 2000
"""Studies of a part at most: what a killed run loses."""
_LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}
Place = tuple[Path, int]
"""A part and a row of it."""


def _places(folder: Path, made: str) -> dict[str, Place]:
    """Study key -> where its tokens are; the first part in order of names, where two runs encoded the same side by side."""
    found: dict[str, Place] = {}
    for path in sorted(folder.glob(f"*-{made}-*.safetensors")):
        try:
            with safe_open(path, framework="pt") as part:
                keys = json.loads(part.metadata()["studies"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: cached tokens, damaged ({error}); delete the file, and they are encoded again"
            ) from error
        for row, key in enumerate(keys):
            found.setdefault(key, (path, row))
    return found


def _add_part(folder: Path, name: str, keys: Sequence[str], tokens: Tokens) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = hashlib.sha256("".join(keys).encode()).hexdigest()[:8]
    with TemporaryDirectory(prefix=".part-", dir=folder) as scratch:  # of its own name: two runs may write at once
        partial = Path(scratch) / "part.safetensors"
        save_file(tokens._asdict(), partial, metadata={"studies": json.dumps(keys)})
        readable(Path(scratch))
        os.replace(partial, folder / f"{name}-{part}.safetensors")


def _gather(places: Sequence[Place]) -> Tokens:
    """The rows (B, ...) of some studies, in their order."""
    wanted: dict[Path, list[tuple[int, int]]] = {}
    for target, (path, row) in enumerate(places):
        wanted.setdefault(path, []).append((target, row))
    out: dict[str, Tensor] = {}
    for path, pairs in wanted.items():
        parts = load_file(path)
        if len(wanted) == 1 and pairs == [(row, row) for row in range(len(parts["cls"]))]:
            return Tokens(**parts)  # the whole part as it is: mapped, no copy
        targets, rows = (torch.tensor(side) for side in zip(*pairs, strict=True))
        for name, part in parts.items():
            if name not in out:
                out[name] = torch.empty((len(places), *part.shape[1:]), dtype=part.dtype)
            out[name][targets] = part[rows]
    return Tokens(**out)


def _digest(model: Diagnoser, store: Store, precision: str) -> str:
    """16 hex digits of everything that tokens depend on, whatever the study."""
    made = [
        weights_digest(model.encoder),
        [model.encoder.kind, model.encoder.architecture],
        store.spec.digest(),
        list(model.config.blocks),
        list(model.encoder.channels or ()),
        precision,
    ]
    if store.spec.through_plane != "axial":
        made.append("turned to the patient's axes")  # tokens of an earlier version were averaged by index, whatever the plane
    return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _study_key(store: Store, record: StudyRecord) -> str:
    """16 hex digits of a study, its prepared file's size and time included."""
    file = study_file(store.path, record.study_id).stat()
    facts = [record.study_id, list(record.sequences), file.st_size, file.st_mtime_ns]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def weights_digest(encoder: Encoder | HLIP) -> str:
    """Hex digest of a vision tower's weights."""
    digest = hashlib.sha256()
    for key, value in sorted(encoder.visual.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
