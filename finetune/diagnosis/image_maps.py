"""Maps over a 2-D image in the image's own pixels: as numbers and as an overlay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.diagnosis.looks import Look
from finetune.diagnosis.pictures import LEGENDS, colours_of
from hlip.scans.image import read_image
from hlip.scans.scan import VolumeError
from hlip.store import Store, StudyRecord


def on_original(
    found: Tensor, prepared: tuple[int, int], affine: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """A map (h, w) over a prepared image -> (rows, columns) of its file, each pixel the number of its cell: bars and crop undone.

    Args:
        found: the map.
        prepared: (H, W) of the prepared image.
        affine: (4, 4) of the prepared image, see `hlip.scans.image.prepare_image`.
        shape: rows and columns of the upright image.

    Returns:
        NaN where the model saw nothing of the image.
    """
    cells = []
    for axis, (step, first) in enumerate(((-affine[1, 1], -affine[1, 3]), (affine[0, 2], affine[0, 3]))):
        place = (np.arange(shape[axis]) - first) / step + 0.5  # from the edge, in prepared pixels
        cells.append(np.floor(place * found.shape[axis] / prepared[axis]).astype(int))
    rows, columns = cells
    seen = np.outer((rows >= 0) & (rows < found.shape[0]), (columns >= 0) & (columns < found.shape[1]))
    inside = rows.clip(0, found.shape[0] - 1)[:, None], columns.clip(0, found.shape[1] - 1)
    return np.where(seen, found.float().numpy()[inside], np.nan).astype(np.float32)


def overlay(pixels: NDArray[np.uint8], found: NDArray[np.float32], kind: str, limit: float) -> NDArray[np.uint8]:
    """An image (rows, columns, 3) under its map: where that says nothing, or the model saw nothing, the image shows through."""
    from matplotlib import colormaps

    values, (low, name) = np.nan_to_num(found), colours_of(LEGENDS[kind], limit)
    opacity = 0.7 * np.abs(values)[..., None] / limit
    colours = 255 * colormaps[name]((values - low) / (limit - low))[..., :3]
    mixed: NDArray[np.uint8] = ((1 - opacity) * pixels + opacity * colours).round().astype(np.uint8)
    return mixed


def write_image_maps(
    store: Store, record: StudyRecord, found: list[Look], limits: dict[str, float], out: Path, base: Path | None
) -> list[str]:
    """`level_1_grad_cam.npy`, ... (float32, the colour bars' unit, NaN where the model saw nothing) and, where the original is at hand,
    `level_1_grad_cam.png`, ... over it; returns notes.

    Args:
        limits: kind of map -> where its colours end.
        base: folder that relative paths of the store are meant from; None where it is not known.
    """
    row = next(row for row in store.quality if row["study_id"] == record.study_id and row["status"] == "ok")
    rows, columns = row["shape"][:2]
    affine, prepared = store.affines(record.study_id)[0], tuple(row["prepared_shape"][1:])
    pixels = _original(Path(row["path"]), base, (rows, columns))
    for look in found:
        stem = f"level_{look.level}_{look.kind}"
        np.save(out / f"{stem}.npy", on_original(look.values[0], prepared, affine, (rows, columns)))
        if pixels is not None:
            drawn = on_original(look.map[0], prepared, affine, (rows, columns))
            Image.fromarray(overlay(pixels, drawn, look.kind, limits[look.kind])).save(out / f"{stem}.png")
    note = f"each map also as .npy in the image's own {rows} x {columns} pixels (height x width): the colour bars' numbers, NaN where the "
    note += "model saw nothing"
    if pixels is None:
        return [f"{note}; no overlay, as the original is not at hand (a store needs its --manifest)"]
    return [f"{note}; and as .png, over the image"]


def _original(path: Path, base: Path | None, shape: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The file's pixels (rows, columns, 3), if it still is what was prepared."""
    if not (path.is_absolute() or base):
        return None
    try:
        pixels = read_image(path if base is None else base / path).pixels
    except (OSError, VolumeError):
        return None
    return pixels if pixels.shape[:2] == shape else None
