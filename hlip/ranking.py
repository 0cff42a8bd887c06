"""One class's studies in order of score: AUC and average precision of any number of weightings from one sort.

A resample changes how often a study counts, never where it stands. So the negatives between two neighbouring positives are summed
in one go (a product with a sparse matrix of ones), and what is left is as long as there are positives: rare classes cost little.

Shapes: N studies, P positive and Q negative, G distinct scores of positives, R weightings (resamples).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Weights = NDArray[np.floating]
ROWS = 32
"""Rows that `running_sums` adds up at once; about the square root of usual lengths."""


def checked(target: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Truth as booleans and scores as float64, both (N,). Raises ValueError on another shape or a NaN score."""
    positive, values = np.asarray(target).astype(bool), np.asarray(score, dtype=np.float64)
    if positive.ndim != 1 or positive.shape != values.shape:
        raise ValueError(f"target {positive.shape} and score {values.shape} must both be (N,)")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} scores are NaN")
    return positive, values


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Division in which x / 0 is NaN."""
    above, below = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    shape = np.broadcast_shapes(above.shape, below.shape)
    return np.divide(above, below, out=np.full(shape, np.nan), where=below > 0)


@dataclass(frozen=True)
class Ranking:
    """The studies of one class in order of score, so that any number of weightings needs one sort."""

    positive: NDArray[np.intp]
    """Row numbers of the positive studies, ascending score (P,)."""
    negative: NDArray[np.intp]
    """Row numbers of the negative studies, ascending score (Q,)."""
    below: NDArray[np.intp]
    """For each positive: how many negatives score lower (P,)."""
    upto: NDArray[np.intp]
    """For each positive: how many negatives score lower or the same (P,)."""
    first: NDArray[np.intp]
    """For each positive: how many positives score lower (P,)."""

    @classmethod
    def of(cls, target: ArrayLike, score: ArrayLike, known: ArrayLike | None = None) -> Ranking:
        """Rank studies; `known` (N,) bool leaves studies of unknown truth out, row numbers stay those of the input."""
        rows = np.arange(np.size(target)) if known is None else np.flatnonzero(np.asarray(known))
        truth, values = checked(target, score)
        truth, values = truth[rows], values[rows]
        order = np.argsort(values, kind="stable")
        positive, negative = order[truth[order]], order[~truth[order]]
        high, low = values[positive], values[negative]
        return cls(
            positive=rows[positive],
            negative=rows[negative],
            below=np.searchsorted(low, high, side="left"),
            upto=np.searchsorted(low, high, side="right"),
            first=np.searchsorted(high, high, side="left"),
        )

    def areas(self, weight: Weights) -> tuple[Floats, Floats]:
        """AUC and average precision under each column of `weight` (N, R) -> two arrays (R,), NaN without both classes.

        AUC counts a tie as half; average precision is scikit-learn's (no interpolation, ties share one threshold).
        The negatives between two positives are summed in the dtype of `weight` (float32 is exact for whole numbers up to 2**24),
        everything else in float64.
        """
        # Both (G, R): negatives that score lower than a group of equal positives; lower or the same.
        edges = running_sums(self._sum(weight, self.negative, self._breaks))
        total = edges[-1]
        below, upto = (edges[1:-1], edges[1:-1]) if self._apart else (edges[1:-1:2], edges[2::2])
        alone = len(self._groups) == len(self.positive)
        plus = weight[self.positive] if alone else self._sum(weight, self.positive, self._groups)
        lower = running_sums(plus)
        n_positive = lower[-1]
        pairs = np.einsum("gr,gr->r", plus, below) if self._apart else np.einsum("gr,gr->r", plus, below + upto) / 2
        auc = ratio(pairs, n_positive * total)
        found = n_positive - lower[:-1]
        flagged = found + (total - below)
        np.maximum(flagged, np.finfo(np.float64).tiny, out=flagged)  # nothing flagged is nothing found
        found /= flagged
        precision = ratio(np.einsum("gr,gr->r", plus, found), n_positive)
        return auc, np.where(np.isnan(auc), np.nan, precision)

    @cached_property
    def _groups(self) -> NDArray[np.intp]:
        """Where in `positive` each group of equal scores begins (G,)."""
        return np.unique(self.first)

    @cached_property
    def _apart(self) -> bool:
        """Whether no negative scores the same as a positive."""
        return bool((self.below == self.upto).all())

    @cached_property
    def _breaks(self) -> NDArray[np.intp]:
        """Where `negative` is cut: at every group of positives; twice, before and after their equals, where there are any."""
        below, upto = self.below[self._groups], self.upto[self._groups]
        cuts = below if self._apart else np.column_stack([below, upto]).ravel()
        return np.append(0, cuts)

    @staticmethod
    def _sum(weight: Weights, rows: NDArray[np.intp], begins: NDArray[np.intp]) -> Weights:
        """Weights of `rows`, (n,), summed from each of `begins` to the next: (N, R) -> (len(begins), R)."""
        ones, ends = np.ones(len(rows), dtype=weight.dtype), np.append(begins, len(rows))
        matrix = csr_array((ones, rows.astype(np.int32), ends.astype(np.int32)), shape=(len(begins), len(weight)))
        return np.asarray(matrix @ weight)


def running_sums(values: Weights) -> Floats:
    """Running sums down the rows with a first row of zeros, float64: (n, R) -> (n + 1, R).

    In blocks of rows, which is several times faster than NumPy's own down a column.
    """
    count, width = values.shape
    blocks = np.zeros((-(-(count + 1) // ROWS), ROWS, width))
    flat = blocks.reshape(len(blocks) * ROWS, width)  # not -1: no weighting at all is a width of 0
    flat[1 : count + 1] = values
    for row in range(1, ROWS):
        blocks[:, row] += blocks[:, row - 1]
    blocks[1:] += np.cumsum(blocks[:-1, -1], axis=0)[:, None]
    return flat[: count + 1]
