"""A part of a series: one scan to be, one diffusion series, or what is left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from hlip.dicom.geometry import Layout
from hlip.dicom.sequence import Guess
from hlip.dicom.tags import Slice, Stack


@dataclass(frozen=True)
class Part:
    """One scan to be, or what is left out."""

    name: str
    """Number of its series in the study, and of the part in the series: 003, 003-2."""
    stack: Stack
    slices: tuple[Slice, ...]
    guess: Guess
    reason: str = ""
    """Why it is left out; empty where it is kept."""
    layouts: tuple[tuple[float, Layout], ...] = ()
    """b-value and slices of each volume: one, or those of a diffusion series. Empty where the converter has to find the volumes:
    mosaics."""
    diffusion: bool = False
    damaged: int = 0
    duplicates: int = 0
    notes: tuple[str, ...] = field(default=())
