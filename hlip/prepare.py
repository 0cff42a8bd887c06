"""`hlip prepare`: a manifest of studies -> a store, in parallel.

Notable choices:
- One study is one task and one file. A study that is already there, made with the same VolumeSpec from the same source
  files (path, sequence, size, time of change), is not touched again; everything else is made anew. So a run may be
  stopped at any time.
- A scan that cannot be used is a named row of quality.csv; it never stops its study, nor a study the rest. What does
  stop a run, cleanly, is a store that cannot be written (full disk, no permission).
- The index is taken away before the first change and written last: nobody opens a half-changed store by mistake.
- The same bytes come from any number of workers: no clock of the run, no process number, no order of arrival is written.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hlip.reports import split_sentences
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
    write_quality,
    write_spec,
    write_study,
)
from hlip.study import Scan, Study, read_manifest
from hlip.volume import PreparedVolume, VolumeSpec, prepare_volume

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class PrepareSummary:
    """What a run did and what the store now holds."""

    store: Path
    studies: int
    """In the manifest."""
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
    seconds: float = 0.0

    def __str__(self) -> str:
        skipped = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
        lines = [
            f"{self.studies_ready} of {self.studies} studies ready in {self.store} ({self.studies_reused} from before), "
            f"{self.scans_ok} scans, {self.seconds:.1f} s",
        ]
        if self.scans_skipped:
            lines.append(f"{self.scans_skipped} scans skipped: {skipped}; see {self.store / 'quality.csv'}")
        if self.studies_without_report:
            lines.append(f"{self.studies_without_report} studies have no report: not usable for contrastive training")
        return "\n".join(lines)


def prepare(
    manifest: str | Path, store: str | Path, spec: VolumeSpec, *, workers: int | None = None, progress: bool = True
) -> PrepareSummary:
    """Prepare every study of a manifest into a store; goes on where an earlier run stopped.

    Args:
        workers: processes; 1 stays in this one, `None` takes one for each core this process may use.
        progress: show a bar.

    Raises:
        ManifestError: the manifest is missing or has faults.
        StoreError: the store cannot be written, or a worker was killed (out of memory).
        KeyboardInterrupt: stopped by the user; studies done so far are kept.
    """
    started = time.perf_counter()
    manifest, store = Path(manifest), Path(store)
    studies = read_manifest(manifest)
    base = _absolute(manifest.parent)
    try:
        (store / "studies").mkdir(parents=True, exist_ok=True)
        todo = [study for study in studies if not _is_done(store, study, spec, base)]
        if todo or not _same_spec(store, spec):
            (store / "index.jsonl").unlink(missing_ok=True)
            write_spec(store, spec)
        jobs = [(store, study, spec, base) for study in todo]
        with tqdm(total=len(studies), initial=len(studies) - len(todo), unit="study", disable=not progress) as bar:
            for _ in _run(jobs, min(workers or _cores(), len(jobs))):
                bar.update()
        return _finish(store, studies, len(studies) - len(todo), started)
    except OSError as error:
        raise StoreError(f"{store}: cannot be written ({error}); finished studies are kept, run the command again") from error


def prepare_study(store: Path, study: Study, spec: VolumeSpec, base: Path) -> str:
    """Read, prepare and write one study; returns its id. Scans that cannot be used become rows of its quality table."""
    volumes: list[PreparedVolume] = []
    sequences: list[str] = []
    rows = []
    for number, scan in enumerate(study.scans):
        row, made, sequence = _prepare_scan(scan, spec)
        first = len(volumes)
        volumes += made
        sequences += [f"{sequence} {volume.window}".strip() for volume in made]
        row |= {
            "study_id": study.study_id,
            "scan": number,
            "path": _source_path(scan.path, base),
            "report": "yes" if study.sentences or split_sentences(study.report) else "none",
            "volumes": " ".join(str(place) for place in range(first, len(volumes))),
        }
        rows.append(row)
    metadata = {
        "study_id": study.study_id,
        "spec": spec.digest(),
        "sources": _sources(study, base),
        "sequences": sequences,
        "affines": [volume.affine.tolist() for volume in volumes],
        "quality": rows,
    }
    write_study(store, study.study_id, [volume.voxels for volume in volumes], metadata)
    return study.study_id


def _prepare_scan(scan: Scan, spec: VolumeSpec) -> tuple[dict[str, Any], list[PreparedVolume], str]:
    """The quality row, the volumes (none if skipped) and the sequence name of one scan."""
    row: dict[str, Any] = {"sequence": scan.sequence or guess_sequence(scan.path.name), "status": "skipped"}
    try:
        volumes = _MAKERS[spec.kind](scan, spec, row)
    except VolumeError as error:
        return row | {"reason": error.reason, "message": str(error)}, [], ""
    except Exception as error:  # a fault of ours or of a library: one scan is lost and named, the run goes on
        message = f"{scan.path}: unexpected {type(error).__name__}: {error}; please report this file"
        return row | {"reason": "unexpected", "message": message}, [], ""
    first = volumes[0]
    row |= {
        "status": "ok",
        "notes": "; ".join(first.notes),
        "windows": " ".join(volume.window for volume in volumes).strip(),
        "low": " ".join(f"{volume.low:.6g}" for volume in volumes),
        "high": " ".join(f"{volume.high:.6g}" for volume in volumes),
        "foreground": f"{first.foreground:.3f}",
        "prepared_shape": "x".join(str(n) for n in first.voxels.shape),
    }
    return row, volumes, row["sequence"]


def _from_scan(scan: Scan, spec: VolumeSpec, row: dict[str, Any]) -> list[PreparedVolume]:
    """Of a NIfTI file or a DICOM series; what is learnt of it on the way goes into the row, even if it is refused later."""
    loaded = read_scan(scan.path)
    row |= _described(loaded)
    row["sequence"] = scan.sequence or loaded.sequence
    return prepare_volume(loaded, spec)


def _from_image(scan: Scan, spec: VolumeSpec, row: dict[str, Any]) -> list[PreparedVolume]:
    """Of a 2-D image. Its volumes are called red, green and blue whatever the manifest calls it: they are no MRI or CT sequence."""
    row["sequence"] = ""
    image = read_image(scan.path)
    row["shape"] = "x".join(str(n) for n in image.pixels.shape)
    return prepare_image(image, spec)


_MAKERS = {"scan": _from_scan, "image": _from_image}  # by VolumeSpec.kind


def _described(loaded: LoadedScan) -> dict[str, str]:
    return {
        "shape": "x".join(str(n) for n in loaded.data.shape),
        "spacing_mm": "x".join(f"{step:.4g}" for step in loaded.spacing),
        "orientation": loaded.codes,
    }


def _run(jobs: list[tuple[Path, Study, VolumeSpec, Path]], workers: int) -> Iterator[str]:
    """Ids of studies as they are done, from this process or from a pool."""
    if workers <= 1:
        yield from (prepare_study(*job) for job in jobs)
        return
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ |= dict.fromkeys(_THREADS, "1")  # inherited: must be set before a worker imports NumPy
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_finish_what_you_do)
    try:
        for future in as_completed([pool.submit(prepare_study, *job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise StoreError("a worker was killed, probably out of memory; run the command again with fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _finish_what_you_do() -> None:
    """In a worker: Ctrl-C is for the parent, which then asks for no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_done(store: Path, study: Study, spec: VolumeSpec, base: Path) -> bool:
    for file in (study_file(store, study.study_id), skipped_file(store, study.study_id)):
        if file.is_file():
            try:
                metadata = read_metadata(file)
            except StoreError:
                return False
            return metadata.get("spec") == spec.digest() and metadata.get("sources") == _sources(study, base)
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
        whole = scan.path.parent if is_dicom(scan.path) else scan.path  # a DICOM file stands for its series
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


def _finish(store: Path, studies: list[Study], reused: int, started: float) -> PrepareSummary:
    """Collect what lies in the store into index.jsonl and quality.csv."""
    records: list[StudyRecord] = []
    rows: list[dict[str, Any]] = []
    for study in studies:
        file = study_file(store, study.study_id)
        ready = file.is_file()
        metadata = read_metadata(file if ready else skipped_file(store, study.study_id))
        rows += metadata["quality"]
        if ready:
            records.append(_record(study, metadata["sequences"]))
    write_quality(store, rows)
    write_index(store, records)
    reasons = Counter(row["reason"] for row in rows if row["status"] != "ok")
    skipped = sum(reasons.values())
    return PrepareSummary(
        store, len(studies), len(records), reused, sum(not record.report for record in records), len(rows) - skipped, skipped,
        dict(reasons.most_common()), time.perf_counter() - started,
    )  # fmt: skip


def _record(study: Study, sequences: list[str]) -> StudyRecord:
    sentences = study.sentences or tuple(split_sentences(study.report))
    report = study.report.strip() or " ".join(sentences)
    return StudyRecord(
        study.study_id, study.patient_id, tuple(sequences), report, sentences, study.labels, study.split, study.extra
    )
