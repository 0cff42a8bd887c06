"""DeLong's covariance against its definition written out, against a hand, and against the form for clusters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from hlip.metrics import roc_auc
from hp2l.statistics.delong import auc_interval, components, delong, delong_test

TINY_TRUTH = [1, 1, 0, 0, 0]
TINY = [0.9, 0.5, 0.5, 0.4, 0.6]
"""Positive 0.9 outscores 3 of 3, 0.5 outscores 0.4 and ties 0.5: 1.5 of 3. Negatives 0.5, 0.4, 0.6: outscored by 1.5, 2, 1 of 2."""


def beats(x: float, y: float) -> float:
    return 1.0 if x > y else 0.5 if x == y else 0.0


def slow_covariance(truth: np.ndarray, scores: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Obuchowski's formulas, term by term: S10 / M + S01 / N + (S11 + S11') / (M N)."""
    positives, negatives = np.flatnonzero(truth), np.flatnonzero(~truth)
    m, n, methods = len(positives), len(negatives), scores.shape[1]
    auc, up, down = np.zeros(methods), [{} for _ in range(methods)], [{} for _ in range(methods)]
    for r in range(methods):
        up[r] = {i: sum(beats(scores[i, r], scores[j, r]) for j in negatives) / n for i in positives}
        down[r] = {j: sum(beats(scores[i, r], scores[j, r]) for i in positives) / m for j in negatives}
        auc[r] = sum(up[r].values()) / m
    everyone = sorted(set(clusters.tolist()))
    ups = np.array([[sum(up[r][i] - auc[r] for i in positives if clusters[i] == c) for c in everyone] for r in range(methods)])
    downs = np.array(
        [[sum(down[r][j] - auc[r] for j in negatives if clusters[j] == c) for c in everyone] for r in range(methods)]
    )
    i10, i01, i_all = len(set(clusters[positives])), len(set(clusters[negatives])), len(everyone)
    s10 = i10 / ((i10 - 1) * m) * ups @ ups.T
    s01 = i01 / ((i01 - 1) * n) * downs @ downs.T
    s11 = i_all / (i_all - 1) * ups @ downs.T
    return s10 / m + s01 / n + (s11 + s11.T) / (m * n)


