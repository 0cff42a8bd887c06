"""Yes and no answers by hand, against scikit-learn, and under weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score, roc_curve

from hp2l.statistics.operating import ANSWERS, answers, sensitivity_at_specificity, threshold_at_specificity

NEGATIVES = np.arange(20) / 100  # 0.00 to 0.19


def test_threshold_by_hand() -> None:
    truth = np.append(np.zeros(20), [1, 1])
    # nineteen of twenty spared: above 0.18, halfway to 0.19
    assert threshold_at_specificity(truth, np.append(NEGATIVES, [0.5, 0.9])) == pytest.approx(0.185)
    assert threshold_at_specificity(truth, np.append(NEGATIVES, [0.184, 0.9])) == pytest.approx(0.182)  # a positive is next
    assert threshold_at_specificity(truth, np.append(NEGATIVES, [0.5, 0.9]), 1.0) == pytest.approx(0.345)
    assert threshold_at_specificity(truth, np.append(NEGATIVES, [0.5, 0.9]), 0.0) == 0.0
    assert threshold_at_specificity(np.zeros(20), NEGATIVES, 1.0) == np.nextafter(0.19, 1)  # no positive is needed
    assert threshold_at_specificity([0, 0, 1, np.nan], [0.5, 0.5, 0.5, 0.6]) > 0.5
    assert np.isnan(threshold_at_specificity([1, 1], [0.1, 0.2]))
    assert np.isnan(threshold_at_specificity([np.nan, 1], [0.1, 0.2]))


def test_two_neighbouring_floats_have_no_midpoint() -> None:
    above = np.nextafter(0.5, 1)
    assert threshold_at_specificity([0, 1], [0.5, above]) == above


tied = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40)


@settings(max_examples=80, deadline=None)
@given(tied, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_threshold_is_the_lowest_that_spares_enough(cases, specificity) -> None:
    truth, score = np.array([t for t, _ in cases]), np.array([s for _, s in cases], dtype=float)
    if truth.all():
        return
    found, negatives = threshold_at_specificity(truth, score, specificity), score[~truth]
    assert np.mean(negatives < found) >= specificity - 1e-9
    lower = score[score < found]
    assert not lower.size or np.mean(negatives < lower.max()) < specificity  # one score lower, too few


@settings(max_examples=80, deadline=None)
@given(tied, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_sensitivity_is_that_of_the_roc_curve(cases, specificity) -> None:
    truth, score = np.array([t for t, _ in cases]), np.array([s for _, s in cases], dtype=float)
    found = sensitivity_at_specificity(truth, score, specificity)
    if truth.all() or not truth.any():
        assert np.isnan(found).all()
        return
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    assert found == pytest.approx([true[1 - false >= specificity - 1e-9].max()])


def test_sensitivity_by_hand() -> None:
    truth = np.append(np.zeros(20), [1, 1, 1, 1])
    score = np.append(NEGATIVES, [0.05, 0.185, 0.19, 0.5])
    assert sensitivity_at_specificity(truth, score) == pytest.approx([0.75])
    assert sensitivity_at_specificity(truth, score, 1.0) == pytest.approx([0.25])  # 0.19 ties the last negative
    assert sensitivity_at_specificity([1, 0], [0.1, 0.9]) == pytest.approx([0.0])


def test_weights_count_as_repeated_studies() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((60, 3)) < 0.4
    score = np.round(truth + generator.normal(0, 1, (60, 3)), 1)
    known, weight = generator.random((60, 3)) < 0.8, generator.integers(0, 3, (60, 6))
    table = answers(truth, score > 0.5, known, weight)
    for column in range(6):
        for k in range(3):
            again = np.repeat(np.arange(60), weight[:, column] * known[:, k])
            one = answers(
                truth[again, k, None], score[again, k, None] > 0.5, np.ones((again.size, 1)), np.ones((again.size, 1))
            )
            assert [table[name][k, column] for name in ANSWERS] == pytest.approx([one[name][0, 0] for name in ANSWERS])
            labels = np.where(known[:, k], truth[:, k], np.nan)
            found = sensitivity_at_specificity(labels, score[:, k], 0.8, weight)[column]
            assert found == pytest.approx(sensitivity_at_specificity(truth[again, k], score[again, k], 0.8)[0])


def test_answers_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    truth, flagged = generator.random((200, 1)) < 0.3, generator.random((200, 1)) < 0.4
    found = answers(truth, flagged, np.ones((200, 1)), np.ones((200, 1)))
    assert set(found) == set(ANSWERS)
    assert found["sensitivity"] == pytest.approx(recall_score(truth, flagged))
    assert found["specificity"] == pytest.approx(recall_score(~truth, ~flagged))
    assert found["positive_predictive_value"] == pytest.approx(precision_score(truth, flagged))
    assert found["negative_predictive_value"] == pytest.approx(precision_score(~truth, ~flagged))
    assert found["f1"] == pytest.approx(f1_score(truth, flagged))


def test_answers_that_do_not_exist_are_nan() -> None:
    ones = np.ones((4, 1))
    nothing = answers(np.zeros((4, 1)), [[1], [0], [0], [0]], ones, ones)
    assert all(np.isnan(nothing[name]).all() for name in ANSWERS)
    never = answers([[1], [0], [0], [0]], np.zeros((4, 1)), ones, ones)
    assert np.isnan(never["positive_predictive_value"]).all()
    assert (never["f1"], never["negative_predictive_value"]) == (0, 0.75)
    everyone = answers(ones, ones, ones, ones)
    assert np.isnan(everyone["specificity"]).all()
    assert np.isnan(everyone["negative_predictive_value"]).all()
    assert everyone["f1"] == 1
