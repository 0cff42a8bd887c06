"""Shapes: where lesions lie, how they displace tissue, and how they are painted into an image.

Two primitives serve all classes: a bumpy ellipsoid and a bumpy cone (an arterial wedge, or a cleft from ventricle to
surface). Both answer with a signed distance in mm, so that rims, halos and partial volume are one subtraction each.
Places are drawn in the template and carried into the individual; everything here is in subject-frame mm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hlip.simulate.anatomy import SPACING, Template, Tissue, axes, rotation_matrix, smooth_coefficients, smooth_field
from hlip.simulate.contrast import SEQUENCES, Signal
from hlip.simulate.lesions import HEMOSIDERIN, Signature

Box = tuple[slice, slice, slice]


@dataclass
class Blob:
    """A bumpy ellipsoid."""

    centre: np.ndarray
    radii: np.ndarray
    rotation: np.ndarray
    bumps: np.ndarray
    bump_mm: float

    @property
    def radius(self) -> float:
        return float(self.radii.mean())

    @property
    def reach(self) -> float:
        return float(self.radii.max() + self.bump_mm)

    def distance(self, coordinates: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Signed distance (mm, negative inside) on an open grid."""
        x, y, z = (line - here for line, here in zip(coordinates, self.centre, strict=True))
        total: Any = 0
        for axis, radius in enumerate(self.radii):
            a, b, c = self.rotation[:, axis] / radius
            total = total + (a * x + b * y + c * z) ** 2
        out = (np.sqrt(total) - 1) * self.radius
        return (out + self.bump_mm * smooth_field(self.bumps, out.shape)).astype(np.float32)


