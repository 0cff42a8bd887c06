"""Net benefit by hand and under weights."""

from __future__ import annotations

import numpy as np
import pytest

from hp2l.statistics.net_benefit import GRID, decision_curve, net_benefit, treat_all

TRUTH = [1, 1, 0, 0, 0]
SCORE = [0.9, 0.3, 0.6, 0.2, 0.1]


def test_net_benefit_by_hand() -> None:
    # at 0.2 (odds 1/4) two found, two alarms (0.2 itself is flagged); at 0.5 one and one; at 0.75 (odds 3) one, none
    assert net_benefit(TRUTH, SCORE, [0.2, 0.5, 0.75])[:, 0] == pytest.approx([(2 - 2 / 4) / 5, 0, 1 / 5])
    assert treat_all(TRUTH, [0.2, 0.5])[:, 0] == pytest.approx([(2 - 3 / 4) / 5, (2 - 3) / 5])
    assert treat_all(TRUTH, [0.0])[:, 0] == pytest.approx([0.4])  # at no cost, the prevalence
    assert treat_all(TRUTH, [0.4])[:, 0] == pytest.approx([0])  # and nothing at the prevalence


def test_weights_count_as_repeated_studies() -> None:
    generator = np.random.default_rng(0)
    truth, score, weight = generator.random(80) < 0.3, generator.random(80), generator.integers(0, 3, (80, 5))
    table, everyone = net_benefit(truth, score, weight=weight), treat_all(truth, weight=weight)
    assert table.shape == (99, 5)
    for column in range(5):
        again = np.repeat(np.arange(80), weight[:, column])
        assert table[:, column] == pytest.approx(net_benefit(truth[again], score[again])[:, 0])
        prevalence = truth[again].mean()
        assert everyone[:, column] == pytest.approx(prevalence - (1 - prevalence) * GRID / (1 - GRID))


def test_the_band_is_that_of_the_resamples() -> None:
    generator = np.random.default_rng(0)
    truth, score = generator.random(80) < 0.3, generator.random(80)
    weight = generator.integers(0, 3, (80, 200))
    curve = decision_curve(truth, score, [0.1, 0.3], weight, coverage=0.9)
    low, high = np.quantile(net_benefit(truth, score, [0.1, 0.3], weight), [0.05, 0.95], axis=1)
    assert curve.low == pytest.approx(low)
    assert curve.high == pytest.approx(high)
    assert (curve.low < curve.model).all()
    assert (curve.model < curve.high).all()
    assert curve.treat_none.tolist() == [0, 0]
    assert np.isnan(decision_curve(truth, score, [0.1]).low).all()


def test_a_class_without_a_positive_has_no_curve() -> None:
    for truth in ([0, 0], [np.nan, 0], [np.nan, np.nan]):
        curve = decision_curve(truth, [0.2, 0.4], [0.1, 0.3], np.ones((2, 3)))
        for row in (curve.model, curve.treat_all, curve.treat_none, curve.low, curve.high):
            assert np.isnan(row).tolist() == [True, True]
    table = net_benefit([1, 0], [0.5, 0.5], [0.1], np.array([[0, 1], [1, 1]]))
    assert np.isnan(table).tolist() == [[True, False]]
    assert net_benefit([1, 0, np.nan], [0.5, 0.1, np.nan], [0.5]) == pytest.approx(0.5)


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        net_benefit(TRUTH, SCORE, [0.5, 1.0])
    with pytest.raises(ValueError, match="give probabilities"):
        net_benefit(TRUTH, [1.2, *SCORE[1:]])
