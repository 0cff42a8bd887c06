"""Placing: draws one class's lesions in one patient from its row of the signature table.

The draws of one lesion come from one generator, so a follow-up visit finds the lesion in the same place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hlip.simulate.anatomy import PLACES, Template, nearest_lobe, rotation_matrix, smooth_coefficients, to_subject
from hlip.simulate.lesions import Signature
from hlip.simulate.shapes import Blob, Cone, Focus, Lesion

Taken = list[tuple[np.ndarray, float]]
"""Centres and radii (subject mm) of lesions already placed."""

_TRIES = 15

# name, start of the ray (right side, MNI mm), direction low, direction high
TERRITORIES = (
    ("middle cerebral artery", (18, -10, 14), (0.9, -0.75, -0.3), (1.0, 0.6, 0.55), 0.62),
    ("anterior cerebral artery", (5, 18, 22), (0.12, 0.1, 0.5), (0.35, 0.9, 0.9), 0.13),
    ("posterior cerebral artery", (10, -46, 4), (0.2, -1.0, -0.1), (0.55, -0.8, 0.3), 0.15),
    ("posterior inferior cerebellar artery", (14, -52, -32), (0.3, -1.0, -0.7), (0.7, -0.6, -0.3), 0.10),
)
DURAL = (
    ("frontal convexity", (5, 5, 20), (0.5, 0.45, 0.3), (0.9, 0.85, 0.7), 0.25),
    ("parietal convexity", (5, -30, 25), (0.5, -0.5, 0.4), (0.9, 0.0, 0.9), 0.2),
    ("temporal convexity", (20, -15, -2), (0.9, -0.3, -0.3), (1.0, 0.2, 0.1), 0.12),
    ("parasagittal region", (5, -5, 25), (0.08, -0.6, 0.8), (0.2, 0.6, 1.0), 0.18),
    ("sphenoid wing", (22, 2, 0), (0.45, 0.6, -0.6), (0.7, 0.8, -0.4), 0.15),
    ("cerebellopontine angle", (10, -34, -32), (0.9, 0.1, -0.1), (1.0, 0.3, 0.1), 0.10),
)
CYSTS = (
    ("middle cranial fossa", (32, -4, -12), (0.4, 0.55, -0.6), (0.6, 0.8, -0.4), 0.52),
    ("frontal convexity", (5, 5, 20), (0.5, 0.4, 0.3), (0.9, 0.8, 0.7), 0.14),
    ("parietal convexity", (5, -30, 25), (0.5, -0.5, 0.4), (0.9, 0.0, 0.9), 0.12),
    ("posterior fossa", (6, -58, -34), (0.1, -1.0, -0.4), (0.6, -0.8, -0.1), 0.22),
)
CLEFTS = (
    ("frontal lobe", (16, 26, 8), (0.75, 0.2, 0.0), (1.0, 0.8, 0.5), 0.35),
    ("parietal lobe", (20, -16, 24), (0.8, -0.4, 0.1), (1.0, 0.2, 0.7), 0.4),
    ("occipital lobe", (26, -48, 10), (0.5, -0.9, -0.1), (0.9, -0.4, 0.4), 0.25),
)
Route = tuple[str, tuple[float, ...], tuple[float, ...], tuple[float, ...], float]


def draw_lesion(rng: np.random.Generator, row: Signature, template: Template, displacement: np.ndarray, taken: Taken) -> Lesion:
    """One class's lesions: size, side, place and severity within the ranges of its row."""
    lesion = Lesion(
        row,
        rim_mm=float(rng.uniform(*row.rim_mm)),
        halo_mm=float(rng.uniform(*row.halo_mm)),
        push=float(rng.uniform(*row.push)),
        grade=int(rng.choice([1, 2, 3], p=[0.25, 0.45, 0.3])),
        seed=int(rng.integers(2**31)),
    )
    if row.kind == "atrophy":
        loss = rng.uniform(*row.loss)
        left, right = np.clip(loss * (1 + rng.uniform(-0.12, 0.12, 2)), 0, 0.98)
        lesion.loss = (float(left), float(right))
    elif row.kind != "white matter":
        PLACERS[row.kind](Draw(rng, lesion, template, displacement, taken))
    return lesion


@dataclass
class Draw:
    """What a placing function needs; it fills the lesion's foci."""

    rng: np.random.Generator
    lesion: Lesion
    template: Template
    displacement: np.ndarray
    taken: Taken

    def carry(self, point: np.ndarray) -> np.ndarray:
        """A template point (MNI mm) in the subject frame."""
        return to_subject(self.template, self.displacement, point)


