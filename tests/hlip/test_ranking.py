"""AUC and average precision from one sort: equal to scikit-learn with the weights, for any ties and weights."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from hlip.ranking import ROWS, Ranking, running_sums


def slow(target: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    if not (weight[target].any() and weight[~target].any()):
        return np.nan, np.nan
    auc = roc_auc_score(target, score, sample_weight=weight)
    return auc, average_precision_score(target, score, sample_weight=weight)


@pytest.mark.parametrize("digits", [0, 1, 9])  # all tied, many tied, none
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_areas_equal_scikit_learn_under_every_weighting(digits: int, share: float, dtype: type) -> None:
    generator = np.random.default_rng(int(100 * share) + digits)
    target = generator.random(300) < share
    score = np.round(generator.random(300) + 0.2 * target, digits)
    weight = generator.poisson(1, (300, 20)).astype(dtype)
    found = Ranking.of(target, score).areas(weight)
    expected = np.array([slow(target, score, column) for column in weight.T]).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_fractional_weights_and_unknown_rows() -> None:
    generator = np.random.default_rng(3)
    target, score, known = generator.random(200) < 0.3, np.round(generator.random(200), 1), generator.random(200) < 0.6
    weight = 0.01 * generator.random((200, 5))
    found = Ranking.of(target, score, known).areas(weight)
    expected = np.array([slow(target[known], score[known], column[known]) for column in weight.T]).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("target", [[0, 0, 0], [1, 1, 1], []])
def test_one_class_alone_has_no_area(target: list[int]) -> None:
    found = Ranking.of(np.array(target, bool), np.arange(len(target))).areas(np.ones((len(target), 2)))
    assert np.isnan(found).all()


@pytest.mark.parametrize("rows", [0, 1, ROWS - 1, ROWS, 5 * ROWS + 3])
def test_running_sums_are_cumulative_sums(rows: int) -> None:
    values = np.random.default_rng(rows).integers(0, 9, (rows, 4)).astype(np.float32)
    found = running_sums(values)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.vstack([np.zeros((1, 4)), values.cumsum(axis=0)]))


def test_no_weighting_at_all_gives_no_area() -> None:
    auc, precision = Ranking.of([1, 0, 1], [0.2, 0.1, 0.9]).areas(np.ones((3, 0), np.float32))
    assert auc.shape == precision.shape == (0,)
