"""What the figures show: one rule for filled marks, legends that cover nothing, a panel a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from finetune.comparison import page, words
from finetune.comparison.figures import house
from finetune.comparison.figures.calibration import class_stages, reliability, reliability_classes
from finetune.comparison.figures.decision import decision_classes
from finetune.comparison.figures.missing import missing_sequences
from finetune.comparison.figures.training import training_curves

Made = Callable[..., Any]
ABOVE = {"value": 0.1, "low": 0.02, "high": 0.18}


def filled(axis: Any) -> list[bool]:
    """Of each mark on an axis, in the order of drawing, whether it is filled."""
    marks = [line for line in axis.get_lines() if line.get_marker() not in ("None", "", None)]
    return [to_hex(line.get_markerfacecolor()) != house.PAPER for line in marks]


def test_a_mark_is_filled_where_the_corrected_difference_is_shown() -> None:
    """The interval excludes zero in all four; a correction, DeLong's before the bootstrap's, has the last word where there is one."""
    entries = [
        {**ABOVE, "p_holm": 0.01},
        {**ABOVE, "p_holm": 0.2},
        ABOVE,
        {**ABOVE, "p_holm": 0.01, "delong": {"p_holm": 0.3}},
    ]
    axis = Figure().subplots()
    house.difference_rows(axis, entries, None)
    assert filled(axis) == [True, False, True, False]
    assert [words.shown(entry) for entry in entries] == [1, 0, 1, 0]
    assert words.shown({**ABOVE, "value": -0.1, "p_holm": 0.01}) == -1


def test_missing_sequences_follow_the_same_rule(full: Made) -> None:
    comparison, _, _ = full(2)
    told = comparison["robustness"][0]["methods"]["zero_shot"]["difference"]
    assert told["high"] < 0
    for p_holm, expected in ((0.008, [True, False]), (0.08, [False, False])):
        told["p_holm"] = p_holm
        assert filled(missing_sequences(comparison).axes[1]) == expected


@pytest.mark.parametrize("narrow", [False, True])
def test_a_training_legend_covers_no_curve(narrow: bool) -> None:
    series = {"all classes": [0.7, 0.8], "level 1": [0.8, 0.9], "level 2": [0.7, 0.8], "level 3": [0.6, 0.7]}
    panels = [{"title": "Fine-tuned: validation AUC", "x": [0, 1], "series": series}]
    with house.style():
        figure = training_curves(panels, narrow)
        figure.draw_without_rendering()
        axis = figure.axes[0]
        legend, title = axis.get_legend().get_window_extent(), axis.get_title(loc="left")
        assert legend.y0 >= axis.bbox.y1 - 1
        assert legend.x1 <= figure.bbox.x1
        assert title == panels[0]["title"]
        assert axis._left_title.get_window_extent().y0 >= legend.y1 - 3  # type: ignore[attr-defined]


def test_every_class_of_the_macro_mean_has_a_panel(compared: Made) -> None:
    comparison, _, _ = compared()
    counted = set(comparison["levels"]["2"]["macro_classes"])
    assert len(counted) == 3
    for draw in (reliability_classes, decision_classes):
        shown = [axis for axis in draw(comparison).axes if axis.get_visible()]
        assert {
            axis.get_title().replace("\n", " ") or axis.get_title(loc="left").replace("\n", " ") for axis in shown
        } == counted


def test_a_panel_holds_the_points_of_its_class(compared: Made) -> None:
    comparison, _, _ = compared()
    axis = reliability_classes(comparison).axes[0]
    name = axis.get_title() or axis.get_title(loc="left")
    stage = class_stages(comparison)[-1]
    assert stage in ("platt", "temperature")
    points = comparison["calibration"]["levels"]["2"]["fine_tuned"][stage]["per_class"][name]["reliability"]
    drawn = [line.get_xydata() for line in axis.get_lines()]
    expected = np.column_stack([points["mean_score"], points["frequency"]])
    assert any(line.shape == expected.shape and np.allclose(line, expected) for line in drawn)
    assert axis.get_xlim()[1] >= max(points["mean_score"])


def test_with_many_methods_a_panel_shows_one_stage(compared: Made) -> None:
    assert len(class_stages(compared(methods=2)[0])) == 2
    assert len(class_stages(compared(methods=3)[0])) == 1
    one = reliability(compared(methods=1)[0])
    assert next(iter(one.legends[0].get_texts())).get_text() == "as it comes"


def test_provenance_shows_prompts_and_settings() -> None:
    setting = {
        "prompts": "plain",
        "synonyms": False,
        "contrast": False,
        "parents": "own",
        "val": [0.5, None],
        "test": [0.6, 0.7],
    }
    given = {
        "a": {"prompts": {"texts": ["tumor of the brain", "stroke"], "spread": [setting], "val_auc": 0.69474493}, "seed": 3}
    }
    rows = {name: (text, lines) for name, text, lines in page.provenance_rows(given)}
    assert rows["a.prompts.texts"] == ("2 prompts", ["tumor of the brain", "stroke"])
    text, lines = rows["a.prompts.spread"]
    assert text == "1 settings tried"
    assert lines[0].endswith("inner classes by their own prompts: val 0.50 / \u2013, test 0.60 / 0.70")
    assert rows["a.prompts.val_auc"] == ("0.6947", [])
    assert rows["a.seed"] == ("3", [])


def test_p_values_have_one_format() -> None:
    settings = {"settings": {"resamples": 999}}
    for p in (0.012, 0.0421, 0.3, 1.0):
        assert words.plain_p(p) == words.p_text(p, settings)
    assert words.plain_p(0.0004) == "< 0.001"
