"""A contact sheet: each prepared volume as a row of slices, to look at before training on anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlip.store import Store, StoreError
from hlip.volume import PreparedVolume

Row = tuple[str, NDArray[np.uint8]]
"""A caption and a volume (D, H, W)."""
Drawn = tuple[str, NDArray[np.uint8], NDArray[np.float64] | None]
"""With its affine (d, h, w) -> RAS mm, where it is known: left and right are written there."""


def montage(
    source: Store | str | Path | Iterable[PreparedVolume | Row],
    out_png: str | Path,
    *,
    study_ids: Sequence[str] | None = None,
    studies: int = 6,
    slices: int = 8,
) -> Path:
    """Draw one row a volume: `slices` evenly spaced slices (with orientation RPI from superior to inferior), sides named on the first.

    Args:
        source: a store or its path, prepared volumes, or (caption, voxels (D, H, W) uint8) pairs.
        out_png: where to write.
        study_ids: which studies of a store; default the first `studies`.

    Raises:
        StoreError: no such store or study, or nothing to draw.
    """
    from matplotlib.figure import Figure

    rows = list(_rows(source, study_ids, studies))
    if not rows:
        raise StoreError("nothing to draw: no volume given")
    figure = Figure(figsize=(1.3 * slices, 1.45 * len(rows)), facecolor="black")
    panels = figure.subplots(len(rows), slices, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.14})
    for (caption, volume, affine), panel_row in zip(rows, panels, strict=True):
        places = np.linspace(0, len(volume) - 1, slices + 2).round().astype(int)[1:-1]
        for place, panel in zip(places, panel_row, strict=True):
            panel.imshow(volume[place], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            panel.axis("off")
        panel_row[0].set_title(caption, color="white", fontsize=7, loc="left", pad=2)
        for place, side, align in zip((0.02, 0.98), sides(affine), ("left", "right"), strict=True):
            look = {"color": "#ffd166", "fontsize": 7, "va": "center", "ha": align}
            panel_row[0].text(place, 0.5, side, transform=panel_row[0].transAxes, **look)
    out_png = Path(out_png)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=110, bbox_inches="tight", facecolor="black")
    return out_png


def sides(affine: NDArray[np.float64] | None) -> tuple[str, str]:
    """What lies at the left and at the right edge of a slice: L and R, or A and P, ...; empty where no affine says so."""
    if affine is None:
        return "", ""
    axis = int(np.abs(affine[:3, 2]).argmax())
    ends = ("L", "R"), ("P", "A"), ("I", "S")
    return ends[axis] if affine[axis, 2] > 0 else ends[axis][::-1]


def _rows(
    source: Store | str | Path | Iterable[PreparedVolume | Row], study_ids: Sequence[str] | None, studies: int
) -> Iterable[Drawn]:
    if isinstance(source, (str, Path)):
        source = Store(source)
    if isinstance(source, Store):
        for study_id in study_ids if study_ids is not None else source.study_ids[:studies]:
            names, flat = source.record(study_id).sequences, source.spec.kind == "image"
            volumes, affines = source.volumes(study_id)[:, 0].numpy(), source.affines(study_id)
            for name, volume, affine in zip(names, volumes, affines, strict=True):
                yield f"{study_id}  {name}", volume, None if flat else affine
        return
    for number, item in enumerate(source):
        if isinstance(item, PreparedVolume):
            yield item.window or str(number), item.voxels, item.affine
        else:
            yield *item, None
