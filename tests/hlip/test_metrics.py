"""Metrics against numbers computed by hand, against scikit-learn, and against golden outputs of the official code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from hlip import metrics

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden" / "l_zeroshot_metrics.json"


# --- AUC and average precision ---------------------------------------------------------------------------------------


def test_auc_by_hand_with_a_tie() -> None:
    # positives 0.9, 0.5; negatives 0.5, 0.4, 0.6: 0.9 beats three, 0.5 ties one and beats one -> (3 + 1.5) / 6
    assert metrics.roc_auc([1, 1, 0, 0, 0], [0.9, 0.5, 0.5, 0.4, 0.6]) == pytest.approx(4.5 / 6)


def test_auc_counts_weights_as_repeated_studies() -> None:
    target, score, weight = [1, 1, 0, 0], [0.8, 0.3, 0.5, 0.3], [2, 1, 0, 3]
    repeated = np.repeat(np.arange(4), weight)
    expected = metrics.roc_auc(np.array(target)[repeated], np.array(score)[repeated])
    assert metrics.roc_auc(target, score, weight) == pytest.approx(expected)
    assert expected == pytest.approx((2 * 3 + 0.5 * 3) / 9)  # 0.8 beats the three 0.3s twice, 0.3 ties them


def test_average_precision_by_hand() -> None:
    # descending: 1 (precision 1), 0, 1 (precision 2/3) -> (1 + 2/3) / 2
    assert metrics.average_precision([1, 0, 1], [0.9, 0.8, 0.7]) == pytest.approx((1 + 2 / 3) / 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.integers(1, 12))
def test_areas_equal_scikit_learn_under_weights_and_ties(seed: int, studies: int, values: int) -> None:
    generator = np.random.default_rng(seed)
    target = np.concatenate([[0, 1], generator.integers(0, 2, studies - 2)])
    score = generator.integers(0, values, studies) / values
    weight = np.concatenate([np.ones((2, 3)), generator.integers(0, 4, (studies - 2, 3))])
    areas, ap = metrics.Ranking.of(target, score).areas(weight)
    for column in range(3):
        assert areas[column] == pytest.approx(roc_auc_score(target, score, sample_weight=weight[:, column]))
        assert ap[column] == pytest.approx(average_precision_score(target, score, sample_weight=weight[:, column]))


def test_areas_in_float32_are_exact_for_a_large_cohort() -> None:
    generator = np.random.default_rng(0)
    target, score = generator.random(40_000) < 0.3, generator.random(40_000)
    weight = generator.integers(0, 5, (40_000, 1)).astype(np.float32)
    expected = roc_auc_score(target, score, sample_weight=weight[:, 0])
    assert metrics.Ranking.of(target, score).areas(weight)[0][0] == pytest.approx(expected, abs=1e-9)


def test_an_auc_without_both_classes_is_nan() -> None:
    assert np.isnan(metrics.roc_auc([1, 1], [0.1, 0.2]))
    assert np.isnan(metrics.roc_auc([0, 1], [0.1, 0.2], [1, 0]))
    assert np.isnan(metrics.average_precision([0, 0], [0.1, 0.2]))


def test_unknown_truth_is_left_out_of_the_ranking() -> None:
    ranking = metrics.Ranking.of([1, 0, 1, 0], [0.2, 0.1, 0.0, 0.9], known=[True, True, False, False])
    assert ranking.areas(np.ones((4, 1)))[0][0] == 1.0


def test_nan_scores_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        metrics.roc_auc([0, 1], [0.5, np.nan])
    with pytest.raises(ValueError, match=r"must both be \(N,\)"):
        metrics.roc_auc([[0, 1]], [[0.5, 0.5]])


def test_roc_curve_has_the_auc_under_it_and_thins_to_its_ends() -> None:
    generator = np.random.default_rng(1)
    target, score = generator.random(300) < 0.4, generator.integers(0, 40, 300)
    false, true = metrics.roc_curve(target, score, most=1000)
    assert auc(false, true) == pytest.approx(metrics.roc_auc(target, score))
    thin_false, thin_true = metrics.roc_curve(target, score, most=10)
    assert len(thin_false) == 10
    assert (thin_false[0], thin_true[0], thin_false[-1], thin_true[-1]) == (0, 0, 1, 1)


# --- thresholds ------------------------------------------------------------------------------------------------------


def test_balanced_accuracy_by_hand() -> None:
    # at >= 0.5: positives 1 of 2 found; negatives 2 of 3 spared
    target, score = [1, 1, 0, 0, 0], [0.5, 0.4, 0.6, 0.1, 0.2]
    assert metrics.rates(target, np.array(score) >= 0.5) == pytest.approx((1 / 2, 2 / 3))
    assert metrics.balanced_accuracy(target, score, 0.5) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert np.isnan(metrics.balanced_accuracy([1, 1], [0.1, 0.9], 0.5))


def test_best_threshold_by_hand() -> None:
    assert metrics.best_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx((0.4, 1.0))
    # between 0.2 | 0.3: found 2/2, spared 2/3; between 0.4 | 0.5: found 1/2, spared 3/3
    assert metrics.best_threshold([0, 0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx((0.25, 5 / 6))
    assert np.isnan(metrics.best_threshold([0, 0], [0.1, 0.2])).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_threshold_beats_the_best_and_it_delivers_what_it_says(seed: int) -> None:
    generator = np.random.default_rng(seed)
    target, score = np.append([0, 1], generator.integers(0, 2, 20)), generator.integers(0, 9, 22) / 9
    threshold, quality = metrics.best_threshold(target, score)
    assert metrics.balanced_accuracy(target, score, threshold) == pytest.approx(quality)
    tried = [metrics.balanced_accuracy(target, score, t) for t in np.linspace(-0.1, 1.1, 200)]
    assert quality >= max(tried) - 1e-12


def test_best_threshold_between_neighbouring_floats() -> None:
    low = 0.3
    high = np.nextafter(low, 1)
    threshold, quality = metrics.best_threshold([0, 1], [low, high])
    assert quality == 1.0
    assert metrics.balanced_accuracy([0, 1], [low, high], threshold) == 1.0


def test_weighted_rates_equal_the_plain_ones() -> None:
    generator = np.random.default_rng(2)
    target, flagged, known = (generator.random((50, 4)) < p for p in (0.4, 0.5, 0.8))
    weight = generator.integers(0, 4, (50, 6)).astype(np.float32)
    sensitivity, specificity = metrics.weighted_rates(target, flagged, known, weight)
    for k in range(4):
        rows = known[:, k]
        expected = [metrics.rates(target[rows, k], flagged[rows, k], weight[rows, r]) for r in range(6)]
        np.testing.assert_allclose(np.stack([sensitivity[k], specificity[k]], 1), expected)


def test_macro_leaves_out_what_is_missing_or_not_kept() -> None:
    assert metrics.macro([0.5, np.nan, 0.7]) == pytest.approx(0.6)
    assert metrics.macro([0.5, 0.9, 0.7], [True, False, True]) == pytest.approx(0.6)
    assert np.isnan(metrics.macro([np.nan, 0.9], [True, False]))
    np.testing.assert_allclose(metrics.macro([[0.5, np.nan], [0.7, 0.9]]), [0.6, 0.9])


# --- bootstrap -------------------------------------------------------------------------------------------------------


def test_bootstrap_draws_whole_patients() -> None:
    patients = ["a", "b", "a", "c", "b", "a"]
    weight = np.concatenate(list(metrics.patient_bootstrap(patients, resamples=50, seed=3)), axis=1)
    assert weight.shape == (6, 50)
    np.testing.assert_array_equal(weight[0], weight[2])
    np.testing.assert_array_equal(weight[0], weight[5])
    np.testing.assert_array_equal(weight[1], weight[4])
    np.testing.assert_array_equal(weight[[0, 1, 3]].sum(axis=0), 3)  # as many patients as there are
    assert weight.max() > 1


def test_bootstrap_depends_on_the_seed_alone() -> None:
    patients = [str(i) for i in range(20)]
    small, large = (np.concatenate(list(metrics.patient_bootstrap(patients, 40, 5, block)), axis=1) for block in (7, 100))
    np.testing.assert_array_equal(small, large)
    assert not np.array_equal(small, next(metrics.patient_bootstrap(patients, 40, 6)))


def test_bootstrap_interval_of_a_mean_is_the_textbook_one() -> None:
    generator = np.random.default_rng(4)
    values = generator.normal(size=400)
    weight = np.concatenate(list(metrics.patient_bootstrap([str(i) for i in range(400)], 2000, 0)), axis=1)
    low, high = metrics.interval(values @ weight / weight.sum(axis=0))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_interval_and_p_by_hand() -> None:
    assert metrics.interval(np.arange(101), coverage=0.9) == pytest.approx((5, 95))
    assert metrics.interval([1.0, np.nan, 1.0]) == (1.0, 1.0)
    assert np.isnan(metrics.interval([np.nan])).all()
    # one of nine is below zero: 2 (1 + 1) / (9 + 1)
    assert metrics.bootstrap_p([-1, 1, 2, 3, 4, 5, 6, 7, 8]) == pytest.approx(0.4)
    assert metrics.bootstrap_p(np.zeros(9)) == 1.0


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.03, 0.04 -> 0.03, 0.06, max(0.06, 0.04)
    np.testing.assert_allclose(metrics.holm([0.04, 0.01, np.nan, 0.03]), [0.06, 0.03, np.nan, 0.06])


# --- retrieval ------------------------------------------------------------------------------------------


def test_recall_at_k_by_hand() -> None:
    similarity = [[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.1, 0.2, 0.0]]  # the match is first, second, third
    assert [metrics.recall_at_k(similarity, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert metrics.recall_at_k(np.ones((4, 4)), 1) == 0.0  # ties earn nothing
    assert metrics.recall_at_k([[0.9, 0.1], [0.2, 0.3]], 1, [[False, True], [False, False]]) == 0.0
    assert metrics.recall_at_k([[0.9, 0.1]], 1, [[True, True]]) == 1.0


def test_class_aucs_count_known_studies_alone_and_name_the_undefined() -> None:
    target = [[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    known = [[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]]
    score = [[0.9, 0.2, 0.1], [0.5, 0.8, 0.2], [0.1, 0.3, 0.3], [0.0, 0.1, 0.4]]
    areas = metrics.class_aucs(target, known, score)
    assert areas[:2].tolist() == [0.5, 0.75]  # by hand: 1 of 2 pairs (the unknown study would add 2), 3 of 4 pairs
    assert np.isnan(areas[2])


# --- golden outputs of the official zero-shot protocols --------------------------------------------------------------


def _golden(name: str) -> tuple[np.ndarray, np.ndarray, dict[str, float | None]]:
    from safetensors.numpy import load_file

    if not GOLDEN.is_file():
        pytest.skip("shared/golden is not beside this checkout")
    arrays = load_file(GOLDEN.with_suffix(".safetensors"))
    return arrays[f"{name}.target"] > 0, arrays[f"{name}.logits"], json.loads(GOLDEN.read_text())[name]


def _softmax(logits: np.ndarray) -> np.ndarray:
    """As the official code, float32 in torch: the last digit decides which scores tie."""
    import torch

    return torch.from_numpy(logits).softmax(dim=1).numpy()


def assert_equal(value: float, golden: float | None) -> None:
    assert (golden is None and np.isnan(value)) or value == pytest.approx(golden, abs=1e-9)


@pytest.mark.parametrize("name", ["mri", "ct", "rsna"])
def test_golden_multi_label_macro_auc(name: str) -> None:
    target, logits, golden = _golden(name)
    each = [metrics.roc_auc(target[:, k], logits[:, k]) for k in range(target.shape[1])]
    assert_equal(float(metrics.macro(each)), golden[f"auc ({name})"])


@pytest.mark.parametrize("name", ["random400", "small60", "ties120", "noglioma"])
def test_golden_pub_brain_5_auc(name: str) -> None:
    target, logits, golden = _golden(name)
    probability = _softmax(logits)
    for k, disease in enumerate(("normal", "stroke", "glioma", "meningioma", "metastasis")):
        assert_equal(metrics.roc_auc(target[:, k], probability[:, k]), golden[f"auc (pubbrain5_disease_{disease})"])
        if k:
            rows = target[:, 0] | target[:, k]
            against_normal = _softmax(logits[rows][:, [0, k]])[:, 1]
            assert_equal(metrics.roc_auc(target[rows, k], against_normal), golden[f"auc (pubbrain5_anomaly_{disease})"])
        if k > 1:
            rows = target[:, 2:].any(axis=1)
            among_tumors = _softmax(logits[rows][:, 2:])[:, k - 2]
            assert_equal(metrics.roc_auc(target[rows, k], among_tumors), golden[f"auc (pubbrain5_tumor_{disease})"])
