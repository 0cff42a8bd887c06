"""Build: one study from its plan, as arrays. Every draw comes from generators named by what they decide.

patient generators (seed, patient, ...)  head, age, the place of each class's lesions: the same at each visit
study generators   (seed, index, ...)    sequences, geometry, noise, report wording
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlip.simulate.anatomy import Individual, Template, Tissue, deform, displacement, draw_individual, world_affine
from hlip.simulate.contrast import base_image
from hlip.simulate.lesions import BY_NAME, SIGNATURES
from hlip.simulate.placing import Taken, draw_lesion
from hlip.simulate.plan import StudyPlan
from hlip.simulate.reports import write_report
from hlip.simulate.scanner import VENDORS, Protocol, acquire, draw_protocol, draw_sequences, scan_affine
from hlip.simulate.shapes import Layer, Lesion, add_push, layers, paint

_EVOLVES = {
    "subacute hemorrhage": "hemorrhage",
    "acute hemorrhage": "hemorrhage",
    "chronic hemorrhage": "hemorrhage",
    "acute infarction": "infarction",
    "chronic infarction": "infarction",
}
"""Stages of one primary lesion share the generator of its place."""


@dataclass
class SimulatedScan:
    """One scan as it will be written."""

    sequence: str
    data: np.ndarray
    affine: np.ndarray


@dataclass
class SimulatedStudy:
    """Everything of a study but its files."""

    plan: StudyPlan
    scans: list[SimulatedScan]
    mask: np.ndarray
    """uint8 (X, Y, Z): the code of the class at each voxel of the internal grid."""
    mask_affine: np.ndarray
    report: str
    extra: dict[str, Any]


@dataclass
class Subject:
    """A patient's head with its lesions, before any scan."""

    template: Template
    world: np.ndarray
    lesions: list[Lesion]
    parts: list[Layer]
    mask: np.ndarray
    tissue: Tissue
    person: Individual


def _rng(seed: int, *names: int | str) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(n.encode()) if isinstance(n, str) else n for n in names)])


def build_subject(template: Template, labels: tuple[str, ...], seed: int, patient: int, visit: int, age: int) -> Subject:
    """The deformed head of one visit with all its lesions placed, in the internal grid."""
    person = draw_individual(_rng(seed, "head", patient), age)
    rows = [BY_NAME[name] for name in labels if name != "normal"]
    wear = _rng(seed, "wear", patient)
    wider, sulci = 0.0, person.sulci
    if "Alzheimer's disease" in labels:
        wider, sulci = float(wear.uniform(0.5, 3.5)), min(sulci + float(wear.uniform(0.12, 0.4)), 0.8)
    elif "mild cognitive impairment" in labels:
        wider, sulci = float(wear.uniform(0.0, 1.2)), sulci + float(wear.uniform(0.05, 0.15))
    field = displacement(template, person, wider)
    taken: Taken = []
    lesions = []
    for row in rows:
        stream = _EVOLVES.get(row.name, row.name) if row is rows[0] else row.name
        lesions.append(draw_lesion(_rng(seed, "lesion", patient, stream), row, template, field, taken))
    for lesion in lesions:
        add_push(template, lesion, field)
    tissue = deform(template, field, sulci)
    mask = np.zeros(template.shape, np.uint8)
    parts: list[Layer] = []
    if not any(lesion.signature.kind == "atrophy" for lesion in lesions):
        parts += layers(template, tissue, _healthy_hippocampi(_rng(seed, "ageing", patient), template, field, age))[0]
    # Diffuse changes first, so that a focal lesion lies on top of them.
    for lesion in sorted(lesions, key=lambda lesion: lesion.signature.kind not in ("atrophy", "white matter")):
        painted, masks = layers(template, tissue, lesion)
        parts += painted
        for box, inside in masks:
            mask[box][inside] = lesion.signature.code
    world = world_affine(template, person, _rng(seed, "table", patient, visit))
    return Subject(template, world, lesions, parts, mask, tissue, person)