def cohort(studies: int, seed: int, methods: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, scores with many ties, and patients with up to three studies that resemble one another."""
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(studies), generator.integers(1, 4, studies))[:studies]
    inner = generator.normal(size=studies)[patients]
    truth = inner + generator.normal(size=studies) > 0.3
    scores = truth[:, None] + inner[:, None] + generator.normal(size=(studies, methods))
    return truth, np.round(scores, 1), patients


def test_components_and_variance_by_hand() -> None:
    above, below = components(np.array(TINY_TRUTH, bool), np.array(TINY)[:, None])
    assert above[:, 0] == pytest.approx([1, 0.5])
    assert below[:, 0] == pytest.approx([0.75, 1, 0.5])
    found = delong(TINY_TRUTH, TINY)
    assert found.auc == pytest.approx([0.75])
    # variance of (1, 0.5) is 1/8, over 2 positives; of (0.75, 1, 0.5) is 1/16, over 3 negatives
    assert found.covariance == pytest.approx(np.array([[1 / 16 + 1 / 48]]))


@pytest.mark.parametrize("seed", range(4))
def test_midranks_give_what_the_definition_gives(seed: int) -> None:
    truth, scores, _ = cohort(40, seed)
    alone = np.arange(40)
    found = delong(truth, scores)
    assert found.auc == pytest.approx([roc_auc(truth, column) for column in scores.T])
    assert found.covariance == pytest.approx(slow_covariance(truth, scores, alone), abs=1e-14)
    up, down = components(truth, scores)
    plain = np.cov(up, rowvar=False) / truth.sum() + np.cov(down, rowvar=False) / (~truth).sum()  # DeLong's own formula
    assert found.covariance == pytest.approx(plain, abs=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_give_what_their_definition_gives(seed: int) -> None:
    truth, scores, patients = cohort(40, seed)
    expected = slow_covariance(truth, scores, patients)
    assert delong(truth, scores, patients).covariance == pytest.approx(expected, abs=1e-14)
    named = np.array([f"p{number}" for number in patients])
    assert delong(truth, scores, named).covariance == pytest.approx(expected, abs=1e-14)
    single = np.random.default_rng(seed).permutation(40)
    assert delong(truth, scores, single).covariance == pytest.approx(delong(truth, scores).covariance, abs=1e-14)


def test_every_study_twice_is_no_more_evidence_when_clustered() -> None:
    truth, scores, _ = cohort(60, 0)
    twice, patients = np.repeat(np.arange(60), 2), np.repeat(np.arange(60), 2)
    once, doubled = delong(truth, scores).covariance, delong(truth[twice], scores[twice], patients).covariance
    assert doubled == pytest.approx(once, rel=1e-9)
    assert delong(truth[twice], scores[twice]).covariance[0, 0] < 0.55 * once[0, 0]


def test_the_paired_test_follows_from_the_covariance() -> None:
    truth, scores, patients = cohort(80, 1)
    for clusters in (None, patients):
        found, table = delong_test(truth, scores[:, 0], scores[:, 1], clusters), delong(truth, scores, clusters)
        c = table.covariance
        assert found.difference == pytest.approx(table.auc[1] - table.auc[0])
        assert found.standard_error == pytest.approx(np.sqrt(c[0, 0] + c[1, 1] - 2 * c[0, 1]))
        assert found.z == pytest.approx(found.difference / found.standard_error)
        assert found.p == pytest.approx(2 * norm.sf(abs(found.z)))
        back = delong_test(truth, scores[:, 1], scores[:, 0], clusters)
        assert (back.difference, back.p) == pytest.approx((-found.difference, found.p))


def test_the_paired_test_by_hand() -> None:
    second = [0.9, 0.8, 0.5, 0.4, 0.6]  # separates the classes: all components are 1
    found = delong_test(TINY_TRUTH, TINY, second)
    assert found.difference == pytest.approx(0.25)
    assert found.standard_error == pytest.approx(np.sqrt(1 / 16 + 1 / 48))


def test_studies_of_unknown_truth_do_not_count() -> None:
    truth, scores, patients = cohort(50, 2)
    gaps = np.append(truth.astype(float), [np.nan, np.nan])
    more = np.vstack([scores, np.full((2, 3), np.nan)])
    found = delong(gaps, more, np.append(patients, [0, 999]))
    assert found.covariance == pytest.approx(delong(truth, scores, patients).covariance)


def test_methods_that_rank_alike_do_not_differ() -> None:
    truth, scores, _ = cohort(50, 3)
    assert delong_test(truth, scores[:, 0], np.exp(scores[:, 0]))[0::2] == (0.0, 0.0)
    assert delong_test(truth, scores[:, 0], np.exp(scores[:, 0])).p == 1.0


def test_what_does_not_exist_is_nan() -> None:
    for truth in ([0, 0, 0], [1, 1, 1], [np.nan, 0, 0], [np.nan] * 3):
        assert np.isnan(delong(truth, [0.1, 0.2, 0.3]).auc).all()
        assert np.isnan(delong(truth, [0.1, 0.2, 0.3]).interval()).all()
        assert np.isnan(delong_test(truth, [0.1, 0.2, 0.3], [0.2, 0.1, 0.3])).all()
    one = delong([1, 0, 0], [0.3, 0.2, 0.4])
    assert one.auc == pytest.approx([0.5])
    assert np.isnan(one.covariance).all()  # one positive study does not vary
    assert np.isnan(delong([1, 1, 0, 0], [0.3, 0.5, 0.2, 0.4], ["a", "a", "b", "c"]).covariance).all()  # nor one patient
    assert np.isnan(delong_test([1, 1, 0, 0], [3, 4, 1, 2], [1, 2, 3, 4]).p)  # AUC 1 against 0: no variance to judge by
    assert np.isnan(delong_test(np.arange(10) < 3, np.zeros(10), np.arange(10)[::-1]).p)


def test_intervals() -> None:
    low, high = auc_interval(0.8, 0.0025, scale="plain")
    assert (low, high) == pytest.approx((0.8 - 1.959964 * 0.05, 0.8 + 1.959964 * 0.05))
    # logit(0.8) = ln 4; half width 1.959964 * 0.05 / 0.16 = 0.612489
    low, high = auc_interval(0.8, 0.0025)
    assert (low, high) == pytest.approx((4 / (4 + np.exp(0.612489)), 4 / (4 + np.exp(-0.612489))), rel=1e-6)
    assert auc_interval(0.98, 0.0025, scale="plain")[1] == 1.0
    assert auc_interval(0.98, 0.0025)[1] < 1.0
    assert np.isnan(auc_interval(1.0, 0.0)).all()
    assert auc_interval(1.0, 0.0, scale="plain") == (1.0, 1.0)
    assert delong(TINY_TRUTH, TINY).interval(scale="plain", coverage=0.5) == pytest.approx(
        (0.75 - 0.67449 * np.sqrt(1 / 12), 0.75 + 0.67449 * np.sqrt(1 / 12)), rel=1e-4
    )
    with pytest.raises(ValueError, match="logit"):
        auc_interval(0.8, 0.0025, scale="probit")  # type: ignore[arg-type]


def test_wrong_shapes_and_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        delong([1, 0], [[0.1, 0.2]])
    with pytest.raises(ValueError, match=r"clusters \(3,\)"):
        delong([1, 0], [0.1, 0.2], ["a", "b", "c"])
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        delong([1, 0], [0.1, np.nan])
