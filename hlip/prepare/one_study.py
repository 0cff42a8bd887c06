"""One study: read, prepare, write. What cannot be used becomes a row of its quality table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip.prepare.sources import source_path, sources_of
from hlip.quality.flags import IMPORTED
from hlip.quality.measures import cut, ends, measure
from hlip.quality.pictures import as_text, strip, thumbnail
from hlip.reports import split_sentences
from hlip.scans.background import filled
from hlip.scans.image import prepare_image, read_image
from hlip.scans.reading import read_scan
from hlip.scans.scan import AIR_HU, OF_THE_MACHINE, LoadedScan, VolumeError
from hlip.scans.sequence import guess_sequence
from hlip.store import write_study
from hlip.study import Scan, Study
from hlip.volume import PreparedVolume, VolumeSpec, prepare_volume

Refused = Mapping[int, tuple[str, str]]
"""Scan number -> reason and message: not to be tried."""


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
    report = "yes" if study.sentences or split_sentences(study.report) else "none"
    imported = _import_notes(study)
    for number, scan in enumerate(study.scans):
        tell(number)
        grid = volumes[0].affine if spec.grid == "study" and volumes else None
        row, made, sequence = _prepare_scan(scan, spec, grid, refused.get(number))
        if picture := row.pop("picture", b""):
            pictures[number] = picture
        first = len(volumes)
        volumes += made
        sequences += [f"{sequence} {volume.window}".strip() for volume in made]
        notes = [*imported[number], *([row["notes"]] if row.get("notes") else [])]
        row |= {
            "study_id": study.study_id,
            "scan": number,
            "path": source_path(scan.path, base),
            "notes": "; ".join(notes),
            "report": report,
            "volumes": list(range(first, len(volumes))),
        }
        rows.append(row)
    tell(None)
    metadata: dict[str, Any] = {
        "study_id": study.study_id,
        "spec": spec.digest(),
        "sources": sources_of(study, base),
        "sequences": sequences,
        "affines": [volume.affine.tolist() for volume in volumes],
        "quality": rows,
    } | ({"again": True} if refused or any(row.get("reason") in OF_THE_MACHINE for row in rows) else {})
    if pictures and not volumes:
        metadata["pictures"] = as_text(pictures)
    write_study(store, study.study_id, [volume.voxels for volume in volumes], metadata, pictures)


def _import_notes(study: Study) -> list[list[str]]:
    """What the import mended in each scan (`scan_notes` of the manifest); nothing where the manifest has no text a scan."""
    told = study.extra.get("scan_notes")
    if not isinstance(told, list) or len(told) != len(study.scans) or not all(isinstance(text, str) for text in told):
        return [[] for _ in study.scans]
    return [[IMPORTED + note for note in text.split("; ") if note] for text in told]


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
    fill = partial(filled, value=AIR_HU if spec.windows else None, within=spec.nan == "background")
    loaded = read_scan(scan.path, None if spec.nan == "refuse" else fill)
    row |= _described(loaded)
    row["sequence"] = scan.sequence or loaded.sequence
    measured = measure(loaded, ct=bool(spec.windows))
    points = measured.pop("points")
    row |= measured
    row["picture"] = strip(loaded.data, loaded.affine)
    volumes = prepare_volume(loaded, spec, grid)
    if spec.skull_strip is None:  # else most of the foreground is meant to go
        row["cut"] = cut(points, volumes[0].affine, volumes[0].voxels.shape)
    return volumes


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
