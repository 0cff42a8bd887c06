"""Three planes of a scan as one small JPEG: axial, coronal, sagittal through the middle, to the same scale in millimetres.

Turned as prepared volumes are: the patient's left on the left, front and top first. A scan whose header lies looks wrong here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hlip.scans.scan import io_orientation

SIDE = 96
"""Pixels of one plane's square."""
_PLANES = ((1, 0), (2, 0), (2, 1))  # (axis of the rows, of the columns) of axial, coronal, sagittal; x 0, y 1, z 2
_FLIPPED = (False, True, True)  # x as it grows, y and z against it


def strip(data: NDArray[np.generic], affine: NDArray[np.float64], span: tuple[float, float] | None = None) -> bytes:
    """A JPEG of 3 `SIDE` x `SIDE` pixels.

    Args:
        data: three axes in any order and direction.
        affine: (4, 4), their index -> RAS mm.
        span: values that become black and white; by default the 1 and 99.5 percentiles of what is drawn.
    """
    towards = io_orientation(affine)
    stored = {int(target): (axis, flip) for axis, (target, flip) in enumerate(towards)}
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    middles = [n // 2 for n in data.shape]
    planes, lengths = [], []
    for rows, columns in _PLANES:
        across = stored[3 - rows - columns][0]
        plane = np.moveaxis(data, across, 0)[middles[across]]
        axes = [stored[rows], stored[columns]]
        if axes[0][0] > axes[1][0]:
            plane = plane.T
        backwards = [(stored[at][1] < 0) != _FLIPPED[at] for at in (rows, columns)]
        turn = tuple(slice(None, None, -1 if back else 1) for back in backwards)
        planes.append(plane[turn].astype(np.float32))
        lengths.append([data.shape[axis] * spacing[axis] for axis, _ in axes])
    low, high = span or _span(planes)
    scale = SIDE / max(max(pair) for pair in lengths)
    sheet = Image.new("L", (3 * SIDE, SIDE))
    for place, (plane, pair) in enumerate(zip(planes, lengths, strict=True)):
        grey = np.clip((plane - low) * (255 / max(high - low, 1e-12)), 0, 255).astype(np.uint8)
        height, width = (max(1, min(SIDE, round(length * scale))) for length in pair)
        small = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
        sheet.paste(small, (place * SIDE + (SIDE - width) // 2, (SIDE - height) // 2))
    return _jpeg(sheet)


def as_text(pictures: Mapping[int, bytes]) -> dict[str, str]:
    """Scan number -> JPEG, as the metadata of a study without a volume keeps them: its file is JSON."""
    return {str(scan): base64.b64encode(jpeg).decode() for scan, jpeg in pictures.items()}


def pictures_of_skipped(metadata: Mapping[str, Any]) -> dict[int, bytes]:
    """The same back; empty for the file of an earlier version."""
    return {int(scan): base64.b64decode(text) for scan, text in metadata.get("pictures", {}).items()}


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """Of a 2-D image (H, W) or (H, W, 3), upright."""
    image = Image.fromarray(pixels)
    image.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _jpeg(image)


def _span(planes: list[NDArray[np.float32]]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate([plane.ravel() for plane in planes]), (1, 99.5))
    return float(low), float(high)


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70, optimize=True)
    return out.getvalue()
