"""Where fine-tuning overtakes a method that needs no labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hp2l.comparison.efficiency import crossed, crossing, efficiency
from hp2l.comparison.resampling import summary
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
    crossed = found["crossing"]["zero_shot"]
    assert 10 < crossed["value"] < 100
    for point in found["points"]:
        change = point["differences"]["zero_shot"]
        assert change["value"] == pytest.approx(point["value"] - found["flat"]["zero_shot"]["value"])
    assert found["validation_studies"] == 10


def curve(*points: tuple[int, float], spread: float) -> tuple[list, list, np.ndarray]:
    """Curve, points and line as `efficiency` makes them; the resamples of every point spread evenly about its value."""
    draws = np.linspace(-spread, spread, 201)
    line = np.full(202, 0.7)
    rows = [(count, np.append(value, value + draws)) for count, value in points]
    found = [{"studies": count, "differences": {"flat": summary(row - line, paired=True)}} for count, row in rows]
    return rows, found, line


def test_a_point_is_above_only_where_the_interval_of_its_difference_excludes_zero():
    rows, points, line = curve((16, 0.70), (160, 0.75), (1600, 0.80), spread=0.03)
    found = crossed(rows, points, "flat", line)
    assert (found["below_to"], found["above_from"]) == (16, 160)
    rows, points, line = curve((16, 0.71), (160, 0.75), spread=0.03)  # above from the first on, but not shown there
    found = crossed(rows, points, "flat", line)
    assert (found["below_to"], found["above_from"], found["value"]) == (16, 160, None)
    assert found["sides"][0] == "before"
    rows, points, line = curve((16, 0.74), (160, 0.75), spread=0.03)
    assert (crossed(rows, points, "flat", line)["below_to"], crossed(rows, points, "flat", line)["above_from"]) == (None, 16)
    rows, points, line = curve((16, 0.6), (160, 0.71), spread=0.03)
    assert (crossed(rows, points, "flat", line)["below_to"], crossed(rows, points, "flat", line)["above_from"]) == (160, None)


def test_the_crossing_has_an_interval_that_may_leave_what_was_tried():
    rows, points, line = curve((10, 0.6), (100, 0.8), spread=0.04)
    found = crossed(rows, points, "flat", line)
    assert found["value"] == pytest.approx(math.sqrt(1000))
    assert found["low"] < found["value"] < found["high"]
    # the ends of the interval are those of curves moved by almost 0.04
    assert found["low"] == pytest.approx(10 ** (1 + 0.3), rel=0.03)
    rows, points, line = curve((10, 0.69), (100, 0.72), spread=0.04)
    found = crossed(rows, points, "flat", line)
    assert (found["low"], found["high"], found["sides"]) == (None, None, ["within", "before", "after"])


def test_levels_without_a_class_to_measure_are_absent():
    ids = [str(n) for n in range(20)]
    table = Scores("m", ids, ids, ["test"] * 20, [np.zeros((20, 1)), np.zeros((20, 1))])
    truth = [np.ones((20, 1))] * 2
    found = efficiency([(5, table)], [table], truth, truth, [np.array([True]), np.array([False])], resamples=5)
    assert list(found) == ["1"]
