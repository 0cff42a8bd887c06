"""Prototypes over time: distances by hand, and the figure."""

from __future__ import annotations

import csv
from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text
from safetensors.numpy import save_file

from finetune.figures.movement import (
    distances,
    draw_movement,
    in_plane,
    keep_snapshot,
    movement_figure,
    snapshots,
    summary,
    unmoved,
)
from hlip.taxonomy import Taxonomy
from hp2l.model import HP2L, HP2LConfig

TREE = Taxonomy.from_dict({
    "name": "four", "level_names": ["a", "b"],
    "classes": [{"name": "x", "children": [{"name": "x1"}, {"name": "x2"}]}, {"name": "y", "children": [{"name": "y1"}, {"name": "y2"}]}],
})  # fmt: skip


def test_distances_within_and_between_parents():
    """Siblings 2 apart, cousins 6 and 8 and 4 and 6: within 2, between 6; over sqrt(4) channels half of it."""
    tops, places = np.zeros((2, 4), np.float32), np.zeros((4, 4), np.float32)
    tops[1, 3], places[:, 0] = 5, [0, 2, 6, 8]
    rows = [tuple(row.values()) for row in distances([tops, places], TREE)]
    assert rows == [
        (1, "x", "y", 2.5, "", 1),
        (2, "x1", "x2", 1.0, 1, 1),
        (2, "x1", "y1", 3.0, 0, 1),
        (2, "x1", "y2", 4.0, 0, 1),
        (2, "x2", "y1", 2.0, 0, 1),
        (2, "x2", "y2", 3.0, 0, 1),
        (2, "y1", "y2", 1.0, 1, 1),
    ]
    row = summary([tops, places], TREE)[0]
    assert row == {"level": 2, "within": pytest.approx(1.0), "between": pytest.approx(3.0), "ratio": pytest.approx(1 / 3)}


def test_a_class_that_never_moved_is_in_no_mean_and_hollow():
    """y2 stays at its start, 8: left are x1, x2 and y1, so within 1 (2 over sqrt(4)) and between 2.5."""
    start, places = [np.full((count, 4), 9, np.float32) for count in (2, 4)], np.zeros((4, 4), np.float32)
    places[:, 0] = [0, 2, 6, 8]
    start[1][3] = places[3]
    kept = {0: start, 5: [np.eye(2, 4, dtype=np.float32), places]}
    still = unmoved(kept, 5)
    assert [level.tolist() for level in still] == [[False, False], [False, False, False, True]]
    assert [row["learnt"] for row in distances(kept[5], TREE, still)] == [1, 1, 1, 0, 1, 0, 0]
    assert summary(kept[5], TREE, still)[0]["between"] == pytest.approx(2.5)
    figure = movement_figure(kept, TREE)
    faces = [np.allclose(dot.get_facecolor()[0], 1) for dot in figure.axes[-1].collections]
    assert faces == [False] * 5 + [True]
    assert "hollow" in figure.get_suptitle()
    assert "hollow" not in movement_figure({5: kept[5], 6: kept[5]}, TREE).get_suptitle()  # the start is not known


def test_the_plane_holds_what_it_says_and_is_that_of_the_last_snapshot():
    first, last = np.zeros((4, 3), np.float32), np.zeros((4, 3), np.float32)
    last[:, 0], last[:, 1], last[:, 2] = [3, -3, 0, 0], [0, 0, 2, -2], [1, 1, -1, -1]  # variances 18, 8 and 4
    first[0, 2] = 7  # across the plane
    flat, share = in_plane({0: [first], 9: [last]}, 9)
    assert share == pytest.approx(26 / 30)
    assert np.abs(flat[9][0]) == pytest.approx(np.array([[3, 0], [3, 0], [0, 2], [0, 2]]), abs=1e-5)
    assert flat[0][0] == pytest.approx(np.zeros((4, 2)), abs=1e-5)


