"""Fitting: the voxels of a scan on the grid of a VolumeSpec, and the affine of that grid.

`square` keeps the slices and changes their size, `spacing` resamples to millimetres. Both work in the file's own memory
order; only the small result is turned to (D, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hlip.scans.scan import LoadedScan, io_orientation
from hlip.volume import resample

if TYPE_CHECKING:
    from hlip.volume.spec import VolumeSpec

Range = tuple[float, float]
"""Intensities that become 0 and 255."""
_SAME_SPACING = 1e-3  # mm; headers round, and 0.8800001 is no thicker than 0.88


def fit(
    scan: LoadedScan,
    spec: VolumeSpec,
    ranges: Sequence[Range],
    mask: NDArray[np.bool_] | None = None,
    grid: NDArray[np.float64] | None = None,
) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
    """One (D, H, W) volume for each intensity range, and their affine (4, 4): (d, h, w, 1) -> RAS mm.

    Args:
        mask: (X, Y, Z), the foreground; only specs that centre on it need it.
        grid: (4, 4), a grid to lie on instead of one of the scan's own; for `spacing`.
    """
    axes = Axes(scan, spec)
    data = np.ascontiguousarray(scan.data.T)  # (Z, Y, X): a view for what a NIfTI file gives
    if spec.fit == "square":
        return [_square(data, axes, spec, span) for span in ranges], axes.square_affine(spec)
    if grid is not None:
        return _on_grid(data, axes, spec, ranges, grid), grid
    return _spacing(data, axes, spec, ranges, None if mask is None else mask.T)


class Axes:
    """Which stored axis, in which direction, becomes D, H and W."""

    def __init__(self, scan: LoadedScan, spec: VolumeSpec) -> None:
        towards = nib.orientations.ornt_transform(
            io_orientation(scan.affine), nib.orientations.axcodes2ornt(tuple(spec.orientation))
        )
        stored = {int(target): (axis, int(flip)) for axis, (target, flip) in enumerate(towards)}  # of x, y, z
        spacing = scan.spacing
        through = 2
        if spec.through_plane == "acquired":
            thickest = max(spacing) - _SAME_SPACING
            through = next(axis for axis in (2, 1, 0) if spacing[stored[axis][0]] >= thickest)
        self.anatomical: tuple[int, ...] = {2: (2, 1, 0), 1: (1, 2, 0), 0: (0, 2, 1)}[through]  # of d, h, w: 0 x, 1 y, 2 z
        self.stored = tuple(stored[axis][0] for axis in self.anatomical)
        self.flips = tuple(stored[axis][1] < 0 for axis in self.anatomical)
        self.shape = tuple(scan.data.shape[axis] for axis in self.stored)
        self.spacing = tuple(spacing[axis] for axis in self.stored)
        self.signs = tuple(1 if spec.orientation[axis] in "RAS" else -1 for axis in self.anatomical)
        to_stored = np.zeros((4, 4))
        to_stored[3, 3] = 1
        for axis, (place, flip, count) in enumerate(zip(self.stored, self.flips, self.shape, strict=True)):
            to_stored[place, axis] = -1 if flip else 1
            to_stored[place, 3] = count - 1 if flip else 0
        self.affine = scan.affine @ to_stored
        """(4, 4), oriented index (d, h, w) of the whole scan -> RAS mm."""

    def view(self, data: NDArray[Any]) -> NDArray[Any]:
        """(Z, Y, X) file order -> (d, h, w), without a copy."""
        turned = data.transpose([2 - axis for axis in self.stored])
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def square_affine(self, spec: VolumeSpec) -> NDArray[np.float64]:
        assert spec.resize is not None
        to_input = np.eye(4)
        side = max(self.shape[1:])
        scales = (self.shape[0] / spec.size[0], side / spec.resize[0], side / spec.resize[1])
        for axis, scale in enumerate(scales):
            crop = (spec.resize[axis - 1] - spec.size[axis]) // 2 if axis else 0
            pad = (side - self.shape[axis]) // 2 if axis else 0
            to_input[axis, axis] = scale
            to_input[axis, 3] = scale * (crop + 0.5) - 0.5 - pad
        return self.affine @ to_input


def _square(data: NDArray[np.float32], axes: Axes, spec: VolumeSpec, span: Range) -> NDArray[np.uint8]:
    """The Pub-Brain-5 protocol. The scan is rounded to uint8 first, as published, and once more at the end."""
    slices, again = np.unique(resample.nearest_exact(axes.shape[0], spec.size[0]), return_inverse=True)

    def ready(piece: NDArray[np.float32]) -> NDArray[np.float32]:
        values = _spread(piece, span)
        return np.rint(values, out=values)

    volume = _bytes(square_slices(axes.view(data)[slices], spec, ready))
    return volume if len(slices) == len(again) else volume[again]  # each slice is fitted once, however often it is shown


def square_slices(slices: NDArray[np.float32], spec: VolumeSpec, ready: resample.Ready | None = None) -> NDArray[np.float32]:
    """(D, h, w) slices of 0..255 (after `ready`) -> (D, H, W): zero-padded to a centred square, bilinear to `spec.resize`, centre crop."""
    assert spec.resize is not None
    side = max(slices.shape[1:])
    matrices: list[resample.Matrix | None] = [None]
    for axis in (1, 2):
        resize, size, count = spec.resize[axis - 1], spec.size[axis], slices.shape[axis]
        scale, crop, pad = side / resize, (resize - size) // 2, (side - count) // 2
        matrix = resample.linear_matrix(side, size, scale, scale * (crop + 0.5) - 0.5)
        matrices.append(matrix[:, pad : pad + count])  # the columns of the padding only ever meet zeros
    return resample.apply(slices.astype(np.float32, copy=False), matrices, ready)


def _spacing(
    data: NDArray[np.float32],
    axes: Axes,
    spec: VolumeSpec,
    ranges: Sequence[Range],
    mask: NDArray[np.bool_] | None,
) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
    """Physical resampling. CT is resampled in HU and then windowed; MRI is clipped first, so that one bright vessel does
    not spread over its neighbours. A scan that leaves the patient's axes by less than a quarter of a voxel at its corners
    is not rotated, nor is any with frame `scan`; the affine keeps the tilt.
    """
    assert spec.spacing_mm is not None
    fill = min(low for low, _ in ranges)
    clip = None if spec.windows else ranges[0]
    wanted = np.array(spec.spacing_mm)
    centre, snap = _centre(axes, spec, mask)
    directions = np.zeros((3, 3))
    directions[list(axes.anatomical), range(3)] = axes.signs
    tilt = axes.affine[:3, :3] - directions * np.array(axes.spacing)
    slight = (np.abs(tilt) @ np.array(axes.shape)).max() / 2 <= wanted.min() / 4  # at the corners
    if slight or spec.frame == "scan":
        to_input = np.eye(4)
        to_input[range(3), range(3)] = wanted / axes.spacing
        to_input[:3, 3] = centre - snap * wanted / axes.spacing
        grid = _along_axes(data, axes, spec, to_input, fill, clip)
        affine = axes.affine @ to_input
    else:
        affine = np.eye(4)
        affine[:3, :3] = directions * wanted
        affine[:3, 3] = (axes.affine @ [*centre, 1])[:3] - affine[:3, :3] @ snap
        source = data if clip is None else np.clip(data, *clip)
        grid = _across_axes(source, axes, spec, affine, fill)
    return [_bytes(_spread(grid, span)) for span in ranges], affine


def _on_grid(
    data: NDArray[np.float32], axes: Axes, spec: VolumeSpec, ranges: Sequence[Range], affine: NDArray[np.float64]
) -> list[NDArray[np.uint8]]:
    """On a grid that another scan of the study stated, parallel to this one or not."""
    source = data if spec.windows else np.clip(data, *ranges[0])
    volume = _across_axes(source, axes, spec, affine, min(low for low, _ in ranges))
    return [_bytes(_spread(volume, span)) for span in ranges]


def _centre(axes: Axes, spec: VolumeSpec, mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(oriented index of the scan, index of the volume) that shall meet."""
    assert spec.spacing_mm is not None
    size = np.array(spec.size)
    middle = (np.array(axes.shape) - 1) / 2
    if spec.centre == "fov" or mask is None:
        # The resampled scan keeps whole voxels of the wanted step and is padded or cropped by whole voxels: with an equal
        # spacing no voxel is interpolated.
        whole = np.maximum(1, np.floor(np.array(axes.shape) * axes.spacing / spec.spacing_mm + 1e-3))
        return middle, (whole - 1) / 2 - np.trunc((whole - size) / 2)
    for axis, (low, high) in enumerate(spans(axes.view(mask), 0.01)):
        middle[axis] = (low + high) / 2
        tall = size[axis] * spec.spacing_mm[axis] / axes.spacing[axis]
        if axes.anatomical[axis] == 2 and high - low > tall:  # z: keep the top, with a margin
            down_first = axes.signs[axis] < 0
            middle[axis] = low + 0.45 * tall if down_first else high - 0.45 * tall
    return middle, (size - 1) / 2


