"""Counting gives what sorting gives, bit for bit; what cannot be counted is left to sorting."""

from __future__ import annotations

import numpy as np
import pytest

from hlip.volume.counting import Counts


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_same_bits_as_sorting(seed: int, order: str) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(4, 40, 3))
    draw = (
        lambda: rng.integers(0, 900, shape),
        lambda: rng.integers(-1024, 3072, shape),
        lambda: np.maximum(0, rng.normal(0, 300, shape)),
        lambda: rng.integers(0, 40000, shape),
    )[seed % 4]
    data = np.asarray(draw().astype(np.int32), dtype=np.float32, order=order)
    cuts = (0.5, 50, 99.5) if seed % 3 else (float(rng.uniform(0, 5)), 50, float(rng.uniform(95, 100)))
    counts = Counts.of(data)
    assert counts is not None
    assert counts.percentiles(cuts) == [float(value) for value in np.percentile(data, cuts)]
    mean = data.mean(dtype=np.float64)
    assert counts.mean() == mean
    assert counts.mean(above=mean) == data[data > mean].mean(dtype=np.float64)


def test_fractions_and_wide_ranges_are_not_counted() -> None:
    whole = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    assert Counts.of(whole) is not None
    assert Counts.of(whole + np.float32(0.5)) is None
    assert Counts.of(np.where(whole == 7, np.float32(7.25), whole)) is None
    assert Counts.of(whole * 1000) is None
    assert Counts.of(whole * np.float32(1e30)) is None