def _healthy_hippocampi(rng: np.random.Generator, template: Template, field: np.ndarray, age: int) -> Lesion:
    """The hippocampal loss of healthy ageing, which overlaps with mild cognitive impairment; neither a finding nor in the mask."""
    row = next(row for row in SIGNATURES if row.name == "mild cognitive impairment")
    lesion = draw_lesion(rng, row, template, field, [])
    loss = float(np.clip(0.05 + 0.005 * (age - 45) + rng.normal(0, 0.09), 0, 0.42))
    lesion.loss = (loss, float(np.clip(loss * rng.uniform(0.85, 1.15), 0, 0.45)))
    return lesion


def sequence_image(subject: Subject, sequence: str, rng: np.random.Generator) -> np.ndarray:
    """Noise-free image (X, Y, Z) float32 of a subject on the internal grid."""
    image = base_image(sequence, subject.tissue, rng)
    paint(image, sequence, subject.parts, rng)
    return image


def study_protocols(seed: int, index: int) -> tuple[str, float, list[Protocol]]:
    """Vendor, field strength and the scans of a study, blind to its labels."""
    rng = _rng(seed, "protocol", index)
    vendor, strength = str(rng.choice(VENDORS)), float(rng.choice([1.5, 3.0]))
    return vendor, strength, [draw_protocol(rng, sequence) for sequence in draw_sequences(rng)]


def build_study(template: Template, plan: StudyPlan, seed: int) -> SimulatedStudy:
    """Head, scans, mask, report and metadata of one study."""
    about = _rng(seed, "about", plan.patient)
    sex, age = str(about.choice(["F", "M"])), int(about.integers(25, 90))
    subject = build_subject(template, plan.labels, seed, plan.patient, plan.visit, age + plan.visit)
    vendor, strength, protocols = study_protocols(seed, plan.index)
    centre = (subject.world @ [*((np.array(template.shape) - 1) / 2), 1])[:3]
    turned = subject.world[:3, :3] / np.linalg.norm(subject.world[:3, :3], axis=0)
    noise = _rng(seed, "images", plan.index)
    scans = []
    for protocol in protocols:
        affine = scan_affine(protocol, centre, turned)
        data = acquire(sequence_image(subject, protocol.sequence, noise), subject.world, protocol, affine, noise)
        scans.append(SimulatedScan(protocol.sequence, data, affine))
    report = write_report(
        _rng(seed, "report", plan.index),
        subject.lesions,
        [scan.sequence for scan in scans],
        scale=float(subject.person.scale.mean()),
        field_strength=strength,
        visit=plan.visit,
        evolved=plan.evolved,
    )
    extra = {
        "sex": sex,
        "age": age + plan.visit,
        "vendor": vendor,
        "field_strength": strength,
        "visit": plan.visit + 1,
        "lesions": [describe(lesion, float(subject.person.scale.mean())) for lesion in subject.lesions],
        "simulated": True,
    }
    return SimulatedStudy(plan, scans, subject.mask, subject.world, report, extra)


def describe(lesion: Lesion, scale: float) -> dict[str, Any]:
    """Ground truth of one class in one study, for the manifest."""
    sides = sorted({{-1: "left", 0: "midline", 1: "right"}[focus.side] for focus in lesion.foci})
    sizes = [round(focus.size_mm * scale, 1) for focus in lesion.foci]
    out: dict[str, Any] = {"class": lesion.signature.name, "code": lesion.signature.code, "count": len(lesion.foci)}
    if lesion.foci:
        out |= {"sides": sides, "places": sorted({focus.place for focus in lesion.foci}), "largest_mm": max(sizes)}
    if lesion.signature.kind == "white matter":
        out["fazekas"] = lesion.grade
    return out


CODES = {row.name: row.code for row in SIGNATURES if row.code}
"""Class -> integer in the lesion masks."""
