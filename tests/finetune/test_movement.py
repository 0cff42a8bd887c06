"""Prototypes over time: distances by hand, and the figure."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune.movement import distances, draw_movement, snapshots
from hlip.taxonomy import Taxonomy

TREE = Taxonomy.from_dict({
    "name": "four", "level_names": ["a", "b"],
    "classes": [{"name": "x", "children": [{"name": "x1"}, {"name": "x2"}]}, {"name": "y", "children": [{"name": "y1"}, {"name": "y2"}]}],
})  # fmt: skip


def test_distances_within_and_between_parents():
    """Siblings 2 apart, cousins 6 and 8 and 4 and 6: within 2, between 6; over sqrt(4) channels half of it."""
    places = np.zeros((4, 4), np.float32)
    places[:, 0] = [0, 2, 6, 8]
    row = distances([np.zeros((2, 4), np.float32), places], TREE)[0]
    assert row == {"level": 2, "within": pytest.approx(1.0), "between": pytest.approx(3.0), "ratio": pytest.approx(1 / 3)}


def test_the_figure_and_the_table_of_a_run(tmp_path):
    assert draw_movement(tmp_path, TREE) is None
    (tmp_path / "prototypes").mkdir()
    generator = np.random.default_rng(0)
    for step in range(0, 900, 100):
        tensors = {f"level_{n}": generator.normal(size=(2 * n, 8)).astype(np.float32) for n in (1, 2)}
        save_file(tensors, tmp_path / "prototypes" / f"step-{step:09d}.safetensors")
    assert list(snapshots(tmp_path)) == list(range(0, 900, 100))
    assert draw_movement(tmp_path, TREE).stat().st_size > 10_000
    with (tmp_path / "prototypes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(0, 900, 100))
    assert float(rows[0]["ratio"]) == pytest.approx(distances(snapshots(tmp_path)[0], TREE)[0]["ratio"])
