"""A scan becomes a volume: oriented, windowed, resampled, sized, uint8. `VolumeSpec` says how; its digest travels with every
prepared store and every checkpoint.

Notable choices:
- Axes of a prepared volume are (D, H, W). With the default orientation RPI (ITK's and nibabel's "to" naming: x grows to the Right,
  y to the Posterior, z to the Inferior) an axial volume has D from superior to inferior, H from anterior to posterior, W from the
  patient's left to right: upright, and left stays on the left. A coronal one has D anterior -> posterior and H superior -> inferior,
  a sagittal one D left -> right, H superior -> inferior, W anterior -> posterior.
- `affine` of a prepared volume maps its own (d, h, w) indices to RAS millimetres through crop, pad and zoom, so that whatever is
  found in the volume can be drawn on the scan.
- fit `square` is the published Pub-Brain-5 protocol: the slices are kept as they were acquired and only their size changes
  (millimetres are lost). fit `spacing` is physical: the same millimetres in every volume, on a grid along the patient's axes.
- What cannot be prepared under a spec raises `VolumeError` with a reason, as reading does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from numpy.typing import NDArray

from hlip import resample, resources
from hlip.scanfile import LoadedScan, VolumeError, find_scans, read_scan

__all__ = ["LoadedScan", "PreparedVolume", "VolumeError", "VolumeSpec", "find_scans", "prepare_volume", "read_scan"]

_REVISION = 1
"""Part of every digest. Raise it when the same spec begins to give other voxels."""
_SAME_SPACING = 1e-3  # mm; headers round, and 0.8800001 is no thicker than 0.88
_FILL = 0.10  # less of the foreground's own box filled than this: no organ, but what a threshold left


class SpecError(ValueError):
    """A VolumeSpec has an impossible or unknown setting; the message names it."""


@dataclass(frozen=True)
class VolumeSpec:
    """How a scan becomes a volume. Sources: the Pub-Brain-5 and CT-RATE protocols of HLIP (arXiv 2505.21862)."""

    size: tuple[int, int, int]
    """(D, H, W) voxels of every prepared volume."""
    fit: str = "spacing"
    """`square`: zero-pad H, W to a square, bilinear to `resize`, depth nearest-exact to D, centre crop to H, W.
    `spacing`: linear (anti-aliased) to `spacing_mm`, pad or crop to `size`."""
    resize: tuple[int, int] | None = None
    """(H, W) before the centre crop of `square`."""
    spacing_mm: tuple[float, float, float] | None = None
    """(d, h, w) step of `spacing`, mm."""
    through_plane: str = "acquired"
    """Which axis is D. `acquired`: the one of largest spacing (z, y, x: first on a tie). `axial`: always z."""
    orientation: str = "RPI"
    """Where x, y, z grow to; see the head of this file."""
    centre: str = "fov"
    """`fov`: the middle of the scan. `foreground`: the middle of what is not background, and the top of it where it is taller
    than the volume (a neck must not push the vertex out). For `spacing` only."""
    percentiles: tuple[float, float] | None = (0.5, 99.5)
    """Intensities clipped here, then spread over 0..255."""
    windows: tuple[tuple[str, float, float], ...] = ()
    """CT instead of percentiles: (name, level, width) in HU. Each window makes one volume."""

    def __post_init__(self) -> None:
        windows = self.windows.items() if isinstance(self.windows, Mapping) else self.windows or ()
        flat = [(item[0], *item[1]) if len(item) == 2 else item for item in windows]
        set_ = object.__setattr__
        set_(self, "windows", tuple((str(name), float(level), float(width)) for name, level, width in flat))
        set_(self, "size", tuple(int(n) for n in self.size))
        for name in ("resize", "spacing_mm", "percentiles"):
            value = getattr(self, name)
            kind = int if name == "resize" else float
            set_(self, name, None if value is None else tuple(kind(n) for n in value))
        for fault in self._faults():
            raise SpecError(f"VolumeSpec.{fault}")

    def _faults(self) -> list[str]:
        faults = []
        if len(self.size) != 3 or min(self.size) < 1:
            faults.append(f"size: {self.size} is not three positive numbers (D, H, W)")
        if self.fit not in ("square", "spacing"):
            faults.append(f"fit: '{self.fit}' is neither square nor spacing")
        if self.fit == "square" and (self.resize is None or len(self.resize) != 2 or self.resize < self.size[1:]):
            faults.append(f"resize: fit square needs (H, W) of at least {self.size[1:]}, got {self.resize}")
        if self.fit == "spacing" and (self.spacing_mm is None or len(self.spacing_mm) != 3 or min(self.spacing_mm) <= 0):
            faults.append(f"spacing_mm: fit spacing needs three positive mm (d, h, w), got {self.spacing_mm}")
        if self.through_plane not in ("acquired", "axial"):
            faults.append(f"through_plane: '{self.through_plane}' is neither acquired nor axial")
        if self.centre not in ("fov", "foreground"):
            faults.append(f"centre: '{self.centre}' is neither fov nor foreground")
        pairs = [set("RL"), set("AP"), set("IS")]
        if len(self.orientation) != 3 or any(code not in pair for code, pair in zip(self.orientation, pairs, strict=True)):
            faults.append(f"orientation: '{self.orientation}' is not of the form R|L A|P I|S, e.g. RPI")
        if not self.windows and (self.percentiles is None or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100):
            faults.append(f"percentiles: {self.percentiles} is not a rising pair within 0..100 (and there are no windows)")
        if any(width <= 0 for _, _, width in self.windows) or len({name for name, *_ in self.windows}) < len(self.windows):
            faults.append("windows: names must differ and widths be positive")
        return faults

    @classmethod
    def load(cls, name_or_path: str | Path) -> VolumeSpec:
        """A built-in spec (mri, head_ct, chest_ct, demo) or a YAML file of one's own.

        Raises:
            ResourceError: no such name or file. SpecError: unknown or impossible setting.
        """
        path = resources.find("volume", name_or_path)
        try:
            return cls.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (SpecError, TypeError, ValueError, yaml.YAMLError) as error:
            raise SpecError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> VolumeSpec:
        """The spec of a parsed YAML or JSON mapping; unknown keys are errors."""
        if not isinstance(settings, Mapping):
            raise SpecError(f"expected a mapping of settings, got {type(settings).__name__}")
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise SpecError(f"unknown setting(s) {', '.join(unknown)} (known: {', '.join(sorted(known))})")
        return cls(**settings)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` takes them and JSON writes them."""
        return json.loads(json.dumps(asdict(self)))

    def digest(self) -> str:
        """Same digest = same voxels from the same scan. 16 hex digits."""
        content = {key: value for key, value in self.as_dict().items() if value not in (None, [])} | {"revision": _REVISION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PreparedVolume:
    """One volume as a network sees it."""

    voxels: NDArray[np.uint8]
    """(D, H, W)."""
    affine: NDArray[np.float64]
    """(4, 4), voxel index (d, h, w, 1) -> RAS mm."""
    window: str = ""
    """Name of the CT window, empty for percentiles."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    low: float = 0.0
    """Intensity that became 0, in the scan's units."""
    high: float = 0.0
    """Intensity that became 255."""
    foreground: float = 0.0
    """Share of the scan's voxels that are not background."""


def prepare_volume(scan: LoadedScan, spec: VolumeSpec) -> list[PreparedVolume]:
    """Prepare one scan: one volume, or one for each CT window.

    Raises:
        VolumeError: thresholded (a floor value cut the tissue away), not_hu (windows on values that are no HU), no_contrast,
            out_of_view (nothing of the scan lies in the volume).
    """
    axes = _Axes(scan, spec)
    data = np.ascontiguousarray(scan.data.T) if scan.data.flags.c_contiguous else scan.data.T  # (Z, Y, X), a view for a NIfTI
    ranges, notes = _intensity(scan, spec)
    mask = _foreground(data, spec)
    share = float(mask.mean())
    if spec.fit == "square":
        volumes = [_square(data, axes, spec, low, high) for _, low, high in ranges]
        affine = axes.square_affine(spec)
    else:
        volumes, affine = _spacing(data, axes, spec, ranges, mask)
    prepared = []
    for voxels, (window, low, high) in zip(volumes, ranges, strict=True):
        if not voxels.any():
            remedy = "check the affine, or the spec's size and window"
            raise VolumeError("out_of_view", f"{scan.path}: nothing of the scan lies in the prepared volume {window}; {remedy}")
        prepared.append(PreparedVolume(voxels, affine, window, notes, low, high, share))
    return prepared


class _Axes:
    """Which stored axis, in which direction, becomes D, H and W."""

    def __init__(self, scan: LoadedScan, spec: VolumeSpec) -> None:
        towards = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(scan.affine), nib.orientations.axcodes2ornt(tuple(spec.orientation))
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


def _intensity(scan: LoadedScan, spec: VolumeSpec) -> tuple[list[tuple[str, float, float]], tuple[str, ...]]:
    """(window name, low, high) of each volume to make, and notes; or why there is none."""
    path, data, notes = scan.path, scan.data, list(scan.notes)
    cuts = spec.percentiles or (0.5, 99.5)
    low, middle, high = (float(value) for value in np.percentile(data.ravel(order="K"), (cuts[0], 50, cuts[1])))
    # A value that more than half of the voxels hold is the median: no histogram needed.
    same = data == np.float32(middle)
    share = float(np.count_nonzero(same)) / data.size
    sparse = share > 0.9 and _fill(~same) < _FILL
    if sparse and (spec.windows or scan.slope != int(scan.slope)):
        cause = "and its values were rescaled, so they are no HU" if not spec.windows else "so they are no plain HU"
        raise VolumeError(
            "thresholded", f"{path}: {share:.1%} of the voxels hold the value {middle:g}, {cause}; use the original series"
        )
    if spec.windows:
        if float(data.min()) >= 0:
            remedy = "was the rescale intercept lost, or is this no CT?"
            raise VolumeError("not_hu", f"{path}: no value below 0, while air is -1000 HU; {remedy}")
        return [(name, level - width / 2, level + width / 2) for name, level, width in spec.windows], tuple(notes)
    if low == high:
        raise VolumeError("no_contrast", f"{path}: the {cuts[0]} and {cuts[1]} percentiles are both {low:g}: almost empty")
    if sparse:
        notes.append(f"{share:.1%} of the voxels hold one value: a thresholded or masked image (vessels only?)")
    if scan.modality == "CT" or (low <= -900 and high > 100):
        notes.append("looks like CT, but this spec scales by percentiles as for MRI: use a CT spec (head_ct, chest_ct)")
    return [("", low, high)], tuple(notes)


def _fill(mask: NDArray[np.bool_]) -> float:
    """Share of its own bounding box (98 % of it along each axis, so that specks do not count) that a mask fills."""
    spans = _spans(mask, 0.01)
    box = np.prod([max(1.0, high - low + 1) for low, high in spans])
    return float(np.count_nonzero(mask)) / float(box)


def _spans(mask: NDArray[np.bool_], tail: float) -> list[tuple[int, int]]:
    """First and last index of a mask along each axis, leaving `tail` of its voxels out at either end."""
    spans = []
    for axis in range(3):
        mass = np.cumsum(np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis)))
        total = int(mass[-1]) if len(mass) else 0
        if total == 0:
            spans.append((0, mask.shape[axis] - 1))
            continue
        spans.append((int(np.searchsorted(mass, tail * total, side="right")), int(np.searchsorted(mass, (1 - tail) * total))))
    return spans


