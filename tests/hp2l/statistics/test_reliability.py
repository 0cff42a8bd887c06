"""Calibration error, Brier score and reliability curve by hand, against scikit-learn, and under weights."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from hp2l.statistics.reliability import brier, calibration_error, reliability_curve

TRUTH = [0, 0, 1, 1, 0, 1]
SCORE = [0.1, 0.1, 0.1, 0.6, 0.6, 1.0]
"""At 0.1 one of three, at 0.6 one of two, at 1.0 one of one; prevalence 1/2."""


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    score = generator.beta(1, 3, 400)
    return generator.random(400) < score**1.5, score


def test_calibration_error_by_hand() -> None:
    # |0.3 - 1| + |1.2 - 1| + |1 - 1| over 6
    assert calibration_error(TRUTH, SCORE) == pytest.approx([0.9 / 6])
    # two bins of three: mean 0.1 against 1/3, mean 2.2 / 3 against 2/3
    assert calibration_error(TRUTH, SCORE, bins=2, by="mass") == pytest.approx([(0.7 + 0.2) / 6])


def test_equal_scores_share_a_bin_of_equal_mass() -> None:
    curve = reliability_curve([0, 1, 0, 1, 1], [0.2, 0.2, 0.2, 0.2, 0.9], bins=5, by="mass")
    assert sorted(curve.studies.tolist()) == [0, 0, 0, 1, 4]
    assert calibration_error([0, 1, 0, 1], [0.5] * 4, by="mass") == pytest.approx([0.0])


def test_bins_of_equal_mass_hold_equally_many(drawn) -> None:
    truth, score = drawn
    curve = reliability_curve(truth, score, by="mass")
    assert curve.studies.tolist() == [40] * 10
    frequency, mean = calibration_curve(truth, score, n_bins=10, strategy="quantile")
    assert curve.frequency == pytest.approx(frequency)
    assert curve.mean_score == pytest.approx(mean)


def test_bins_of_equal_width_by_hand() -> None:
    truth, score = [0, 1, 1, 1], [0.1, 0.15, 0.9, 1.0]
    mean, frequency, count = reliability_curve(truth, score, bins=2)
    np.testing.assert_allclose(mean, [0.125, 0.95])
    np.testing.assert_allclose(frequency, [0.5, 1.0])
    np.testing.assert_array_equal(count, [2, 2])
    assert calibration_error(truth, score, bins=2)[0] == pytest.approx((0.375 + 0.05) / 2)
    assert brier(truth, score).score[0] == pytest.approx((0.01 + 0.7225 + 0.01 + 0) / 4)
    with pytest.raises(ValueError, match=r"0, 1|probabilit|0 to 1"):
        reliability_curve([0, 1], [-3.0, 2.0])


def test_brier_and_its_parts_by_hand() -> None:
    found = brier(TRUTH, SCORE)
    assert found.score == pytest.approx([(0.01 + 0.01 + 0.81 + 0.16 + 0.36 + 0) / 6])
    assert found.reliability == pytest.approx([(3 * (0.1 - 1 / 3) ** 2 + 2 * 0.1**2) / 6])
    assert found.resolution == pytest.approx([(3 * (1 / 6) ** 2 + 0 + 0.5**2) / 6])
    assert found.uncertainty == pytest.approx([0.25])
    assert found.within == pytest.approx([0], abs=1e-15)


@pytest.mark.parametrize("bins", [None, 10])
@pytest.mark.parametrize("by", ["width", "mass"])
def test_brier_parts_add_up(drawn, bins, by) -> None:
    truth, score = drawn
    found = brier(truth, np.round(score, 2), bins, by)
    assert found.score == pytest.approx([brier_score_loss(truth, np.round(score, 2))])
    assert found.score == pytest.approx(found.reliability - found.resolution + found.uncertainty + found.within)
    assert (abs(found.within[0]) < 1e-12) == (bins is None)


def test_weights_count_as_repeated_studies(drawn) -> None:
    truth, score = drawn
    score = np.round(score, 2)
    weight = np.random.default_rng(1).integers(0, 3, (400, 4))
    parts, error = brier(truth, score, 10, weight=weight), calibration_error(truth, score, weight=weight)
    for column in range(4):
        again = np.repeat(np.arange(400), weight[:, column])
        assert [part[column] for part in parts] == pytest.approx([part[0] for part in brier(truth[again], score[again], 10)])
        assert error[column] == pytest.approx(calibration_error(truth[again], score[again])[0])


def test_edges_of_what_exists() -> None:
    for nothing in ([0, 0], [np.nan, 0], [np.nan, np.nan]):
        assert np.isnan(brier(nothing, [0.0, 1.0])).all()
        assert np.isnan(calibration_error(nothing, [0.0, 1.0])).all()
        assert np.isnan(reliability_curve(nothing, [0.0, 1.0]).frequency).all()
    everyone = brier([1, 1], [1.0, 0.5])
    assert everyone.score == pytest.approx([0.125])
    assert everyone.uncertainty == pytest.approx([0])
    assert calibration_error([1, 0, np.nan], [1.0, 0.0, np.nan]) == pytest.approx([0])
    assert np.isnan(brier([1, 0], [0.5, 0.5], weight=[[0, 1], [1, 1]]).score).tolist() == [True, False]
    assert brier([1, 0], [0.5, 0.5]).resolution == pytest.approx([0])  # a constant tells nothing apart


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="give probabilities"):
        calibration_error([1, 0], [2.0, 0.1])
    with pytest.raises(ValueError, match="'width' or 'mass'"):
        calibration_error([1, 0], [0.2, 0.1], by="size")
