"""Prepared studies on disk: one safetensors file a study, one uint8 tensor a volume, read lazily.

    STORE/volume_spec.json                 format version, the VolumeSpec and its digest
    STORE/studies/<study_id>.safetensors   tensors "0", "1", ... (D, H, W) uint8, one a volume, and "before.0", ...: a JPEG of
                                           each scan as it was read; metadata: sequences, affines, spec digest, sources,
                                           quality rows, hashes of the volumes, a digest of all this
    STORE/studies/<study_id>.skipped.json  the same metadata of a study without a single usable scan
    STORE/index.jsonl                      one line a study with at least one volume; written last: the store is complete
    STORE/quality.parquet                  one row a scan of every study: what was done and measured, or why not
    STORE/quality.html                     the same to look at
    STORE/checksums.txt                    SHA-256 of the files beside the studies, as `sha256sum` writes them

Every file is written beside its place and then renamed, so that a reader never meets half a file. Stores of earlier versions, with
quality.csv and without pictures, hashes and checksums, are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hlip.files.checksums import canonical, study_digest, write_checksums
from hlip.files.folders import write_atomically
from hlip.quality.duplicates import voxel_hash
from hlip.quality.table import read_table
from hlip.volume import VolumeSpec

if TYPE_CHECKING:
    import torch

FORMAT = 1
_META = "hlip"  # the one metadata key: safetensors does not keep the order of several
BEFORE = "before."
"""And the number of a scan: the tensor of its picture."""


class StoreError(RuntimeError):
    """A store is missing, unfinished, damaged or of another format; the message says which and what to do."""


@dataclass(frozen=True)
class StudyRecord:
    """What is known of a prepared study besides its voxels."""

    study_id: str
    patient_id: str
    sequences: tuple[str, ...]
    """One name a volume, in tensor order, e.g. ("T1", "FLAIR") or ("CT brain", "CT blood", "CT bone")."""
    report: str = ""
    """Empty: the study has no text and cannot be used for contrastive training."""
    sentences: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    split: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Store:
    """A finished store. Holds no open file, so that it may be sent to data-loader processes."""

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            StoreError: missing, unfinished, or written by another format version.
        """
        self.path = Path(path)
        self.spec = read_spec(self.path)
        self.records = _read_index(self.path)
        self._place = {record.study_id: place for place, record in enumerate(self.records)}

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} studies, spec {self.spec.digest()})"

    @property
    def study_ids(self) -> list[str]:
        """In index order, which is the manifest's."""
        return [record.study_id for record in self.records]

    def record(self, study_id: str) -> StudyRecord:
        """
        Raises:
            StoreError: no study of that id.
        """
        if study_id not in self._place:
            raise StoreError(f"{self.path}: no study '{study_id}' (of {len(self)}; skipped ones are in quality.parquet)")
        return self.records[self._place[study_id]]

    def split(self, name: str) -> list[StudyRecord]:
        """The records of one split ("train", "val", "test"), in index order."""
        return [record for record in self.records if record.split == name]

    def volumes(self, study_id: str, which: Sequence[int] | None = None) -> torch.Tensor:
        """(n, 1, D, H, W) uint8: all volumes of a study, or those asked for, in the order asked. Reads only these.

        Raises:
            StoreError: no such study or volume, or a damaged file.
        """
        import torch

        count = len(self.record(study_id).sequences)
        which = range(count) if which is None else which
        if bad := [n for n in which if not 0 <= n < count]:
            raise StoreError(f"{self.path}: study '{study_id}' has volumes 0 to {count - 1}, not {bad[0]}")
        file = study_file(self.path, study_id)
        try:
            with safe_open(file, framework="pt") as tensors:
                read = [tensors.get_tensor(str(n)) for n in which]
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{file}: missing or damaged ({error}); delete it and prepare again") from error
        return torch.stack(read)[:, None] if read else torch.empty((0, 1, *self.spec.size), dtype=torch.uint8)

    def affines(self, study_id: str) -> NDArray[np.float64]:
        """(n, 4, 4): voxel index (d, h, w, 1) -> RAS mm, of each volume of a study."""
        self.record(study_id)
        return np.array(read_metadata(study_file(self.path, study_id))["affines"], dtype=np.float64)

    @cached_property
    def quality(self) -> list[dict[str, Any]]:
        """The rows of the quality table, typed: `hlip.quality.table.COLUMNS`.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        try:
            return read_table(self.path)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path}: no quality table to be read ({error}); run `hlip quality {self.path}`") from error


class WithoutSequence(Store):
    """A store as it would be had one sequence not been scanned; studies with nothing else are gone.

    Args:
        store: the whole one; nothing is copied.
        sequence: name of the scans that are left out.
    """

    def __init__(self, store: Store, sequence: str) -> None:
        self.path, self.spec, self.sequence = store.path, store.spec, sequence
        self._kept = {
            record.study_id: [place for place, name in enumerate(record.sequences) if name != sequence]
            for record in store.records
        }
        self.records = [
            replace(record, sequences=tuple(record.sequences[place] for place in self._kept[record.study_id]))
            for record in store.records
            if self._kept[record.study_id]
        ]
        self._place = {record.study_id: place for place, record in enumerate(self.records)}
        self._whole = store

    def volumes(self, study_id: str, which: Sequence[int] | None = None) -> torch.Tensor:
        """As of `Store`, numbered among the scans that are left."""
        kept = self._kept[self.record(study_id).study_id]
        return self._whole.volumes(study_id, kept if which is None else [kept[place] for place in which])

    def affines(self, study_id: str) -> NDArray[np.float64]:
        """As of `Store`."""
        return self._whole.affines(study_id)[self._kept[study_id]]


def study_file(store: Path, study_id: str) -> Path:
    """Where a study's volumes are."""
    return store / "studies" / f"{study_id}.safetensors"


