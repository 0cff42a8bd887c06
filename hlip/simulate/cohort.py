"""Cohort: plan, build in parallel, write, list. Resumable; the same bytes whatever the number of workers.

OUT/manifest.jsonl                            written last, when every study is there
OUT/cohort.json                               arguments of this cohort, checked by a resumed call
OUT/classes.json                              integer codes of the lesion masks
OUT/studies/<study_id>/<n>_<sequence>.nii.gz  scans, int16
OUT/studies/<study_id>/mask.nii.gz            lesion mask, uint8, in the same scanner space
OUT/studies/<study_id>/study.json             the study's manifest line: its presence means the study is complete
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hlip.pools import make_pool
from hlip.simulate.anatomy import SimulateError, build_template, load_template, save_template
from hlip.simulate.build import CODES, SimulatedStudy, build_study
from hlip.simulate.plan import StudyPlan, plan_cohort
from hlip.simulate.scanner import write_nifti
from hlip.study import Scan, Study, write_manifest

FORMAT = 1
"""Raised when the same seed gives other voxels than before."""

_TEMPLATE = ".anatomy.npz"


def simulate_cohort(out: Path | str, studies: int, seed: int, *, workers: int | None = None, progress: bool = True) -> Path:
    """Write a cohort of simulated brain MRI studies and its manifest.

    Args:
        out: folder to write; a second call with the same arguments writes only what is missing.
        studies: number of studies, at least 1.
        seed: of every draw.
        workers: processes; by default one a core, at most 16.
        progress: show a bar.

    Returns:
        Path of `manifest.jsonl`.

    Raises:
        SimulateError: nilearn is missing, `studies` is not positive, or `out` holds another cohort.
    """
    out = Path(out)
    if studies < 1 or seed < 0:
        raise SimulateError(f"studies must be at least 1 and seed at least 0 (got {studies} and {seed})")
    _claim(out, {"format": FORMAT, "studies": studies, "seed": seed})
    plans = plan_cohort(studies, seed)
    missing = [plan for plan in plans if not _done(out, plan)]
    if missing:
        template = out / _TEMPLATE
        if not template.is_file():
            save_template(build_template(), template)
        workers = max(1, min(workers or min(os.cpu_count() or 1, 16), len(missing)))
        with tqdm(total=studies, initial=studies - len(missing), desc="simulate", unit="study", disable=not progress) as bar:
            for _ in _write_all(out, missing, seed, workers):
                bar.update()
        template.unlink(missing_ok=True)
    _write_json(out / "classes.json", CODES)
    manifest = out / "manifest.jsonl"
    write_manifest((_read_study(out, plan) for plan in plans), manifest)
    return manifest


def _claim(out: Path, arguments: dict[str, int]) -> None:
    """Record the arguments in a new folder, or check that they are the folder's."""
    record = out / "cohort.json"
    if record.is_file():
        try:
            stored = json.loads(record.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise SimulateError(f"{record}: not JSON ({error}); delete the folder and simulate again") from error
        if stored != arguments:
            raise SimulateError(
                f"{out} holds the cohort {stored}, not {arguments}: choose another folder, or delete this one first"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise SimulateError(f"{out} is not empty and holds no simulated cohort: choose another folder")
    _write_json(record, arguments)


def _write_all(out: Path, plans: list[StudyPlan], seed: int, workers: int) -> Iterator[None]:
    """Write studies in this process or in several; yields after each."""
    if workers == 1:
        for plan in plans:
            _write_one(out, plan, seed)
            yield
        return
    with make_pool(workers) as pool:
        jobs = [(out, plan, seed) for plan in plans]
        yield from pool.map(_write_job, jobs, chunksize=max(1, min(16, len(jobs) // workers)))


def _write_job(job: tuple[Path, StudyPlan, int]) -> None:
    _write_one(*job)


def _write_one(out: Path, plan: StudyPlan, seed: int) -> None:
    """Build and write one study; `study.json` comes last."""
    with threadpool_limits(1):  # several workers share the cores, and sums keep one order
        study = build_study(load_template(out / _TEMPLATE), plan, seed)
    folder = _folder(out, plan)
    folder.mkdir(parents=True, exist_ok=True)
    for number, scan in enumerate(study.scans, start=1):
        write_nifti(scan.data, scan.affine, folder / f"{number}_{scan.sequence}.nii.gz")
    write_nifti(study.mask, study.mask_affine, folder / "mask.nii.gz")
    _write_json(folder / "study.json", _line(study))


def _line(study: SimulatedStudy) -> dict[str, object]:
    """The study's manifest fields; paths relative to the study's folder."""
    return {
        "sequences": [scan.sequence for scan in study.scans],
        "report": study.report,
        "extra": study.extra,
    }


def _read_study(out: Path, plan: StudyPlan) -> Study:
    folder = _folder(out, plan)
    line = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    scans = tuple(
        Scan(folder / f"{number}_{sequence}.nii.gz", sequence) for number, sequence in enumerate(line["sequences"], start=1)
    )
    masks = {"masks": [str((folder / "mask.nii.gz").relative_to(out))]}
    return Study(plan.study_id, plan.patient_id, scans, line["report"], (), plan.labels, plan.split, line["extra"] | masks)


def _folder(out: Path, plan: StudyPlan) -> Path:
    return out / "studies" / plan.study_id


def _done(out: Path, plan: StudyPlan) -> bool:
    return (_folder(out, plan) / "study.json").is_file()


def _write_json(path: Path, content: object) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
