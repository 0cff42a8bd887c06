"""A scan becomes a volume: oriented, windowed, resampled, sized, uint8. `VolumeSpec` says how; its digest travels with every
prepared store and every checkpoint.

Notable choices:
- Axes of a prepared volume are (D, H, W). With the default orientation RPI (the "to" naming of ITK's DICOMOrient filter
  and of nibabel: x grows to the Right, y to the Posterior, z to the Inferior) an axial volume has D from superior to
  inferior, H from anterior to posterior, W from the patient's left to right: upright, and left stays on the left. A
  coronal one has D anterior -> posterior, H superior -> inferior, W left -> right; a sagittal one D left -> right,
  H superior -> inferior, W anterior -> posterior.
- `affine` of a prepared volume maps its own (d, h, w) indices to RAS millimetres through crop, pad and zoom, so that
  whatever is found in the volume can be drawn on the scan.
- fit `square` is the published Pub-Brain-5 protocol: the slices are kept as they were acquired and only their size
  changes (millimetres are lost). fit `spacing` is physical: the same millimetres in every volume, on a grid along the
  patient's axes, or parallel to the slices as the technologist angled them.
- What cannot be prepared under a spec raises `VolumeError` with a reason, as reading does.
- A scan is called sparse when one value holds over 90 % of it and the rest fills less than 10 % of its own box (a
  skull-stripped head in a large field fills half of it). Sparse is refused as `thresholded` under a CT spec, and also
  under an MRI spec when the file's scale slope is no integer, i.e. its values are no longer those of a scanner: so
  stands a CT angiogram of which only vessels are left. Otherwise it is prepared with a note (an MR angiogram).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from hlip import fitting, resources
from hlip.scanfile import LoadedScan, VolumeError, find_scans, read_scan, sample

__all__ = ["LoadedScan", "PreparedVolume", "VolumeError", "VolumeSpec", "find_scans", "prepare_volume", "read_scan"]

_REVISION = 1
"""Part of every digest. Raise it when the same spec begins to give other voxels."""
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
    frame: str = "patient"
    """`patient`: the grid follows the patient's (the scanner's) axes, tilted scans are rotated. `scan`: it stays parallel to the
    acquired slices, which are usually angled to the head and so align heads better. For `spacing` only."""
    centre: str = "fov"
    """`fov`: the middle of the scan. `foreground`: the middle of what is not background, and the top of it where it is taller
    than the volume (a neck must not push the vertex out). For `spacing` only."""
    percentiles: tuple[float, float] | None = (0.5, 99.5)
    """Intensities clipped here, then spread over 0..255."""
    windows: tuple[tuple[str, float, float], ...] = ()
    """CT instead of percentiles: (name, level, width) in HU. Each window makes one volume."""
    kind: str = "scan"
    """`scan`: a 3-D scan of grey values. `image`: a 2-D colour image, of which red, green and blue become three volumes of one plane; its
    8-bit values stay as they are, so `percentiles` is null and there are no windows."""

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
        if self.frame not in ("patient", "scan"):
            faults.append(f"frame: '{self.frame}' is neither patient nor scan")
        if self.centre not in ("fov", "foreground"):
            faults.append(f"centre: '{self.centre}' is neither fov nor foreground")
        pairs = [set("RL"), set("AP"), set("IS")]
        if len(self.orientation) != 3 or any(code not in pair for code, pair in zip(self.orientation, pairs, strict=True)):
            faults.append(f"orientation: '{self.orientation}' is not of the form R|L A|P I|S, e.g. RPI")
        if self.kind not in ("scan", "image"):
            faults.append(f"kind: '{self.kind}' is neither scan nor image")
        small = any(wide < count for wide, count in zip(self.resize or (), self.size[1:], strict=False))
        if self.kind == "image" and (
            self.size[:1] != (1,) or self.fit != "square" or small or self.percentiles or self.windows
        ):
            faults.append(
                "kind: an image needs size [1, H, W], fit square, resize of at least H, W, percentiles null and no windows"
            )
        scaled = self.kind != "image" and not self.windows
        if scaled and (self.percentiles is None or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100):
            faults.append(f"percentiles: {self.percentiles} is not a rising pair within 0..100 (and there are no windows)")
        if any(width <= 0 for _, _, width in self.windows) or len({name for name, *_ in self.windows}) < len(self.windows):
            faults.append("windows: names must differ and widths be positive")
        return faults

    @classmethod
    def load(cls, name_or_path: str | Path) -> VolumeSpec:
        """A built-in spec (mri, head_ct, chest_ct, demo, image) or a YAML file of one's own.

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
        settings = self.as_dict() | {"kind": None if self.kind == "scan" else self.kind}  # it came later: older digests stand
        content = {key: value for key, value in settings.items() if value not in (None, [])} | {"revision": _REVISION}
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
        VolumeError: not_2d (the spec is one for images), thresholded (a floor value cut the tissue away), not_hu (windows on values that are
            no HU), no_contrast, out_of_view (nothing of the scan lies in the volume).
    """
    if spec.kind != "scan":
        raise VolumeError("not_2d", f"{scan.path}: a scan, but the spec is one for images; name the spec of a scan, e.g. mri")
    ranges, notes = _intensity(scan, spec)
    mask = _foreground(scan.data, spec)
    share = float(mask.mean())
    volumes, affine = fitting.fit(scan, spec, [(low, high) for _, low, high in ranges], mask)
    if not any(voxels.any() for voxels in volumes):
        remedy = "check the affine, or the spec's size and windows"
        raise VolumeError("out_of_view", f"{scan.path}: nothing of the scan lies in the prepared volume; {remedy}")
    return [
        PreparedVolume(voxels, affine, window, notes, low, high, share)
        for voxels, (window, low, high) in zip(volumes, ranges, strict=True)
    ]


def _intensity(scan: LoadedScan, spec: VolumeSpec) -> tuple[list[tuple[str, float, float]], tuple[str, ...]]:
    """(window name, low, high) of each volume to make, and notes; or why there is none."""
    path, data, notes = scan.path, scan.data, list(scan.notes)
    cuts = spec.percentiles or (0.5, 99.5)
    # For windows only the median is used: spare the memory of a whole CT.
    flat = sample(data, 2**20) if spec.windows else data.ravel(order="K")
    low, middle, high = (float(value) for value in np.percentile(flat, (cuts[0], 50, cuts[1])))
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
    spans = fitting.spans(mask, 0.01)
    box = np.prod([max(1.0, high - low + 1) for low, high in spans])
    return float(np.count_nonzero(mask)) / float(box)


def _foreground(data: NDArray[np.float32], spec: VolumeSpec) -> NDArray[np.bool_]:
    """What is not background: above -200 HU, or above 30 % of the mean of all that is brighter than the mean."""
    if spec.windows:
        return data > -200
    low = float(data.min())
    bright = float(data[data > data.mean(dtype=np.float64)].mean(dtype=np.float64))
    return data > np.float32(low + 0.3 * (bright - low))
