"""The published order beside ours, in words that claim no more than is shown."""

from __future__ import annotations

import html

import numpy as np
import pytest

from finetune.experiments import page
from finetune.experiments.measures import Measured, Test, measure
from finetune.experiments.page import percent
from finetune.experiments.plan import Experiment, Variant
from finetune.experiments.verdict import answers, correct, hints, means, order, recovered, summarise, training

from .small import TREE, records


def made(bacc: float, spread: float = 0.01) -> Measured:
    """A variant whose balanced accuracy is known, with independent resamples of that spread."""
    generator = np.random.default_rng(int(1e6 * bacc))
    rows = {name: np.append(bacc, bacc + generator.normal(0, spread, 500)) for name in ("bacc_3", "auc_3")}
    return Measured(rows, {name: [bacc] for name in rows}, {}, {}, TREE, {})


def test_the_published_order_is_compared_pair_by_pair():
    variants = [
        Variant(name, name.upper(), published={"bacc_3": value}) for name, value in (("a", 90.0), ("b", 80.0), ("c", 70.0))
    ]
    found = order(variants, {"a": made(0.70), "b": made(0.80), "c": made(0.795)}, "bacc_3")
    assert found is not None
    assert found["published"] == ["A", "B", "C"]
    assert found["ours"] == ["B", "C", "A"]
    assert [(p["better"], p["worse"], p["agrees"], p["shown"]) for p in found["pairs"]] == [
        ("A", "B", False, True),
        ("A", "C", False, True),
        ("B", "C", True, False),
    ]
    text = " ".join(answers({"order": {"bacc_3": found}, "missing": {}, "last": 3, "variants": [], "reference": "a"}))
    assert text.startswith(
        "Balanced accuracy at level 3: of 3 published pairs, 0 shown in the published direction, 2 shown against it, 1 undecided. "
        "Point estimates, shown or not: B > C > A; published: A > B > C."
    )
    assert "Shown against the paper: B before A by 10.0 points; C before A by 9.5 points." in text
    across = {"a": made(0.70), "b": made(0.80)}
    across["a"].seeds["bacc_3"], across["b"].seeds["bacc_3"] = [0.60, 0.80], [0.79, 0.81]
    crossed = order(variants[:2], across, "bacc_3")
    text = answers({"order": {"bacc_3": crossed}, "missing": {}, "last": 3, "variants": [], "reference": "a"})[1]
    assert text == "Shown against the paper: B before A by 10.0 points (their seeds overlap)."
    same = order(variants, {"a": made(0.9), "b": made(0.8), "c": made(0.7)}, "bacc_3")
    assert answers({"order": {"x": None, "bacc_3": same}, "missing": {}, "last": 3, "variants": [], "reference": "a"}) == [
        "Balanced accuracy at level 3: of 3 published pairs, 3 shown in the published direction, 0 shown against it, 0 undecided. "
        "Point estimates, shown or not, are in the published order: A > B > C."
    ]
    reading = [*variants[:2], Variant("c", "C (our reading)", published={"bacc_3": 70.0}, reading=True)]
    without = order(reading, {"a": made(0.9), "b": made(0.8), "c": made(0.7)}, "bacc_3")
    assert without["published"] == ["A", "B"], "a recipe that is not public is put in no order"
    unsure = order(variants[:2], {"a": made(0.801), "b": made(0.8)}, "bacc_3")
    assert answers({"order": {"bacc_3": unsure}, "missing": {}, "last": 3, "variants": [], "reference": "a"})[0].startswith(
        "Balanced accuracy at level 3: of 1 published pair, 0 shown in the published direction, 0 shown against it, 1 undecided."
    )


