"""Whether volumes lie at one place: those of a diffusion series, which are stacked, and those of one CT acquisition, of which one is kept.

Notable choices:
- Volumes are on one grid where their slices have the same direction and step, and are within a tenth of a voxel of each other. Of such only
  the slices that all have are used together.
- A volume covers another by its extent along the other's normal, whatever its own direction: a reformat covers what it was made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hlip.dicom.geometry import Layout, axes

_NEAR = 0.1  # of a voxel, and mm where that is more
_TURNED = 0.005  # of a unit vector


def on_one_grid(one: Layout, other: Layout) -> bool:
    """Whether each slice of one would fall onto a slice of the other, were that long enough."""
    ways, pixel = axes(one.slices[0]), min(one.slices[0].stack.spacing)
    if np.abs(ways - axes(other.slices[0])).max() > _TURNED:
        return False
    longest = max(one.count, other.count)
    if abs(one.step - other.step) * longest > _near(one.step) or np.abs(np.subtract(one.shift, other.shift)).max() > _TURNED:
        return False
    apart = np.array(other.slices[0].position) - np.array(one.slices[0].position)
    height = float(apart @ ways[2])
    within = apart @ ways[:2].T - height * np.array(one.shift)
    steps = height / one.step
    if not _even(one) or not _even(other):  # of made slices nothing can be cut off
        return abs(height) <= _near(one.step) and _same(one.places, other.places) and bool(np.abs(within).max() <= _near(pixel))
    return abs(steps - round(steps)) * one.step <= _near(one.step) and bool(np.abs(within).max() <= _near(pixel))


def common_slices(layouts: Sequence[Layout]) -> list[Layout]:
    """Layouts on one grid, each cut to the range that all have; empty where that is nothing."""
    if not all(map(_even, layouts)):
        return list(layouts)
    numbers = [np.rint((_heights(layout, layouts[0])) / layouts[0].step).astype(int) for layout in layouts]
    shared = set(numbers[0].tolist()).intersection(*(found.tolist() for found in numbers))
    if len(shared) < 2:
        return []
    return [
        _cut(layout, (found >= min(shared)) & (found <= max(shared))) for layout, found in zip(layouts, numbers, strict=True)
    ]


def covered(one: Layout, by: Layout) -> float:
    """Share of the extent of a volume along its normal that another covers, 0 to 1."""
    normal = axes(one.slices[0])[2]
    (low, high), (first, last) = _extent(one, normal), _extent(by, normal)
    return max(0.0, min(high, last) - max(low, first)) / (high - low)


def _near(size: float) -> float:
    return max(_NEAR * size, _NEAR)


def _even(layout: Layout) -> bool:
    """On a grid, though slices may lack in it."""
    steps = np.diff(layout.places) / layout.step
    return bool((np.abs(steps - steps.round()) < _NEAR).all())


def _same(places: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    return len(places) == len(others) and bool(np.abs(places - others).max() <= _NEAR)


def _heights(layout: Layout, first: Layout) -> NDArray[np.float64]:
    """(N,) mm of the slices above the first slice of `first`, along its normal."""
    apart = np.array(layout.slices[0].position) - np.array(first.slices[0].position)
    return layout.places - layout.places[0] + float(apart @ axes(first.slices[0])[2])


def _cut(layout: Layout, kept: NDArray[np.bool_]) -> Layout:
    slices = tuple(piece for piece, stays in zip(layout.slices, kept.tolist(), strict=True) if stays)
    return replace(layout, slices=slices, places=layout.places[kept])


def _extent(layout: Layout, way: NDArray[np.float64]) -> tuple[float, float]:
    """mm from the lowest to the highest corner of a volume, in a direction."""
    first, last = layout.slices[0], layout.slices[-1]
    along, down, normal = axes(first)
    size = (along * first.stack.spacing[1] * first.stack.columns, down * first.stack.spacing[0] * first.stack.rows)
    ends = (np.array(first.position) - normal * layout.step / 2, np.array(last.position) + normal * layout.step / 2)
    corners = [float((end + a * size[0] + b * size[1]) @ way) for end, a, b in product(ends, (0, 1), (0, 1))]
    return min(corners), max(corners)
