"""Curves of a log: what is drawn is what the log says."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from hlip.training.figure import draw_series, finish, points, read_log, save_figure


def test_a_log_is_read_without_a_line_that_a_crash_cut(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "val_auc": NaN}\n{"step": 3, "lo')
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    assert points(rows, "loss") == ([1], [2.0])


def test_a_series_is_drawn_where_it_has_values_and_not_at_all_without():
    axes = Figure().subplots()
    rows = [
        {"step": 10, "loss_report": 3.0},
        {"step": 20, "lr": 0.1},
        {"step": 30, "loss_report": None},
        {"step": 40, "loss_report": 1.0},
    ]
    draw_series(axes, rows, "loss_report", color="#ff0000")
    draw_series(axes, rows, "absent")
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[10, 3.0], [40, 1.0]]
    assert (line.get_label(), line.get_color(), line.get_marker()) == ("loss report", "#ff0000", ".")
    finish(axes, "loss", loc="upper right")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss report"]
    draw_series(axes, [{"step": step, "lr": 0.0} for step in range(60)], "lr")
    assert axes.lines[1].get_marker() == "None"  # many points need no dots


def test_steps_are_whole_numbers_and_a_power_of_ten_stands_where_no_title_does():
    figure = Figure()
    axes = figure.subplots()
    draw_series(axes, [{"step": 10, "lr": 2e-6}, {"step": 11, "lr": 3e-6}], "lr")
    finish(axes, "learning rate")
    figure.draw_without_rendering()
    assert [tick for tick in axes.get_xticks() if 10 <= tick <= 11] == [10, 11]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    power = axes.yaxis.get_offset_text()
    assert power.get_text().startswith("1e")
    assert power.get_position()[0] == 1
    draw_series(axes, [{"step": 10, "one": 1.0}], "one", dots=2)
    assert axes.lines[-1].get_marker() == "."  # a line of one point is nothing to see


def test_a_picture_that_fails_leaves_the_older_one(tmp_path):
    path = save_figure(Figure(figsize=(1, 1)), tmp_path / "training.png")
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")
    broken = Figure(figsize=(1, 1))
    broken.savefig = lambda file, **options: file.write_bytes(b"half") and 1 / 0
    with pytest.raises(ZeroDivisionError):
        save_figure(broken, path)
    assert path.read_bytes() == before