def _along_axes(
    source: NDArray[np.float32], axes: Axes, spec: VolumeSpec, to_input: NDArray[np.float64], fill: float, clip: Range | None
) -> NDArray[np.float32]:
    """The grid is parallel to the scan: one matrix an axis, applied in file order, to values clipped to a range."""
    matrices: list[resample.Matrix | None] = [None, None, None]
    inside = []
    for axis, place in enumerate(axes.stored):
        scale, offset = to_input[axis, axis], to_input[axis, 3]
        matrix = resample.linear_matrix(axes.shape[axis], spec.size[axis], scale, offset, scale)
        inside.append(matrix.any(1))
        matrices[2 - place] = matrix[:, ::-1] if axes.flips[axis] else matrix
    ready = None if clip is None else lambda piece: np.clip(piece, *clip, out=np.empty(piece.shape, np.float32))
    grid = resample.apply(source, matrices, ready).transpose([2 - place for place in axes.stored])
    for axis, rows in enumerate(inside):
        if not rows.all():
            grid[(slice(None),) * axis + (~rows,)] = fill
    return grid


def _across_axes(
    source: NDArray[np.float32], axes: Axes, spec: VolumeSpec, affine: NDArray[np.float64], fill: float
) -> NDArray[np.float32]:
    """The scan is tilted against the grid."""
    assert spec.spacing_mm is not None
    view = axes.view(source)
    reduced, back = resample.reduce(view, axes.spacing, spec.spacing_mm)
    to_input = np.linalg.inv(axes.affine @ back) @ affine
    return resample.tilted(reduced, to_input, spec.size, fill)