def test_differences_are_shown_after_correction_for_their_number():
    """Two standard errors are shown alone, and not among five."""
    whole, close = made(0.80), made(0.78)
    close.rows = {
        name: whole.rows[name] - 0.02 + 0.01 * np.append(0, np.random.default_rng(0).normal(size=500)) for name in whole.rows
    }
    entries = [{"bacc_3": close.difference(whole)["bacc_3"]} for _ in range(5)]
    correct(entries[:1])
    assert entries[0]["bacc_3"]["p_holm"] == pytest.approx(entries[0]["bacc_3"]["p"])
    assert entries[0]["bacc_3"]["p"] == pytest.approx(0.0455, abs=0.01)
    correct(entries)
    assert all(entry["bacc_3"]["p_holm"] == pytest.approx(5 * entry["bacc_3"]["p"]) for entry in entries)
    rows = [{"name": str(n), "label": f"V{n}", "difference": entry} for n, entry in enumerate(entries)]
    found = {
        "variants": [{"name": "r", "label": "R", "difference": {}}, *rows],
        "reference": "r",
        "last": 3,
        "order": {},
        "missing": {},
    }
    assert answers(found) == ["Beside R, balanced accuracy at level 3: no difference shown."]


def test_recovery_where_level_1_gives_one_answer_alone_is_said_to_tell_nothing():
    def row(name: str, share: float) -> dict:
        entry = {"value": 0.1, "low": 0.0, "high": 0.2, "counts": (1, 10)}
        return {
            "name": name,
            "label": name.upper(),
            "measures": {"recovery": entry},
            "recovered": {},
            "usual": ("A", share),
            "difference": {},
        }

    rows = [row("a", 0.6), row("b", 0.5), row("c", 0.5)]
    for one, true, false in zip(rows, (0.46, 0.41, 0.32), (0.25, 0.22, 0.15), strict=True):
        for name, value in (("true", true), ("false", false)):
            one["measures"][f"{name}_below_miss"] = {"value": value, "counts": (int(100 * value), 100)}
    assert recovered({"reference": "a", "last": 2, "variants": rows})[1] == (
        "By calls, class by class: where its level-1 class is not called, A calls 46.0 % of the true classes of level 2 (46 of 100), and "
        "25.0 % of the false ones below a class that is not there, 21.0 points apart; from C 17.0 points to B 19.0 points, not tested."
    )
    found = recovered({"reference": "a", "last": 2, "variants": [row("a", 0.6), row("b", 1.0)]})
    assert found[0].endswith("Of a level 1 that hardly looks this tells nothing (its highest class is, B: A in 100 %).")
    assert "hardly looks" not in recovered({"reference": "a", "last": 2, "variants": [row("a", 0.6), row("b", 0.7)]})[0]


def test_the_least_drop_comes_first():
    variants = [Variant("a", "A", published={"drop_bacc": 2.0}), Variant("b", "B", published={"drop_bacc": 14.0})]
    low, high = made(0.8), made(0.7)
    low.rows["drop_bacc"], high.rows["drop_bacc"] = np.full(9, 0.02), np.full(9, 0.09)
    low.seeds["drop_bacc"], high.seeds["drop_bacc"] = [0.02], [0.09]
    found = order(variants, {"a": low, "b": high}, "drop_bacc")
    assert found is not None
    assert found["ours"] == found["published"] == ["A", "B"]
    assert found["pairs"][0]["agrees"]


def test_hints_name_runs_that_were_still_rising_and_seeds_that_decide():
    def row(label: str, seeds: list[float], steps: list[int]) -> dict:
        entry = {"bacc_3": {"value": float(np.mean(seeds)), "seeds": seeds}}
        return {"label": label, "measures": entry, "training": {"steps": 100, "best_steps": steps}}

    found = hints({"last": 3, "variants": [row("A", [0.7, 0.8], [100, 100]), row("B", [0.76, 0.77], [50, 100])]})
    assert any(text.startswith("A was best at the last step") for text in found)
    assert any("not settled" in text for text in found)
    late = [row(name, [0.7], [100]) for name in "AB"]
    both = hints({"last": 3, "variants": [*late, row("C", [0.7], [50])]})
    assert both[0].startswith("A, B were best at the last step")
    assert hints({"last": 3, "variants": late})[0].startswith("Every variant was best")
    assert hints({"last": 3, "variants": [row("A", [0.7, 0.71], [50, 100]), row("B", [0.8, 0.81], [50, 100])]}) == []


def test_percent():
    assert [percent(0.12345), percent(-0.0001, True), percent(-0.05, True), percent(None)] == [
        "12.3",
        "0.0",
        "\u22125.0",
        "\u2013",
    ]