@dataclass
class Cone:
    """A bumpy cone from `start` to `length` mm along its axis."""

    apex: np.ndarray
    axis: np.ndarray
    half_angle: float
    start: float
    length: float
    bumps: np.ndarray
    bump_mm: float

    @property
    def centre(self) -> np.ndarray:
        return self.apex + self.axis * (self.start + self.length) / 2

    @property
    def radius(self) -> float:
        return (self.length - self.start) / 2

    @property
    def reach(self) -> float:
        return float(np.hypot(self.radius, self.length * np.tan(self.half_angle)) + self.bump_mm)

    def distance(self, coordinates: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Signed distance (mm, negative inside) on an open grid."""
        x, y, z = (line - here for line, here in zip(coordinates, self.apex, strict=True))
        along = x * self.axis[0] + y * self.axis[1] + z * self.axis[2]
        across = np.sqrt(np.maximum(x**2 + y**2 + z**2 - along**2, 0))
        side = across * np.cos(self.half_angle) - along * np.sin(self.half_angle)
        out = np.maximum(np.maximum(side, self.start - along), along - self.length)
        return (out + self.bump_mm * smooth_field(self.bumps, out.shape)).astype(np.float32)


@dataclass
class Focus:
    """One lesion of one class."""

    shape: Blob | Cone
    side: int
    """-1 the patient's left, 1 right, 0 midline."""
    place: str
    size_mm: float
    """Diameter of an ellipsoid, length of a wedge, width of a cleft."""


@dataclass
class Lesion:
    """All foci of one class in a study, or a diffuse change, with what a report says about it."""

    signature: Signature
    foci: list[Focus] = field(default_factory=list)
    rim_mm: float = 0
    halo_mm: float = 0
    push: float = 0
    grade: int = 0
    """Fazekas grade of white matter hyperintensity, 1 to 3."""
    loss: tuple[float, float] = (0, 0)
    """Hippocampal loss, left and right."""
    pattern: str = ""
    """Vascular territory, or deep / lobar."""
    seed: int = 0
    """For texture."""


# --------------------------------------------------------------------------- displacement


def box_around(template: Template, centre: np.ndarray, reach: float) -> Box:
    """The part of the grid within `reach` mm of a point, cut to the grid."""
    middle = (centre - template.affine[:3, 3]) / SPACING
    half = reach / SPACING
    return tuple(  # type: ignore[return-value]
        slice(int(np.clip(np.floor(m - half), 0, n - 2)), int(np.clip(np.ceil(m + half) + 1, 2, n)))
        for m, n in zip(middle, template.shape, strict=True)
    )


def open_grid(template: Template, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates in mm of a box, shapes (x, 1, 1), (1, y, 1), (1, 1, z)."""
    x, y, z = (line[cut].astype(np.float32) for line, cut in zip(axes(template), box, strict=True))
    return x[:, None, None], y[None, :, None], z[None, None, :]


def add_push(template: Template, lesion: Lesion, displacement: np.ndarray) -> None:
    """Mass effect (or volume loss) of each focus, added in place to the pull-back displacement (3, X, Y, Z)."""
    for focus in lesion.foci:
        radius = focus.shape.radius
        box = box_around(template, focus.shape.centre, 3.2 * radius)
        x, y, z = (line - here for line, here in zip(open_grid(template, box), focus.shape.centre, strict=True))
        away = np.sqrt(x**2 + y**2 + z**2) + 1e-3
        relative = away / radius
        strength = np.minimum(relative, 1) * np.exp(-((np.maximum(relative - 1, 0) / 1.1) ** 2))
        strength *= -lesion.push * radius * template.yielding[box] / away
        for axis, line in enumerate((x, y, z)):
            displacement[axis][box] += strength * line


# --------------------------------------------------------------------------- painting


@dataclass
class Layer:
    """One part of a lesion, ready to be blended into images."""

    box: Box
    alpha: np.ndarray
    signal: Signal
    only: str = ""
    """Name of the one sequence it shows in; empty for all."""
    exclude: str = ""
    texture: np.ndarray | None = None
    """Relative variation of the signal within the part."""


def _cover(distance: np.ndarray) -> np.ndarray:
    """Share of a voxel inside a surface at signed distance 0 (partial volume)."""
    return np.clip(0.5 - distance / SPACING, 0, 1)


def layers(template: Template, tissue: Tissue, lesion: Lesion) -> tuple[list[Layer], list[tuple[Box, np.ndarray]]]:
    """The parts to paint and the boolean masks (box, mask) of a lesion.

    Atrophy changes `tissue` itself and returns its mask only.
    """
    if lesion.signature.kind == "atrophy":
        return [], _atrophy(template, tissue, lesion)
    if lesion.signature.kind == "white matter":
        return _white_matter(tissue, lesion)
    rng = np.random.default_rng(lesion.seed)
    painted, masks = [], []
    for focus in lesion.foci:
        reach = focus.shape.reach + 1.8 * lesion.halo_mm + lesion.signature.bloom_mm + SPACING
        box = box_around(template, focus.shape.centre, reach)
        coordinates = open_grid(template, box)
        distance = focus.shape.distance(coordinates)
        inside = _allowed(tissue, box, lesion.signature.kind)
        if focus.side:
            inside = inside * np.clip(0.5 + focus.side * coordinates[0] / 4, 0, 1)
        parts, mask = _focus_layers(lesion, focus, box, distance, inside, tissue, rng)
        painted += parts
        masks.append((box, mask))
    return painted, masks


def _focus_layers(
    lesion: Lesion,
    focus: Focus,
    box: Box,
    distance: np.ndarray,
    inside: np.ndarray,
    tissue: Tissue,
    rng: np.random.Generator,
) -> tuple[list[Layer], np.ndarray]:
    """Halo, rim, core, centre and blooming of one focus, in painting order."""
    row = lesion.signature
    assert row.core is not None
    out = []
    if row.halo is not None and lesion.halo_mm > 0.5:
        fade = np.clip(1.4 * (lesion.halo_mm - distance) / lesion.halo_mm, 0, 1)
        if lesion.halo_mm > 5:  # vasogenic oedema keeps to white matter; a gliotic rim does not
            fingers = lesion.halo_mm * 0.45 * smooth_field(smooth_coefficients(rng, 5), distance.shape)
            fade = np.clip(1.4 * (lesion.halo_mm - distance + fingers) / lesion.halo_mm, 0, 1)
            fade = fade * np.clip(0.15 + tissue.wm[box], 0, 1)
        out.append(Layer(box, fade * (tissue.gm[box] + tissue.wm[box]), row.halo))
    if row.bloom_mm:
        void = _cover(distance - row.bloom_mm) * np.clip(tissue.intracranial[box], 0, 1)
        out.append(Layer(box, void, HEMOSIDERIN, only="SWI"))
    if row.rim is not None:
        out.append(Layer(box, _cover(distance) * inside, row.rim, exclude="SWI" if row.bloom_mm else ""))
    texture = None
    if row.kind == "mass":
        texture = 0.16 * smooth_field(smooth_coefficients(rng, 9), distance.shape)
    out.append(Layer(box, _cover(distance + lesion.rim_mm) * inside, row.core, texture=texture))
    if row.centre is not None and focus.shape.radius > 7:
        depth = focus.shape.radius * rng.uniform(0.4, 0.65)
        ragged = 0.16 * focus.shape.radius * smooth_field(smooth_coefficients(rng, 5), distance.shape)
        out.append(Layer(box, _cover(distance + depth + ragged) * inside, row.centre))
    return out, _cover(distance) * inside > 0.4


def _allowed(tissue: Tissue, box: Box, kind: str) -> np.ndarray:
    """Where a lesion of this kind may be, 0 to 1."""
    brain = tissue.gm[box] + tissue.wm[box]
    if kind in ("dural", "cyst"):
        return tissue.intracranial[box]
    if kind == "cleft":
        return np.clip(tissue.intracranial[box] * 2 - 0.8, 0, 1)
    if kind == "wedge":  # an infarct keeps to parenchyma; sulci within it stay fluid
        return np.clip(1.3 * brain, 0, 1)
    return np.clip(1.5 * brain + 0.2, 0, 1) * (tissue.intracranial[box] > 0.5)


def _white_matter(tissue: Tissue, lesion: Lesion) -> tuple[list[Layer], list[tuple[Box, np.ndarray]]]:
    """Caps and bands about the ventricles and patchy deep foci, by Fazekas grade."""
    rng = np.random.default_rng(lesion.seed)
    far = tissue.ventricle_distance
    near = np.exp(-np.clip(far, 0, None) / (4.5, 6.5, 9.5)[lesion.grade - 1])
    coefficients = smooth_coefficients(rng, 14)
    coefficients[1::2] *= 0.5  # odd cosines across the midline are the asymmetric part
    patches = smooth_field(coefficients, tissue.wm.shape) * (0.28, 0.34, 0.40)[lesion.grade - 1]
    score = near + patches * np.clip((34 - far) / 12, 0, 1) * np.clip((far + 2) / 8, 0.25, 1)
    wall = np.clip(1.5 * (tissue.gm + tissue.wm) - 0.5, 0, 1) * np.clip((5 - far) / 3, 0, 1)
    alpha = np.clip((score - (0.50, 0.46, 0.42)[lesion.grade - 1]) / 0.15, 0, 1)
    alpha *= np.maximum(np.clip(1.6 * tissue.wm - 0.4, 0, 1), wall)
    box: Box = (slice(None), slice(None), slice(None))
    assert lesion.signature.core is not None
    return [Layer(box, alpha.astype(np.float32), lesion.signature.core)], [(box, alpha > 0.4)]


def _atrophy(template: Template, tissue: Tissue, lesion: Lesion) -> list[tuple[Box, np.ndarray]]:
    """Turn hippocampal tissue into fluid, in place."""
    masks = []
    for side, loss in zip((-1, 1), lesion.loss, strict=True):
        centre = np.array([27.0 * side, -21.0, -15.0])
        slant = rotation_matrix(np.array([-25.0, 0, -12.0 * side]))
        blob = Blob(centre, np.array([9.0, 18.0, 8.0]), slant, np.zeros((1, 1, 1)), 0)
        box = box_around(template, centre, 26)
        share = np.float32(loss) * np.clip(0.7 - blob.distance(open_grid(template, box)) / 8, 0, 1)
        tissue.gm[box] *= 1 - share
        tissue.wm[box] *= 1 - share
        tissue.csf[box] = np.clip(tissue.intracranial[box] - tissue.gm[box] - tissue.wm[box], 0, 1)
        masks.append((box, share > 0.5 * loss))
    return masks


def paint(image: np.ndarray, sequence: str, parts: list[Layer], rng: np.random.Generator, texture: float = 0.05) -> None:
    """Blend a lesion's layers into an image (X, Y, Z), in place, with some per cent of variation."""
    place = SEQUENCES.index(sequence)
    variation: dict[Signal, float] = {}
    for part in parts:
        if (part.only and part.only != sequence) or part.exclude == sequence:
            continue
        gain = variation.setdefault(part.signal, float(rng.normal(1, texture)))
        here = image[part.box]
        variation_within = 0 if part.texture is None else part.texture
        here += part.alpha * (np.float32(part.signal[place] * gain) * (1 + variation_within) - here)
