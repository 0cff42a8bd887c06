"""All studies of a manifest, by several processes, and the table and index that make them a store."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hlip.prepare.one_study import Refused, prepare_study
from hlip.prepare.sources import absolute, is_done
from hlip.prepare.summary import PrepareSummary
from hlip.prepare.workers import Lost, work_through
from hlip.quality.collect import rows_of, write_quality
from hlip.reports.cleaning import clean
from hlip.reports.foreign import foreign
from hlip.reports.spec import ReportSpec, stored_digest, write_report_spec
from hlip.store import StoreError, StudyRecord, read_metadata, read_spec, skipped_file, study_file, write_index, write_spec
from hlip.study import Study, read_manifest
from hlip.volume import VolumeSpec
from hlip.volume.skull_strip import missing_program

Job = tuple[Path, Study, VolumeSpec, Path, Refused]
_STALE = 24 * 3600.0  # seconds after which half a file was left by a dead process, not by a slow one


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
    replace: bool = True,
) -> PrepareSummary:
    """Prepare every study of a manifest into a store; goes on where an earlier run stopped.

    Args:
        workers: processes; `None` takes one for each core this process may use. 1 without limits stays in this one.
        progress: show a bar.
        reports: which sentences of the reports are kept; by default all, as they are written.
        shard: (i, n): only every n-th study from the i-th, i from 1; no index, no table.
        time_limit: seconds that one scan may take; then its process is stopped and the scan skipped.
        memory_gb: what each process may take on top of its programs (Linux); a scan that needs more is skipped.
        replace: make studies anew that were prepared with another spec; else such a store is refused.

    Raises:
        ManifestError: the manifest is missing or has faults.
        ValueError: a shard that is none, or a spec whose program is not here.
        StoreError: the store cannot be written, or holds studies of another spec that are not to be replaced.
        KeyboardInterrupt: stopped by the user; studies done so far are kept.
    """
    started = time.perf_counter()
    manifest, store, reports = Path(manifest), Path(store), reports or ReportSpec()
    studies = _part(read_manifest(manifest), shard)
    if spec.skull_strip is not None and (fault := missing_program(spec.skull_strip)):
        raise ValueError(fault)
    base = absolute(manifest.parent)
    if not replace:
        _check_spec(store, spec)
    try:
        (store / "studies").mkdir(parents=True, exist_ok=True)
        looked = tqdm(studies, unit="study", desc="looking", delay=2, leave=False, disable=not progress)
        todo = [study for study in looked if not is_done(store, study, spec, base)]
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
            f"{store}: the process of study {study.study_id} was {'too slow' if lost.why == 'timeout' else 'killed'} ({lost.detail}) before it "
            "came to a scan; raise --time-limit, or look at the machine"
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


def _check_spec(store: Path, spec: VolumeSpec) -> None:
    """Refuse to write over what was prepared otherwise: it may have taken days."""
    if (store / "volume_spec.json").is_file() and not _same_spec(store, spec) and _studies_of_another(store, spec):
        raise StoreError(
            f"{store}: holds studies prepared with another spec; name a new folder, or prepare all anew with hlip prepare --replace"
        )


def _same_spec(store: Path, spec: VolumeSpec) -> bool:
    try:
        return read_spec(store).digest() == spec.digest()
    except StoreError:
        return False


def _studies_of_another(store: Path, spec: VolumeSpec) -> bool:
    """Whether there are studies, and the first that can be read is of another spec: the store's own word may be damaged."""
    files = sorted((store / "studies").glob("*"))
    for file in files:
        try:
            return read_metadata(file)["spec"] != spec.digest()
        except (StoreError, LookupError):
            continue
    return bool(files)


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
        foreign(studies, reports.patterns).note,
    )  # fmt: skip


def _sweep(store: Path) -> None:
    """Half files that killed processes left."""
    for file in store.rglob("*.partial"):
        if time.time() - file.stat().st_mtime > _STALE:
            file.unlink(missing_ok=True)


def _record(study: Study, sequences: list[str], reports: ReportSpec) -> StudyRecord:
    report, sentences = clean(study.report, study.sentences, reports)
    return StudyRecord(
        study.study_id, study.patient_id, tuple(sequences), report, sentences, study.labels, study.split, study.extra
    )
