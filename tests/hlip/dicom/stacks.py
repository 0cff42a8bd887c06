"""Stacks of images as headers tell of them, and what differs of one."""

from __future__ import annotations

from dataclasses import replace

from hlip.dicom.tags import Stack

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
PLAIN = Stack(
    study_uid="1", series_uid="2", patient_id="p", accession="", series_number=1, sop_class=MR, modality="MR",
    image_type=("ORIGINAL", "PRIMARY", "M"), description="", protocol="", sequence_name="", scanning=(), variant=(),
    echo_time=None, repetition_time=None, inversion_time=None, flip_angle=None, b_value=None, contrast="", angio=False,
    kernel="", vendor="", model="", field_strength=None, sex="", age=None, frame="", rows=8, columns=8, spacing=(1.0, 1.0),
    orientation=(1.0, 0, 0, 0, 1.0, 0), grey=True, burned_in=False, enhanced=False,
)  # fmt: skip


def stack(description: str = "", **tags) -> Stack:
    return replace(PLAIN, description=description, **tags)


def timing(scanning: str, repetition: float, echo: float, inversion: float | None = None, **more) -> dict:
    kinds = tuple(scanning.split())
    return {"scanning": kinds, "repetition_time": repetition, "echo_time": echo, "inversion_time": inversion} | more
