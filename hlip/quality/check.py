"""`hlip check STORE`: does every file still hold what was written?

Every study file holds hashes of its volumes and of its metadata; checksums.txt holds those of the files beside the studies (its form is
that of `sha256sum`). Every study file on disk is read, also where index, table or spec are broken. Whoever changes voxels and hashes
together is not found: this is against bit rot, half copies and mix-ups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from hlip.files.checksums import read_checksums, sha256, study_digest
from hlip.quality.contents import contents_digest
from hlip.quality.duplicates import voxel_hash
from hlip.quality.table import read_table
from hlip.store import BEFORE, Store, StoreError, read_metadata, read_spec, skipped_file, study_file
from hlip.volume import VolumeSpec

_SHOWN = 20


@dataclass(frozen=True)
class Checked:
    """What a check came to."""

    store: Path
    studies: int
    damaged: dict[str, str] = field(default_factory=dict)
    """Study id -> what is wrong with its file."""
    faults: tuple[str, ...] = ()
    """What is wrong beside the study files."""
    strangers: tuple[str, ...] = ()
    """Files that belong to no study of the store."""
    unhashed: int = 0
    """Studies of an earlier version, which wrote no hashes: they were only opened."""
    contents: str | None = None
    """Of `hlip.quality.contents`; None where something is wrong."""

    @property
    def ok(self) -> bool:
        """Nothing is damaged, missing or of another store."""
        return not (self.damaged or self.faults)

    def __str__(self) -> str:
        lines = [f"{study}: {fault}" for study, fault in list(self.damaged.items())[:_SHOWN]] + list(self.faults[:_SHOWN])
        if hidden := max(0, len(self.damaged) - _SHOWN) + max(0, len(self.faults) - _SHOWN):
            lines.append(f"and {hidden} more")
        if self.strangers:
            some = ", ".join(self.strangers[:5]) + (" ..." if len(self.strangers) > 5 else "")
            lines.append(f"{len(self.strangers)} files of no study of this store, which may be deleted: {some}")
        if self.unhashed:
            lines.append(f"{self.unhashed} studies were written by an earlier version, without hashes: they were only opened")
        if self.ok:
            lines.append(f"{self.store}: {self.studies} studies, all as they were written")
            if self.contents:
                lines.append(f"contents {self.contents}: equal wherever spec, voxels, reports, labels and splits are")
            return "\n".join(lines)
        lines.append(f"{self.store}: {self._verdict()}")
        if not self.damaged:
            return "\n".join([*lines, "remedy: `hlip prepare` with the same manifest and spec, which writes these files again"])
        mend = "`hlip check STORE --delete`, then `hlip prepare` with the same manifest and spec"
        return "\n".join([*lines, f"remedy: {mend}, which makes again what is missing; or copy the store again"])

    def _verdict(self) -> str:
        beside = "files beside them are not" if not self.damaged else "files beside them are bad, too"
        found = (
            f"{len(self.damaged)} of {self.studies} studies are bad" if self.damaged else f"the {self.studies} studies are good"
        )
        return f"{found}, {beside}" if self.faults else found


@dataclass
class _Known:
    """What index, table and spec of a store say; what cannot be read says nothing and is a fault."""

    spec: VolumeSpec | None = None
    index: dict[str, int] | None = None
    """Study -> number of volumes."""
    table: dict[str, str] | None = None
    """Study -> digest of its file; of earlier versions, empty."""
    faults: list[str] = field(default_factory=list)


def check_store(folder: str | Path, *, workers: int | None = None, progress: bool = True) -> Checked:
    """Read every file of a finished store and compare it with what was written.

    Args:
        workers: threads; hashing leaves Python's lock alone.

    Raises:
        StoreError: no finished store.
    """
    path = Path(folder)
    if not (path / "index.jsonl").is_file():
        Store(path)  # says what is missing
    known = _known(path)
    wanted, strangers = _studies(path, known)
    index, table = known.index or {}, known.table or {}
    if index and table:
        known.faults += [f"{study}: in the index, but not in the quality table" for study in index if study not in table]
        extra = [study for study in table if study not in index and study_file(path, study).is_file()]
        known.faults += [f"{study}: prepared and in the quality table, but not in the index" for study in extra]

    def one(study: str) -> tuple[str, str, bool]:
        file = _file(path, study, index)
        try:
            digest = verify_study(file, known.spec, index.get(study))
        except StoreError as error:
            return study, str(error) if file.is_file() else f"{file}: missing", True
        if table.get(study) and digest != table[study]:
            return study, f"{file}: whole, but not the file that index and quality table were made of", True
        return study, "", bool(digest)

    damaged = {}
    unhashed = 0
    with ThreadPoolExecutor(workers) as pool:
        for study, fault, hashed in tqdm(pool.map(one, wanted), total=len(wanted), unit="study", disable=not progress):
            unhashed += not hashed
            if fault:
                damaged[study] = fault
    whole = None if damaged or known.faults else contents_digest(path)
    return Checked(path, len(wanted), damaged, tuple(known.faults), tuple(strangers), unhashed, whole)


def _known(path: Path) -> _Known:
    known = _Known(faults=list(_files_beside(path)))
    try:
        known.spec = read_spec(path)
    except StoreError as error:
        known.faults.append(str(error))
    try:
        known.index = _index(path / "index.jsonl")
    except (OSError, ValueError) as error:
        known.faults.append(str(error))
    try:
        known.table = {row["study_id"]: row["digest"] for row in read_table(path)}
    except (OSError, ValueError) as error:
        known.faults.append(f"{path}: its quality table cannot be read ({error}); `hlip quality {path}` makes it again")
    if known.index is None and known.table is None:
        known.faults.append(f"{path}: neither index nor table can be read: whether a study is missing was not found out")
    return known


def _index(file: Path) -> dict[str, int]:
    """Study -> number of volumes; by itself, as the spec beside it may be broken."""
    counts = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            counts[str(row["study_id"])] = len(row["sequences"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}, line {number}: damaged ({error}); run `hlip prepare` again") from error
    return counts


def _studies(path: Path, known: _Known) -> tuple[list[str], list[str]]:
    """The studies to look at, and the files of none: all that lie there count where index or table say nothing or are in doubt."""
    named = dict.fromkeys([*(known.index or {}), *(known.table or {})])
    doubt = known.index is None or known.table is None or known.faults
    strangers = []
    for file in sorted(path.glob("studies/*")):
        study = file.name.removesuffix(".safetensors").removesuffix(".skipped.json")
        if study == file.name or (study not in named and not doubt):
            strangers.append(f"studies/{file.name}")
        else:
            named[study] = None
    return list(named), strangers


def _file(path: Path, study: str, index: Mapping[str, int]) -> Path:
    """The one of a study's two files that is there; the index knows which it should be."""
    kept, skipped = study_file(path, study), skipped_file(path, study)
    return skipped if skipped.is_file() and study not in index and not kept.is_file() else kept


