"""A diffusion series -> the three scans a radiologist reads: b0, the trace-weighted image, the apparent diffusion coefficient.

Notable choices:
- b below 50 s/mm^2 counts as b0. Of the others the shell nearest to 1000 s/mm^2 is taken, which is the clinical one; a series without
  b0 gives its trace alone.
- The trace is the geometric mean over directions, since signal falls exponentially: exp(-b trace(D) / 3) where directions are even.
- ADC = ln(S0 / S_b) / (b - b0) in 1e-6 mm^2/s, 0..4000, and 0 where S0 is below 5 % of its brightest: no tissue, so noise over noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

LOW_B = 50.0  # s/mm^2
CLINICAL_B = 1000.0  # s/mm^2
_SHELL = 100.0  # s/mm^2; b-values this near are one shell
_TISSUE = 0.05  # of the brightest S0
_HIGHEST_ADC = 4000.0  # 1e-6 mm^2/s; free water at body temperature has 3000


def split_diffusion(series: nib.Nifti1Image, b_values: Sequence[float]) -> list[tuple[str, nib.Nifti1Image]]:
    """The scans "DWI b0", "DWI" and "ADC" of a 4-D series, float32, as far as its b-values allow.

    Args:
        series: (X, Y, Z, N).
        b_values: (N,) s/mm^2, one a volume.

    Raises:
        ValueError: as many b-values as volumes are needed, all finite and not negative.
    """
    b = np.asarray(b_values, dtype=np.float64)
    volumes = series.shape[3] if len(series.shape) == 4 else 1
    if b.shape != (volumes,) or not np.isfinite(b).all() or (b < 0).any():
        raise ValueError(
            f"{b.size} b-values of {volumes} volumes {b.tolist()[:8]}: one finite b-value of at least 0 is needed for each"
        )
    low, high = np.flatnonzero(b < LOW_B), np.flatnonzero(b >= LOW_B)
    found: list[tuple[str, NDArray[np.float32]]] = []
    if len(low):
        found.append(("DWI b0", _geometric_mean(series, low)))
    if len(high):
        centre = b[high][np.abs(b[high] - CLINICAL_B).argmin()]
        shell = high[np.abs(b[high] - centre) <= _SHELL]
        found.append(("DWI", _geometric_mean(series, shell)))
    if len(low) and len(high):
        found.append(("ADC", _adc(found[0][1], found[1][1], float(b[shell].mean() - b[low].mean()))))
    return [(name, nib.Nifti1Image(data, series.affine)) for name, data in found]


def _geometric_mean(series: nib.Nifti1Image, which: NDArray[np.int64]) -> NDArray[np.float32]:
    """Over volumes, one at a time in memory; 0 where one is 0 or below."""
    total = np.zeros(series.shape[:3], dtype=np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        for place in which:
            volume = np.asarray(series.dataobj[..., int(place)] if len(series.shape) == 4 else series.dataobj, dtype=np.float32)
            total += np.log(np.where(volume > 0, volume, 0))
    return np.exp(total / np.float32(len(which)))


def _adc(low: NDArray[np.float32], high: NDArray[np.float32], b_difference: float) -> NDArray[np.float32]:
    tissue = (low > _TISSUE * np.percentile(low, 99.9)) & (high > 0)
    ratio = np.divide(low, high, out=np.ones_like(low), where=tissue)
    return np.clip(np.log(ratio) / np.float32(b_difference) * np.float32(1e6), 0, _HIGHEST_ADC)
