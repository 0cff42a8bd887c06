"""Where fine-tuning overtakes a method that needs no labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hp2l.comparison.efficiency import crossing, efficiency
from hp2l.comparison.scores import Scores


def test_the_crossing_is_interpolated_on_a_logarithmic_axis():
    points = [(10, 0.5), (100, 0.6), (1000, 0.8)]
    assert crossing(points, 0.7) == pytest.approx(math.sqrt(100 * 1000))
    assert crossing(points, 0.4) == 0.0
    assert crossing(points, 0.8) is None
    assert crossing([], 0.5) is None
    assert crossing([(10, 0.9), (100, 0.6), (1000, 0.8)], 0.7) == pytest.approx(
        math.sqrt(100 * 1000)
    )  # above, below, above for good


def test_points_are_the_runs_macro_aucs_by_number_of_studies():
    draws, studies = np.random.default_rng(0), 60
    targets = [(draws.random((studies, 2)) < 0.5).astype(float)]
    known, keep = [np.ones((studies, 2))], [np.array([True, False])]

    def table(name: str, gain: float) -> Scores:
        levels = [draws.random((studies, 2)) + gain * targets[0]]
        ids = [str(n) for n in range(studies)]
        return Scores(name, ids, ids, ["val" if n < 10 else "test" for n in range(studies)], levels)

    many, few, flat = table("many", 0.8), table("few", 0.1), table("zero_shot", 0.3)
    found = efficiency([(100, many), (10, few)], [flat], targets, known, keep, resamples=30)["1"]
    assert [point["studies"] for point in found["points"]] == [10, 100]
    for entry, one in ((found["points"][1], many), (found["points"][0], few), (found["flat"]["zero_shot"], flat)):
        assert entry["value"] == pytest.approx(roc_auc_score(targets[0][10:, 0], one.levels[0][10:, 0]))
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert 10 < found["crossing"]["zero_shot"] < 100
