"""Resamples: what each column holds, independent of threads and blocks; average precision centred on its value."""

from __future__ import annotations

import numpy as np
import pytest

from hlip.metrics import Ranking, average_precision, patient_bootstrap
from hp2l.comparison.resampling import BLOCK, centred, resample


def test_every_column_is_the_cohort_with_its_patients_repeated() -> None:
    generator = np.random.default_rng(0)
    patients = [f"p{i // 2}" for i in range(60)]
    target, score = generator.random(60) < 0.4, np.round(generator.random(60), 1)
    rows = {"whole": (target[None] * 1).astype(np.float32), ("broken", 1): generator.random((2, 60))}
    resamples = BLOCK + 7
    drawn = resample(patients, [Ranking.of(target, score)], rows, resamples, seed=4, workers=1)
    weight = np.concatenate([np.ones((60, 1)), *patient_bootstrap(patients, resamples, 4)], axis=1)
    np.testing.assert_array_equal(drawn.sums["whole"], target[None] @ weight)
    np.testing.assert_allclose(drawn.sums["broken", 1], rows["broken", 1] @ weight, rtol=1e-12)
    for column in (0, 1, BLOCK, BLOCK + 1, resamples):
        again = np.repeat(np.arange(60), weight[:, column].astype(int))
        expected = average_precision(target[again], score[again])
        assert drawn.average_precision[0, column] == pytest.approx(expected, abs=1e-12)
    threaded = resample(patients, [Ranking.of(target, score)], rows, resamples, seed=4, workers=3)
    np.testing.assert_array_equal(threaded.auc, drawn.auc)
    np.testing.assert_array_equal(threaded.sums["whole"], drawn.sums["whole"])


def test_centred_samples_keep_value_and_spread() -> None:
    samples = np.array([[0.5, 0.55, 0.65, np.nan, 0.75], [0.01, 0.0, 0.02, 0.1, 0.1], [np.nan] * 5])
    found = centred(samples)
    np.testing.assert_array_equal(found[:, 0], samples[:, 0])
    np.testing.assert_allclose(found[0, 1:], [0.4, 0.5, np.nan, 0.6])
    assert found[1, 1] == 0  # never below zero
    assert np.isnan(found[2]).all()


@pytest.mark.slow
def test_centred_intervals_of_average_precision_miss_both_sides_alike() -> None:
    """Against the average precision of a large population: plain percentiles miss it more often from above."""
    generator = np.random.default_rng(0)

    def draw(positives: int, negatives: int) -> tuple[np.ndarray, np.ndarray]:
        truth = np.arange(positives + negatives) < positives
        return truth, generator.normal(size=truth.size) + truth

    population = average_precision(*draw(20000, 400000))
    missed = np.zeros((400, 2), dtype=bool)
    for row in range(400):
        truth, score = draw(50, 1000)
        weight = generator.multinomial(1050, np.full(1050, 1 / 1050), size=300).T.astype(np.float64)
        samples = Ranking.of(truth, score).areas(np.column_stack([np.ones(1050), weight]))[1][None]
        missed[row] = [np.quantile(table[0, 1:], 0.025) > population for table in (samples, centred(samples))]
    plain, moved = missed.mean(axis=0)
    assert moved < plain
    assert 0.005 < moved < 0.05