def verify_study(file: Path, spec: VolumeSpec | None, count: int | None) -> str:
    """Read all of a study's file; its digest, empty for one of an earlier version, which wrote none.

    Args:
        spec: the store's; None where it is not known.
        count: volumes that the index promises; None where it promises none: then as many as the file's metadata name.

    Raises:
        StoreError: missing, damaged, or not what spec and index say; the message says what.
    """
    metadata = read_metadata(file)
    pictured: dict[str, NDArray[np.uint8]] = {}
    hashes: list[str] = []
    if file.suffix != ".json":
        told = len(metadata.get("affines", ())) if count is None else count
        pictured, hashes = _read_all(file, spec, told)
    if spec is not None and metadata.get("spec", spec.digest()) != spec.digest():
        raise StoreError(f"{file}: prepared with spec {metadata['spec']}, the store's is {spec.digest()}")
    if "digest" not in metadata:
        return ""
    if metadata["digest"] != study_digest(metadata, pictured):
        raise StoreError(f"{file}: damaged (its metadata or pictures are not what was written{_of_voxels(hashes, metadata)})")
    if bad := [str(n) for n, (found, told) in enumerate(zip(hashes, metadata["hashes"], strict=False)) if found != told]:
        raise StoreError(f"{file}: damaged (voxels of volume {', '.join(bad)} are not what was written; all else is)")
    return str(metadata["digest"])


def _of_voxels(hashes: list[str], metadata: Mapping[str, Any]) -> str:
    """What a file's hashes tell of its voxels where its metadata are not sound, and so may the hashes be."""
    told = metadata.get("hashes")
    if not hashes or not isinstance(told, list) or len(told) != len(hashes):
        return ""
    if told == hashes:
        return "; the voxels of all its volumes are"
    return "; the voxels of some volumes do not fit their hashes, which are metadata, too"


def _read_all(file: Path, spec: VolumeSpec | None, count: int) -> tuple[dict[str, NDArray[np.uint8]], list[str]]:
    """The pictures of a study's file, and the hashes of its volumes."""
    hashes = []
    try:
        with safe_open(file, framework="np") as tensors:
            names = set(tensors.keys())
            pictured = {name: tensors.get_tensor(name) for name in names if name.startswith(BEFORE)}
            if names - set(pictured) != {str(n) for n in range(count)}:
                raise StoreError(f"{file}: holds {len(names) - len(pictured)} volumes, not {count}")
            for n in range(count):
                volume = tensors.get_tensor(str(n))
                if spec is not None and (volume.shape != spec.size or volume.dtype != np.uint8):
                    raise StoreError(f"{file}: volume {n} is {volume.dtype} {volume.shape}, the spec says uint8 {spec.size}")
                hashes.append(voxel_hash(volume))
    except (OSError, SafetensorError, ValueError) as error:
        raise StoreError(f"{file}: damaged ({error})") from error
    return pictured, hashes


def delete_damaged(checked: Checked) -> list[Path]:
    """Delete the files of damaged studies, and the index, which is then no longer true; returns what was deleted."""
    gone = []
    for study in checked.damaged:
        for file in (study_file(checked.store, study), skipped_file(checked.store, study)):
            if file.is_file():
                file.unlink()
                gone.append(file)
    if checked.damaged:
        (checked.store / "index.jsonl").unlink(missing_ok=True)
    return gone


def _files_beside(store: Path) -> Iterator[str]:
    try:
        sums = read_checksums(store)
    except (OSError, ValueError) as error:
        yield f"{store}: checksums.txt cannot be read ({error})"
        return
    for name, digest in sums.items():
        file = store / name
        if not file.is_file():
            yield f"{file}: missing"
        elif sha256(file) != digest:
            yield f"{file}: is not what was written"
