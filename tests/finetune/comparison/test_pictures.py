"""Example studies as pictures: a row a sequence, and maps over the slice that holds most of them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import Markup
from PIL import Image

import hlip
from finetune.comparison import page
from finetune.comparison.cohort import labelled
from finetune.comparison.figures.catalogue import drawings
from finetune.comparison.pictures import CELLS, _over, _scaled, pictured
from finetune.comparison.scoring import Method, score
from hlip.model import HLIP
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser
from hp2l.heads import HeadConfig

TREE = Taxonomy.load("brain_mri")


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> Store:
    return Store(tiny_store)


@pytest.fixture(scope="module")
def methods(store: Store) -> list[Method]:
    """A pretrained and a fine-tuned model, both untrained."""
    torch.manual_seed(0)
    vision = {"size": [8, 16, 16], "patch": [2, 8, 8], "scopes": ["scan", "study"]}
    model: HLIP = hlip.create("tiny_scan_study", vision=vision, text={"vocabulary": 600}).eval()
    model.volume_spec = store.spec
    tuned = Diagnoser(model, HeadConfig(blocks=(2, 2, 2), width=16, heads=2), TREE).eval()
    tuned.facts = {"studies": 24}
    return [Method("zero_shot", model, Path("a")), Method("fine_tuned", tuned, Path("b"))]


def example(store: Store) -> dict[str, Any]:
    record = store.split("test")[0]
    return {"study_id": record.study_id, "zero_shot": [(TREE.normal, 0.9), ("glioma", 0.8)], "fine_tuned": [("glioma", 0.7)]}


def cells(png: bytes, count: int = CELLS) -> list[np.ndarray]:
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return np.split(pixels, count, axis=1)


def test_without_models_there_are_slices_only(store: Store) -> None:
    found = pictured(store, TREE, example(store))
    record = store.record(example(store)["study_id"])
    assert [name for name, _ in found["rows"]] == [name or "scan" for name in record.sequences][:5]
    assert found["scans"] == len(record.sequences)
    assert found["columns"] == [("slices", CELLS)]
    assert found["maps"] == {}
    for _, png in found["rows"]:
        assert all((cell == cell[..., :1]).all() for cell in cells(png)), "a slice is grey"


def test_both_methods_are_drawn_over_the_same_slice(store: Store, methods: list[Method]) -> None:
    cohort = labelled(store, TREE)
    tables = {method.name: score(method, cohort) for method in methods}
    found = pictured(store, TREE, example(store), methods, tables)
    assert found["columns"] == [("slices", CELLS - 3), ("most telling", 1), ("zero_shot", 1), ("fine_tuned", 1)]
    assert found["maps"]["zero_shot"] == "evidence for glioma", "normal has no direction"
    assert re.fullmatch(r"where the prompt looked, \d x \d x \d blocks \(depth x height x width\)", found["maps"]["fine_tuned"])
    coloured = {"zero_shot": 0, "fine_tuned": 0}
    for _, png in found["rows"]:
        *_, plain, first, second = cells(png)
        for name, cell in (("zero_shot", first), ("fine_tuned", second)):
            same = (cell == plain).all(axis=-1)
            assert (cell[~same][:, 0] > cell[~same][:, 2]).all(), "colours are red to yellow"
            coloured[name] += int((~same).sum())
    assert min(coloured.values()) > 0


def test_a_table_without_its_model_has_no_map(store: Store, methods: list[Method]) -> None:
    found = pictured(store, TREE, example(store), methods[1:])
    assert list(found["maps"]) == ["fine_tuned"]
    assert found["columns"] == [("slices", CELLS - 2), ("most telling", 1), ("fine_tuned", 1)]


def test_a_map_colours_by_its_strength() -> None:
    pixels = np.full((1, 3), 100, np.uint8)
    drawn = _over(pixels, np.array([[0.0, 0.2, 1.0]], np.float32))
    np.testing.assert_array_equal(drawn[0, 0], [100, 100, 100])
    assert drawn[0, 2, 0] > drawn[0, 1, 0] > 100
    np.testing.assert_allclose(drawn[0, 2], 0.35 * 100 + 0.65 * np.array([255, 225, 60]))


def test_scans_of_a_study_share_a_scale() -> None:
    weak, strong = np.full((1, 1, 1), 0.5, np.float32), np.full((1, 1, 1), 2.0, np.float32)
    assert [float(part.max()) for part in _scaled([weak, strong])] == [0.25, 1.0]
    assert float(_scaled([np.zeros((1, 1, 1), np.float32)])[0].max()) == 0.0


def test_the_page_names_every_row_and_says_where_maps_are_missing(compared: Callable[..., Any]) -> None:
    comparison, _, _ = compared()
    drawn = dict.fromkeys(drawings(comparison), Markup(""))
    study = {"study_id": "s1", "group": "both", "truth": ["a1"], "scans": 2, "zero_shot": [("a1", 0.9)]}
    plain = {**study, "rows": [("FLAIR", b"1"), ("T2 & more", b"2")], "columns": [("slices", 6)], "maps": {}}
    text = page.html({**comparison, "title": "t"}, drawn, [plain])
    assert "<span>FLAIR</span>" in text
    assert "<span>T2 &amp; more</span>" in text
    assert "Slices only" in text
    columns = [("slices", 4), ("most telling", 1), ("zero_shot", 1)]
    mapped = page.html(
        {**comparison, "title": "t"}, drawn, [{**plain, "columns": columns, "maps": {"zero_shot": "evidence for a1"}}]
    )
    assert "Slices only" not in mapped
    assert "Map: evidence for a1" in mapped
    assert "repeat(6,1fr)" in mapped
