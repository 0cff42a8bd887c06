"""How well evidence maps point at lesions: simulated studies with exactly one lesion, whose place is known.

    python benchmarks/explanations.py COHORT STORE CHECKPOINT OUT --studies 50

For each study the name of its class is explained as `hlip explain` does it, and the map ranks the voxels of the brain: AUC of the
lesion's voxels against the others.

- `mean of scans`: the mean map over the study's scans, in millimetres, on its first scan
- `single scan`: each scan's own map on its own scan; the mean of their AUCs
- `another class`: the mean map for a class that the study does not have, the next in COHORT/classes.json. What a map of the right
  class does better than this, it owes to the query.
- `tissue alone`: no model; patches with more tissue rank higher, as lesions lie in tissue. A map must do better than this.

Each study weighs the same; intervals are 95 %, bootstrap over patients. COHORT is a folder of `hlip simulate`, STORE made of it by
`hlip prepare`. Simulated cohorts have no brain masks: the brain is what lies 10 mm below the outline of the head. Results stand in OUT,
a file a study, so that a second start goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from einops import reduce
from measure import chosen_device
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.ndimage import affine_transform, distance_transform_edt
from tqdm import tqdm

from hlip.inference.embed import checkpoint_digest
from hlip.inference.explain import REFERENCES, explain, scan_evidence
from hlip.inference.inputs import check_spec
from hlip.inference.overlay import ScanEvidence, all_scans, tissue_of
from hlip.metrics import interval, patient_bootstrap, roc_auc
from hlip.model import HLIP, load
from hlip.store import Store, write_atomically
from hlip.study import Study, read_manifest
from hlip.zeroshot import PromptSet

SCALP_MM = 10.0  # and skull
MAPS = {"mean": "mean of scans", "single": "single scan", "other": "another class", "tissue": "tissue alone"}


def main(argv: Sequence[str] | None = None) -> None:
    """Explain what is missing, then print the table and write OUT/explanations.json."""
    arguments = parse(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    store, model = Store(arguments.store), load(arguments.checkpoint, arguments.device)
    if model.volume_spec is not None:
        check_spec(store, model.volume_spec)
    prompts = PromptSet.load(str(arguments.templates or model.facts.get("prompts") or "hlip"))
    settings = remember(arguments, store, model, prompts)
    classes = list(json.loads((arguments.cohort / "classes.json").read_text(encoding="utf-8")))
    studies = chosen(arguments.cohort, store, arguments.split)[: arguments.studies]
    if not studies:
        raise SystemExit(f"{arguments.cohort}: no study of split {arguments.split} in the store has exactly one lesion")
    rows = []
    for study in tqdm(studies, desc="explain", unit="study"):
        file = arguments.out / "studies" / f"{study.study_id}.json"
        if not file.is_file():
            row = measured(study, arguments.cohort, store, model, prompts, classes, arguments.reference)
            write_atomically(file, (json.dumps(row, indent=2) + "\n").encode())
        rows.append(json.loads(file.read_text(encoding="utf-8")))
    result = settings | {"studies": len(rows), "maps": summary(rows, arguments.resamples), "rows": rows}
    write_atomically(arguments.out / "explanations.json", (json.dumps(result, indent=2) + "\n").encode())
    Console(highlight=False).print(table(result))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, metavar="COHORT", help="folder of `hlip simulate`")
    parser.add_argument("store", type=Path, metavar="STORE", help="the same studies, prepared")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="run or checkpoint folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the results")
    parser.add_argument("--studies", type=int, default=50, metavar="N", help="the first N of them (default: 50)")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: 1000)")
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument("--reference", choices=REFERENCES, default="mirror", help="as in `hlip explain` (default: mirror)")
    parser.add_argument(
        "--templates", metavar="SET", help="prompt set (default: what the checkpoint was validated with, else hlip)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's own choice)")
    arguments = parser.parse_args(argv)
    if arguments.studies < 1:
        parser.error("--studies: at least 1")
    arguments.device = chosen_device(arguments.device)
    return arguments


def remember(arguments: argparse.Namespace, store: Store, model: HLIP, prompts: PromptSet) -> dict[str, Any]:
    """What all studies in OUT share, written at the first start.

    Raises:
        SystemExit: OUT holds maps that were made otherwise.
    """
    said = {
        "checkpoint": checkpoint_digest(model),
        "volume_spec": store.spec.digest(),
        "cohort": str(arguments.cohort.resolve()),
        "split": arguments.split,
        "reference": arguments.reference,
        "prompts": prompts.name,
    }
    file = arguments.out / "settings.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if differing := [f"{key} {found.get(key)}, not {value}" for key, value in said.items() if found.get(key) != value]:
            raise SystemExit(f"{arguments.out}: was made with {'; '.join(differing)}: name another folder")
    (arguments.out / "studies").mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(said, indent=2) + "\n").encode())
    return said


def chosen(cohort: Path, store: Store, split: str) -> list[Study]:
    """Studies of a split that the store holds, with one lesion, one mask, and one label."""
    ready = set(store.study_ids)

    def fits(study: Study) -> bool:
        lesions, masks = study.extra.get("lesions") or [], study.extra.get("masks") or []
        one = len(lesions) == len(masks) == len(study.labels or ()) == 1 and lesions[0]["count"] == 1
        return one and study.split == split and study.study_id in ready

    return [study for study in read_manifest(cohort / "manifest.jsonl") if fits(study)]


def measured(
    study: Study, cohort: Path, store: Store, model: HLIP, prompts: PromptSet, classes: list[str], reference: str
) -> dict[str, Any]:
    """The AUCs of one study's maps."""
    (label,) = study.labels or ()
    other = classes[(classes.index(label) + 1) % len(classes)]
    record, volumes, affines = store.record(study.study_id), store.volumes(study.study_id), store.affines(study.study_id)
    maps = {
        query: scan_evidence(store, record, volumes, explain(model, volumes, affines, query, prompts, reference).evidence)
        for query in (label, other)
    }
    tissue = [replace(scan, evidence=tissue_share(scan)) for scan in maps[label]]
    mask = nib.load(cohort / study.extra["masks"][0])
    return {
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "class": label,
        "other_class": other,
        "scans": len(volumes),
        "lesion_mm": study.extra["lesions"][0].get("largest_mm"),
        "mean": area(all_scans(maps[label]), mask),
        "single": average([area(scan, mask) for scan in maps[label]]),
        "other": area(all_scans(maps[other]), mask),
        "tissue": area(all_scans(tissue), mask),
    }