def test_one_prototype_moves_on_a_line_and_its_tables_are_empty(tmp_path):
    tree = Taxonomy.from_dict({"name": "one", "classes": [{"name": "only"}]})
    (tmp_path / "prototypes").mkdir()
    for step, place in ((0, [1.0, 5.0, 0.0]), (7, [4.0, 6.0, 0.0])):
        save_file({"level_1": np.array([place], np.float32)}, tmp_path / "prototypes" / f"step-{step:09d}.safetensors")
    kept = snapshots(tmp_path)
    flat, share = in_plane(kept, 7)
    assert [flat[step][0].tolist() for step in (0, 7)] == [[[-3.0, 0.0]], [[0.0, 0.0]]]
    assert share == 0
    figure = movement_figure(kept, tree)
    assert figure.get_suptitle().endswith("one prototype, which has no plane: drawn along its first channel")
    low, high = figure.axes[-1].get_ylim()
    assert low < 0 < high
    assert draw_movement(tmp_path, tree).stat().st_size > 5_000
    assert len((tmp_path / "prototypes.csv").read_text().splitlines()) == 1
    assert len((tmp_path / "prototypes_summary.csv").read_text().splitlines()) == 1


def test_a_level_whose_prototypes_lie_in_one_place_has_no_ratio():
    (row,) = summary([np.zeros((2, 4), np.float32), np.zeros((4, 4), np.float32)], TREE)
    assert (row["within"], row["between"]) == (0, 0)
    assert np.isnan(row["ratio"])


def test_a_head_that_learns_no_prototype_leaves_no_snapshot(tmp_path):
    head = HP2L(HP2LConfig(width=4, heads=1, prototypes="learnable"), (2,))  # the last level's are never read
    keep_snapshot(head, tmp_path, 0)
    assert draw_movement(tmp_path, TREE) is None
    assert not snapshots(tmp_path)


def test_the_last_panel_names_every_class_once_and_no_two_names_meet():
    tree = Taxonomy.load("brain_mri")
    generator = np.random.default_rng(0)
    kept = {step: [generator.normal(size=(count, 8)).astype(np.float32) for count in tree.counts] for step in (0, 5)}
    figure = movement_figure(kept, tree)
    figure.draw_without_rendering()
    texts = figure.axes[-1].texts
    twice = {"normal": ("category", "subtype"), "white matter hyperintensity": ("family", "subtype")}
    names = {name for level in tree.levels for name in level} - twice.keys()
    wanted = [*names, *(f"{name} ({level})" for name, levels in twice.items() for level in levels)]
    assert sorted(text.get_text() for text in texts) == sorted(wanted)
    rows = [Text.get_window_extent(text) for text in texts]  # of the words alone, without their line
    assert len(rows) == 26
    assert not any(one.overlaps(other) for one, other in combinations(rows, 2))
    assert figure.axes[0].get_title() == "step 0 (start)"


def turn(a, b, c) -> float:
    """Above 0 where the way from a by b to c (x, y) turns left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def test_no_two_lines_from_names_to_classes_cross():
    tree = Taxonomy.load("brain_mri")
    generator = np.random.default_rng(3)
    last = [generator.normal(size=(count, 8)).astype(np.float32) for count in tree.counts]
    last[0][0] = 40  # the others lie close together: their names must make way
    axes = movement_figure({0: last, 5: last}, tree).axes[-1]
    to_axes = axes.transData + axes.transAxes.inverted()
    lines = [(to_axes.transform(text.xy), np.array(text.xyann)) for text in axes.texts]
    assert len(lines) == 26
    for (a, b), (c, d) in combinations(lines, 2):
        assert not (turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0)


def test_the_figure_and_the_tables_of_a_run(tmp_path):
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
    assert [int(row["step"]) for row in rows] == [800] * 7  # there is no model
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"facts": {"step": 300}}')
    draw_movement(tmp_path, TREE)
    with (tmp_path / "prototypes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [300] * 7
    within = [float(row["distance"]) for row in rows if row["same_parent"] == "1"]
    with (tmp_path / "prototypes_summary.csv").open() as file:
        means = list(csv.DictReader(file))
    assert [int(row["step"]) for row in means] == list(range(0, 900, 100))
    assert [int(row["kept"]) for row in means] == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert float(means[3]["within"]) == pytest.approx(np.mean(within))
    figure = movement_figure(snapshots(tmp_path), TREE, 300)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert (titles[0], titles[-2:]) == ("step 0 (start)", ["step 800 (last)", "step 300, the kept model's"])
    assert figure.get_suptitle().startswith("Prototypes up to step 800; the kept model is that of step 300\n")
    assert "kept" not in movement_figure(snapshots(tmp_path), TREE).get_suptitle()
