"""Two methods of equal AUC, patients with one to three studies: how often is a difference found that is not there?"""

from __future__ import annotations

import numpy as np
import pytest

from hlip.metrics import Ranking, bootstrap_p, patient_bootstrap
from hp2l.comparison.resampling import with_normal_p
from hp2l.statistics.delong import delong_test

SIMULATIONS, PATIENTS, RESAMPLES = 1000, 120, 399


def cohort(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth (N,), paired scores (N, 2) and patients (N,).

    A patient's studies share a tendency to the disease, what both methods see in him, and what each alone sees.
    """
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(PATIENTS), generator.integers(1, 4, PATIENTS))
    truth = generator.normal(size=PATIENTS)[patients] + 0.5 * generator.normal(size=patients.size) > 0.3
    shared = generator.normal(size=PATIENTS)[patients, None]
    own = generator.normal(size=(PATIENTS, 2))[patients]
    return truth, 1.2 * truth[:, None] + 0.6 * shared + 0.8 * own + 0.5 * generator.normal(size=own.shape), patients


def bootstrapped(truth: np.ndarray, scores: np.ndarray, patients: np.ndarray, seed: int) -> tuple[float, float]:
    """p as a share of resamples, and of the difference over their standard deviation (`with_normal_p`)."""
    one, two = (Ranking.of(truth, column) for column in scores.T)
    whole = np.ones((truth.size, 1), dtype=np.float32)
    blocks = [whole, *patient_bootstrap([str(patient) for patient in patients], RESAMPLES, seed, block=RESAMPLES)]
    row = np.concatenate([two.areas(weight)[0] - one.areas(weight)[0] for weight in blocks])
    return bootstrap_p(row[1:]), with_normal_p(row)["p"]


@pytest.mark.slow
def test_both_tests_find_a_difference_that_is_not_there_five_times_in_a_hundred() -> None:
    p = np.empty((SIMULATIONS, 4))
    for seed in range(SIMULATIONS):
        truth, scores, patients = cohort(seed)
        clustered, plain = (delong_test(truth, *scores.T, clusters=clusters).p for clusters in (patients, None))
        p[seed] = *bootstrapped(truth, scores, patients, seed), clustered, plain
    bootstrap, normal, delong, blind = (p < 0.05).mean(axis=0)
    assert 0.034 <= bootstrap <= 0.068
    assert 0.034 <= normal <= 0.070
    assert 0.034 <= delong <= 0.068
    # Far out the normal tail is somewhat too light: Holm over many tests is a little too sure of itself.
    assert (p[:, 1] < 0.01).mean() <= 0.028
    assert (p[:, 2] < 0.01).mean() <= 0.028
    assert blind > 0.1  # the patients matter here: who takes studies for independent is fooled
