"""Where the slices of one stack lie: in order, at even steps, straight above each other; or what is the matter with them.

Notable choices:
- Steps within 5 % of the commonest one are even, and so are slices within 0.15 mm of an even grid: some scanners write positions to
  0.1 mm. The step is the mean one.
- Up to a tenth of the slices may be missing, three in a row at most, and are filled in linearly between their neighbours; more are a series
  that is not whole. Damaged slices that lay beyond either end are counted, and cannot be filled in.
- Ranges of different steps (a skull base in thin and a vertex in thick slices, up to two and a half times) are resampled linearly to the
  commonest, and so is a series with an odd step here and there (one, or a tenth of them) that is below two of the others; steps that vary
  from slice to slice are no volume.
- Slices that are shifted evenly against each other were taken with a tilted gantry: each is moved back within its plane, on a grid that
  grows by the way of the furthest, so that nothing is cut off.
- All positions here come from the headers, none from the converter: the two are compared, so that neither errs in silence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hlip.dicom.tags import Slice
from hlip.scans.scan import MAX_VOXELS, MIN_SLICES

_EVEN = 0.05  # of a step
_ROUNDED = 0.15  # mm off an even grid, by positions written to 0.1 mm
_ROUNDED_SHARE = 0.3  # of a step; of thinner slices the grid would fit anything
_MISSING = 0.1  # of the slices
_IN_A_ROW = 3
_RUN = 3  # steps; fewer of another length are a gap
_VARYING = 2.5  # largest step by smallest
_GAP = 2  # steps; a longer one has lost a slice
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Layout:
    """Slices in order along their normal."""

    slices: tuple[Slice, ...]
    places: NDArray[np.float64]
    """(N,) mm along the normal."""
    step: float
    """mm from one slice of the finished volume to the next."""
    shift: tuple[float, float]
    """mm along a row and along a column by which each mm of the normal moves the slices: 0 unless the gantry was tilted."""
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Slices of the finished volume."""
        return round((self.places[-1] - self.places[0]) / self.step) + 1

    @property
    def even(self) -> bool:
        """No slice must be made."""
        return self.count == len(self.places) and np.abs(np.diff(self.places) - self.step).max() <= _EVEN * self.step

    @property
    def margins(self) -> NDArray[np.int64]:
        """(2, 2) voxels that the finished volume has before and after those of its slices, along a row and along a column: room for the
        slices that are moved back."""
        down_step, along_step = self.slices[0].stack.spacing
        furthest = (self.places[-1] - self.places[0]) * np.array(self.shift) / (along_step, down_step)
        room = np.ceil(np.abs(furthest) - _EVEN).clip(0).astype(np.int64)
        return np.stack([np.where(furthest < 0, room, 0), np.where(furthest > 0, room, 0)], axis=1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and slices of the finished volume."""
        along, down = self.margins.sum(axis=1).tolist()
        first = self.slices[0].stack
        return first.columns + along, first.rows + down, self.count


def axes(piece: Slice) -> NDArray[np.float64]:
    """(3, 3): unit vectors along a row, along a column, and the normal, in DICOM's axes."""
    along, down = np.array(piece.stack.orientation[:3]), np.array(piece.stack.orientation[3:])
    along = along / np.linalg.norm(along)
    down = down - (down @ along) * along
    down = down / np.linalg.norm(down)
    return np.stack([along, down, np.cross(along, down)])


def place_of(piece: Slice) -> float:
    """mm along the normal."""
    return float(axes(piece)[2] @ np.array(piece.position))


def lay_out_whole(pieces: Sequence[Slice], whole: Sequence[Slice]) -> Layout | str:
    """The layout of the slices of a volume that are whole, or the reason why they are none: damaged where too many of the others lack."""
    if len(whole) == len(pieces):
        return lay_out(pieces)
    if len(whole) < MIN_SLICES or len(pieces) - len(whole) > _MISSING * len(pieces):
        return "damaged"
    kept = [place_of(piece) for piece in whole]
    beyond = sum(not min(kept) < place_of(piece) < max(kept) for piece in set(pieces) - set(whole))
    layout = lay_out(whole, beyond)
    return "damaged" if isinstance(layout, str) else layout


def lay_out(pieces: Sequence[Slice], beyond: int = 0) -> Layout | str:
    """The layout of slices of one orientation at different places, or the reason why they are no volume: missing_slices, uneven_slices,
    shifted_slices, or too_large once a tilt is taken back.

    Args:
        beyond: slices that are lost at the ends.
    """
    ways = axes(pieces[0])
    positions = np.array([piece.position for piece in pieces])
    places = positions @ ways[2]
    order = np.argsort(places, kind="stable")
    places, positions = places[order], positions[order]
    shift = _shift(places, positions @ ways[:2].T, min(pieces[0].stack.spacing) or 1.0)
    steps = np.diff(places)
    notes = [f"{beyond} slices lost at the ends"] if beyond else []
    numbers = _numbers(steps)
    missing = 0 if numbers is None else int(numbers[-1]) + 1 - len(places)
    lost = missing + beyond
    if numbers is not None and lost <= _MISSING * (len(places) + lost) and np.diff(numbers).max() <= _IN_A_ROW + 1:
        step = float((places[-1] - places[0]) / numbers[-1])
        places = places[0] + step * numbers
        notes += [f"{missing} missing slices filled in"] if missing else []
    elif (_in_runs(steps) and steps.max() <= _VARYING * steps.min()) or _few_odd(steps):
        step = _commonest(steps)
        notes.append("uneven steps resampled")
    else:
        return "missing_slices" if _multiples(steps) else "uneven_slices"
    if shift is None:
        return "shifted_slices"
    if any(shift):
        notes.append(f"gantry tilt of {np.degrees(np.arctan(np.hypot(*shift))):.0f} degrees corrected")
    layout = Layout(tuple(pieces[int(n)] for n in order), places, step, shift, tuple(notes))
    return "too_large" if any(shift) and math.prod(layout.shape) > MAX_VOXELS else layout


def _numbers(steps: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """(N + 1,) place of each slice on an even grid, from 0; `None` where they are on none."""
    for step in (_commonest(steps), float(np.median(steps))):
        times = np.rint(steps / step).astype(np.int64)
        if times.min() < 1:
            continue
        numbers = np.append(0, np.cumsum(times))
        if (np.abs(steps / step - times) <= _EVEN * times).all() or _off_grid(numbers, steps) <= min(
            _ROUNDED, _ROUNDED_SHARE * step
        ):
            return numbers
    return None


def _off_grid(numbers: NDArray[np.int64], steps: NDArray[np.float64]) -> float:
    """mm by which the slices are off the straight line through their numbers, at most."""
    places = np.append(0, np.cumsum(steps))
    return float(np.abs(places - np.polyval(np.polyfit(numbers, places, 1), numbers)).max())


def _multiples(steps: NDArray[np.float64]) -> bool:
    times = steps / _commonest(steps)
    return bool((np.abs(times - times.round()) <= _EVEN * np.maximum(times.round(), 1)).all() and times.min() > 0.5)


def _commonest(steps: NDArray[np.float64]) -> float:
    """The step that most others resemble; the smaller of two as common."""
    alike = np.abs(steps[:, None] - steps[None]) <= _EVEN * steps[:, None]
    return float(steps[np.lexsort((steps, -alike.sum(axis=1)))[0]])


def _in_runs(steps: NDArray[np.float64]) -> bool:
    """Few ranges of even steps each, rather than gaps here and there."""
    ends = np.flatnonzero(np.abs(np.diff(steps)) > _EVEN * steps[1:]) + 1
    return min(np.diff([0, *ends, len(steps)])) >= _RUN


def _few_odd(steps: NDArray[np.float64]) -> bool:
    """Even steps but for few, each of which leaves less than a slice out."""
    step = _commonest(steps)
    odd = np.abs(steps - step) > _EVEN * step
    return bool(odd.sum() <= max(1, _MISSING * len(steps)) and steps.max() < _GAP * step and steps.min() * _VARYING >= step)


def _shift(places: NDArray[np.float64], within: NDArray[np.float64], pixel: float) -> tuple[float, float] | None:
    """Even shift of the slices within their plane, mm for each mm; `None` where it is not even."""
    height = places - places[0]
    moved = within - within[0]
    slope = (height @ moved) / (height @ height)
    if np.abs(moved - height[:, None] * slope).max() > pixel / 2:
        return None
    return (0.0, 0.0) if np.abs(slope * height[-1]).max() < pixel / 2 else (float(slope[0]), float(slope[1]))


def affine_of(layout: Layout) -> NDArray[np.float64]:
    """(4, 4), voxel (column, row, slice, 1) -> RAS mm, of the finished volume."""
    affine = affine_of_slices(layout)
    affine[:3, 3] -= affine[:3, :2] @ layout.margins[:, 0]
    return affine


def affine_of_slices(layout: Layout) -> NDArray[np.float64]:
    """The same, from the first voxel of the first slice on."""
    first = layout.slices[0]
    ways, (down_step, along_step) = axes(first), first.stack.spacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = ways[0] * along_step, ways[1] * down_step, ways[2] * layout.step
    affine[:3, 3] = first.position
    return _LPS_TO_RAS @ affine


def straighten(volume: NDArray[np.generic], layout: Layout) -> NDArray[np.generic]:
    """The finished volume (columns, rows, slices) of slices in order: tilt taken back, steps made even. The type of the voxels stays."""
    if any(layout.shift):
        volume = _untilt(volume, layout)
    if layout.even:
        return volume
    wanted = layout.places[0] + layout.step * np.arange(layout.count)
    above = np.clip(np.searchsorted(layout.places, wanted), 1, len(layout.places) - 1)
    below = above - 1
    weight = np.clip((wanted - layout.places[below]) / (layout.places[above] - layout.places[below]), 0, 1)
    made = np.empty((*volume.shape[:2], layout.count), dtype=volume.dtype, order="F")
    for place, (low, high, part) in enumerate(zip(below, above, weight, strict=True)):
        mixed = (1 - part) * volume[..., low].astype(np.float64) + part * volume[..., high].astype(np.float64)
        made[..., place] = _as(mixed, volume.dtype)
    return made


def _untilt(volume: NDArray[np.generic], layout: Layout) -> NDArray[np.generic]:
    """Each slice moved on the larger grid. What lies outside of a slice is the darkest value of the volume."""
    down_step, along_step = layout.slices[0].stack.spacing
    outside, (columns, rows) = float(volume.min()), layout.shape[:2]
    made = np.empty((columns, rows, volume.shape[2]), dtype=volume.dtype, order="F")  # slice by slice, as NIfTI has it
    left, top = layout.margins[:, 0].tolist()
    for place, height in enumerate(layout.places - layout.places[0]):
        by = (height * layout.shift[0] / along_step, height * layout.shift[1] / down_step)
        room = np.full((columns, rows), outside)
        room[left : left + volume.shape[0], top : top + volume.shape[1]] = volume[..., place]
        made[..., place] = _as(ndimage.shift(room, by, order=1, mode="grid-constant", cval=outside), volume.dtype)
    return made


def _as(values: NDArray[np.float64], dtype: np.dtype) -> NDArray[np.generic]:
    return (np.rint(values) if np.issubdtype(dtype, np.integer) else values).astype(dtype)
