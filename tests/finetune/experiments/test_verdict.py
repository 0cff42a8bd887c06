"""The published order beside ours, in words that claim no more than is shown."""

from __future__ import annotations

import numpy as np

from finetune.experiments.measures import Measured
from finetune.experiments.page import percent
from finetune.experiments.plan import Variant
from finetune.experiments.verdict import answers, hints, order, training

from .small import TREE


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
    text = " ".join(answers({"order": {"bacc_3": found}, "missing": [], "variants": [], "reference": "a"}))
    assert text.startswith(
        "Balanced accuracy at level 3: of 3 published pairs, 0 shown in the published direction, 2 shown against it, 1 undecided. "
        "Point estimates, shown or not: B > C > A; published: A > B > C."
    )
    assert "Shown against the paper: B before A by 10.0 points; C before A by 9.5 points." in text
    across = {"a": made(0.70), "b": made(0.80)}
    across["a"].seeds["bacc_3"], across["b"].seeds["bacc_3"] = [0.60, 0.80], [0.79, 0.81]
    crossed = order(variants[:2], across, "bacc_3")
    text = answers({"order": {"bacc_3": crossed}, "missing": [], "variants": [], "reference": "a"})[1]
    assert text == "Shown against the paper: B before A by 10.0 points (their seeds overlap)."
    same = order(variants, {"a": made(0.9), "b": made(0.8), "c": made(0.7)}, "bacc_3")
    assert answers({"order": {"x": None, "bacc_3": same}, "missing": [], "variants": [], "reference": "a"}) == [
        "Balanced accuracy at level 3: of 3 published pairs, 3 shown in the published direction, 0 shown against it, 0 undecided. "
        "Point estimates, shown or not, are in the published order: A > B > C."
    ]
    unsure = order(variants[:2], {"a": made(0.801), "b": made(0.8)}, "bacc_3")
    assert answers({"order": {"bacc_3": unsure}, "missing": [], "variants": [], "reference": "a"})[0].startswith(
        "Balanced accuracy at level 3: of 1 published pair, 0 shown in the published direction, 0 shown against it, 1 undecided."
    )


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

    found = hints({"variants": [row("A", [0.7, 0.8], [100, 100]), row("B", [0.76, 0.77], [50, 100])]})
    assert any(text.startswith("A was best at the last step") for text in found)
    assert any("not settled" in text for text in found)
    assert hints({"variants": [row("A", [0.7, 0.71], [50, 100]), row("B", [0.8, 0.81], [50, 100])]}) == []


def test_percent():
    assert [percent(0.12345), percent(-0.0001, True), percent(-0.05, True), percent(None)] == [
        "12.3",
        "0.0",
        "\u22125.0",
        "\u2013",
    ]


def test_a_validation_auc_that_is_not_defined_is_no_zero():
    runs = [{"step": 3, "steps": 6, "parameters": 29, "seconds": 2.0, "loss": 0.5, "val_auc": area} for area in (None, 0.5)]
    found = training(runs)
    assert np.isnan(found["val_auc"])
    assert (found["seconds"], found["best_steps"]) == (2.0, [3, 3])
