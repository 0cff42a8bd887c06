"""Tables that must not be compared are refused, and what differs is named with a remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hlip.taxonomy import Taxonomy
from hp2l.comparison.alignment import aligned
from hp2l.comparison.compare import CompareError, Scores, provenance_of


def tree(*leaves: str, normal: bool = True, prompt: str = "a", name: str = "tree") -> Taxonomy:
    classes: list[dict[str, Any]] = [{"name": leaf, "prompt": prompt} for leaf in leaves]
    classes.append({"name": "normal", **({"normal": True} if normal else {})})
    return Taxonomy.from_dict({"name": name, "level_names": ["level"], "classes": classes})


def table(taxonomy: Taxonomy, volume: str = "v1") -> Scores:
    ids, names = ["a", "b", "c", "d"], [list(level) for level in taxonomy.levels]
    levels = [np.full((4, len(level)), 0.5) for level in names]
    scores = Scores("m", ids, ["p", "p", "q", "q"], ["val", "test"] * 2, levels, provenance_of(taxonomy, volume_spec=volume))
    return scores.with_truth(names, [np.ones_like(level) for level in levels], [np.ones_like(level) for level in levels])


BASE = table(tree("x", "y"))


def changed_label() -> Scores:
    assert BASE.labels is not None
    labels = BASE.labels[0].copy()
    labels[1, 0], labels[2, 1] = np.nan, 0
    return replace(BASE, labels=[labels])


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (replace(BASE, study_ids=["a", "b", "c", "z"]), r"two lacks 1 studies \['d'\], has 1 more \['z'\]; score both"),
        (replace(BASE, patient_ids=["p", "r", "q", "r"]), r"other patients: 2 \['b', 'd'\] \(b is p and r\); make both"),
        (replace(BASE, split=["val", "test", "test", "test"]), r"other splits: 1 \['c'\] \(c is val and test\)"),
        (table(tree("x", "z")), r"level 1, only the first has 1 \['y'\], only the second 1 \['z'\]; score both"),
        (table(tree("y", "x")), "the same in another order"),
        (table(tree("x", "y", normal=False)), "different taxonomies, digests [0-9a-f]{64} and [0-9a-f]{64}; score both"),
        (table(tree("x", "y"), volume="v2"), r"VolumeSpecs, digests v1 and v2; prepare one store.*--across-volumes"),
        (changed_label(), r"different truths: 2 labels of 2 \['b', 'c'\] studies; make both"),
        (replace(BASE, class_names=None, levels=[np.zeros((4, 2))]), r"per level \[3\] and \[2\]"),
    ],
)
def test_a_difference_is_named(other: Scores, match: str) -> None:
    with pytest.raises(CompareError, match=match):
        aligned({"one": BASE, "two": other})


def test_what_may_differ() -> None:
    prompts = table(tree("x", "y", prompt="b", name="renamed"))
    assert list(aligned({"one": BASE, "two": prompts})) == ["one", "two"]
    assert list(aligned({"one": BASE, "two": table(tree("x", "y"), "v2")}, across_volumes=True)) == ["one", "two"]
    bare = replace(BASE, provenance={}, labels=None, class_names=None)
    assert list(aligned({"one": BASE, "two": bare})) == ["one", "two"]


def test_a_method_cannot_be_called_as_a_key() -> None:
    with pytest.raises(CompareError, match="cannot be called difference"):
        aligned({"difference": BASE})
    with pytest.raises(CompareError, match="no score table"):
        aligned({})