def _foreground(data: NDArray[np.float32], spec: VolumeSpec) -> NDArray[np.bool_]:
    """What is not background: above -200 HU, or above 30 % of the mean of all that is brighter than the mean."""
    if spec.windows:
        return data > -200
    low = float(data.min())
    bright = float(data[data > data.mean(dtype=np.float64)].mean(dtype=np.float64))
    return data > np.float32(low + 0.3 * (bright - low))


def _square(
    data: NDArray[np.float32], axes: _Axes, spec: VolumeSpec, low: float, high: float
) -> NDArray[np.uint8]:
    """The Pub-Brain-5 protocol on one intensity range. The scan is rounded to uint8 first, as published, and once more at the end."""
    view = axes.view(data)[resample.nearest_exact(axes.shape[0], spec.size[0])]
    return _bytes(square_slices(np.rint(_spread(view, low, high)), spec))


def square_slices(slices: NDArray[np.float32], spec: VolumeSpec) -> NDArray[np.float32]:
    """(D, h, w) slices of 0..255 -> (D, H, W): zero-padded to a centred square, bilinear to `spec.resize`, centre crop."""
    assert spec.resize is not None
    side = max(slices.shape[1:])
    matrices: list[resample.Matrix | None] = [None]
    for axis in (1, 2):
        resize, size, count = spec.resize[axis - 1], spec.size[axis], slices.shape[axis]
        scale, crop, pad = side / resize, (resize - size) // 2, (side - count) // 2
        matrix = resample.linear_matrix(side, size, scale, scale * (crop + 0.5) - 0.5)
        matrices.append(matrix[:, pad : pad + count])  # the columns of the padding only ever meet zeros
    return resample.apply(np.ascontiguousarray(slices, dtype=np.float32), matrices)


