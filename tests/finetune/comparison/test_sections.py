"""Sections of the report: there with their data and absent without, and each says what its numbers say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.comparison import findings, report
from finetune.comparison.figures.calibration import pooled
from finetune.comparison.figures.catalogue import drawings
from hlip import metrics
from hp2l.comparison.compare import compare

Written = Callable[..., tuple[Path, dict[str, Any]]]
SECTIONS = ("tree", "calibration", "decision", "prompts", "groups", "missing", "efficiency", "checks", "examples", "training")


def test_sections_are_on_the_page_and_in_its_navigation(written: Written) -> None:
    text = (written(2)[0] / "index.html").read_text()
    for name in SECTIONS:
        assert text.count(f'id="{name}"') == text.count(f'href="#{name}">') - (2 if name == "checks" else 0) == 1, name


@pytest.mark.usefixtures("blank_figures")
def test_sections_without_data_are_absent(compared: Callable[..., Any], tmp_path: Path) -> None:
    comparison = {
        **compared()[0],
        "tree": {},
        "net_benefit": {},
        "slices": [],
        "robustness": [],
        "efficiency": {},
        "checks": [],
    }
    comparison["calibration"] = {"levels": {"1": {"zero_shot": {}}, "2": {"zero_shot": {}}}}
    text = report.write_report(comparison, None, tmp_path, title="t").read_text()
    for name in SECTIONS:
        assert f'id="{name}"' not in text
        assert f'"#{name}"' not in text
    assert not (tmp_path / "slices.csv").exists()
    assert set(drawings(comparison)) == {"levels", "classes", "long_tail", "roc", "drop"}


def test_leaks_and_warnings_stand_on_the_first_screen(written: Written) -> None:
    out, _ = written(2)
    text = (out / "index.html").read_text()
    top = text[text.index("<header") : text.index('class="answer"')]
    assert top.index("2 volumes are in several splits") < top.index("mean AUC 0.62")
    assert "in one split only" not in top
    table = text[text.index('class="checks"') :]
    for state, symbol in (("ok", "✓"), ("leak", "✕"), ("warning", "!")):
        assert f'<span class="state {state}"><i>{symbol}</i>{state}</span>' in table
    assert "s1 (val), s99 (test)" in table
    assert "**Leak, images:**" in (out / "comparison.md").read_text()


def test_checks_are_counted(written: Written) -> None:
    _, comparison = written(2)
    assert findings.checks(comparison) == "Of 4 checks, 1 passed, 1 asks for a look, 1 found a leak and 1 could not be made."
    assert findings.checks({"checks": comparison["checks"][:1] * 3}) == "All 3 checks passed."


def test_prompts_say_how_parents_are_better_scored(written: Written) -> None:
    text = findings.prompts(written(2)[1])
    assert (
        "Over 4 settings of zero-shot the test macro AUC runs from 0.50 to 0.70 at level 1 (3 different; chosen 0.70) and"
        in text
    )
    assert (
        "from 0.62 to 0.64 at level 2 (2 different; chosen 0.64). Validation chose templates 'plain' without synonyms" in text
    )
    assert (
        "inner classes are told best by their highest child: macro AUC 0.65, mean over prompts and inner levels, against 0.55"
        in text
    )
    spread = written(2)[1]["provenance"]["zero_shot"]["prompts"]["spread"]
    turned = [{**entry, "parents": "own" if entry["parents"] == "children" else "children"} for entry in spread]
    assert "told best by their own prompts: macro AUC 0.65" in findings.parents(turned)
    assert findings.parents(spread[:1]) == ""


def test_missing_sequences_name_only_what_is_shown(written: Written) -> None:
    comparison = written(2)[1]
    assert findings.missing(comparison) == "Zero-shot is shown to lose without FLAIR (\u22120.03)."
    only = {"robustness": comparison["robustness"][1:]}
    assert findings.missing(only).startswith(
        "Zero-shot is not shown to lose by any one missing sequence (most without T2, 0.00"
    )


def test_net_benefit_names_the_thresholds_at_which_the_band_is_above() -> None:
    curve = {
        "value": [0.3, 0.2, 0.1],
        "low": [0.3, 0.15, 0.05],
        "high": [0.3, 0.25, 0.15],
        "beyond": {"low": [0.0, 0.05, 0.05]},
    }
    level = {"treat_all": [0.3, 0.1, -0.2], "methods": {"zero_shot": {"before": curve}, "fine_tuned": {}}}
    text = findings.decision({"net_benefit": {"thresholds": [0.01, 0.1, 0.25], "levels": {"3": level}}})
    assert text == (
        "At level 3 net benefit is above that of treating all and treating none (the whole band of the gain over the best of these) at these "
        "thresholds: zero-shot from 10 to 25 %."
    )


def test_calibration_says_the_errors_of_the_last_level(written: Written) -> None:
    comparison = written(2)[1]
    stages = comparison["calibration"]["levels"]["2"]["fine_tuned"]
    before, after = (stages[stage]["macro_expected_calibration_error"] for stage in ("before", "isotonic"))
    text = findings.calibration(comparison)
    assert f"{before:.2f} as it comes" in text
    assert f"{after:.2f} after isotonic scaling with fine-tuned" in text


def test_groups_are_counted_where_they_are_shown_after_correction(written: Written) -> None:
    comparison = written(2)[1]
    changes = [row["difference"]["fine_tuned"] for row in comparison["slices"]]
    np.testing.assert_allclose([entry["p_holm"] for entry in changes], metrics.holm([entry["p"] for entry in changes]))
    better = sum(entry["p_holm"] < 0.05 and entry["value"] > 0 for entry in changes)
    assert f"better than zero-shot in {better} of 4 groups, worse in 0" in findings.groups(comparison)
    assert findings.group_words({"group": "T2 scanned", "value": "no"}) == "studies without T2"
    scans = [findings.group_words({"group": "scans", "value": value}) for value in ("1", "4 to 6", "7 and more")]
    assert scans == ["studies with 1 scan", "studies with 4 to 6 scans", "studies with 7 scans and more"]
    assert "over 4 groups" in findings.groups(written(1)[1])


def test_reliability_over_classes_weighs_by_studies() -> None:
    one = {"reliability": {"mean_score": [0.12, 0.9], "frequency": [0.0, 1.0], "count": [30, 5]}}
    other = {"reliability": {"mean_score": [0.16], "frequency": [0.4], "count": [10]}}
    mean, share, count = pooled({"a": one, "b": other, "left out": one}, ["a", "b"], 10)
    np.testing.assert_allclose(mean, [0.13, 0.9])
    np.testing.assert_allclose(share, [0.1, 1.0])
    np.testing.assert_array_equal(count, [40, 5])


def test_a_cohort_without_any_measurable_class_still_makes_a_page(compared: Callable[..., Any], tmp_path: Path) -> None:
    _, tables, arguments = compared()
    comparison = compare(tables, **arguments, resamples=20, min_positives=1000)
    assert comparison["levels"]["2"]["macro_classes"] == []
    text = report.write_report(comparison, None, tmp_path, title="t").read_text()
    assert "Nothing to compare: at no level has a class 1000 positive and 1000 negative test studies." in text
    assert 'id="decision"' not in text
