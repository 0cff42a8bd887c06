"""Calibration undoes a known distortion, agrees with scikit-learn's unpenalised regression, and says what it did."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from hp2l.statistics.calibration import HOTTEST, calibrate, fit, logits
from hp2l.statistics.reliability import calibration_error


def distorted(studies: int = 4000, temperature: float = 3.0, bias: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores (N, 1) whose log odds are `temperature` times (true log odds - bias)."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(-0.5, 1.5, studies)
    truth = generator.random(studies) < expit(odds)
    return truth[:, None].astype(float), expit((odds - bias) * temperature)[:, None]


def loss(truth: np.ndarray, score: np.ndarray) -> float:
    return float(-np.log(np.where(truth > 0, score, 1 - score).clip(1e-300)).mean())


def test_a_known_temperature_is_found() -> None:
    truth, score = distorted()
    rule = fit(truth, score)[0]
    assert rule.method == "temperature"
    assert rule.temperature == pytest.approx(3.0, rel=0.06)
    assert (rule.positives, rule.negatives) == (truth.sum(), 4000 - truth.sum())
    test_truth, test_score = distorted(seed=1)
    after = calibrate(truth, score, test_score).scores
    assert calibration_error(test_truth[:, 0], after[:, 0])[0] < 0.03  # 4,000 studies of known odds come to about 0.018
    assert calibration_error(test_truth[:, 0], test_score[:, 0])[0] > 0.1
    grid = [loss(truth, expit(logit(score) / t)) for t in np.geomspace(1 / 50, 50, 400)]
    assert loss(truth, rule.apply(score)) <= min(grid)


def test_platt_is_unpenalised_logistic_regression_on_log_odds_to_his_targets() -> None:
    """Each study twice: as positive with the weight of its target, as negative with the rest."""
    truth, score = distorted(600, 0.4, 1.0)
    rule = fit(truth, score, "platt")[0]
    positives = truth.sum()
    target = np.where(truth[:, 0] > 0, (positives + 1) / (positives + 2), 1 / (600 - positives + 2))
    model = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000)
    model.fit(np.tile(logit(score), (2, 1)), np.repeat([1, 0], 600), np.concatenate([target, 1 - target]))
    assert 1 / rule.temperature == pytest.approx(model.coef_[0, 0], rel=1e-4)
    assert rule.bias == pytest.approx(model.intercept_[0], rel=1e-4)
    assert not rule.at_limit


def test_classes_that_the_scores_part_entirely_keep_probabilities_that_can_be_ordered() -> None:
    """Six positives at 0.55 and 0.6, eight negatives at 0.3 and 0.35: together they come to Platt's targets, 7/8 and 1/10."""
    score = np.array([[0.55, 0.6] * 3 + [0.3, 0.35] * 4]).T
    truth = (score > 0.5).astype(float)
    rule = fit(truth, score, "platt")[0]
    assert not rule.at_limit
    given = rule.apply(score[:, 0])
    assert given.sum() == pytest.approx(6 * 7 / 8 + 8 / 10, rel=1e-4)
    assert given[:6].min() > 0.8
    assert given[6:].max() < 0.2
    assert np.float32(rule.apply(np.array([0.56]))[0]) < np.float32(rule.apply(np.array([0.70]))[0]) < 1


def test_isotonic_by_hand() -> None:
    truth, score = np.array([[0, 1, 0, 0, 1, 1.0]]).T, np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]).T
    found = calibrate(truth, score, np.array([[0.05], [0.2], [0.3], [0.45], [0.9], [np.nan]]), "isotonic", minimum=3)
    # 1, 0, 0 at 0.2 to 0.4 are one block of 1/3; between 0.4 and 0.5 the line from 1/3 to 1; outside, the nearest end
    assert found.scores[:5, 0] == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert np.isnan(found.scores[5, 0])
    assert found.rules[0].method == "isotonic"


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_too_few_positives_take_the_temperature_of_the_level(method) -> None:
    truth, score = distorted(500)
    truth, score = np.hstack([truth, truth, truth]), np.hstack([score, score, score])
    truth[:, 1] = 0
    truth[:4, 1] = 1  # four positives
    truth[:, 2] = np.nan  # nothing known
    rules = fit(truth, score, method)
    assert [rule.method for rule in rules] == [method, "pooled temperature", "pooled temperature"]
    assert [rule.positives for rule in rules[1:]] == [4, 0]
    known = ~np.isnan(truth)
    pooled = fit(truth[known][:, None], score[known][:, None])[0]
    assert rules[1].temperature == rules[2].temperature == pytest.approx(pooled.temperature, rel=1e-6)
    assert rules[1].bias == 0
    truth[:5, 1] = 1
    assert fit(truth, score, method)[1].method == method