def _spacing(
    data: NDArray[np.float32],
    axes: _Axes,
    spec: VolumeSpec,
    ranges: list[tuple[str, float, float]],
    mask: NDArray[np.bool_],
) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
    """Physical resampling: (volumes, affine). CT is resampled in HU and then windowed; MRI is clipped first, so that one bright
    vessel does not spread over its neighbours."""
    assert spec.spacing_mm is not None
    fill = ranges[0][1]
    source = data if spec.windows else np.clip(data, ranges[0][1], ranges[0][2])
    wanted = np.array(spec.spacing_mm)
    centre, snap = _centre(axes, spec, mask)
    directions = np.zeros((3, 3))
    directions[list(axes.anatomical), range(3)] = axes.signs
    tilt = axes.affine[:3, :3] - directions * np.array(axes.spacing)
    if np.abs(tilt @ np.array(axes.shape)).max() / 2 <= wanted.min() / 4 and np.abs(tilt).sum(1).max() * max(axes.shape) < wanted.min():
        to_input = np.eye(4)
        to_input[range(3), range(3)] = wanted / axes.spacing
        to_input[:3, 3] = centre - snap * wanted / axes.spacing
        grid = _along_axes(source, axes, spec, to_input, fill)
        affine = axes.affine @ to_input
    else:
        affine = np.eye(4)
        affine[:3, :3] = directions * wanted
        affine[:3, 3] = (axes.affine @ [*centre, 1])[:3] - affine[:3, :3] @ snap
        grid = _across_axes(source, axes, spec, affine, fill)
    return [_bytes(_spread(grid, low, high)) for _, low, high in ranges], affine


