"""`VolumeSpec`: how a scan becomes a volume, from YAML, with a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from hlip.files import resources
from hlip.volume.skull_strip import TOOLS

_REVISION = 1
"""Part of every digest. Raise it when the same spec begins to give other voxels."""


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
    """Where x, y, z grow to, R or L, A or P, I or S; with RPI left stays on the left (see `hlip.volume`)."""
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
    grid: str = "scan"
    """`scan`: every scan has a grid of its own. `study`: all scans of a study lie on the grid of its first usable one, so that one index is one
    place in the patient in all of them, as channels need it. For `spacing` in the patient's frame only."""
    crop_mm: float | None = None
    """Cut each scan to the box of its foreground (of the brain, after `skull_strip`) and this margin, mm, before it is fitted."""
    skull_strip: str | None = None
    """A brain extraction program, run on each scan first: a name in `hlip.volume.skull_strip.TOOLS`."""
    nan: str | None = None
    """Voxels that are NaN. null: around the scan (joined to a face of the volume) they become background, with -1024 HU under CT windows, else
    with the scan's lowest value, and the quality table says so; within, as of whole slices between others, they refuse the scan. `background`:
    both become background. `refuse`: any refuses the scan. More than 99 % NaN, and infinite voxels, always do."""
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
        if self.grid not in ("scan", "study"):
            faults.append(f"grid: '{self.grid}' is neither scan nor study")
        if self.grid == "study" and (self.fit, self.frame, self.through_plane) != ("spacing", "patient", "axial"):
            faults.append("grid: of a study needs fit spacing, frame patient and through_plane axial")
        if self.crop_mm is not None and not 0 <= self.crop_mm < 1000:
            faults.append(f"crop_mm: {self.crop_mm} is no margin in mm")
        if self.skull_strip is not None and self.skull_strip not in TOOLS:
            faults.append(f"skull_strip: '{self.skull_strip}' is none of {', '.join(TOOLS)}")
        if self.nan not in (None, "background", "refuse"):
            faults.append(f"nan: '{self.nan}' is neither null, background nor refuse")
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
        """A built-in spec (mri, pub_brain_5, hp2l, head_ct, chest_ct, demo, image) or a YAML file of one's own.

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
        settings = self.as_dict()
        for name in ("kind", "grid"):  # they came later: older digests stand
            settings[name] = None if settings[name] == "scan" else settings[name]
        content = {key: value for key, value in settings.items() if value not in (None, [])} | {"revision": _REVISION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
