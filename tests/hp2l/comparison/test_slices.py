"""Groups of patients: what they are called, who is in them, and numbers equal to those of the group alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from hlip.store import StudyRecord
from hp2l.comparison.resampling import with_normal_p
from hp2l.comparison.scores import Scores
from hp2l.comparison.slices import groups_of, slices

STUDIES = 120


def record(number: int, **extra) -> StudyRecord:
    sequences = ("T1", "FLAIR") if number % 3 else ("T1",)
    return StudyRecord(f"s{number}", f"p{number // 2}", sequences, split="test", extra=extra)


def table(name: str, seed: int, shift: np.ndarray) -> Scores:
    draws = np.random.default_rng(seed)
    levels = [draws.random((STUDIES, 2)), draws.random((STUDIES, 3)) + shift]
    numbers = range(STUDIES)
    split = ["val" if number % 5 == 0 else "test" for number in numbers]
    return Scores(name, [f"s{n}" for n in numbers], [f"p{n // 2}" for n in numbers], split, levels)


def test_groups_are_named_as_people_name_them():
    extra = [
        {"sex": "F", "age": 17, "vendor": "A"},
        {"PatientSex": "M", "PatientAge": "072Y", "Manufacturer": "B"},
        {"sex": "F", "age": "18M"},
        {"age": 80.5, "MagneticFieldStrength": 3.0},
        {"age": "unknown", "field_strength": 1.5},
    ]
    groups = groups_of([record(number, **fields) for number, fields in enumerate(extra)])
    assert groups["sex"] == ["F", "M", "F", None, None]
    assert groups["age"] == ["0 to 17", "60 to 74", "0 to 17", "75 and older", None]
    assert groups["vendor"] == ["A", "B", None, None, None]
    assert groups["field strength"] == [None, None, None, "3", "1.5"]
    assert groups["scans"] == ["1", "2 to 3", "2 to 3", "1", "2 to 3"]
    assert groups["FLAIR scanned"] == ["no", "yes", "yes", "no", "yes"]
    assert "T1 scanned" not in groups  # all have it
    assert "source" not in groups


def test_numbers_are_those_of_the_group_alone():
    draws = np.random.default_rng(0)
    targets = (draws.random((STUDIES, 3)) < 0.4).astype(float)
    targets[:, 2] = 0
    targets[1, 2] = 1  # too few for any mean
    known = np.ones_like(targets)
    known[7:11, 0] = 0
    tables = {"a": table("a", 1, 0 * targets), "b": table("b", 2, 0.3 * targets)}
    sex = ["F" if number % 3 else "M" for number in range(STUDIES)]
    rows = slices(
        tables, targets, known, np.array([True, True, True]), {"sex": sex, "tiny": ["x"] * 5 + [None] * 115}, resamples=60
    )
    assert [(row["group"], row["value"]) for row in rows] == [("sex", "F"), ("sex", "M")]
    for row in rows:
        inside = np.array([(s == row["value"]) and (n % 5 > 0) for n, s in enumerate(sex)])
        assert row["studies"] == inside.sum()
        assert row["classes"] == 2
        for method in tables:
            areas = []
            for place in (0, 1):
                own = inside & (known[:, place] > 0)
                areas.append(roc_auc_score(targets[own, place], tables[method].levels[1][own, place]))
            entry = row["methods"][method]
            assert entry["value"] == pytest.approx(np.mean(areas))
            assert entry["low"] <= entry["value"] <= entry["high"]
        difference = row["difference"]["b"]
        assert difference["value"] == pytest.approx(row["methods"]["b"]["value"] - row["methods"]["a"]["value"])
        assert 0 <= difference["p"] <= 1


def test_a_group_without_measurable_classes_is_left_out():
    targets = np.zeros((STUDIES, 3))
    rows = slices(
        {"a": table("a", 1, targets)}, targets, np.ones_like(targets), np.ones(3, bool), {"sex": ["F"] * STUDIES}, resamples=0
    )
    assert rows == []


def test_a_difference_is_tested_by_its_standard_error_so_that_many_groups_can_be_corrected_for() -> None:
    drawn = np.array([0.096, 0.296] * 50)
    rows = np.concatenate([[0.196], drawn])
    entry = with_normal_p(rows)
    z = 0.196 / drawn.std(ddof=1)
    assert entry["p"] == pytest.approx(2 * norm.sf(z))
    assert entry["p"] == pytest.approx(0.05, abs=0.002)
    assert math.isnan(with_normal_p(np.full(11, np.nan))["p"])