def _blob(
    rng: np.random.Generator, centre: np.ndarray, diameter: float, elongation: float, bumps: float, detail: int = 4
) -> Blob:
    """An ellipsoid of that mean diameter, turned at random; `bumps` is a share of the radius, `detail` their number."""
    radii = np.exp(rng.normal(0, elongation, 3))
    radii *= diameter / 2 / radii.mean()
    rotation = rotation_matrix(rng.uniform(-90, 90, 3))
    return Blob(centre, radii, rotation, smooth_coefficients(rng, detail), bumps * diameter / 2)


def _diameter(rng: np.random.Generator, row: Signature) -> float:
    low, high = row.size_mm
    return float(low + (high - low) * rng.beta(2.0, 1.4))


def _side(rng: np.random.Generator, left: float = 0.5) -> int:
    return -1 if rng.random() < left else 1


def _free(centre: np.ndarray, radius: float, taken: Taken) -> bool:
    return all(np.linalg.norm(centre - other) > 0.9 * (radius + size) for other, size in taken)


def _in_place(rng: np.random.Generator, name: str, side: int, template: Template) -> np.ndarray:
    """A parenchymal template point (MNI mm) of a named place."""
    place = PLACES[name]
    point = np.array(place.centre)
    for _ in range(_TRIES):
        point = place.centre + rng.uniform(-1, 1, 3) * place.spread
        if place.paired:
            point[0] = side * abs(point[0])
        index = template.index(point)
        if template.gm[index] + template.wm[index] > 0.7:
            break
    return point


