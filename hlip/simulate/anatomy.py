"""Anatomy: the ICBM152 tissue maps, an individual's deformation of them, and named places.

Two frames are used. The *subject frame* is a 3 mm grid in MNI-like millimetres (RAS; x < 0 is the patient's left).
The *world frame* is the scanner's, RAS millimetres, reached by the subject's affine (individual scale, head
rotation, position). All smooth deformation happens in the subject frame as a pull-back: the tissue at x is the
template's tissue at x + displacement(x).

Source of the maps: Fonov et al., NeuroImage 54:313 (2011), ICBM152 2009a symmetric, as carried by nilearn's wheel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

SPACING = 3.0
"""Edge of the internal grid in mm."""

_BOX = ((-90.0, 90.0), (-123.0, 93.0), (-87.0, 99.0))
"""Extent of the internal grid in MNI mm: the brain and 15 mm of head around it."""


class SimulateError(RuntimeError):
    """The cohort cannot be built; the message names the cause and the remedy."""


@dataclass(frozen=True)
class Template:
    """Maps on the internal grid, float32 (X, Y, Z), fractions 0 to 1 unless said otherwise."""

    affine: np.ndarray
    """(4, 4) grid index -> MNI mm."""
    gm: np.ndarray
    wm: np.ndarray
    intracranial: np.ndarray
    """Brain and the fluid around it."""
    scalp: np.ndarray
    ventricle_distance: np.ndarray
    """Signed distance to the lateral ventricles in mm, negative inside."""
    widening: np.ndarray
    """(3, X, Y, Z) pull towards the lateral ventricles, length 1 at their wall, fading over 25 mm."""
    yielding: np.ndarray
    """How far tissue can be displaced: 0 at the inner table of the skull, 1 from 10 mm inwards."""
    head: np.ndarray
    """Flat indices (int64) of the grid's voxels in or near the head."""
    junction: np.ndarray
    """(n, 3) MNI mm of voxels at the cerebral grey-white junction."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.gm.shape

    def index(self, point: np.ndarray) -> tuple[int, int, int]:
        """The grid voxel of a point in subject-frame mm, clipped to the grid."""
        place = np.rint((np.asarray(point) - self.affine[:3, 3]) / SPACING).astype(int)
        return tuple(np.clip(place, 0, np.array(self.shape) - 1))


def axes(template: Template) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates in mm along the three grid axes."""
    x, y, z = (template.affine[i, 3] + SPACING * np.arange(n) for i, n in enumerate(template.shape))
    return x, y, z


# --------------------------------------------------------------------------- template


def build_template() -> Template:
    """Average nilearn's 1 mm maps into the internal grid.

    Raises:
        SimulateError: nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise SimulateError("the simulated cohort needs nilearn: pip install 'hlip-hp2l[simulate]'") from error
    images = [
        datasets.load_mni152_template(resolution=1),
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
        datasets.load_mni152_brain_mask(resolution=1),
    ]
    fine = [_boxed(np.asarray(image.dataobj, dtype=np.float32), image.affine) for image in images]
    t1, gm, wm, mask = fine
    # The remainder sees the sulci; the T1 (CSF 0.27, grey 0.64) sees partial volume at the ventricles' wall.
    fluid = np.maximum(np.clip(mask - gm - wm, 0, 1), np.clip((0.56 - t1) / 0.26, 0, 1) * mask)
    ventricles = _ventricles(fluid)
    rest = np.maximum(gm + wm, 1e-3)
    gm, wm = (np.clip((mask - fluid) * part / rest, 0, 1) for part in (gm, wm))
    gm, wm, intracranial, ventricles = (_coarse(part) for part in (gm, wm, mask, ventricles.astype(np.float32)))
    return _derive(gm, wm, intracranial, ventricles)


def _derive(gm: np.ndarray, wm: np.ndarray, intracranial: np.ndarray, ventricles: np.ndarray) -> Template:
    """Everything that follows from the tissue maps."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = [low + (SPACING - 1) / 2 for low, _ in _BOX]
    inside = intracranial > 0.5
    outside_mm = ndimage.distance_transform_edt(~inside) * SPACING
    depth_mm = ndimage.distance_transform_edt(inside) * SPACING
    z = (affine[2, 3] + SPACING * np.arange(gm.shape[2]))[None, None, :]
    # Dura and fluid to 3 mm, bone to 9 mm, scalp to 14 mm; the neck is left open.
    intracranial = np.maximum(intracranial, np.clip((4.5 - outside_mm) / SPACING, 0, 1))
    scalp = np.clip((outside_mm - 7.5) / SPACING, 0, 1) * np.clip((15 - outside_mm) / SPACING, 0, 1)
    scalp = scalp * np.clip((z + 70) / 15, 0, 1)
    wall = ventricles > 0.5
    signed = (ndimage.distance_transform_edt(~wall) - ndimage.distance_transform_edt(wall)) * SPACING
    signed = ndimage.gaussian_filter(signed, 1.0)
    slope = np.stack(tuple(np.gradient(signed, SPACING)))
    widening = -slope * np.exp(-np.clip(signed, 0, None) / 25) * np.clip(depth_mm / 12, 0, 1)
    grid = np.stack(np.meshgrid(*(affine[i, 3] + SPACING * np.arange(n) for i, n in enumerate(gm.shape)), indexing="ij"))
    border = (gm > 0.3) & (wm > 0.3) & (depth_mm > 7) & (depth_mm < 26) & (grid[2] > -22) & (signed > 12)
    yielding = np.clip(ndimage.distance_transform_edt(intracranial > 0.5) * SPACING / 10 - 0.2, 0, 1)
    head = np.flatnonzero((outside_mm < 20).ravel())
    maps = {"gm": gm, "wm": wm, "intracranial": intracranial, "scalp": scalp, "yielding": yielding}
    maps |= {"ventricle_distance": signed, "widening": widening}
    single: dict[str, np.ndarray] = {name: part.astype(np.float32) for name, part in maps.items()}
    return Template(affine=affine, head=head, junction=grid[:, border].T.copy(), **single)


