"""The words of the first screen and of the sections: in whose favour, by which test, and what could not be said."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from finetune.comparison import answer, findings, report, words
from finetune.comparison.methods_text import methods_paragraphs
from hp2l.comparison.compare import compare

Made = Callable[..., Any]


def test_word_sign_and_favour_agree_whichever_input_comes_first(compared: Made) -> None:
    better, tables, arguments = compared()
    turned = compare(dict(reversed(tables.items())), **arguments, resamples=200)
    for comparison, word, minus, sign in (
        (better, "Fine-tuned is better than zero-shot", "fine-tuned minus zero-shot", "+"),
        (turned, "Zero-shot is worse than fine-tuned", "zero-shot minus fine-tuned", "\N{MINUS SIGN}"),
    ):
        text = answer.answer(comparison)
        assert text.startswith(word)
        assert f"Difference ({minus}) {sign}0." in text
        assert "The interval excludes zero at all 2 levels in favour of fine-tuned." in text
    assert "zero-shot is shown to gain in none of" in answer.details(turned)
    assert re.search(r"loses in \d", answer.details(turned))


def test_levels_in_whose_favour(compared: Made) -> None:
    comparison = copy.deepcopy(compared()[0])
    change = comparison["levels"]["1"]["differences"]["fine_tuned"]["macro_auc"]
    change["low"], change["high"] = -0.2, -0.1
    text = answer.details(comparison)
    assert "excludes zero at level 2 in favour of fine-tuned and at level 1 in favour of zero-shot." in text
    for level in comparison["levels"].values():
        level["differences"]["fine_tuned"]["macro_auc"] |= {"low": -0.1, "high": 0.1}
    assert "The interval excludes zero at no level." in answer.details(comparison)


def single_classes(comparison: dict[str, Any], delong: list[float | None], bootstrap: list[float]) -> str:
    """The statement where the four diseases of the last level have these corrected p-values."""
    comparison = copy.deepcopy(comparison)
    level = comparison["levels"]["2"]
    for name, p, other in zip(level["macro_classes"], delong, bootstrap, strict=True):
        entry = level["differences"]["fine_tuned"]["per_class"][name]["auc"]
        entry["value"], entry["p_holm"], entry["delong"]["p_holm"] = 0.1, other, p
    return answer.details(comparison)


def test_classes_are_counted_by_delong_and_never_by_too_few_resamples(compared: Made) -> None:
    comparison = compared()[0]
    assert comparison["levels"]["2"]["macro_classes"] == ["a1", "a2", "b1"]
    text = single_classes(comparison, [0.001, 0.2, 0.04], [0.099] * 3)
    assert "fine-tuned gains in 2 of 3 (a1 +0.10, b1 +0.10), and is shown to lose in none." in text
    assert text == single_classes(comparison, [0.001, 0.2, 0.04], [0.01, 0.01, 0.2]), "resamples say nothing here"
    text = single_classes(comparison, [None, 0.2, 0.04], [0.01, 0.2, 0.01])
    assert "gains in 1 of 2 (b1 +0.10)" in text
    assert "1 class could not be tested." in text
    assert "No single class could be tested." in single_classes(comparison, [None] * 3, [0.01] * 3)


def test_few_patients_are_said_first(compared: Made) -> None:
    comparison = copy.deepcopy(compared()[0])
    assert "too few" not in answer.details(comparison)
    comparison["cohort"]["patients"] = 29
    assert "of 29 patients, too few for intervals to be trusted" in answer.details(comparison)


def test_marks_of_classes_follow_delong() -> None:
    entry = {"value": 0.1, "low": 0.02, "high": 0.2, "p_holm": 0.08, "delong": {"p_holm": 0.01}}
    assert words.shown(entry) == 1
    assert words.shown({**entry, "delong": {"p_holm": 0.3}}) == 0
    assert words.shown({**entry, "delong": {"p_holm": None}}) == 0, "what could not be tested is not shown"


def test_the_finest_level_with_a_class_to_measure_is_told(compared: Made) -> None:
    comparison = copy.deepcopy(compared()[0])
    comparison["levels"]["2"]["macro_classes"] = []
    text = answer.answer(comparison)
    assert "over 2 classes at the category level (at the subtype level none has 5 positive and 5 negative test studies)" in text


def overtaking(first: int | None, until: int | None, value: float | None = None) -> str:
    points = [
        {"studies": 16, "differences": {"zero_shot": {"value": 0.001, "low": -0.03, "high": 0.03}}},
        {"studies": 1600, "differences": {"zero_shot": {"value": 0.08, "low": 0.05, "high": 0.12}}},
    ]
    crossing = {"above_from": first, "below_to": until, "value": value, "low": None, "high": 90.4}
    crossing["sides"] = ["within", "before", "within"]
    entry = {"points": points, "flat": {}, "crossing": {"zero_shot": crossing}, "validation_studies": 242}
    return findings.efficiency({"efficiency": {"1": entry}})


def test_labels_needed_are_a_bracket_with_the_differences_there() -> None:
    besides = (
        " Both sides also use 242 labelled validation studies: zero-shot to choose its setting, fine-tuning its checkpoint, "
    )
    besides += "both their thresholds."
    assert overtaking(1600, 16, 36.6) == (
        "Level 1: fine-tuning is shown to be above zero-shot from 1,600 labelled studies on (+0.08, +0.05 to +0.12), not at 16 "
        "(0.00, \u22120.03 to +0.03); the curves cross at about 37 (95 % interval from fewer than tried to 90)." + besides
    )
    assert "; the curves" not in overtaking(1600, 16)
    assert overtaking(None, 1600).startswith("Level 1: fine-tuning is not shown to be above zero-shot, up to 1,600 labelled")
    assert "above zero-shot at every number tried, from 16 labelled studies on" in overtaking(16, None)


def test_checks_say_how_much_they_looked_at() -> None:
    looked = {"state": "ok", "looked": "2 of 40 prompts (those of 5 words or more) in 480 reports"}
    text = findings.checks({"checks": [{"state": "ok", "looked": "2,208 patients"}, looked]})
    assert (
        text
        == "All 2 checks passed. They looked at 2,208 patients and 2 of 40 prompts (those of 5 words or more) in 480 reports."
    )


def test_calibration_names_a_temperature_at_its_limit(compared: Made) -> None:
    comparison = copy.deepcopy(compared()[0])
    for stages in comparison["calibration"]["levels"]["2"].values():
        stages["platt"]["at_limit"] = []
    assert "limit" not in findings.calibration(comparison)
    assert "after Platt" in findings.calibration(comparison)
    assert "Brier skill after Platt scaling is +0." in findings.calibration(comparison)
    comparison["calibration"]["levels"]["2"]["fine_tuned"]["platt"]["at_limit"] = ["a1"]
    assert "Platt scaling stood at its limit in 1 of 3 classes of fine-tuned" in findings.calibration(comparison)
    comparison["calibration"]["levels"]["2"]["zero_shot"]["temperature"]["at_limit"] = ["a1", "b1"]
    assert "The temperature stood at its limit in 2 of 3 classes of zero-shot" in findings.calibration(comparison)


def test_a_recovery_that_cannot_occur_is_no_number(compared: Made) -> None:
    comparison = copy.deepcopy(compared()[0])
    told = {"value": 0.0, "low": None, "high": None, "structural": "cannot occur: parents are scored by their children"}
    comparison["tree"]["methods"]["zero_shot"]["recovery"] = told
    text = findings.tree(comparison)
    assert "With zero-shot that cannot occur: parents are scored by their children." in text
    assert re.search(r"Wrong at level 1: \d+ % with fine-tuned \(\d+ % of these right at the last level all the same, ", text)
    assert re.search(
        r"the most frequent class would be wrong in \d+ % of studies at level 1 \('a'\) and \d+ % at the last", text
    )
    assert words.with_span(told) == "0.00 (cannot occur: parents are scored by their children)"


def test_pairs_are_told_for_three_methods_and_more(compared: Made) -> None:
    assert findings.pairs(compared()[0]) == ""
    three = compared(methods=3)[0]
    assert findings.pairs(three).startswith("At level 2, corrected for 3 pairs of methods, macro AUC is shown to be higher in ")
    assert "fine-tuned over zero-shot (+" in findings.pairs(three)
    none = {**three, "pairs": {"2": [{**pair, "p_holm": 0.5} for pair in three["pairs"]["2"]]}}
    assert findings.pairs(none).endswith("no two are shown to differ in macro AUC.")


@pytest.fixture(scope="module")
def unvalidated(compared: Made) -> Any:
    """A comparison of the same tables without their validation studies."""
    from dataclasses import replace

    _, tables, arguments = compared()
    rows = [place for place, split in enumerate(tables["zero_shot"].split) if split == "test"]
    cut = {
        name: replace(
            table,
            **{key: [getattr(table, key)[row] for row in rows] for key in ("study_ids", "patient_ids", "split")},
            levels=[level[rows] for level in table.levels],
        )
        for name, table in tables.items()
    }
    truth = {key: [level[rows] for level in arguments[key]] for key in ("targets", "mask")}
    return compare(cut, **{**arguments, **truth}, resamples=100)


@pytest.mark.usefixtures("blank_figures")
def test_a_page_without_validation_says_so_first_and_claims_nothing_from_it(unvalidated: Any, tmp_path: Any) -> None:
    text = report.write_report(unvalidated, None, tmp_path, title="t").read_text()
    top = text[text.index("<header") : text.index('class="answer"')]
    assert "no labelled validation study, so no thresholds and no calibration" in top
    for absent in ('id="calibration"', 'id="decision"', "Hierarchical F1", "highest balanced accuracy", "Balanced accuracy 0"):
        assert absent not in text, absent
    assert "no thresholds and no calibration" in (tmp_path / "comparison.md").read_text()
    paragraph = " ".join(methods_paragraphs(unvalidated).values())
    assert not re.search("validation|threshold|Platt|F1", paragraph.replace("thresholds held fixed", ""))
    assert sum("level" in note.lower() for note in unvalidated["notes"]) <= 3


@pytest.mark.usefixtures("blank_figures")
def test_a_fault_leaves_an_earlier_report_as_it_was(compared: Made, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison, tables, _ = compared()
    page = report.write_report(comparison, tables, tmp_path / "out", title="first")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def broken(*_: Any) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(report, "html", broken)
    for out in ("out", "new"):
        with pytest.raises(ZeroDivisionError):
            report.write_report(comparison, tables, tmp_path / out, title="second")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert page.is_file()


@pytest.mark.usefixtures("blank_figures")
def test_pairs_are_a_table_of_their_own(compared: Made, tmp_path: Any) -> None:
    three = compared(methods=3)[0]
    text = report.write_report(three, None, tmp_path, title="t").read_text()
    rows = (tmp_path / "pairs.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3
    entry = three["pairs"]["2"][2]
    assert entry["of"] == ["mean_of_both", "fine_tuned"]
    assert "Mean of both minus fine-tuned" in text
    assert f'data-v="{entry["value"]}"' in text
    assert np.isclose(float(rows[-1].split(",")[3]), entry["value"])
