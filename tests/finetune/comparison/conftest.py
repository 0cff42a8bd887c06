"""A small simulated comparison that has every section of the report."""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from finetune.comparison import report
from hp2l.comparison.compare import Scores, compare
from hp2l.comparison.efficiency import efficiency
from hp2l.comparison.slices import slices

NAMES = [["a", "b", "normal"], ["a1", "a2", "b1", "b2 <long & odd>", "normal"]]
METHODS = ("zero_shot", "fine_tuned", "mean_of_both", "another_head", "fifth_way")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
Made = tuple[dict[str, Any], dict[str, Scores], dict[str, Any]]


def world(gain: float = 1.5, methods: int = 2, studies: int = 160) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Score tables of `methods` methods, the later ones better by `gain`, and the arguments of `compare`."""
    generator = np.random.default_rng(0)
    leaves = (generator.random((studies, 4)) < [0.4, 0.3, 0.2, 0.03]).astype(float)
    normal = (leaves.sum(axis=1, keepdims=True) == 0).astype(float)
    targets = [np.hstack([leaves[:, :2].max(1, keepdims=True), leaves[:, 2:].max(1, keepdims=True), normal])]
    targets.append(np.hstack([leaves, normal]))
    ids = [f"s{i}" for i in range(studies)]
    split = ["val" if i < studies // 3 else "test" for i in range(studies)]
    tables = {}
    for i, name in enumerate(METHODS[:methods]):
        levels = [1 / (1 + np.exp(-(0.5 + gain * min(i, 2)) * t - generator.normal(size=t.shape) + 1)) for t in targets]
        tables[name] = Scores(name, ids, ids, split, levels, {"checkpoint": f"runs/{name}"})
    arguments = {"targets": targets, "mask": [np.ones(t.shape, bool) for t in targets], "class_names": NAMES}
    edges = [[(0, 0), (0, 1), (1, 2), (1, 3)]]
    return tables, {**arguments, "normal": "normal", "level_names": ["category", "subtype"], "edges": edges}


@pytest.fixture(scope="session")
def compared() -> Callable[..., Made]:
    """Function of `gain`, `methods` and `studies`: comparison, score tables, arguments of `compare`."""

    def make(**changes: Any) -> Made:
        tables, arguments = world(**changes)
        return compare(tables, **arguments, resamples=200, simulated=True), tables, arguments

    return make


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with an empty drawing in place of each: most of their time is figures, which few tests look at."""
    leave_blank(monkeypatch)


def leave_blank(patch: pytest.MonkeyPatch, but: Container[str] = ()) -> None:
    """Drawings of a report are empty from now on, but for these."""
    real = report.drawings

    def blank(narrow: bool) -> Figure:
        return Figure(figsize=(1, 1))

    patch.setattr(
        report, "drawings", lambda *given: {name: draw if name in but else blank for name, draw in real(*given).items()}
    )


def settings() -> list[dict[str, Any]]:
    """Four prompt settings; children are better at the inner level on validation, twice out of two."""
    found = []
    for synonyms in (False, True):
        for parents, inner in (("own", 0.6), ("children", 0.7)):
            values = [inner - 0.1 * synonyms, 0.64 - 0.02 * synonyms]
            found.append(
                {"prompts": "plain", "synonyms": synonyms, "contrast": False, "parents": parents, "val": values, "test": values}
            )
    return found


@pytest.fixture(scope="session")
def full(compared: Callable[..., Made]) -> Callable[[int], Made]:
    """Function of the number of methods: a comparison with every section of the report."""

    def make(methods: int) -> Made:
        comparison, tables, arguments = compared(methods=methods)
        chosen = {**settings()[1], "candidates": 4, "spread": settings(), "texts": ["a brain"]}
        comparison["provenance"]["zero_shot"] |= {"kind": "zero_shot", "prompts": chosen}
        first = tables["zero_shot"]
        groups = {
            "sex": ["F" if i % 2 else "M" for i in range(len(first.study_ids))],
            "T2 scanned": ["yes" if i % 3 else "no" for i in range(len(first.study_ids))],
        }
        keep = [np.array([name != "normal" for name in level]) for level in NAMES]
        truth = arguments["targets"][-1], arguments["mask"][-1]
        comparison["slices"] = slices(tables, *truth, keep[-1], groups, resamples=50)
        change = {"value": -0.03, "low": -0.05, "high": -0.01, "p": 0.004, "p_holm": 0.008}
        none = {"value": -0.001, "low": -0.02, "high": 0.02, "p": 0.9, "p_holm": 0.9}
        with_it, without = ({"value": value, "low": value - 0.04, "high": value + 0.04} for value in (0.7, 0.67))
        comparison["robustness"] = []
        for name, entry in (("FLAIR", change), ("T2", none)):
            told = {"with_it": with_it, "without": without, "difference": entry}
            comparison["robustness"].append({"sequence": name, "studies": 40, "classes": 3, "methods": {"zero_shot": told}})
        if methods > 1:
            trained = [(10, first), (1000, tables["fine_tuned"])]
            comparison["efficiency"] = efficiency(trained, [first], arguments["targets"], arguments["mask"], keep, resamples=50)
        comparison["checks"] = [
            {"check": "patients", "state": "ok", "text": "each of 160 patients has studies in one split only", "cases": []},
            {
                "check": "images",
                "state": "leak",
                "text": "2 volumes are in several splits",
                "cases": [["s1 (val)", "s99 (test)"]],
            },
            {"check": "metadata", "state": "warning", "text": "mean AUC 0.62", "cases": ["a1: 0.81 (0.74 to 0.88)"]},
            {"check": "prompts", "state": "not checked", "text": "no method answers by prompts", "cases": []},
        ]
        return comparison, tables, arguments

    return make


@pytest.fixture(scope="session")
def written(
    full: Callable[[int], Made], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], tuple[Path, dict[str, Any]]]:
    """Function of the number of methods: the folder of a report with everything in it, and its comparison.

    Its figures are drawn for two methods; for other numbers they are empty, unless `drawn` asks for them.
    """
    made: dict[tuple[int, bool], tuple[Path, dict[str, Any]]] = {}

    def make(methods: int = 2, drawn: bool = False) -> tuple[Path, dict[str, Any]]:
        place = methods, drawn or methods == 2
        if place not in made:
            comparison, tables, arguments = full(methods)
            out = tmp_path_factory.mktemp("report") / "new" / "folder"
            truth = arguments["targets"], arguments["mask"]
            examples = report.choose_examples(tables, *truth, NAMES)
            for number, example in enumerate(examples):
                example.update(image=PNG, sequence="FLAIR" if number == 0 else "FLAIR, T2", scans=1 if number == 0 else 2)
            axes = {"x": [0, 10, 20], "xlabel": "step", "ylabel": "loss"}
            curves = [{"title": "Loss", **axes, "series": {"train": [3.0, None, 1.0]}}]
            whole = {name: table.with_truth(NAMES, *truth) for name, table in tables.items()}
            with pytest.MonkeyPatch.context() as patch:
                if not place[1]:
                    leave_blank(patch)
                page = report.write_report(comparison, whole, out, title="A & B <title>", examples=examples, curves=curves)
            assert page == out / "index.html"
            made[place] = out, comparison
        return made[place]

    return make
