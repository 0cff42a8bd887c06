"""`hlip embed`: a cohort's study, scan and patch features on disk.

    OUT/config.json                   format, checkpoint, store and versions; written first
    OUT/embeddings-00000.safetensors  "study" (n, P, E), "scan" (m, C) and "scans" (n,) of n studies with m scans, in the order of the
                                      store; on request also "patch" (m, T, C) float16 and "place" (m, T, 3) in RAS mm
    OUT/index.csv                     where each study stands; written last: the cohort is complete
    OUT/quality.parquet               what preparing did with each scan, when a manifest was embedded

Notable choices
- A shard is a fixed run of the store's studies and appears only when complete. So a run may be stopped at any time, and the same
  command ends in the same bytes as a run never stopped.
- A shard names what its studies were made of: where a study was prepared anew, its shard is made anew too.
- Patch tokens are half precision (after the norm they are of order one): a ViT-B scan of 1,568 patches takes 2.4 MB.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from hlip import __version__
from hlip.data import evaluation_batches
from hlip.files.folders import write_atomically
from hlip.inference.features import StudyFeatures, patch_centres, study_features
from hlip.inference.inputs import SIMULATED, check_spec, expected_spec, open_model, skipped_scans
from hlip.model import HLIP
from hlip.prepare import prepare
from hlip.store import Store, StudyRecord, read_metadata, study_file
from hlip.study import read_manifest
from hlip.vision import VisionConfig

__all__ = [
    "EmbedSummary",
    "EmbeddingsError",
    "StudyFeatures",
    "embed_cohort",
    "embed_command",
    "load_embeddings",
    "patch_centres",
    "study_features",
]

FORMAT = "hlip-embeddings-1"
SHARD_SCANS = 256  # with ViT-B patch tokens 0.6 GB
INDEX_COLUMNS = ("study_id", "patient_id", "split", "shard", "row", "first_scan", "scans", "sequences")
_META = "hlip"  # the one metadata key: safetensors does not keep the order of several


class EmbeddingsError(ValueError):
    """A folder holds no embeddings, unfinished ones, or those of another checkpoint or store; the message says which and what to do."""


class EmbedSummary(NamedTuple):
    """What a run did and what the folder now holds."""

    studies: int
    scans: int
    shards: int
    reused: int
    """Shards that an earlier run had written."""


def embed_cohort(
    model: HLIP,
    store: Store,
    out: str | Path,
    *,
    tokens: bool = False,
    batch_size: int = 16,
    shard_scans: int = SHARD_SCANS,
    facts: dict[str, Any] | None = None,
    progress: bool = True,
) -> EmbedSummary:
    """Embed every study of a store into a folder; goes on where an earlier run stopped.

    Args:
        model: in evaluation mode (`hlip.load`).
        store: prepared with the model's VolumeSpec.
        out: the folder; see the head of this file.
        tokens: also write each scan's patch tokens and their places.
        batch_size: studies at once; another one changes no more than rounding.
        shard_scans: a shard ends before the study that would exceed them.
        facts: JSON values to add to config.json; part of what must be the same to go on.
        progress: show a bar.

    Raises:
        EmbeddingsError: the folder belongs to another checkpoint, store or choice of tokens, or is none of ours.
        StoreError: a study of the store is damaged; shards so far are kept.
        ValueError: the store was prepared with another VolumeSpec than the model's, or is empty.
        KeyboardInterrupt: stopped by the user; shards so far are kept.
    """
    out = Path(out)
    if model.volume_spec is not None:
        check_spec(store, model.volume_spec)
    if not store.records:
        raise ValueError(f"{store.path}: holds no study with a usable scan, see its quality.parquet")
    _claim(out, _description(model, store, tokens, shard_scans) | (facts or {}))
    shards = list(shards_of(store.records, shard_scans))
    todo = [number for number, records in enumerate(shards) if not _is_done(shard_file(out, number), store, records)]
    if todo:
        (out / "index.csv").unlink(missing_ok=True)
    done = len(store) - sum(len(shards[number]) for number in todo)
    with tqdm(total=len(store), initial=done, desc="embed", unit="study", mininterval=0.5, disable=not progress) as bar:
        for number in todo:
            features = _embed_shard(model, store, shards[number], tokens, batch_size, bar)
            content = {"studies": [record.study_id for record in shards[number]], "source": _source(store, shards[number])}
            header = {_META: json.dumps(content, ensure_ascii=False, sort_keys=True)}
            write_atomically(shard_file(out, number), save(features, metadata=header))
    for stale in out.glob("*.partial"):  # of a process that was killed
        stale.unlink()
    write_atomically(out / "index.csv", _index(shards))
    scans = sum(len(record.sequences) for record in store.records)
    return EmbedSummary(len(store), scans, len(shards), len(shards) - len(todo))


def load_embeddings(folder: str | Path) -> tuple[list[str], Tensor]:
    """A cohort's study features, for a notebook: N study ids in the order of the store, and (N, P, E) float32.

    `pandas.read_csv(folder / "index.csv")` has patient, split and sequences of the same rows.

    Raises:
        EmbeddingsError: no complete embeddings here, or a damaged file.
    """
    folder = Path(folder)
    if not (folder / "index.csv").is_file():
        raise EmbeddingsError(f"{folder}: no complete embeddings (index.csv is missing); run `hlip embed` again, it goes on")
    rows, parts = _read_index(folder), []
    for name in dict.fromkeys(row["shard"] for row in rows):
        try:
            with safe_open(folder / name, framework="pt") as shard:
                parts.append(shard.get_tensor("study"))
        except (OSError, SafetensorError) as error:
            remedy = "delete it and run `hlip embed` again, only this shard is made anew"
            raise EmbeddingsError(f"{folder / name}: missing or damaged ({error}); {remedy}") from error
    return [row["study_id"] for row in rows], torch.cat(parts)


def embed_command(arguments: argparse.Namespace) -> None:
    """`hlip embed`: `checkpoint`, `source` (a manifest, prepared on the fly, or a store), `out`, `tokens`, `batch_size`, `workers`,
    `device`."""
    source, out = Path(arguments.source), Path(arguments.out)
    model = open_model(arguments)
    expected_spec(model.volume_spec, arguments.checkpoint)  # a checkpoint without one shows before the work
    if source.is_dir():
        summary = embed_cohort(model, Store(source), out, tokens=arguments.tokens, batch_size=arguments.batch_size)
        print(_told(summary, out))
    else:
        print(_embed_manifest(model, source, out, arguments))
    if model.facts.get("simulated"):
        print(SIMULATED, file=sys.stderr)


def _embed_manifest(model: HLIP, manifest: Path, out: Path, arguments: argparse.Namespace) -> str:
    """Prepare and embed; returns what to tell. Prepared volumes stand in OUT until the end, so that preparing goes on, too."""
    spec = expected_spec(model.volume_spec, arguments.checkpoint)
    studies = read_manifest(manifest)
    facts = {"manifest": hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]}
    known = {"checkpoint": checkpoint_digest(model), "volume_spec": spec.digest(), "tokens": arguments.tokens}
    _check(out, known | facts)  # before hours of preparing
    prepared = out / "prepared"
    if _complete(out):
        shutil.rmtree(prepared, ignore_errors=True)
        return (
            f"{out}: complete, made from this manifest by this checkpoint; if scans have changed since, choose another folder"
        )
    prepare(manifest, prepared, spec, workers=arguments.workers)
    store = Store(prepared)
    for scan in skipped_scans(store):
        print(f"skipped: {scan}", file=sys.stderr)
    ready = set(store.study_ids)
    without = [study.study_id for study in studies if study.study_id not in ready]
    for study_id in without:
        print(f"not embedded: study '{study_id}' has no usable scan", file=sys.stderr)
    summary = embed_cohort(model, store, out, tokens=arguments.tokens, batch_size=arguments.batch_size, facts=facts)
    write_atomically(out / "quality.parquet", (prepared / "quality.parquet").read_bytes())
    shutil.rmtree(prepared)
    return _told(summary, out) + (f"; {len(without)} without a usable scan, see quality.parquet" if without else "")


def _told(summary: EmbedSummary, out: Path) -> str:
    before = f" ({summary.reused} from before)" if summary.reused else ""
    return f"{summary.studies} studies, {summary.scans} scans in {summary.shards} shards{before}: {out}"


def shards_of(records: Sequence[StudyRecord], limit: int) -> Iterator[list[StudyRecord]]:
    """Consecutive studies of at most `limit` scans together (a larger study stands alone)."""
    shard: list[StudyRecord] = []
    scans = 0
    for record in records:
        if shard and scans + len(record.sequences) > limit:
            yield shard
            shard, scans = [], 0
        shard.append(record)
        scans += len(record.sequences)
    if shard:
        yield shard


def shard_file(folder: Path, number: int) -> Path:
    """Where a shard stands."""
    return folder / f"embeddings-{number:05d}.safetensors"


def checkpoint_digest(model: HLIP) -> str:
    """Same digest = same weights in the same architecture. 16 hex digits.

    Settings at their defaults are left out, so that a setting added later does not change it.
    """
    default = asdict(VisionConfig())
    settings = {key: value for key, value in asdict(model.config.vision).items() if value != default[key]}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _embed_shard(
    model: HLIP, store: Store, records: list[StudyRecord], tokens: bool, batch_size: int, bar: tqdm
) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {
        name: [] for name in (("study", "scan", "patch", "place") if tokens else ("study", "scan"))
    }
    for batch in evaluation_batches(store, records, batch_size):
        affines = np.concatenate([store.affines(study_id) for study_id in batch.study_ids]) if tokens else None
        features = study_features(model, batch.volumes.to(model.device), affines, batch.scans_per_study)
        for name, part in parts.items():
            kind = torch.float16 if name == "patch" else torch.float32
            part.append(getattr(features, name).to("cpu", kind))
        bar.update(len(batch.study_ids))
    return {name: torch.cat(part) for name, part in parts.items()} | {
        "scans": torch.tensor([len(record.sequences) for record in records])
    }


def _description(model: HLIP, store: Store, tokens: bool, shard_scans: int) -> dict[str, Any]:
    vision = model.config.vision
    names = json.dumps([[record.study_id, *record.sequences] for record in store.records])
    return {
        "format": FORMAT,
        "checkpoint": checkpoint_digest(model),
        "volume_spec": store.spec.digest(),
        "studies": hashlib.sha256(names.encode()).hexdigest()[:16],
        "tokens": tokens,
        "shard_scans": shard_scans,
        "size": list(vision.size),
        "patch": list(vision.patch),
        "grid": list(vision.grid),
        "simulated": bool(model.facts.get("simulated")),
        "versions": {"hlip": __version__, "torch": torch.__version__},
    }


_MEANINGS = {
    "checkpoint": "by another checkpoint",
    "volume_spec": "from a store of another VolumeSpec",
    "studies": "from other studies",
    "manifest": "from another manifest, or from a store",
    "tokens": "with another choice of --tokens",
}


def _read_config(out: Path) -> dict[str, Any]:
    """The config.json of an embeddings folder; empty where there is none yet."""
    file = out / "config.json"
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EmbeddingsError(f"{file}: damaged ({error}); delete the folder and embed again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EmbeddingsError(f"{file}: belongs to something else than embeddings ({FORMAT}); choose another folder")
    return content


def _claim(out: Path, description: dict[str, Any]) -> None:
    """Write config.json, or check that it says the same (versions apart)."""
    found = _read_config(out)
    if found:
        _check(out, dict.fromkeys(found) | description)
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "config.json", (json.dumps(description, indent=2) + "\n").encode())


def _check(out: Path, wanted: dict[str, Any]) -> None:
    """
    Raises:
        EmbeddingsError: the folder was begun with another value of one of `wanted`.
    """
    found = _read_config(out)
    differing = [key for key, value in wanted.items() if key != "versions" and found.get(key) != value] if found else []
    if differing:
        what = ", ".join(_MEANINGS.get(key, f"with {key} {found.get(key)}") for key in differing)
        raise EmbeddingsError(f"{out}: was made {what}; choose another folder, or delete this one")


def _complete(out: Path) -> bool:
    """Whether an earlier run ended, and its shards still stand."""
    if not (out / "index.csv").is_file() or not any((out / name).is_file() for name in ("quality.parquet", "quality.csv")):
        return False
    return all((out / name).is_file() for name in {row["shard"] for row in _read_index(out)})


def _read_index(out: Path) -> list[dict[str, str]]:
    with (out / "index.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _source(store: Store, records: Sequence[StudyRecord]) -> str:
    """What the studies of a shard were made of: 16 hex digits of their files' metadata."""
    parts = [read_metadata(study_file(store.path, record.study_id)) for record in records]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _is_done(file: Path, store: Store, records: Sequence[StudyRecord]) -> bool:
    try:
        with safe_open(file, framework="pt") as shard:
            content = json.loads(shard.metadata()[_META])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False
    return content == {"studies": [record.study_id for record in records], "source": _source(store, records)}


def _index(shards: Sequence[Sequence[StudyRecord]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(INDEX_COLUMNS)
    for number, records in enumerate(shards):
        first = 0
        for row, record in enumerate(records):
            scans = len(record.sequences)
            where = [shard_file(Path(), number).name, row, first, scans]
            table.writerow([record.study_id, record.patient_id, record.split or "", *where, "|".join(record.sequences)])
            first += scans
    return text.getvalue().encode()
