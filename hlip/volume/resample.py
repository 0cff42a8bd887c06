"""Resampling as one small matrix an axis, and one general path for tilted scans.

An output sample i of an axis lies at input index `scale * i + offset`. Linear interpolation along an axis is then a matrix with
two numbers a row; a triangle widened to the output step makes it anti-aliased (as Pillow and torch's `antialias=True` do).
Applied axis by axis this touches only what the output needs, and flips and crops cost nothing. The matrices are applied
as sparse ones: one thread and one order of summation, so the same bytes with any number of workers (a dense product is
split among BLAS threads, and slow where processes share cores).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array

Matrix = NDArray[np.float32]
"""(outputs, inputs) weights of one axis."""
Ready = Callable[[NDArray[np.float32]], NDArray[np.float32]]
_PIECE = 2**17  # voxels worked on at once


def linear_matrix(inputs: int, outputs: int, scale: float, offset: float, support: float = 1.0) -> Matrix:
    """Weights of linear interpolation (`support` 1) or of a wider triangle, in input samples.

    Samples beyond the centre of the border voxel repeat it, those beyond its far face get a row of zeros (outside).
    """
    centre = scale * np.arange(outputs) + offset
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(inputs)[None] - centre[:, None]) / max(1.0, support))
    total = weights.sum(1, keepdims=True)
    inside = (centre >= -0.5 - 1e-6) & (centre <= inputs - 0.5 + 1e-6) & (total[:, 0] > 0)
    return np.where(inside[:, None], weights / np.where(total > 0, total, 1.0), 0.0).astype(np.float32)


def nearest_exact(inputs: int, outputs: int) -> NDArray[np.int64]:
    """Input index of each output, as torch's `nearest-exact` (which counts in float32; a tie depends on it)."""
    scale = np.float32(inputs / outputs)
    index = np.floor((np.arange(outputs, dtype=np.float32) + np.float32(0.5)) * scale)
    return np.minimum(index.astype(np.int64), inputs - 1)


def apply(data: NDArray[np.float32], matrices: Sequence[Matrix | None], ready: Ready | None = None) -> NDArray[np.float32]:
    """Apply one matrix an axis to a 3-D array (`None` leaves an axis), the strongest reduction first.

    Args:
        ready: what is done to the voxels before; it gets the part that is needed piece by piece, and gives a new array in C order.
    """
    todo = [(axis, matrix) for axis, matrix in enumerate(matrices) if matrix is not None]
    for axis, matrix in sorted(todo, key=lambda item: len(item[1]) / item[1].shape[1]):
        used = np.flatnonzero(matrix.any(0))
        part = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        data = _apply_one(data[(slice(None),) * axis + (part,)], axis, csr_array(matrix[:, part]), ready)
        ready = None
    return data


def _apply_one(data: NDArray[np.float32], axis: int, weights: csr_array, ready: Ready | None) -> NDArray[np.float32]:
    """In pieces that stay in the cache, as turning an axis to the front is slow across memory; in C order."""
    shape = [weights.shape[0] if at == axis else count for at, count in enumerate(data.shape)]
    out = np.empty(shape, np.float32)
    cut = max((at for at in range(3) if at != axis), key=lambda at: abs(data.strides[at]))
    step = max(1, _PIECE * data.shape[cut] // max(1, data.size))
    for start in range(0, data.shape[cut], step):
        place = (slice(None),) * cut + (slice(start, start + step),)
        piece = np.moveaxis(data[place], axis, 0)
        piece = np.ascontiguousarray(piece) if ready is None else ready(piece)
        rows = weights @ piece.reshape(len(piece), -1)
        np.moveaxis(out[place], axis, 0)[...] = rows.reshape(len(rows), *piece.shape[1:])
    return out


def tilted(
    data: NDArray[np.float32], to_input: NDArray[np.float64], shape: tuple[int, int, int], fill: float
) -> NDArray[np.float32]:
    """Trilinear samples of `data` on a grid that is rotated against it.

    Args:
        data: (a, b, c) voxels, already smoothed to the grid's step (see `reduce`).
        to_input: (4, 4), output index -> index of `data`.
        shape: of the output.
        fill: value outside of `data`.
    """
    matrix, offset = to_input[:3, :3], to_input[:3, 3]
    out = ndimage.affine_transform(data, matrix, offset, shape, order=1, mode="nearest", prefilter=False)
    steps = [np.arange(n, dtype=np.float32).reshape([-1 if k == axis else 1 for k in range(3)]) for axis, n in enumerate(shape)]
    for axis in range(3):
        place = sum((np.float32(matrix[axis, k]) * steps[k] for k in range(3)), start=np.float32(offset[axis]))
        out[np.abs(place - (data.shape[axis] - 1) / 2) > data.shape[axis] / 2] = fill
    return out


def reduce(
    data: NDArray[np.float32], spacing: Sequence[float], wanted: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Smooth and thin the axes that are much finer than the wanted step, before `tilted`.

    Returns:
        the array, and (4, 4): index of the new array -> index of `data`.
    """
    matrices: list[Matrix | None] = [None, None, None]
    back = np.eye(4)
    for axis, (have, want) in enumerate(zip(spacing, wanted, strict=True)):
        scale = want / have / 2  # two samples a step keep the second interpolation sharp
        if scale < 1:
            continue
        inputs = data.shape[axis]
        outputs = max(1, int(np.ceil(inputs / scale)))
        offset = (inputs - 1) / 2 - scale * (outputs - 1) / 2
        matrices[axis] = _clamped(linear_matrix(inputs, outputs, scale, offset, 2 * scale))
        back[axis, axis], back[axis, 3] = scale, offset
    return apply(data, matrices), back


def _clamped(matrix: Matrix) -> Matrix:
    """Rows outside repeat their inner neighbour: a border slice must not be mixed with emptiness."""
    inside = np.flatnonzero(matrix.any(1))
    return matrix[np.clip(np.arange(len(matrix)), inside[0], inside[-1])]