def _spread(data: NDArray[np.float32], span: Range) -> NDArray[np.float32]:
    """The range -> 0..255, clipped, in a new array."""
    low, high = span
    values = np.subtract(data, np.float32(low), order="C")
    values *= np.float32(255 / (high - low))
    return np.clip(values, 0, 255, out=values)


def _bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rounded; `values` is used up."""
    return np.ascontiguousarray(np.rint(values, out=values).astype(np.uint8))


def spans(mask: NDArray[np.bool_], tail: float) -> list[tuple[int, int]]:
    """First and last index of a mask along each axis, leaving `tail` of its voxels out at either end."""
    found = []
    for counts in along_each_axis(mask):
        mass = np.cumsum(counts)
        total = int(mass[-1]) if len(mass) else 0
        if total == 0:
            found.append((0, len(counts) - 1))
            continue
        found.append((int(np.searchsorted(mass, tail * total, side="right")), int(np.searchsorted(mass, (1 - tail) * total))))
    return found


def along_each_axis(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """How many voxels of a mask lie in each plane across each axis; in two passes in memory order, not three across it."""
    slow, middle, fast = order = sorted(range(3), key=lambda axis: -abs(mask.strides[axis]))
    turned = mask.transpose(order)
    columns = np.zeros(turned.shape[1:], np.uint32)
    for start in range(0, len(turned), 255):  # as many as a byte holds
        columns += np.add.reduce(turned[start : start + 255].view(np.uint8), axis=0, dtype=np.uint8)
    counts = [np.zeros(0, np.int64)] * 3
    counts[slow] = np.array([np.count_nonzero(plane) for plane in turned], dtype=np.int64)
    counts[middle], counts[fast] = columns.sum(axis=1, dtype=np.int64), columns.sum(axis=0, dtype=np.int64)
    return counts