def _surface(template: Template, start: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Where a ray from inside the brain last leaves it (MNI mm)."""
    steps = np.arange(0, 120, 1.5)
    points = start + steps[:, None] * direction
    index = np.rint((points - template.affine[:3, 3]) / np.diag(template.affine)[:3]).astype(int)
    index = np.clip(index, 0, np.array(template.shape) - 1)
    brain = (template.gm + template.wm)[tuple(index.T)] > 0.4
    return points[np.flatnonzero(brain)[-1]] if brain.any() else start


def _route(rng: np.random.Generator, routes: tuple[Route, ...], side: int) -> tuple[str, np.ndarray, np.ndarray]:
    """Name, start and unit direction of a random route on that side."""
    shares = np.array([route[4] for route in routes])
    name, start, low, high, _ = routes[rng.choice(len(routes), p=shares / shares.sum())]
    direction = rng.uniform(low, np.maximum(low, high))
    direction /= np.linalg.norm(direction)
    mirror = np.array([side, 1, 1])
    return name, np.array(start) * mirror, direction * mirror


# --------------------------------------------------------------------------- one function a geometry


def _hematoma(draw: Draw) -> None:
    rng, row, template = draw.rng, draw.lesion.signature, draw.template
    for _ in range(_TRIES):
        side, name, size = _side(rng), str(rng.choice(row.places)), _diameter(rng, row)
        centre = draw.carry(_in_place(rng, name, side, template))
        if PLACES[name].paired:  # a large lesion lies further lateral, it does not end at the midline
            centre[0] = side * max(side * centre[0], 0.42 * size + 2)
        elongation, bumps = (0.22, 0.22) if row.kind == "hematoma" else (0.18, 0.3)
        shape = _blob(rng, centre, size, elongation, bumps, detail=4 if row.kind == "hematoma" else 7)
        if _free(centre, size / 2, draw.taken):
            break
    draw.taken.append((centre, size / 2))
    draw.lesion.foci.append(Focus(shape, side, name, size))


def _wedge(draw: Draw) -> None:
    rng, row, template = draw.rng, draw.lesion.signature, draw.template
    for _ in range(_TRIES):
        side, length = _side(rng), _diameter(rng, row)
        name, start, axis = _route(rng, TERRITORIES, side)
        tip = _surface(template, start, axis)
        apex = tip - axis * min(length, max(24.0, float(np.linalg.norm(tip - start))))
        apex, tip = (draw.carry(point) for point in (apex, tip))
        length = float(np.linalg.norm(tip - apex))
        axis = (tip - apex) / length
        shape = Cone(apex, axis, np.deg2rad(rng.uniform(24, 38)), 0, length + 12, smooth_coefficients(rng, 4), 0.12 * length)
        if _free(shape.centre, length / 2, draw.taken):
            break
    draw.lesion.pattern = name
    draw.taken.append((shape.centre, length / 2))
    draw.lesion.foci.append(Focus(shape, side, nearest_lobe(shape.centre), length))


def _extra_axial(draw: Draw) -> None:
    rng, row, template = draw.rng, draw.lesion.signature, draw.template
    routes, left, depth = (DURAL, 0.5, 0.6) if row.kind == "dural" else (CYSTS, 0.62, 0.55)
    for _ in range(_TRIES):
        side, size = _side(rng, left), _diameter(rng, row)
        name, start, axis = _route(rng, routes, side)
        centre = draw.carry(_surface(template, start, axis) - axis * depth * size / 2)
        shape = _blob(rng, centre, size, 0.12, 0.08)
        if _free(centre, size / 2, draw.taken):
            break
    draw.taken.append((centre, size / 2))
    draw.lesion.foci.append(Focus(shape, side, name, size))


def _cleft(draw: Draw) -> None:
    rng, row, template = draw.rng, draw.lesion.signature, draw.template
    side, width = _side(rng), _diameter(rng, row)
    name, start, axis = _route(rng, CLEFTS, side)
    tip = _surface(template, start, axis)
    inner, outer = 0.32 * width, 0.5 * width
    start, tip = (draw.carry(point) for point in (start, tip))
    length = float(np.linalg.norm(tip - start)) + 4
    axis = (tip - start) / np.linalg.norm(tip - start)
    half_angle = float(np.arctan((outer - inner) / length))
    before = inner / np.tan(half_angle)
    shape = Cone(start - axis * before, axis, half_angle, before - 4, before + length, smooth_coefficients(rng, 4), 0.1 * width)
    draw.taken.append((shape.centre, length / 2))
    draw.lesion.foci.append(Focus(shape, side, name, width))


def _nodules(draw: Draw) -> None:
    rng, row, template = draw.rng, draw.lesion.signature, draw.template
    count = 1 if rng.random() < 0.2 else int(rng.integers(row.count[0], row.count[1] + 1))
    for number in range(count):
        for _ in range(_TRIES):
            side = _side(rng)
            if rng.random() < 0.15:
                point = _in_place(rng, "cerebellar hemisphere", side, template)
            else:
                point = template.junction[rng.integers(len(template.junction))]
            size = _diameter(rng, row) * (1 if number == 0 else 0.75)
            size = max(size, row.size_mm[0])
            centre = draw.carry(point)
            if _free(centre, size / 2, draw.taken):
                break
        draw.taken.append((centre, size / 2))
        side = -1 if point[0] < 0 else 1
        draw.lesion.foci.append(Focus(_blob(rng, centre, size, 0.08, 0.08), side, nearest_lobe(point), size))


def _cavities(draw: Draw) -> None:
    rng, row, template = draw.rng, draw.lesion.signature, draw.template
    own: Taken = []
    for _ in range(int(rng.integers(row.count[0], row.count[1] + 1))):
        for _ in range(_TRIES):
            side, name, size = _side(rng), str(rng.choice(row.places)), _diameter(rng, row)
            centre = draw.carry(_in_place(rng, name, side, template))
            if _free(centre, size / 2 + 3, own):
                break
        own.append((centre, size / 2 + 3))
        side = side if PLACES[name].paired else 0
        draw.lesion.foci.append(Focus(_blob(rng, centre, size, 0.2, 0.1), side, name, size))


def _dots(draw: Draw) -> None:
    rng, row, template = draw.rng, draw.lesion.signature, draw.template
    deep = rng.random() < 0.5
    draw.lesion.pattern = "deep" if deep else "lobar"
    for _ in range(int(rng.integers(row.count[0], row.count[1] + 1))):
        if rng.random() < (0.75 if deep else 0.08):
            name = str(rng.choice(["basal ganglia", "thalamus", "pons", "cerebellar hemisphere", "internal capsule"]))
            point = _in_place(rng, name, _side(rng), template)
        else:
            point = template.junction[rng.integers(len(template.junction))]
            name = nearest_lobe(point)
        centre = draw.carry(point)
        size = _diameter(rng, row)
        draw.lesion.foci.append(Focus(_blob(rng, centre, size, 0.05, 0), 0, name, size))


PLACERS: dict[str, Callable[[Draw], None]] = {
    "hematoma": _hematoma,
    "mass": _hematoma,
    "wedge": _wedge,
    "dural": _extra_axial,
    "cyst": _extra_axial,
    "cleft": _cleft,
    "nodules": _nodules,
    "cavities": _cavities,
    "dots": _dots,
}
