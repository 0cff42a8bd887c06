"""What all statistics share."""

from __future__ import annotations

import numpy as np
import pytest

from hp2l.statistics.cases import cases, masked, ratio


def test_studies_of_unknown_truth_are_left_out_with_their_weights() -> None:
    given = cases([1, np.nan, 0, 0], [0.9, np.nan, 0.2, 0.4], [[1, 2], [5, 5], [1, 0], [1, 3]])
    assert given.truth.tolist() == [True, False, False]
    assert given.score.tolist() == [0.9, 0.2, 0.4]
    assert given.positives.tolist() == [1, 2]
    assert given.negatives.tolist() == [2, 3]
    assert given.total.tolist() == [3, 5]


def test_a_resample_without_a_positive_has_no_total() -> None:
    assert np.isnan(cases([1, 0], [0.5, 0.5], [[0, 1], [2, 1]]).total).tolist() == [True, False]


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must both be \(N,\)"):
        cases([1, 0], [0.1])
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        cases([1, 0], [0.1, np.nan])
    with pytest.raises(ValueError, match="give probabilities"):
        cases([1, 0], [0.1, 1.5], probability=True)
    with pytest.raises(ValueError, match=r"must be \(2, R\)"):
        cases([1, 0], [0.1, 0.2], np.ones((3, 4)))


def test_masked_and_ratio() -> None:
    assert np.array_equal(masked([[1, 0], [1, 0]], [[True, True], [False, True]]), [[1, 0], [np.nan, 0]], equal_nan=True)
    assert np.array_equal(ratio([1, 2, 0], [2, 0, np.nan]), [0.5, np.nan, np.nan], equal_nan=True)
