"""`hlip check STORE`: does every file still hold what was written?

Every study file holds hashes of its volumes and of its metadata; checksums.txt holds those of the files beside the studies (its form is
that of `sha256sum`). Whoever changes voxels and hashes together is not found: this is against bit rot, half copies and mix-ups.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from hlip.files.checksums import read_checksums, sha256, study_digest
from hlip.quality.duplicates import voxel_hash
from hlip.quality.table import read_table
from hlip.store import BEFORE, Store, StoreError, read_metadata, skipped_file, study_file
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
            return "\n".join([*lines, f"{self.store}: {self.studies} studies, all as they were written"])
        bad = (
            f"{len(self.damaged)} of {self.studies} studies are bad"
            if self.damaged
            else "the studies are good, files beside them are not"
        )
        lines.append(f"{self.store}: {bad}")
        mend = (
            "`hlip check STORE --delete`, then `hlip prepare` with the same manifest and spec"
            if self.damaged
            else "`hlip prepare`"
        )
        return "\n".join([*lines, f"remedy: {mend}, which makes again what is missing; or copy the store again"])


def check_store(folder: str | Path, *, workers: int | None = None, progress: bool = True) -> Checked:
    """Read every file of a finished store and compare it with what was written.

    Args:
        workers: threads; hashing leaves Python's lock alone.

    Raises:
        StoreError: no finished store.
    """
    faults = list(_files_beside(Path(folder)))
    try:
        store = Store(folder)
    except StoreError as error:
        if all((Path(folder) / name).is_file() for name in ("index.jsonl", "volume_spec.json")):  # finished, then damaged
            return Checked(Path(folder), 0, faults=(*faults, str(error)))
        raise
    try:
        table = read_table(store.path)
    except (OSError, ValueError) as error:
        table = []
        faults.append(f"{store.path}: its quality table cannot be read ({error}); `hlip quality {store.path}` makes it again")
    digests = {row["study_id"]: row["digest"] for row in table}
    skipped = [study for study in digests if skipped_file(store.path, study).is_file()]
    counts: dict[str, int | None] = {record.study_id: len(record.sequences) for record in store.records}
    faults += [f"{study}: in the index, but not in the quality table" for study in counts if table and study not in digests]
    lost = [study for study in digests if study not in counts and study not in skipped]
    wanted: dict[str, int | None] = counts | dict.fromkeys(skipped, None)

    def one(study: str) -> tuple[str, str, bool]:
        file = skipped_file(store.path, study) if wanted[study] is None else study_file(store.path, study)
        try:
            digest = verify_study(file, store.spec, wanted[study])
        except StoreError as error:
            return study, str(error), True
        if digests.get(study) and digest != digests[study]:
            return study, f"{file}: whole, but not the file that index and quality table were made of", True
        return study, "", bool(digest)

    damaged = {study: f"{study_file(store.path, study)}: missing" for study in lost}
    unhashed = 0
    with ThreadPoolExecutor(workers) as pool:
        for study, fault, hashed in tqdm(pool.map(one, wanted), total=len(wanted), unit="study", disable=not progress):
            unhashed += not hashed
            if fault:
                damaged[study] = fault
    strangers = tuple(_strangers(store.path, set(wanted) | set(lost)))
    return Checked(store.path, len(wanted) + len(lost), damaged, tuple(faults), strangers, unhashed)


def verify_study(file: Path, spec: VolumeSpec, count: int | None) -> str:
    """Read all of a study's file; its digest, empty for one of an earlier version, which wrote none.

    Args:
        count: volumes that the index promises; None for the file of a skipped study.

    Raises:
        StoreError: missing, damaged, or not what spec and index say; the message says what.
    """
    metadata = read_metadata(file)
    pictured: dict[str, NDArray[np.uint8]] = {}
    hashes = []
    if count is not None:
        try:
            with safe_open(file, framework="np") as tensors:
                names = set(tensors.keys())
                pictured = {name: tensors.get_tensor(name) for name in names if name.startswith(BEFORE)}
                if names - set(pictured) != {str(n) for n in range(count)}:
                    raise StoreError(f"{file}: holds {len(names) - len(pictured)} volumes, the index says {count}")
                for n in range(count):
                    volume = tensors.get_tensor(str(n))
                    if volume.shape != spec.size or volume.dtype != np.uint8:
                        raise StoreError(
                            f"{file}: volume {n} is {volume.dtype} {volume.shape}, the spec says uint8 {spec.size}"
                        )
                    hashes.append(voxel_hash(volume))
        except (OSError, SafetensorError, ValueError) as error:
            raise StoreError(f"{file}: damaged ({error})") from error
    if metadata.get("spec", spec.digest()) != spec.digest():
        raise StoreError(f"{file}: prepared with spec {metadata['spec']}, the store's is {spec.digest()}")
    if "digest" not in metadata:
        return ""
    if metadata["digest"] != study_digest(metadata, pictured):
        raise StoreError(f"{file}: damaged (its metadata or pictures are not what was written)")
    if bad := [str(n) for n, (found, told) in enumerate(zip(hashes, metadata["hashes"], strict=False)) if found != told]:
        raise StoreError(f"{file}: damaged (voxels of volume {', '.join(bad)} are not what was written)")
    return str(metadata["digest"])


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


def _strangers(store: Path, studies: set[str]) -> Iterator[str]:
    for file in sorted((store / "studies").iterdir()):
        study = file.name.removesuffix(".safetensors").removesuffix(".skipped.json")
        if study == file.name or study not in studies:
            yield f"studies/{file.name}"
