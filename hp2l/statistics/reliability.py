"""How far scores are from the frequencies that they claim: calibration error, Brier score and its parts, reliability curve.

A bin is one of `bins` equal widths of [0, 1] (`width`), or holds an equal number of studies (`mass`; equal scores are never parted, so
with many ties bins are fewer). Bins follow the cohort itself, also under bootstrap weights.

Shapes: N studies, R resamples, B bins.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata

from hp2l.statistics.cases import Cases, Floats, cases, ratio

Bins = Literal["width", "mass"]


class Curve(NamedTuple):
    """Points of a reliability curve (B,); an empty bin is NaN, NaN, 0."""

    mean_score: Floats
    frequency: Floats
    studies: NDArray[np.intp]


class Brier(NamedTuple):
    """Murphy's parts of the Brier score, each (R,): score = reliability - resolution + uncertainty + within.

    Murphy, Journal of Applied Meteorology 12, 1973; `within`, what bins hide: Stephenson et al., Weather and Forecasting 23, 2008.
    """

    score: Floats
    reliability: Floats
    """Squared distance of mean score and frequency in a bin: 0 is calibrated."""
    resolution: Floats
    """Squared distance of a bin's frequency and the prevalence: what the scores tell apart."""
    uncertainty: Floats
    """Prevalence times its complement: the Brier score of the prevalence itself."""
    within: Floats
    """What differing scores within a bin add; zero without bins."""


def reliability_curve(target: ArrayLike, score: ArrayLike, bins: int = 10, by: Bins = "width") -> Curve:
    """Mean score, observed frequency and number of studies in each bin; NaN, NaN in all without a positive study.

    Args:
        target: (N,) 1, 0, or NaN where the truth is unknown. score: (N,) in [0, 1].

    Raises:
        ValueError: a score lies outside [0, 1], or `by` is neither way of binning.
    """
    given = cases(target, score, probability=True)
    place = _places(given.score, bins, by)
    mass, scores, positives = (sums[:, 0] for sums in _sums(given, place, bins))
    mass = mass if given.truth.any() else np.full(bins, np.nan)
    return Curve(ratio(scores, mass), ratio(positives, mass), np.bincount(place, minlength=bins))


def calibration_error(
    target: ArrayLike, score: ArrayLike, bins: int = 10, by: Bins = "width", weight: ArrayLike | None = None
) -> Floats:
    """Expected calibration error (R,): mean over studies of |mean score - frequency| of the study's bin.

    NaN for a column of `weight` (N, R) without a positive study. Raises as `reliability_curve`.
    """
    given = cases(target, score, weight, probability=True)
    _, scores, positives = _sums(given, _places(given.score, bins, by), bins)
    return ratio(np.abs(scores - positives).sum(axis=0), given.total)


def brier(
    target: ArrayLike, score: ArrayLike, bins: int | None = None, by: Bins = "width", weight: ArrayLike | None = None
) -> Brier:
    """Brier score and its parts; without `bins` every distinct score is its own, and the parts add up exactly.

    With few studies a distinct score holds few of them, so its reliability says little: give `bins` then.
    NaN for a column of `weight` (N, R) without a positive study. Raises as `reliability_curve`.
    """
    given = cases(target, score, weight, probability=True)
    if bins is None:
        _, place = np.unique(given.score, return_inverse=True)
        bins = int(place.max()) + 1 if place.size else 0
    else:
        place = _places(given.score, bins, by)
    total, sums = given.total, _sums(given, place, bins)
    value = ratio(((given.score - given.truth) ** 2) @ given.weight, total)
    mass, scores, positives = sums
    prevalence = ratio(given.positives, total)
    mean, frequency = ratio(scores, mass), ratio(positives, mass)
    calibrated = ratio(np.nansum(mass * (mean - frequency) ** 2, axis=0), total)
    apart = ratio(np.nansum(mass * (frequency - prevalence) ** 2, axis=0), total)
    spread = prevalence * (1 - prevalence)
    return Brier(value, calibrated, apart, spread, value - (calibrated - apart + spread))


def _places(score: Floats, bins: int, by: Bins) -> NDArray[np.intp]:
    """The bin of each study (n,)."""
    if by == "width":
        return np.minimum((score * bins).astype(np.intp), bins - 1)
    if by == "mass":
        middle = (rankdata(score) - 0.5) / max(score.size, 1)  # equal scores share a midrank, and so a bin
        return np.minimum((middle * bins).astype(np.intp), bins - 1)
    raise ValueError(f"bins by {by!r}: give 'width' or 'mass'")


def _sums(given: Cases, place: NDArray[np.intp], bins: int) -> tuple[Floats, Floats, Floats]:
    """Weight, summed scores and positives of each bin, (B, R) each."""
    inside = csr_array((np.ones(place.size), (place, np.arange(place.size))), shape=(bins, place.size))
    scores, positives = given.score[:, None] * given.weight, given.truth[:, None] * given.weight
    return np.asarray(inside @ given.weight), np.asarray(inside @ scores), np.asarray(inside @ positives)
