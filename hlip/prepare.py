"""`hlip prepare`: a manifest of studies -> a store, in parallel.

Notable choices:
- One study is one task and one file. A study that is already there, made with the same VolumeSpec from the same source
  files (path, sequence, size, time of change), is not touched again; everything else is made anew. So a run may be
  stopped at any time.
- A scan that cannot be used is a named row of the quality table; it never stops its study, nor a study the rest. That holds for a scan
  at which the process is killed (tried again with no other beside it, as memory is shared) or that takes longer than the time limit, too;
  both are tried again by the next run. What does stop a run, cleanly, is a store that cannot be written (full disk, no permission).
- Shards of a job array write study files into one folder and nothing else. A last run without a shard finds them done, makes what is
  missing, and writes quality table, page and index.
- The index is taken away before the first change and written last: nobody opens a half-changed store by mistake.
- The same bytes come from any number of workers: no clock of the run, no process number, no order of arrival is written.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hlip.quality.collect import rows_of, write_quality
from hlip.quality.measures import ends, measure
from hlip.quality.pictures import strip, thumbnail
from hlip.reports import split_sentences
from hlip.reports.cleaning import clean
from hlip.reports.spec import ReportSpec, stored_digest, write_report_spec
from hlip.scans.archive import archive_of
from hlip.scans.filekind import is_dicom
from hlip.scans.image import prepare_image, read_image
from hlip.scans.reading import read_scan
from hlip.scans.scan import LoadedScan, VolumeError
from hlip.scans.sequence import guess_sequence
from hlip.store import (
    StoreError,
    StudyRecord,
    read_metadata,
    read_spec,
    skipped_file,
    study_file,
    write_index,
    write_spec,
    write_study,
)
from hlip.study import Scan, Study, read_manifest
from hlip.volume import PreparedVolume, VolumeSpec, prepare_volume
from hlip.workers import Lost, work_through

Refused = Mapping[int, tuple[str, str]]
"""Scan number -> reason and message: not to be tried."""
Job = tuple[Path, Study, VolumeSpec, Path, Refused]
_STALE = 24 * 3600.0  # seconds after which half a file was left by a dead process, not by a slow one


@dataclass(frozen=True)
class PrepareSummary:
    """What a run did and what the store now holds."""

    store: Path
    studies: int
    """In the manifest, or in the shard."""
    studies_ready: int
    """In the index: with at least one volume."""
    studies_reused: int
    """Already prepared by an earlier run."""
    studies_without_report: int
    """Of those ready; they cannot be used for contrastive training."""
    scans_ok: int
    scans_skipped: int
    reasons: dict[str, int] = field(default_factory=dict)
    """Skipped scans by reason code."""
    flags: dict[str, int] = field(default_factory=dict)
    """Usable scans by flag; see `hlip.quality.flags.FLAGS`."""
    seconds: float = 0.0
    shard: tuple[int, int] | None = None

    def __str__(self) -> str:
        part = f"shard {self.shard[0]} of {self.shard[1]}: " if self.shard else ""
        lines = [
            f"{part}{self.studies_ready} of {self.studies} studies ready in {self.store} ({self.studies_reused} from before), "
            f"{self.scans_ok} scans, {self.seconds:.1f} s",
        ]
        if self.scans_skipped:
            table = "" if self.shard else f"; see {self.store / 'quality.parquet'}"
            lines.append(f"{self.scans_skipped} scans skipped: {_counts(self.reasons)}{table}")
        if self.studies_without_report:
            lines.append(f"{self.studies_without_report} studies have no report: not usable for contrastive training")
        if self.flags:
            lines.append(f"to be looked at: {_counts(self.flags)}")
        if self.shard:
            lines.append("when all shards are done, run the same command without --shard: it writes index and quality table")
        else:
            lines.append(f"look before you train: {self.store / 'quality.html'}")
        return "\n".join(lines)


def prepare(
    manifest: str | Path,
    store: str | Path,
    spec: VolumeSpec,
    *,
    workers: int | None = None,
    progress: bool = True,
    reports: ReportSpec | None = None,
    shard: tuple[int, int] | None = None,
    time_limit: float | None = None,
    memory_gb: float | None = None,
) -> PrepareSummary:
    """Prepare every study of a manifest into a store; goes on where an earlier run stopped.

    Args:
        workers: processes; `None` takes one for each core this process may use. 1 without limits stays in this one.
        progress: show a bar.
        reports: which sentences of the reports are kept; by default all, as they are written.
        shard: (i, n): only every n-th study from the i-th, i from 1; no index, no table.
        time_limit: seconds that one scan may take; then its process is stopped and the scan skipped.
        memory_gb: what each process may take on top of its programs (Linux); a scan that needs more is skipped.

    Raises:
        ManifestError: the manifest is missing or has faults.
        ValueError: a shard that is none.
        StoreError: the store cannot be written.
        KeyboardInterrupt: stopped by the user; studies done so far are kept.
    """
    started = time.perf_counter()
    manifest, store, reports = Path(manifest), Path(store), reports or ReportSpec()
    studies = _part(read_manifest(manifest), shard)
    base = _absolute(manifest.parent)
    try:
        (store / "studies").mkdir(parents=True, exist_ok=True)
        looked = tqdm(studies, unit="study", desc="looking", delay=2, leave=False, disable=not progress)
        todo = [study for study in looked if not _is_done(store, study, spec, base)]
        if todo or not _same_spec(store, spec) or stored_digest(store) != reports.digest():
            (store / "index.jsonl").unlink(missing_ok=True)
            write_spec(store, spec)
            write_report_spec(store, reports)
        jobs: list[Job] = [(store, study, spec, base, {}) for study in todo]
        with tqdm(total=len(studies), initial=len(studies) - len(todo), unit="study", disable=not progress) as bar:
            for _ in _run(jobs, min(workers or _cores(), len(jobs)), time_limit, memory_gb):
                bar.update()
        return _finish(store, studies, reports, len(studies) - len(todo), started, shard)
    except OSError as error:
        raise StoreError(f"{store}: cannot be written ({error}); finished studies are kept, run the command again") from error


def prepare_study(
    store: Path,
    study: Study,
    spec: VolumeSpec,
    base: Path,
    refused: Refused | None = None,
    tell: Callable[[int | None], None] = lambda _: None,
) -> str:
    """Read, prepare and write one study; returns its id. Scans that cannot be used become rows of its quality table.

    Args:
        base: folder of the manifest.
        refused: scans not to be tried; a study with any is tried again by the next run.
        tell: called with the number of each scan before it is read, and with None after the last.

    Raises:
        OSError: it cannot be written.
    """
    try:
        _prepare_study(store, study, spec, base, refused or {}, tell)
    except OSError:
        raise
    except Exception as error:  # of the study as a whole, e.g. too little memory to put it together
        told = "unexpected", f"study {study.study_id}: unexpected {type(error).__name__}: {error}; the next run tries again"
        _prepare_study(store, study, spec, base, dict.fromkeys(range(len(study.scans)), told), tell)
    return study.study_id


def _prepare_study(
    store: Path, study: Study, spec: VolumeSpec, base: Path, refused: Refused, tell: Callable[[int | None], None]
) -> None:
    volumes: list[PreparedVolume] = []
    sequences: list[str] = []
    pictures: dict[int, bytes] = {}
    rows = []
    for number, scan in enumerate(study.scans):
        tell(number)
        grid = volumes[0].affine if spec.grid == "study" and volumes else None
        row, made, sequence = _prepare_scan(scan, spec, grid, refused.get(number))
        if picture := row.pop("picture", b""):
            pictures[number] = picture
        first = len(volumes)
        volumes += made
        sequences += [f"{sequence} {volume.window}".strip() for volume in made]
        row |= {
            "study_id": study.study_id,
            "scan": number,
            "path": _source_path(scan.path, base),
            "report": "yes" if study.sentences or split_sentences(study.report) else "none",
            "volumes": list(range(first, len(volumes))),
        }
        rows.append(row)
    tell(None)
    metadata = {
        "study_id": study.study_id,
        "spec": spec.digest(),
        "sources": _sources(study, base),
        "sequences": sequences,
        "affines": [volume.affine.tolist() for volume in volumes],
        "quality": rows,
    } | ({"again": True} if refused else {})
    write_study(store, study.study_id, [volume.voxels for volume in volumes], metadata, pictures)


def _prepare_scan(
    scan: Scan, spec: VolumeSpec, grid: NDArray[np.float64] | None, refused: tuple[str, str] | None = None
) -> tuple[dict[str, Any], list[PreparedVolume], str]:
    """The quality row (with a `picture` if it could be read), the volumes (none if skipped) and the sequence name of one scan."""
    row: dict[str, Any] = {"sequence": scan.sequence or guess_sequence(scan.path.name), "status": "skipped"}
    if refused:
        return row | {"reason": refused[0], "message": refused[1]}, [], ""
    try:
        volumes = _MAKERS[spec.kind](scan, spec, row, grid)
        row |= ends([volume.voxels for volume in volumes])
    except VolumeError as error:
        return row | {"reason": error.reason, "message": str(error)}, [], ""
    except MemoryError:
        message = f"{scan.path}: does not fit into memory; give each process more (--memory, or fewer --workers)"
        return row | {"reason": "too_large", "message": message}, [], ""
    except Exception as error:  # a fault of ours or of a library: one scan is lost and named, the run goes on
        message = f"{scan.path}: unexpected {type(error).__name__}: {error}; please report this file"
        return row | {"reason": "unexpected", "message": message}, [], ""
    first = volumes[0]
    row |= {
        "status": "ok",
        "notes": "; ".join(first.notes),
        "windows": [volume.window for volume in volumes if volume.window],
        "low": [float(f"{volume.low:.6g}") for volume in volumes],
        "high": [float(f"{volume.high:.6g}") for volume in volumes],
        "foreground": round(first.foreground, 4),
        "prepared_shape": list(first.voxels.shape),
    }
    return row, volumes, row["sequence"]


def _from_scan(scan: Scan, spec: VolumeSpec, row: dict[str, Any], grid: NDArray[np.float64] | None) -> list[PreparedVolume]:
    """Of a NIfTI file or a DICOM series; what is learnt of it on the way goes into the row, even if it is refused later."""
    loaded = read_scan(scan.path)
    row |= _described(loaded)
    row["sequence"] = scan.sequence or loaded.sequence
    row |= measure(loaded, ct=bool(spec.windows))
    row["picture"] = strip(loaded.data, loaded.affine)
    return prepare_volume(loaded, spec, grid)


def _from_image(scan: Scan, spec: VolumeSpec, row: dict[str, Any], _: NDArray[np.float64] | None) -> list[PreparedVolume]:
    """Of a 2-D image. Its volumes are called red, green and blue whatever the manifest calls it: they are no MRI or CT sequence."""
    row["sequence"] = ""
    image = read_image(scan.path)
    row["shape"] = list(image.pixels.shape)
    row["picture"] = thumbnail(image.pixels)
    return prepare_image(image, spec)


_MAKERS = {"scan": _from_scan, "image": _from_image}  # by VolumeSpec.kind


def _described(loaded: LoadedScan) -> dict[str, Any]:
    return {
        "shape": list(loaded.data.shape),
        "spacing_mm": [float(f"{step:.4g}") for step in loaded.spacing],
        "orientation": loaded.codes,
    }


def _run(jobs: Sequence[Job], workers: int, seconds: float | None, memory_gb: float | None) -> Iterator[str]:
    """Ids of studies as they are done, from this process or from others."""
    if workers <= 1 and seconds is None and memory_gb is None:
        yield from (prepare_study(*job) for job in jobs)
        return
    memory = None if memory_gb is None else int(memory_gb * 2**30)
    alone: list[Job] = []  # their process was killed: once more with none beside it
    for here, crew in ((jobs, max(1, workers)), (alone, 1)):
        lonely, again = here is alone, list(here)
        while again:
            lost: list[Job] = []
            for job, found in work_through(prepare_study, again, crew, seconds=seconds, memory=memory):
                if not isinstance(found, Lost):
                    yield found
                elif found.why == "killed" and not lonely:
                    alone.append(job)
                else:
                    lost.append(_without(job, found))
            again = lost


def _without(job: Job, lost: Lost) -> Job:
    """The same job without the scan at which it was lost; without any where that is not known."""
    store, study, spec, base, refused = job
    if len(refused) == len(study.scans):
        raise StoreError(
            f"{store}: the process is {lost.why} over study {study.study_id}, none of whose scans it read; look at the machine"
        )
    places = [lost.step] if lost.step is not None and lost.step not in refused else range(len(study.scans))
    if lost.why == "timeout":
        told = "timeout", f"took longer than {lost.detail}; is it damaged? Else raise --time-limit; the next run tries again"
    else:
        cause = f"the process that prepared it was killed ({lost.detail}), probably out of memory"
        told = "killed", f"{cause}; give the job more memory; the next run tries again"
    more = {place: (told[0], f"{study.scans[place].path}: {told[1]}") for place in places}
    return store, study, spec, base, {**refused, **more}


def _part(studies: list[Study], shard: tuple[int, int] | None) -> list[Study]:
    if shard is None:
        return studies
    number, count = shard
    if not 1 <= number <= count:
        raise ValueError(f"shard {number}/{count}: there are shards 1/{count} to {count}/{count}")
    return studies[number - 1 :: count]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_done(store: Path, study: Study, spec: VolumeSpec, base: Path) -> bool:
    for file in (study_file(store, study.study_id), skipped_file(store, study.study_id)):
        if file.is_file():
            try:
                metadata = read_metadata(file)
            except StoreError:
                return False
            same = metadata.get("spec") == spec.digest() and metadata.get("sources") == _sources(study, base)
            return same and not metadata.get("again")
    return False


def _same_spec(store: Path, spec: VolumeSpec) -> bool:
    try:
        return read_spec(store).digest() == spec.digest()
    except StoreError:
        return False


def _sources(study: Study, base: Path) -> list[list[Any]]:
    """What a study is made of, as JSON gives it back: whether it has a report (the quality rows say so), and path,
    sequence, bytes and time of change of each scan."""
    sources: list[list[Any]] = [[bool(study.sentences or split_sentences(study.report))]]
    for scan in study.scans:
        inside = archive_of(scan.path)
        # a DICOM file stands for its series, a zip for what lies in it
        whole = inside[0] if inside else scan.path.parent if is_dicom(scan.path) else scan.path
        try:
            stats = [file.stat() for file in (whole.iterdir() if whole.is_dir() else [whole])]
        except OSError:  # missing or closed to us: reading will say so
            stats = []
        sources.append([
            _source_path(scan.path, base), scan.sequence, sum(stat.st_size for stat in stats),
            max((stat.st_mtime_ns for stat in stats), default=0),
        ])  # fmt: skip
    return sources


def _source_path(path: Path, base: Path) -> str:
    """Relative to the manifest where it lies below it, so that a moved tree keeps its store."""
    absolute = _absolute(path)
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.as_posix()


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # `resolve` would follow links, and a linked tree would lose its names


def _finish(
    store: Path, studies: list[Study], reports: ReportSpec, reused: int, started: float, shard: tuple[int, int] | None
) -> PrepareSummary:
    """Collect what lies in the store into index and quality table; of a shard, only count."""
    records: list[StudyRecord] = []
    rows: list[dict[str, Any]] = []
    for study in studies:
        file = study_file(store, study.study_id)
        ready = file.is_file()
        metadata = read_metadata(file if ready else skipped_file(store, study.study_id))
        rows += rows_of(metadata)
        if ready:
            records.append(_record(study, metadata["sequences"], reports))
    flags: dict[str, int] = {}
    if shard is None:
        flags = write_quality(store, rows, {record.study_id: record.report for record in records}).flags
        write_index(store, records)
        _sweep(store)
    reasons = Counter(row["reason"] for row in rows if row["status"] != "ok")
    skipped = sum(reasons.values())
    return PrepareSummary(
        store, len(studies), len(records), reused, sum(not record.report for record in records), len(rows) - skipped, skipped,
        dict(reasons.most_common()), flags, time.perf_counter() - started, shard,
    )  # fmt: skip


def _sweep(store: Path) -> None:
    """Half files that killed processes left."""
    for file in store.rglob("*.partial"):
        if time.time() - file.stat().st_mtime > _STALE:
            file.unlink(missing_ok=True)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _record(study: Study, sequences: list[str], reports: ReportSpec) -> StudyRecord:
    report, sentences = clean(study.report, study.sentences, reports)
    return StudyRecord(
        study.study_id, study.patient_id, tuple(sequences), report, sentences, study.labels, study.split, study.extra
    )
