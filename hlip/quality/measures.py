"""What is measured of a scan while it is prepared. All of it is cheap: samples of the voxels, not all of them.

Notable choices:
- `saturated`: share of the foreground that holds the scan's largest value. A scanner or an export that ran out of range leaves a plateau
  there; noise leaves one voxel.
- `ghosting`: in slices of the acquired plane, the mean of the background beside the foreground along one axis minus that along the other
  (absolute), over the mean of the foreground: the ghost-to-signal ratio of Giannelli et al. 2010 (also in MRIQC), with either axis as the
  phase axis. Motion between excitations repeats the head along the phase axis only, noise and air do not. It sees strong periodic motion
  in scans that show air on all sides. It is blind to blur, to motion between slices, in skull-stripped or cropped scans, and it takes
  aliasing, flow and a lifted hand for motion. A reason to look, no more; not measured on CT.
- `part`: a guess from millimetres alone. The foreground is 260 mm wide or more: `chest` (any trunk). It is a slab narrower than 100 mm from
  left to right and 150 mm or taller, or 290 mm tall and more: `spine` (a neck with its head, too). 100 to 260 mm wide, 110 to 280 mm deep:
  `head`. Else nothing is guessed. A sagittal slab of a pituitary is called spine; a child's chest, head.
- `cut`: of a sample of the foreground's voxels, the share whose middle lies outside of the prepared volume, by the two affines: so it holds
  for tilted grids, too. It tells by a few voxels' breadth; a neck, a table or held-up arms that a spec leaves out on purpose count as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip.scans.scan import LoadedScan, io_orientation
from hlip.volume.counting import Counts
from hlip.volume.fitting import along_each_axis

_SIDE = 96  # voxels of the thinned scan along its longest axis
_COARSE = 48  # ... of the sample of its foreground
_SLICES = 9
_TAIL = 0.01  # of the foreground, left out at each end: specks do not count


def measure(scan: LoadedScan, ct: bool) -> dict[str, Any]:
    """Of a scan as it was read: `saturated`, `ghosting` (None where it cannot be told), `extent_mm` (of the foreground along x, y, z),
    `part` (head, chest, spine or empty). And `points` for `cut`, no column of the table: (N, 3) RAS mm of some of the foreground's voxels.

    Args:
        ct: values are HU: foreground is all above -200, and motion is not measured.
    """
    steps = tuple(max(1, n // _SIDE) for n in scan.data.shape)
    small = max(steps) == 1
    thin = scan.data if small else scan.data[tuple(slice(step // 2, None, step) for step in steps)].copy(order="K")
    counts = scan.counts if small else Counts.of(thin)
    floor = -200.0 if ct else _floor(thin, counts)
    mask = thin > np.float32(floor)
    saturated = _saturated(thin, mask, counts)
    extent = _extent(mask, scan, steps)
    return {
        "saturated": round(saturated, 5),
        "ghosting": None if ct else _ghosting(scan, floor),
        "extent_mm": [round(value, 1) for value in extent],
        "part": _part(extent),
        "points": _points(mask, scan.affine, steps),
    }


def cut(points: NDArray[np.float64], affine: NDArray[np.float64], size: tuple[int, ...]) -> float | None:
    """Share of `points` (N, 3), RAS mm, outside of a prepared volume; None of no points.

    Args:
        affine: (4, 4), the volume's index -> RAS mm.
        size: its voxels along each axis.
    """
    if not len(points):
        return None
    to_index = np.linalg.inv(affine)
    index = points @ to_index[:3, :3].T + to_index[:3, 3]
    edge = 0.5 + 1e-3  # of the outermost voxels; a rounding must not decide
    inside = ((index > -edge) & (index < np.array(size) - 1 + edge)).all(1)
    return round(1 - float(np.count_nonzero(inside)) / len(points), 3)


def _points(mask: NDArray[np.bool_], affine: NDArray[np.float64], steps: tuple[int, ...]) -> NDArray[np.float64]:
    """RAS mm of the voxels of a thinned mask, thinned once more."""
    again = np.array([max(1, round(n / _COARSE)) for n in mask.shape])
    first = again // 2
    coarse = mask[tuple(slice(start, None, step) for start, step in zip(first, again, strict=True))]
    index = (np.argwhere(coarse) * again + first) * np.array(steps) + np.array(steps) // 2
    return index @ affine[:3, :3].T + affine[:3, 3]


def ends(volumes: list[NDArray[np.uint8]]) -> dict[str, list[float]]:
    """Of prepared volumes: share of voxels at 0 (`black`) and at 255 (`white`)."""
    return {
        name: [round(float(np.count_nonzero(volume == value)) / volume.size, 4) for volume in volumes]
        for name, value in (("black", 0), ("white", 255))
    }


def _saturated(data: NDArray[np.float32], mask: NDArray[np.bool_], counts: Counts | None) -> float:
    """Share of a mask, of all above a floor, that holds the largest value."""
    size = int(np.count_nonzero(mask))
    if not size:
        return 0.0
    top = float(data.max()) if counts is None else counts.high
    return (int(np.count_nonzero(data == np.float32(top))) if counts is None else counts.count(top)) / size


def _floor(data: NDArray[np.float32], counts: Counts | None) -> float:
    """30 % of the way from the darkest voxel to the mean of what is brighter than the mean."""
    if counts is not None and len(counts.counts) > 1:
        return counts.low + 0.3 * (counts.mean(above=counts.mean()) - counts.low)
    low = float(data.min())
    bright = data[data > data.mean(dtype=np.float64)]
    return low + 0.3 * (float(bright.mean(dtype=np.float64)) - low) if bright.size else low


def _extent(mask: NDArray[np.bool_], scan: LoadedScan, steps: tuple[int, ...]) -> tuple[float, float, float]:
    """mm of the foreground along x, y, z of the patient."""
    towards = io_orientation(scan.affine)[:, 0]
    extent = [0.0, 0.0, 0.0]
    for counts, target, spacing, step in zip(along_each_axis(mask), towards, scan.spacing, steps, strict=True):
        low, high = _span(counts)
        extent[int(target)] = (high - low + 1) * spacing * step
    return extent[0], extent[1], extent[2]


def _span(counts: NDArray[Any]) -> tuple[int, int]:
    mass = np.cumsum(counts)
    if not mass[-1]:
        return 0, -1
    return int(np.searchsorted(mass, _TAIL * mass[-1], side="right")), int(np.searchsorted(mass, (1 - _TAIL) * mass[-1]))


def _part(extent: tuple[float, float, float]) -> str:
    wide, deep, tall = extent
    if wide >= 260:
        return "chest"
    if tall >= 290 or (wide < 100 and tall >= 150):
        return "spine"
    return "head" if wide >= 100 and 110 <= deep <= 280 else ""


def _ghosting(scan: LoadedScan, floor: float) -> float | None:
    """Mean over slices of the acquired plane; None where too little air is seen along either axis."""
    through = max(range(3), key=lambda axis: (scan.spacing[axis], axis))
    count = scan.data.shape[through]
    places = np.unique(np.linspace(0.25 * count, 0.75 * count - 1, _SLICES).astype(int))
    planes = np.moveaxis(scan.data, through, 0)  # a view: only the planes looked at are read
    found = [value for place in places if (value := _ghost(np.ascontiguousarray(planes[place]), floor)) is not None]
    return round(float(np.median(found)), 4) if 2 * len(found) > len(places) else None


def _ghost(plane: NDArray[np.float32], floor: float) -> float | None:
    mask = plane > np.float32(floor)
    if np.count_nonzero(mask) < 0.05 * mask.size:
        return None
    boxes, airs = [_span(np.count_nonzero(mask, axis=1 - axis)) for axis in (0, 1)], []
    for axis in (0, 1):
        (low, high), (first, last) = boxes[axis], boxes[1 - axis]
        turned = plane if axis == 0 else plane.T
        gap = max(1, round(0.02 * turned.shape[0]))
        air = np.concatenate([turned[: max(0, low - gap), first : last + 1], turned[high + 1 + gap :, first : last + 1]])
        if air.shape[0] < 0.04 * turned.shape[0]:
            return None
        airs.append(float(np.mean(air, dtype=np.float64)))
    signal = float(np.mean(plane[mask], dtype=np.float64)) - min(0.0, float(plane.min()))
    return abs(airs[0] - airs[1]) / signal if signal > 0 else None
