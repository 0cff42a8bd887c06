"""A diagnosis as files: `levels.png`, a picture and NIfTI maps of every look, and `dependency.csv`."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from finetune.diagnosis.image_maps import write_image_maps
from finetune.diagnosis.learnt import NotLearnt
from finetune.diagnosis.looks import ONE_MAP, Look, chosen_prototypes, looked_notes, looks, prototype_similarity
from finetune.diagnosis.pictures import LEGENDS, ImageRow, draw_image, draw_levels, limit_of
from hlip.inference.explain import originals
from hlip.inference.inputs import SIMULATED
from hlip.inference.overlay import ScanEvidence, montage, write_nifti
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy
from hp2l.dependency import PAIR, DependentHead
from hp2l.diagnoser import Diagnoser
from hp2l.head import HP2LOutput
from hp2l.tokens import turned_back


def write_looks(
    model: Diagnoser,
    store: Store,
    record: StudyRecord,
    volumes: Tensor,
    output: HP2LOutput,
    likely: list[Tensor],
    missing: NotLearnt,
    out: Path,
    base: Path | None,
    title: str,
) -> list[str]:
    """`levels.png`, and for each level and kind of map a picture and a NIfTI file (of 2-D images `image.png`); returns notes."""
    out.mkdir(parents=True, exist_ok=True)
    warning = SIMULATED if model.facts.get("simulated") else ""
    kind = "score" if model.scaling is None else "probability"
    chosen, near = chosen_prototypes(output), prototype_similarity(model.head, output)
    draw_levels(likely, chosen, near, model.taxonomy, out / "levels.png", title, warning, kind, missing)
    told = write_dependency(model, out)
    found = list(looks(model, volumes, output, likely))
    if not found:
        return [
            *told,
            f"no maps: a head of kind {model.config.kind} has no prompt that looks at the image (`hlip explain` asks the encoder)",
        ]
    if model.encoder.kind == "image":
        notes = write_image(model, store, record, volumes, likely, found, out, base, title)
        return [*told, *notes]
    return [*told, *write_volumes(model, store, record, likely, found, out, base, title)]


def write_dependency(model: Diagnoser, out: Path) -> list[str]:
    """`dependency.csv`, if the head has a dependency prior: what every class has learnt to tell the others; returns notes."""
    if not isinstance(model.head, DependentHead):
        return []
    with (out / "dependency.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, PAIR, lineterminator="\n")
        table.writeheader()
        table.writerows(model.head.dependency.pairs(model.taxonomy))
    return [
        "dependency.csv: which class moves which, the strongest first. learnt: added to the logit of `to` for a whole unit of probability "
        "of `from` above its prevalence; prior: their log odds ratio in the training labels"
    ]


def best_class(taxonomy: Taxonomy, likely: list[Tensor], level: int) -> str:
    """Name of the highest class."""
    return taxonomy.levels[level - 1][int(likely[level - 1][0].argmax())]


def on_scans(
    model: Diagnoser, store: Store, record: StudyRecord, blocks: Tensor, own: Sequence[int]
) -> list[NDArray[np.float32]]:
    """A map (d, h, w) as the head read it, on the axes of each of these scans' grids."""
    axes = model.encoder.reader.axes(store, record)
    return [(turned_back(blocks, axes[place]) if axes else blocks).float().numpy() for place in own]


def write_volumes(
    model: Diagnoser,
    store: Store,
    record: StudyRecord,
    likely: list[Tensor],
    found: list[Look],
    out: Path,
    base: Path | None,
    study: str,
) -> list[str]:
    """`level_1_prompt.png`, ... with the map on every scan that was read, and `level_1_prompt_1_FLAIR.nii.gz`, ... on each one's own grid."""
    own = [place for place in model.encoder.reader.places(record) if place is not None] or list(range(len(record.sequences)))
    voxels, affines = store.volumes(record.study_id, own)[:, 0].numpy(), store.affines(record.study_id)[own]
    sources, notes = originals(store, record, base), []
    warning = SIMULATED if model.facts.get("simulated") else ""
    for look in found:
        scans = [
            ScanEvidence(record.sequences[place] or "scan", scan, cells, affine, cells=True)
            for place, scan, affine, cells in zip(
                own, voxels, affines, on_scans(model, store, record, look.map, own), strict=True
            )
        ]
        name, best = model.taxonomy.level_names[look.level - 1], best_class(model.taxonomy, likely, look.level)
        title = f"{study}, level {look.level} ({name}): {look.title} ({look.of(best)})"
        about = f"one map of {look.blocks} for all scans of the study: {look.range}"
        stem = f"level_{look.level}_{look.kind}"
        montage(scans, out / f"{stem}.png", title, warning, about=about, legend=LEGENDS[look.kind])
        for place, scan, values in zip(own, scans, on_scans(model, store, record, look.values, own), strict=True):
            safe = re.sub(r"[^A-Za-z0-9+-]+", "_", scan.name).strip("_") or "scan"
            path = out / f"{stem}_{place + 1}_{safe}.nii.gz"
            write_nifti(replace(scan, evidence=values), path, sources.get(place))
    notes.append("NIfTI maps hold the numbers of the colour bars, and 0 where the model saw nothing")
    if any(place not in sources for place in own):
        notes.append(
            "NIfTI maps are in the prepared volumes' grids; not every original is at hand (a store needs its --manifest)"
        )
    return notes + looked_notes(found, ONE_MAP)


def write_image(
    model: Diagnoser,
    store: Store,
    record: StudyRecord,
    volumes: Tensor,
    likely: list[Tensor],
    found: list[Look],
    out: Path,
    base: Path | None,
    study: str,
) -> list[str]:
    """`image.png`: the image and its maps, a row a kind, a column a level; and each map in the image's own pixels (`write_image_maps`)."""
    rows: dict[str, ImageRow] = {}
    for look in found:
        name, best = model.taxonomy.level_names[look.level - 1], best_class(model.taxonomy, likely, look.level)
        what = look.range if look.kind == "prompt" else best + (f": {look.range}" if look.map.max() == 0 else "")
        aim = "one look for all classes" if look.kind == "prompt" else "for the highest class"
        row = rows.setdefault(look.kind, ImageRow(look.kind, f"{look.title}, {aim}\n{look.blocks}", []))
        row.maps.append((f"level {look.level} ({name})\n{what}", look.map[0]))
    pixels = rearrange(volumes, "c 1 1 H W -> H W c").cpu().numpy()
    draw_image(pixels, list(rows.values()), out / "image.png", study)
    limits = {kind: limit_of(row) for kind, row in rows.items()}
    return looked_notes(found) + write_image_maps(store, record, found, limits, out, base)
