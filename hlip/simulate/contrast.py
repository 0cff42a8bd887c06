"""Contrast: what healthy tissue looks like in each sequence, and images from tissue maps.

Signals are relative to white matter on T1 = 1. They follow the ordering every textbook gives (Westbrook & Talbot,
MRI in Practice, 5th ed., ch. 2; for b = 1000 diffusion and ADC: Schaefer et al., Radiology 217:331, 2000; for
susceptibility weighting: Haacke et al., AJNR 30:19, 2009), for 1.5 to 3 T and without contrast agent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hlip.simulate.anatomy import Tissue, smooth_field

SEQUENCES = ("T1", "T2", "FLAIR", "DWI", "ADC", "SWI")


class Signal(NamedTuple):
    """One tissue's relative signal in the six sequences, in the order of `SEQUENCES`."""

    t1: float
    t2: float
    flair: float
    dwi: float
    adc: float
    swi: float


#                            T1    T2   FLAIR  DWI   ADC   SWI
WHITE_MATTER = Signal(1.00, 0.44, 0.56, 0.50, 0.27, 0.78)
GREY_MATTER = Signal(0.70, 0.62, 0.72, 0.60, 0.29, 0.70)
FLUID = Signal(0.24, 1.15, 0.14, 0.14, 1.00, 0.84)
SCALP = Signal(0.85, 0.60, 0.50, 0.14, 0.02, 0.40)


def base_image(sequence: str, tissue: Tissue, rng: np.random.Generator) -> np.ndarray:
    """The lesion-free image (X, Y, Z) float32 of one sequence; contrast varies a few per cent (scanner, protocol)."""
    place = SEQUENCES.index(sequence)
    weights = rng.normal(1, [0.03, 0.05, 0.06, 0.15])
    signals = [
        np.float32(tissue_signal[place] * weight)
        for tissue_signal, weight in zip((WHITE_MATTER, GREY_MATTER, FLUID, SCALP), weights, strict=True)
    ]
    image = tissue.wm * signals[0]
    image += tissue.gm * signals[1]
    image += tissue.csf * signals[2]
    image += tissue.scalp * signals[3]
    # Slow regional variation of the parenchyma, as a coil's profile never wholly corrected.
    image *= 1 + np.float32(0.04) * smooth_field(rng.normal(0, 0.5, (3, 3, 3)), image.shape)
    return image
