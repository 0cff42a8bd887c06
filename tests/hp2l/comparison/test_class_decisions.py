"""Net benefit of single classes, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hp2l.comparison.calibrated import Stage
from hp2l.comparison.class_decisions import class_decisions
from hp2l.comparison.decision import THRESHOLDS
from hp2l.comparison.truth import Truth

TARGET = np.array([[1, 0], [1, 0], [0, 0], [0, 0], [0, 1]], bool)
KNOWN = np.array([[1, 1], [1, 1], [1, 1], [0, 1], [1, 1]], bool)
SPLIT = np.array(["test", "test", "test", "test", "val"])


def made() -> dict:
    truth = Truth([TARGET], [KNOWN], [["a", "b"]], None, SPLIT, np.array(list("vwxyz")), 1, None)
    score = np.array([[0.9, 0.5], [0.3, 0.5], [0.6, 0.5], [0.99, 0.5]])
    stages = {"one": [{"before": Stage(np.zeros((4, 2)), None), "platt": Stage(score, None)}], "none": [{}]}
    return class_decisions(stages, truth)


def test_a_class_is_judged_on_its_known_test_studies_after_scaling() -> None:
    entry = made()["1"]["a"]
    place = int(np.flatnonzero(np.isclose(THRESHOLDS, 0.5))[0])
    assert entry["methods"]["one"][place] == pytest.approx(
        (1 - 1) / 3
    )  # one found, one false alarm at odds 1, of three known studies
    low = int(np.flatnonzero(np.isclose(THRESHOLDS, 0.2))[0])
    assert entry["methods"]["one"][low] == pytest.approx((2 - 0.25) / 3, abs=1e-6)
    assert entry["treat_all"][low] == pytest.approx((2 - 0.25) / 3, abs=1e-6)
    assert entry["treat_all"][place] == pytest.approx((2 - 1) / 3, abs=1e-6)


def test_only_classes_of_the_macro_mean_and_methods_with_probabilities_are_there() -> None:
    found = made()
    assert list(found["1"]) == ["a"], "b has no positive test study"
    assert list(found["1"]["a"]["methods"]) == ["one"]
