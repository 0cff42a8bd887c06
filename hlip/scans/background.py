"""Voxels that are NaN -> background, as programs leave them that write nothing outside of a mask or of what a scanner saw.

filled(scan) -> the scan with its lowest value there, and a note

Notable choices:
- NaN around the scan is background without a word of its owner: every such voxel is joined to a face of the volume by others, corner to corner.
  A slice of nothing but NaN between others that hold values lies within, though its rim is at a face: it was lost, not left out. What lies
  within may be a fault of a computation, and is filled only where told (`within`).
- Of more than 99 % NaN too little is left: a small child's head in a wide field of view has 98 %.
- No second copy of the scan is made: of a large CT a worker has no room for it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hlip.scans.scan import LoadedScan, VolumeError

MOST_NAN = 0.99
"""Share of all voxels that may be background so."""


def filled(scan: LoadedScan, value: float | None = None, within: bool = False) -> LoadedScan:
    """The scan with NaN voxels as background, and a note of it; as it is where there are none. Its array is written to, where it may be.

    Args:
        value: of the background, in the scan's units; `None`: its lowest.
        within: also of those that the scan encloses.

    Raises:
        VolumeError: nan, too many are, or some lie within.
    """
    if not math.isnan(scan.ends[0]):
        return scan
    empty = np.isnan(scan.data)
    share = np.count_nonzero(empty) / empty.size
    if share > MOST_NAN:
        raise VolumeError(
            "nan",
            f"{scan.path}: {share:.1%} of the voxels are NaN, of which at most {MOST_NAN:.0%} may be background; export it again",
        )
    if not within and (count := _enclosed(empty)):
        raise VolumeError(
            "nan",
            f"{scan.path}: {count} of the NaN voxels lie within it, not around it; replace them, or where they are background too say so "
            "(`nan: background` in the VolumeSpec), then prepare again",
        )
    lowest = value is None
    value = float(np.nanmin(scan.data)) if value is None else value
    shown = f"{value:g}" + (", the lowest of the others" if lowest else "")
    data = scan.data if scan.data.flags.writeable else scan.data.copy()
    data[empty] = value
    note = f"{share:.1%} of the voxels were NaN and became background, with the value {shown}"
    return replace(scan, data=data, notes=(*scan.notes, note))


def _enclosed(empty: NDArray[np.bool_]) -> int:
    """How many NaN voxels no others join to a face of the volume, and those of whole slices within it."""
    lost = _in_lost_slices(empty)
    joined = np.zeros_like(empty)  # first by straight lines, which is nearly all of them
    for axis in range(3):
        joined |= np.logical_and.accumulate(empty, axis)
        joined |= np.flip(np.logical_and.accumulate(np.flip(empty, axis), axis), axis)
    rest = empty > joined
    boxes = ndimage.find_objects(rest.view(np.int8))
    if not boxes:
        return lost
    box = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in boxes[0])  # what joins the rest lies beside it
    regions, count = ndimage.label(empty[box], structure=np.ones((3, 3, 3)))
    reached = np.zeros(count + 1, bool)
    reached[regions[joined[box]]] = True
    return lost + int(np.count_nonzero(~reached[regions[rest[box]]]))


def _in_lost_slices(empty: NDArray[np.bool_]) -> int:
    """How many voxels lie in slices, along any axis, that are NaN as a whole and have values on both sides."""
    kept = []
    for axis in range(3):
        held = np.flatnonzero(~empty.all(axis=tuple({0, 1, 2} - {axis})))
        kept.append(empty.shape[axis] - (held[-1] - held[0] + 1 - len(held)))
    return empty.size - int(np.prod(kept))