def _boxed(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The 1 mm volume cut and padded to `_BOX`."""
    out = np.zeros([int(high - low) for low, high in _BOX], np.float32)
    start = [int(low - affine[i, 3]) for i, (low, _) in enumerate(_BOX)]
    source = tuple(slice(max(s, 0), min(s + n, have)) for s, n, have in zip(start, out.shape, data.shape, strict=True))
    target = tuple(slice(cut.start - s, cut.stop - s) for cut, s in zip(source, start, strict=True))
    out[target] = data[source]
    return out


def _coarse(data: np.ndarray) -> np.ndarray:
    """Block mean from 1 mm to the internal grid."""
    step = int(SPACING)
    x, y, z = (n // step for n in data.shape)
    return data.reshape(x, step, y, step, z, step).mean(axis=(1, 3, 5))


def _ventricles(fluid: np.ndarray) -> np.ndarray:
    """Lateral (and third) ventricles: the largest piece of central fluid, without the cisterns behind the midbrain."""
    x, y, z = np.ogrid[tuple(slice(low, high) for low, high in _BOX)]
    central = (abs(x) < 36) & (y > -50) & (y < 32) & (z > -8) & (z < 32) & ~((abs(x) < 9) & (y < -20))
    pieces, _ = ndimage.label((fluid > 0.4) & central)
    sizes = np.bincount(pieces.ravel())
    return np.isin(pieces, np.flatnonzero(sizes > 1500)[1:])


def save_template(template: Template, path: Path) -> None:
    """Write the maps so that worker processes need not import nilearn (4 s each)."""
    partial = path.with_name(path.name + ".partial.npz")
    np.savez(partial, **{item.name: getattr(template, item.name) for item in fields(Template)})
    partial.replace(path)


@lru_cache(maxsize=1)
def load_template(path: Path) -> Template:
    """Read maps written by `save_template`, once a process."""
    with np.load(path, allow_pickle=False) as stored:
        return Template(**{item.name: stored[item.name] for item in fields(Template)})


# --------------------------------------------------------------------------- one individual


@dataclass(frozen=True)
class Individual:
    """What a patient keeps between visits."""

    warp: np.ndarray
    """(3, 4, 4, 4) cosine coefficients of the smooth displacement, mm."""
    scale: np.ndarray
    """(3,) head size relative to the template."""
    ventricles_mm: float
    """Widening (or narrowing, negative) of the lateral ventricles."""
    sulci: float
    """Widening of the sulci, 0 (young) to 1 (severe)."""


def draw_individual(rng: np.random.Generator, age: int) -> Individual:
    """Head size, shape, and the ventricles and sulci of that age (about 0.03 mm a year: healthy ageing)."""
    frequency = np.add.outer(np.add.outer(np.arange(4), np.arange(4)), np.arange(4))
    warp = rng.normal(0, 1, (3, 4, 4, 4)) * (2.6 / (1 + frequency) ** 1.3)
    warp[:, 0, 0, 0] = 0
    scale = rng.uniform(0.95, 1.05) * rng.uniform(0.98, 1.02, 3)
    ventricles = float(np.clip(0.025 * (age - 60) + rng.normal(0, 0.8), -1.8, 2.4))
    sulci = float(np.clip(0.15 + 0.004 * (age - 60) + rng.normal(0, 0.06), 0, 0.45))
    return Individual(warp, scale, ventricles, sulci)


def smooth_field(coefficients: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A smooth field (X, Y, Z) from cosine coefficients (k, k, k): cheap, and the same on any grid size."""
    out = coefficients.astype(np.float32)
    for size in shape:
        place = (np.arange(size, dtype=np.float32) + 0.5) / size
        basis = np.cos(np.pi * np.outer(np.arange(out.shape[0], dtype=np.float32), place))
        out = np.tensordot(out, basis, axes=(0, 0))  # contracts the first axis, appends the new one
    return out


def smooth_coefficients(rng: np.random.Generator, detail: int) -> np.ndarray:
    """Coefficients for `smooth_field` of a field of standard deviation about 1 and mean 0."""
    out = rng.normal(0, (2 / (detail + 1)) ** 1.5, (detail, detail, detail))
    out[0, 0, 0] = 0
    return out


def displacement(template: Template, person: Individual, extra_ventricles_mm: float = 0.0) -> np.ndarray:
    """Pull-back displacement (3, X, Y, Z) in mm of the lesion-free individual."""
    field = np.stack([smooth_field(part, template.shape) for part in person.warp])
    return field + np.float32(person.ventricles_mm + extra_ventricles_mm) * template.widening


def to_subject(template: Template, field: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Where a template point (MNI mm) lies in the subject frame: the inverse of the pull-back, by fixed point."""
    place = np.asarray(point, dtype=np.float64)
    for _ in range(4):
        place = point - field[(slice(None), *template.index(place))]
    return place


@dataclass
class Tissue:
    """An individual's maps on the internal grid, float32 (X, Y, Z)."""

    gm: np.ndarray
    wm: np.ndarray
    csf: np.ndarray
    intracranial: np.ndarray
    scalp: np.ndarray
    ventricle_distance: np.ndarray


def deform(template: Template, field: np.ndarray, sulci: float) -> Tissue:
    """Pull the template's maps through the displacement; wider sulci turn cortical partial volume into fluid."""
    grid = np.stack(np.unravel_index(template.head, template.shape)).astype(np.float32)
    where = grid + field.reshape(3, -1)[:, template.head] / np.float32(SPACING)

    def pulled(part: np.ndarray) -> np.ndarray:
        out = np.zeros(part.size, np.float32)
        out[template.head] = ndimage.map_coordinates(part, where, order=1, mode="nearest", prefilter=False)
        return out.reshape(part.shape)

    gm, wm, intracranial = pulled(template.gm), pulled(template.wm), pulled(template.intracranial)
    gm *= 1 - np.float32(sulci) * np.clip(1.6 * (1 - gm - wm), 0, 1)
    csf = np.clip(intracranial - gm - wm, 0, 1)
    return Tissue(gm, wm, csf, intracranial, pulled(template.scalp), pulled(template.ventricle_distance))


def world_affine(template: Template, person: Individual, rng: np.random.Generator) -> np.ndarray:
    """(4, 4) grid index -> scanner RAS mm: individual scale, head rotation within some degrees, position on the table."""
    rotation = rotation_matrix(rng.normal(0, [4.0, 2.5, 3.0]))
    out = np.eye(4)
    out[:3, :3] = rotation @ np.diag(person.scale) @ template.affine[:3, :3]
    out[:3, 3] = rotation @ (person.scale * template.affine[:3, 3]) + rng.normal(0, [3, 8, 10])
    return out


def rotation_matrix(degrees: np.ndarray) -> np.ndarray:
    """(3, 3) rotation about x, then y, then z."""
    a, b, c = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


# --------------------------------------------------------------------------- places


@dataclass(frozen=True)
class Place:
    """A named region: a box around a point of the right hemisphere in MNI mm, mirrored for the left."""

    name: str
    centre: tuple[float, float, float]
    spread: tuple[float, float, float]
    paired: bool = True
    """False: a midline structure, reported without a side."""


PLACES = {
    place.name: place
    for place in (
        Place("frontal lobe", (26, 34, 22), (8, 14, 14)),
        Place("parietal lobe", (28, -46, 40), (9, 10, 8)),
        Place("temporal lobe", (46, -18, -12), (5, 16, 6)),
        Place("occipital lobe", (24, -78, 10), (8, 7, 8)),
        Place("basal ganglia", (27, 3, 2), (3, 7, 4)),
        Place("thalamus", (12, -18, 8), (3, 4, 3)),
        Place("corona radiata", (25, -8, 26), (3, 14, 3)),
        Place("centrum semiovale", (25, -14, 38), (4, 14, 3)),
        Place("internal capsule", (20, -6, 8), (2, 7, 4)),
        Place("pons", (0, -27, -32), (5, 3, 5), paired=False),
        Place("cerebellar hemisphere", (27, -62, -38), (8, 8, 6)),
    )
}
_ANCHORS = {
    "frontal lobe": ((26, 34, 22), (46, 14, 24), (10, 10, 55), (24, -8, 58), (24, 44, -8), (42, -4, 44)),
    "parietal lobe": ((28, -46, 40), (52, -32, 34), (10, -60, 50), (36, -60, 36), (18, -38, 64)),
    "temporal lobe": ((46, -18, -12), (36, 8, -28), (54, -38, 4), (52, -4, -4), (34, -30, -18)),
    "occipital lobe": ((24, -78, 10), (10, -88, 2), (34, -76, -6), (14, -80, 28)),
    "cerebellar hemisphere": ((28, -62, -38), (12, -60, -28), (34, -50, -42)),
}
"""Points of each lobe, MNI mm, right side; read off the ICBM152 template."""


def nearest_lobe(point: np.ndarray) -> str:
    """The lobe of a point (MNI mm), by its nearest anchor."""
    mirrored = np.array([abs(point[0]), point[1], point[2]])
    return min(_ANCHORS, key=lambda name: min(float(np.linalg.norm(mirrored - anchor)) for anchor in _ANCHORS[name]))