def test_a_validation_auc_that_is_not_defined_is_no_zero():
    seconds = (1.0, 2.0, 90.0)
    runs = [
        {"step": 3, "steps": 6, "parameters": 29, "seconds": second, "loss": 0.5, "val_auc": area}
        for second, area in zip(seconds, (None, 0.5, 0.5), strict=True)
    ]
    found = training(runs)
    assert np.isnan(found["val_auc"])
    assert (found["seconds"], found["best_steps"]) == (2.0, [3, 3, 3])


@pytest.fixture
def two_levels() -> dict:
    """A page's results of a tree of two levels: one variant is whole, one was cut, one failed. Of the leaves a1 alone has five studies."""
    labels = [["a1"]] * 5 + [["a2"]] * 2 + [["b1"]] * 3 + [["b2"]] * 2
    leaves = np.repeat(np.arange(4), [5, 2, 3, 2])
    scores = [np.eye(2)[leaves // 2] * 0.8 + 0.1, np.eye(4)[leaves] * 0.8 + 0.1]
    cut, measured = TREE.to_depth(1), {}
    for key, tree, own in (("w", TREE, scores), ("c", cut, scores[1:])):
        test = Test.of(records(labels), records(labels), tree, resamples=5, ruler=TREE)
        measured[key] = measure([{"val": own, "test": own}], test)
    variants = tuple(Variant(name, name.upper()) for name in ("whole", "cut", "broken"))
    facts = {"seconds": 1.0, "val_auc": 0.5, "loss": 0.1, "step": 6, "steps": 6, "parameters": 10}
    places = {("e", variant.name): variant.name[0] for variant in variants}
    experiment = Experiment("e", "Title", "Q?", variants, "whole")
    given = (measured, {key: [facts] for key in measured}, 2, {"b": "no memory"}, {"c": "left out: 3 of 12 studies"})
    head = {
        "simulated": False,
        "studies": {"train": 9, "val": 12, "test": 12},
        "steps": 6,
        "seeds": 1,
        "config": "demo",
        "overrides": {},
    }
    head |= {"taxonomy": "small (2 / 4 classes)", "left_out": [], "resamples": 5, "last": 2, "failed": {}, "data": "x"}
    return head | {"encoder": "hlip", "tuned": "frozen", "experiments": [summarise(experiment, places, *given)]}


def test_levels_of_another_tree_have_their_own_numbers_and_no_published_ones_beside_them(two_levels):
    for text in (page.html(two_levels), page.markdown(two_levels)):
        assert "L2 BAcc" in text
        assert "Drop L1 → L2, AUC" in text
        assert "Right at level 2 given wrong at level 1" in text
        for word in ("L3", "evel 3", "published"):
            assert word not in text, word
    (experiment,) = two_levels["experiments"]
    assert set(experiment["variants"][1]["difference"]) >= {"bacc_2", "auc_2"}
    assert "Beside WHOLE, AUC at level 2: no difference shown." in experiment["answers"]


def test_the_classes_of_each_mean_and_the_reason_of_a_failure_are_said(two_levels):
    (experiment,) = two_levels["experiments"]
    assert experiment["basis"] == [
        "Level 1: mean of 2 of 2 classes.",
        "Level 2: mean of 1 of 4 classes (left out: a2, b1, b2: fewer than 5 positive or negative test studies).",
        "\N{DAGGER} The drop compares unlike sets of classes: fewer than half of a level's classes count (level 2: 1 of 4).",
        "CUT: left out: 3 of 12 studies.",
    ]
    assert "Failed: BROKEN (no memory)." in experiment["answers"]
    for text in (html.unescape(page.html(two_levels)), page.markdown(two_levels)):
        assert all(line in text for line in experiment["basis"])
        assert text.count("\N{DAGGER}") == 3  # beside both drops of the whole tree, and where it is explained
    rows = [
        {"name": name, "label": name.upper(), "left_out": {}, "unlike": [], "counted": {"1": (of, of)}}
        for name, of in (("x", 5), ("hp2l", 4), ("y", 4))
    ]
    found = means({"reference": "hp2l", "variants": rows})
    assert found == ["Level 1: mean of 4 of 4 classes.", "Level 1: mean of 5 of 5 classes, for X."]