def _centre(axes: _Axes, spec: VolumeSpec, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(oriented index of the scan, index of the volume) that shall meet."""
    assert spec.spacing_mm is not None
    size = np.array(spec.size)
    middle = (np.array(axes.shape) - 1) / 2
    if spec.centre == "fov":
        # The resampled scan keeps whole voxels of the wanted step and is padded or cropped by whole voxels: with an equal
        # spacing no voxel is interpolated.
        whole = np.array(
            [max(1, int(n * have / want + 1e-3)) for n, have, want in zip(axes.shape, axes.spacing, spec.spacing_mm, strict=True)]
        )
        return middle, (whole - 1) / 2 - np.trunc((whole - size) / 2)
    spans = _spans(axes.view(mask), 0.01)
    for axis, (low, high) in enumerate(spans):
        middle[axis] = (low + high) / 2
        tall = size[axis] * spec.spacing_mm[axis] / axes.spacing[axis]
        if axes.anatomical[axis] == 2 and high - low > tall:  # z: keep the top, with a margin
            down_first = axes.signs[axis] < 0
            middle[axis] = low + 0.45 * tall if down_first else high - 0.45 * tall
    return middle, (size - 1) / 2


def _along_axes(
    source: NDArray[np.float32], axes: _Axes, spec: VolumeSpec, to_input: NDArray[np.float64], fill: float
) -> NDArray[np.float32]:
    """The grid is parallel to the scan: one matrix an axis, applied in file order."""
    matrices: list[resample.Matrix | None] = [None, None, None]
    inside = []
    for axis, place in enumerate(axes.stored):
        scale, offset = to_input[axis, axis], to_input[axis, 3]
        matrix = resample.linear_matrix(axes.shape[axis], spec.size[axis], scale, offset, scale)
        inside.append(matrix.any(1))
        matrices[2 - place] = matrix[:, ::-1] if axes.flips[axis] else matrix
    grid = resample.apply(source, matrices).transpose([2 - place for place in axes.stored])
    for axis, rows in enumerate(inside):
        if not rows.all():
            grid[(slice(None),) * axis + (~rows,)] = fill
    return grid


def _across_axes(
    source: NDArray[np.float32], axes: _Axes, spec: VolumeSpec, affine: NDArray[np.float64], fill: float
) -> NDArray[np.float32]:
    """The scan is tilted against the grid."""
    assert spec.spacing_mm is not None
    view = axes.view(source)
    reduced, back = resample.reduce(view, axes.spacing, spec.spacing_mm)
    to_input = np.linalg.inv(axes.affine @ back) @ affine
    return resample.tilted(reduced, to_input, spec.size, fill)


def _spread(data: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """low..high -> 0..255, clipped."""
    return np.clip((data - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)


def _bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rint(values).astype(np.uint8))
