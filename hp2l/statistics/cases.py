"""What all statistics share: the studies whose truth is known, their weights, and division in which x / 0 is NaN.

Shapes: N studies given, n of known truth, R resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Cases(NamedTuple):
    """The studies of one class that count."""

    truth: Bools
    """(n,)"""
    score: Floats
    """(n,)"""
    weight: Floats
    """(n, R); one column of ones where none was given."""

    @property
    def positives(self) -> Floats:
        """Weight of the positive studies (R,)."""
        return self.weight[self.truth].sum(axis=0)

    @property
    def negatives(self) -> Floats:
        """Weight of the negative studies (R,)."""
        return self.weight[~self.truth].sum(axis=0)

    @property
    def total(self) -> Floats:
        """Weight of all studies (R,), NaN for a column without a positive one: what is divided by it does not exist either."""
        return np.where(self.positives > 0, self.weight.sum(axis=0), np.nan)


def cases(target: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None, probability: bool = False) -> Cases:
    """Studies of known truth.

    Args:
        target: (N,) 1, 0, or NaN where the truth is unknown; such a study is left out.
        score: (N,), no NaN where the truth is known.
        weight: (N, R) or (N,), how often each study counts.
        probability: whether scores must lie in [0, 1].

    Raises:
        ValueError: shapes differ, or a score cannot be used.
    """
    labels, values = np.asarray(target, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != values.shape:
        raise ValueError(f"target {labels.shape} and score {values.shape} must both be (N,)")
    known = ~np.isnan(labels)
    values = values[known]
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} scores are NaN")
    if probability and values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError(f"scores span {values.min():.3g} to {values.max():.3g}: give probabilities, in [0, 1]")
    mass = np.ones((labels.size, 1)) if weight is None else np.asarray(weight, dtype=np.float64)
    mass = mass[:, None] if mass.ndim == 1 else mass
    if mass.ndim != 2 or len(mass) != labels.size:
        raise ValueError(f"weight {mass.shape} must be ({labels.size}, R)")
    return Cases(labels[known] > 0.5, values, mass[known])


def masked(target: ArrayLike, known: ArrayLike) -> Floats:
    """Truth with NaN where `known` is false, as the functions of this package take it; any shape."""
    return np.where(np.asarray(known) > 0, np.asarray(target, dtype=np.float64), np.nan)


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Division in which x / 0, and x / NaN, is NaN."""
    above, below = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    shape = np.broadcast_shapes(above.shape, below.shape)
    return np.divide(above, below, out=np.full(shape, np.nan), where=below > 0)