def test_too_few_positives_share_the_slope_of_platt_and_keep_their_own_prevalence() -> None:
    truth, score = distorted(500)
    truth, score = np.hstack([truth, truth]), np.hstack([score, score])
    truth[:, 1] = 0
    truth[:4, 1] = 1
    rule = fit(truth, score, "platt")[1]
    pooled = fit(truth.reshape(-1, 1), score.reshape(-1, 1), "platt")[0]
    assert (rule.method, rule.positives) == ("pooled platt", 4)
    assert rule.temperature == pytest.approx(pooled.temperature, rel=1e-6)
    assert rule.apply(score[:, 1]).mean() == pytest.approx(4.5 / 501)


def test_a_temperature_cannot_reach_a_rare_class_far_from_one_half_and_platt_can() -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((400, 1)) < 0.1).astype(float)
    score = 0.6 + 0.02 * truth + 0.01 * generator.random((400, 1))  # as cosine similarities come: all above one half
    heated, scaled = (fit(truth, score, method)[0] for method in ("temperature", "platt"))
    assert heated.at_limit
    assert heated.apply(score).min() >= 0.5
    assert scaled.apply(score).mean() == pytest.approx(truth.mean(), abs=1e-3)


def test_a_level_with_too_few_of_anything_is_left_as_it_is() -> None:
    score = np.array([[0.0, 0.3], [1.0, 0.4], [0.5, 0.5]])
    for truth in (np.zeros((3, 2)), np.ones((3, 2)), np.full((3, 2), np.nan)):
        found = calibrate(truth, score, score)
        assert np.array_equal(found.scores, score)
        assert [rule.method for rule in found.rules] == ["none", "none"]


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_a_constant_score_and_scores_of_0_and_1(method) -> None:
    truth = np.array([[1, 0, 0, 0] * 10], dtype=float).T
    for score in (np.full((40, 1), 0.9), np.zeros((40, 1)), np.ones((40, 1)), (np.arange(40) % 2.0)[:, None]):
        found = calibrate(truth, score, score, method)
        assert np.isfinite(found.scores).all()
        assert found.scores.min() >= 0
        assert found.scores.max() <= 1
        if method != "temperature" and np.ptp(score) == 0:
            share = (
                (10 * 11 / 12 + 30 / 32) / 40 if method == "platt" else 0.25
            )  # the prevalence, of Platt's targets or as it is
            assert found.scores == pytest.approx(np.full((40, 1), share), abs=1e-5)
    best = calibrate(truth, np.full((40, 1), 0.1), np.full((40, 1), 0.1)).scores  # log odds -2.2 / T = those of 1/4
    assert best == pytest.approx(np.full((40, 1), 0.25), abs=1e-5)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_scores_that_separate_or_mislead_end_at_the_limit(method) -> None:
    truth = np.array([[0, 1] * 10], dtype=float).T
    good = np.where(truth > 0, 0.6, 0.4)
    sharp, blunt = fit(truth, good, method)[0], fit(truth, 1 - good, method)[0]
    assert sharp.at_limit == (method == "temperature")  # Platt's targets lie within 0 and 1, and end somewhere
    assert blunt.at_limit
    assert sharp.temperature < 0.2
    assert blunt.temperature == pytest.approx(HOTTEST, rel=1e-3)
    assert blunt.apply(1 - good) == pytest.approx(np.full((20, 1), 0.5), abs=0.01)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_the_order_of_scores_is_kept(method) -> None:
    truth, score = distorted(300)
    score = np.sort(np.append(score[:-3, 0], [1e-9, 1e-7, 1 - 1e-7]))[:, None]
    after = calibrate(truth, score, score, method).scores[:, 0]
    assert (np.diff(after) > 0).all()


def test_logits_are_finite() -> None:
    assert logits([0.0, 0.5, 1.0]) == pytest.approx([-27.631, 0, 27.631], abs=1e-3)


def test_studies_of_unknown_truth_do_not_count() -> None:
    truth, score = distorted(300)
    gaps = np.vstack([truth, np.full((50, 1), np.nan)])
    more = np.vstack([score, np.full((50, 1), np.nan)])
    assert fit(gaps, more)[0].temperature == fit(truth, score)[0].temperature


def test_rules_can_be_reported() -> None:
    truth, score = distorted(100)
    entry = fit(truth, score, "isotonic")[0].summary()
    assert json.loads(json.dumps(entry))["method"] == "isotonic"
    assert set(entry) == {"method", "temperature", "bias", "at_limit", "positives", "negatives"}


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="give one of temperature, platt, isotonic"):
        fit([[1]], [[0.5]], "beta")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        fit([1, 0], [0.5, 0.5])
    with pytest.raises(ValueError, match="give probabilities"):
        fit([[1], [0]], [[3.0], [0.5]])
    with pytest.raises(ValueError, match=r"must be \(studies, 1\)"):
        calibrate([[1], [0]], [[0.3], [0.5]], [[0.3, 0.4]])