def tissue_share(scan: ScanEvidence) -> NDArray[np.float32]:
    """(d, h, w): the share of each patch that is tissue."""
    d, h, w = scan.evidence.shape
    return reduce(tissue_of(scan.voxels).astype(np.float32), "(d a) (h b) (w c) -> d h w", "mean", d=d, h=h, w=w)


def area(scan: ScanEvidence, mask: nib.Nifti1Image) -> float | None:
    """AUC of a map for the lesion's voxels among those of the brain; None where the volume holds no voxel of the lesion."""
    to_mask = np.linalg.inv(mask.affine) @ scan.affine
    codes = np.asarray(mask.dataobj)
    lesion = affine_transform(codes, to_mask[:3, :3], to_mask[:3, 3], scan.voxels.shape, order=0) > 0
    steps = np.linalg.norm(scan.affine[:3, :3], axis=0)
    brain = (distance_transform_edt(tissue_of(scan.voxels), sampling=steps) > SCALP_MM) | lesion
    truth = lesion[brain]
    return None if truth.all() or not truth.any() else float(roc_auc(truth, scan.on_voxels()[brain]))


def average(values: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def summary(rows: Sequence[dict[str, Any]], resamples: int) -> dict[str, dict[str, float]]:
    """Each map's mean AUC with its interval, and how much the mean of scans is above it; over the studies that all maps have."""
    rows = [row for row in rows if all(row[name] is not None for name in MAPS)]
    blocks = list(patient_bootstrap([row["patient_id"] for row in rows], resamples, seed=0)) if resamples and rows else []
    weight = np.concatenate([np.ones((len(rows), 1), np.float32), *blocks], axis=1)
    areas = {name: np.array([row[name] for row in rows]) @ weight / weight.sum(axis=0) for name in MAPS}
    return {
        name: described(values) | {"measured": len(rows), "mean_above": described(areas["mean"] - values)}
        for name, values in areas.items()
    }


def described(samples: NDArray[np.floating]) -> dict[str, Any]:
    """Of (1 + R,): the first is the value, the others its resamples; ends are None where there are none."""
    low, high = interval(samples[1:]) if len(samples) > 1 else (None, None)
    return {"value": float(samples[0]), "low": low, "high": high}


def table(result: dict[str, Any]) -> Table:
    """For people."""
    found = Table(title=f"Lesions in {result['studies']} studies, reference {result['reference']}", title_justify="left")
    for column in ("map", "AUC", "95 %", "mean of scans is above by", "95 %"):
        found.add_column(column, justify="left" if column == "map" else "right")
    for name, entry in result["maps"].items():
        cells = [f"{entry['value']:.3f}", span(entry)]
        cells += ["", ""] if name == "mean" else [f"{entry['mean_above']['value']:+.3f}", span(entry["mean_above"])]
        found.add_row(MAPS[name], *cells)
    return found


def span(entry: dict[str, Any]) -> str:
    """The interval, if there is one."""
    return "" if entry["low"] is None else f"{entry['low']:.3f} to {entry['high']:.3f}"


if __name__ == "__main__":
    main()
