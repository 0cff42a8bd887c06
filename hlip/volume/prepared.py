"""A scan and a `VolumeSpec` -> prepared volumes: intensity first, then the grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hlip.scans.scan import LIKE_CT, SHEARED, LoadedScan, VolumeError, sample
from hlip.volume import fitting
from hlip.volume.counting import Counts
from hlip.volume.skull_strip import skull_strip
from hlip.volume.spec import VolumeSpec

_SHEAR = 1.0  # degrees; rounded headers lean by less
_FILL = 0.10  # less of the foreground's own box filled than this: no organ, but what a threshold left


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


def prepare_volume(scan: LoadedScan, spec: VolumeSpec, grid: NDArray[np.float64] | None = None) -> list[PreparedVolume]:
    """Prepare one scan: one volume, or one for each CT window.

    Args:
        grid: (4, 4), `affine` of the study's first volume, where `spec.grid` is `study`; `None` for that first one.

    Raises:
        VolumeError: not_2d (the spec is one for images), thresholded (a floor value cut the tissue away), not_hu (windows on values that are
            no HU), no_contrast, skull_strip, skull_strip_program, out_of_view (nothing of the scan lies in the volume).
    """
    if spec.kind != "scan":
        raise VolumeError("not_2d", f"{scan.path}: a scan, but the spec is one for images; name the spec of a scan, e.g. mri")
    if spec.skull_strip is not None:
        scan = skull_strip(scan, spec.skull_strip)
    counts = None if spec.windows else scan.counts
    ranges, notes = _intensity(scan, spec, counts)
    floor = _floor(scan, spec, counts)
    mask = None
    if counts is None or _centred(spec):
        mask = scan.data > floor
        inside = int(np.count_nonzero(mask))
    else:
        inside = counts.above(float(floor))
    share = inside / scan.data.size
    if spec.crop_mm is not None and mask is not None:
        scan, mask = _crop(scan, mask, spec.crop_mm)
    volumes, affine = fitting.fit(scan, spec, [(low, high) for _, low, high in ranges], mask, grid)
    if not any(voxels.any() for voxels in volumes):
        remedy = "check the affine, or the spec's size and windows"
        raise VolumeError("out_of_view", f"{scan.path}: nothing of the scan lies in the prepared volume; {remedy}")
    return [
        PreparedVolume(voxels, affine, window, notes, low, high, share)
        for voxels, (window, low, high) in zip(volumes, ranges, strict=True)
    ]


def _crop(scan: LoadedScan, mask: NDArray[np.bool_], margin_mm: float) -> tuple[LoadedScan, NDArray[np.bool_]]:
    """Scan and foreground within the foreground's box (specks left out) and a margin."""
    corner, parts = np.eye(4), []
    for axis, ((low, high), step, count) in enumerate(zip(fitting.spans(mask, 0.001), scan.spacing, mask.shape, strict=True)):
        margin = int(np.ceil(margin_mm / step))
        corner[axis, 3] = start = max(0, low - margin)
        parts.append(slice(start, min(count, high + margin + 1)))
    box = tuple(parts)
    return replace(scan, data=scan.data[box], affine=scan.affine @ corner), mask[box]


def _intensity(
    scan: LoadedScan, spec: VolumeSpec, counts: Counts | None
) -> tuple[list[tuple[str, float, float]], tuple[str, ...]]:
    """(window name, low, high) of each volume to make, and notes; or why there is none."""
    path, data, notes = scan.path, scan.data, [*scan.notes, *_on_shear(scan, spec)]
    cuts = spec.percentiles or (0.5, 99.5)
    if counts is not None:
        low, middle, high = counts.percentiles((cuts[0], 50, cuts[1]))
    else:  # for windows only the median is used: spare the memory of a whole CT
        flat = sample(data, 2**20) if spec.windows else data.ravel(order="K")
        low, middle, high = (float(value) for value in np.percentile(flat, (cuts[0], 50, cuts[1])))
    # A value that more than half of the voxels hold is the median: no histogram needed.
    middle32 = np.float32(middle)
    share = (counts.count(float(middle32)) if counts else int(np.count_nonzero(data == middle32))) / data.size
    sparse = share > 0.9 and _fill(data != middle32) < _FILL
    if sparse and (spec.windows or scan.slope != int(scan.slope)):
        cause = "and its values were rescaled, so they are no HU" if not spec.windows else "so they are no plain HU"
        raise VolumeError(
            "thresholded", f"{path}: {share:.1%} of the voxels hold the value {middle:g}, {cause}; use the original series"
        )
    if spec.windows:
        if scan.ends[0] >= 0:
            remedy = "was the rescale intercept lost, or is this no CT?"
            raise VolumeError("not_hu", f"{path}: no value below 0, while air is -1000 HU; {remedy}")
        return [(name, level - width / 2, level + width / 2) for name, level, width in spec.windows], tuple(notes)
    if low == high:
        raise VolumeError("no_contrast", f"{path}: the {cuts[0]} and {cuts[1]} percentiles are both {low:g}: almost empty")
    if sparse:
        notes.append(f"{share:.1%} of the voxels hold one value: a thresholded or masked image (vessels only?)")
    if scan.modality == "CT" or (low <= -900 and high > 100):
        notes.append(f"{LIKE_CT}, but this spec scales by percentiles as for MRI: use a CT spec (head_ct, chest_ct)")
    return [("", low, high)], tuple(notes)


def _on_shear(scan: LoadedScan, spec: VolumeSpec) -> list[str]:
    """A stack that leans: straightened where millimetres count, else shown as it was acquired; said in both cases."""
    if scan.shear < _SHEAR:
        return []
    straight = spec.fit == "spacing" and spec.frame == "patient"
    done = "resampled upright" if straight else "the slices are kept as they are, so the volume leans"
    return [f"{SHEARED} by {scan.shear:.1f} degrees (a tilted gantry, or a damaged header): {done}"]


def _fill(mask: NDArray[np.bool_]) -> float:
    """Share of its own bounding box (98 % of it along each axis, so that specks do not count) that a mask fills."""
    spans = fitting.spans(mask, 0.01)
    box = np.prod([max(1.0, high - low + 1) for low, high in spans])
    return float(np.count_nonzero(mask)) / float(box)


def _centred(spec: VolumeSpec) -> bool:
    """Whether it matters where the foreground lies, not only how much there is."""
    return spec.crop_mm is not None or spec.centre == "foreground"


def _floor(scan: LoadedScan, spec: VolumeSpec, counts: Counts | None) -> np.float32:
    """Above it is what is not background: -200 HU, or 30 % of the way to the mean of all that is brighter than the mean."""
    if spec.windows:
        return np.float32(-200)
    low, data = scan.ends[0], scan.data
    if counts is not None:
        return np.float32(low + 0.3 * (counts.mean(above=counts.mean()) - low))
    bright = float(data[data > data.mean(dtype=np.float64)].mean(dtype=np.float64))
    return np.float32(low + 0.3 * (bright - low))
