"""One loaded scan, the rules that hold for every one, and the error that names which was broken.

Coordinates are RAS millimetres, as nibabel gives them: x grows to the patient's right, y to the front, z upwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hlip.volume.counting import Counts

OF_THE_MACHINE = ("no_room", "no_converter", "converter_timeout", "converter_killed", "skull_strip_program")
"""Reasons of a `VolumeError` that another run may not meet."""
MIN_SLICES = 4
"""Along any axis. Fewer are a localizer or a single image."""
MIN_DISTINCT = 16
"""Grey values of a scan. Fewer are a mask or a label map."""
MAX_VOXELS = 2**30
"""4 GiB as float32. A larger header is damaged or hostile."""
AIR_HU = -1024.0
"""Of what a CT scanner did not see."""
NO_ORIENTATION = "the header states no orientation"
TWO_PLACES = "sform and qform"
MIRRORED = f"{TWO_PLACES} are mirrored"
SHEARED = "axes sheared"
LIKE_CT = "looks like CT"
"""How notes begin that say that a scan's orientation or modality is in doubt; `hlip.quality.flags` knows them by it."""
_SPACING_RANGE = (0.01, 100.0)  # mm


class VolumeError(ValueError):
    """A scan cannot be used. `reason` is a short code for tables, the text names the file and the remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[VolumeError], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # crosses process borders with its code


@dataclass(frozen=True)
class LoadedScan:
    """Voxels of one scan and where they lie."""

    data: NDArray[np.float32]
    """(X, Y, Z) in file order, in the file's units (HU for a CT) after scale slope and intercept."""
    affine: NDArray[np.float64]
    """(4, 4), voxel index (x, y, z, 1) -> RAS mm."""
    path: Path
    sequence: str = ""
    """Guessed from the file name or the DICOM series description; may be empty."""
    modality: str = ""
    """DICOM modality (MR, CT), empty for NIfTI, which does not say."""
    slope: float = 1.0
    """The scale slope that was applied. Not an integer: the stored values are not the scanner's own."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    """What a reader should know although the scan is usable."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along x, y, z of the file."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest value; not finite where any voxel is not."""
        return float(self.data.min()), float(self.data.max())

    @cached_property
    def counts(self) -> Counts | None:
        """How often each value occurs; None of a scan that is not of whole numbers."""
        from hlip.volume.counting import Counts  # its package needs this module

        return Counts.of(self.data, self.ends)

    @property
    def shear(self) -> float:
        """Degrees by which two axes leave a right angle, at most: 0 of all but tilted gantries and damaged headers."""
        x, y, z = (self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)).T
        return float(np.degrees(np.arcsin(np.clip(max(abs(x @ y), abs(x @ z), abs(y @ z)), 0, 1))))

    @property
    def codes(self) -> str:
        """Where the file's axes point, e.g. RAS or LPI ("to" naming of nibabel)."""
        return "".join(nib.orientations.ornt2axcodes(io_orientation(self.affine)))


def io_orientation(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """nibabel's, of which a scan's is asked for again and again: not to be written to."""
    return _io_orientation(affine.shape, affine.astype(np.float64, copy=False).tobytes())


@lru_cache(maxsize=64)
def _io_orientation(shape: tuple[int, ...], content: bytes) -> NDArray[np.float64]:
    found = nib.orientations.io_orientation(np.frombuffer(content, np.float64).reshape(shape))
    found.flags.writeable = False
    return found


def sample(data: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """About `count` voxels at equal steps through memory; the step shares no factor with an axis, so that it does not walk
    along one row or plane."""
    step = max(1, data.size // count)
    while any(math.gcd(step, n) > 1 for n in data.shape):
        step += 1
    return data.reshape(-1, order="A")[::step]


def volume_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The first three axes, or the reason why there are not three."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        count = int(np.prod(shape[3:]))
        raise VolumeError("series_4d", f"{path}: a series of {count} volumes {shape}; split it and name the ones to use")
    if len(shape) < 3 or min(shape) == 1:
        raise VolumeError("not_3d", f"{path}: a 2-D image {shape}; a scan needs at least {MIN_SLICES} slices")
    if min(shape) < MIN_SLICES:
        raise VolumeError("too_few_slices", f"{path}: shape {shape}; a scan needs at least {MIN_SLICES} slices")
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise VolumeError("too_large", f"{path}: the header claims {shape} voxels, over {MAX_VOXELS}; is it damaged?")
    return shape


def check(scan: LoadedScan) -> None:
    """The rules that hold for every scan, whatever it will be prepared to."""
    path, data = scan.path, scan.data
    volume_shape(path, data.shape)
    _check_affine(path, scan.affine)
    low, high = scan.ends
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(data.size - np.isfinite(data).sum())
        raise VolumeError("nan", f"{path}: {count} of {data.size} voxels are NaN or infinite; replace them, then prepare again")
    if low == high:
        raise VolumeError("constant", f"{path}: every voxel is {low:g}; export the scan again")
    # A glance at some voxels is enough for nearly all scans; only a suspicious one is counted in full.
    some = sample(data, 8192)
    if len(np.unique(some)) < MIN_DISTINCT:
        distinct = 1 + len(np.unique(data[data != some[0]]))
        if distinct < MIN_DISTINCT:
            raise VolumeError("label_map", f"{path}: only {distinct} distinct values: a mask or label map, not a scan")


def _check_affine(path: Path, affine: NDArray[np.float64]) -> None:
    remedy = "correct sform / qform or export the scan again"
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise VolumeError("bad_affine", f"{path}: the affine holds values that are not numbers; {remedy}")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < _SPACING_RANGE[0] or spacing.max() > _SPACING_RANGE[1]:
        shown = " x ".join(f"{value:g}" for value in spacing)
        raise VolumeError("bad_affine", f"{path}: voxels of {shown} mm; {remedy}")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.1:
        raise VolumeError("bad_affine", f"{path}: the axes of the affine are not independent; {remedy}")