def skipped_file(store: Path, study_id: str) -> Path:
    """Where the record of a study without usable scans is."""
    return store / "studies" / f"{study_id}.skipped.json"


def write_study(
    store: Path,
    study_id: str,
    volumes: Sequence[NDArray[np.uint8]],
    metadata: dict[str, Any],
    pictures: Mapping[int, bytes] | None = None,
) -> None:
    """Write one study atomically: volumes (D, H, W) uint8 and metadata, or the metadata alone where there is no volume.

    Args:
        pictures: scan number -> a JPEG of it as it was read; kept only beside volumes.
    """
    kept, stale = study_file(store, study_id), skipped_file(store, study_id)
    tensors = {str(n): np.ascontiguousarray(volume) for n, volume in enumerate(volumes)}
    pictured = {f"{BEFORE}{scan}": np.frombuffer(jpeg, np.uint8) for scan, jpeg in (pictures or {}).items()} if volumes else {}
    metadata = metadata | {"hashes": [voxel_hash(volume) for volume in tensors.values()]}
    text = canonical(metadata | {"digest": study_digest(metadata, pictured)})
    if volumes:
        content = save(tensors | pictured, metadata={_META: text})
    else:
        kept, stale = stale, kept
        content = text.encode()
    write_atomically(kept, content)
    stale.unlink(missing_ok=True)


def read_pictures(file: Path) -> dict[int, bytes]:
    """Scan number -> a JPEG of it as it was read; empty for the file of an earlier version.

    Raises:
        StoreError: missing or damaged.
    """
    try:
        with safe_open(file, framework="np") as tensors:
            names = [name for name in tensors.keys() if name.startswith(BEFORE)]  # noqa: SIM118, no dict
            return {int(name.removeprefix(BEFORE)): tensors.get_tensor(name).tobytes() for name in names}
    except (OSError, SafetensorError, ValueError) as error:
        raise StoreError(f"{file}: missing or damaged ({error}); delete it and prepare again") from error


def read_volumes(file: Path, which: Sequence[int]) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float64]]]:
    """Volumes (D, H, W) of a study's file and their affines (4, 4), without an index and without torch.

    Raises:
        StoreError: missing or damaged.
    """
    affines = read_metadata(file)["affines"]
    try:
        with safe_open(file, framework="np") as tensors:
            return [tensors.get_tensor(str(n)) for n in which], [np.array(affines[n], np.float64) for n in which]
    except (OSError, SafetensorError, ValueError, LookupError) as error:
        raise StoreError(f"{file}: missing or damaged ({error}); delete it and prepare again") from error


def read_metadata(file: Path) -> dict[str, Any]:
    """The metadata of a study's file, without its voxels.

    Raises:
        StoreError: missing or damaged.
    """
    try:
        if file.suffix == ".json":
            return json.loads(file.read_text(encoding="utf-8"))
        with safe_open(file, framework="np") as tensors:
            return json.loads(tensors.metadata()[_META])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{file}: missing or damaged ({error}); delete it and prepare again") from error


def readable_study(store: Store, study_id: str) -> bool:
    """Whether a study's file is there and whole; its voxels are not read."""
    try:
        read_metadata(study_file(store.path, study_id))
    except StoreError:
        return False
    return True


def write_spec(store: Path, spec: VolumeSpec) -> None:
    """Write STORE/volume_spec.json."""
    content = {"format": FORMAT, "digest": spec.digest(), "spec": spec.as_dict()}
    write_atomically(store / "volume_spec.json", (json.dumps(content, indent=2) + "\n").encode())


def read_spec(store: Path) -> VolumeSpec:
    """
    Raises:
        StoreError: no store, or one of another format version.
    """
    file = store / "volume_spec.json"
    if not file.is_file():
        raise StoreError(f"{store}: no prepared store here (volume_spec.json is missing); run `hlip prepare MANIFEST {store}`")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content["format"]
        if version == FORMAT:
            return VolumeSpec.from_dict(content["spec"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: damaged ({error}); run `hlip prepare` again") from error
    raise StoreError(f"{store}: a store of format {version}, this version reads {FORMAT}; prepare it again into a new folder")


def write_index(store: Path, records: Iterable[StudyRecord]) -> None:
    """Write STORE/checksums.txt and then STORE/index.jsonl, the last act of preparing."""
    content = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records).encode()
    write_checksums(store, {"index.jsonl": content})
    write_atomically(store / "index.jsonl", content)


def _read_index(store: Path) -> list[StudyRecord]:
    file = store / "index.jsonl"
    if not file.is_file():
        raise StoreError(f"{store}: preparing was not finished (index.jsonl is missing); run `hlip prepare` again, it goes on")
    records = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                for name in ("sequences", "sentences", "labels"):
                    row[name] = _names(name, row[name])
                records.append(StudyRecord(**row))
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{file}, line {number}: damaged ({error}); run `hlip prepare` again") from error
    return records


def _names(field_name: str, value: Any) -> tuple[str, ...] | None:
    """A list of an index line; not a string either, whose letters would be taken for names."""
    if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise ValueError(f"{field_name} must be a list of strings, or null: not {json.dumps(value)[:60]}")
    return None if value is None else tuple(value)
