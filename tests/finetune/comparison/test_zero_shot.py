"""Ways of asking without training: what is asked, and how classes above are answered by those below."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune.comparison.cohort import Cohort
from finetune.comparison.zero_shot import FOLDS, PARENTS, Setting, candidates, prompt_texts, with_parents
from hlip.store import StudyRecord
from hlip.taxonomy import Taxonomy
from hp2l.statistics.calibration import fit

TREE = Taxonomy.from_dict(
    {
        "name": "t",
        "classes": [
            {"name": "A", "prompt": "a parent", "synonyms": ["too"], "children": [{"name": "a1"}, {"name": "a2", "synonyms": ["a two"]}]},
            {"name": "B", "prompt": "a leaf of both levels"},
            {"name": "C", "prompt": "of the first level alone", "levels": [1]},
        ],
    }
)  # fmt: skip


def test_a_parent_that_its_children_answer_for_is_not_asked() -> None:
    plain = Setting("plain", synonyms=False, contrast=True, parents="own")
    own = prompt_texts(TREE, plain)
    assert set(own) == {"a parent", "a1", "a2", "a leaf of both levels", "of the first level alone"}
    for parents in PARENTS[1:]:
        children = prompt_texts(TREE, replace(plain, parents=parents))
        assert set(own) - set(children) == {"a parent"}
        assert set(prompt_texts(TREE, replace(plain, synonyms=True, parents=parents))) - set(children) == {"a two"}


def test_every_combination_is_tried_once() -> None:
    assert len(set(candidates())) == len(candidates()) == 2 * 2 * 2 * 4


@pytest.fixture
def answered() -> tuple[Cohort, list[np.ndarray], np.ndarray]:
    """A cohort of 60 studies, scores of the tree's classes by their own prompts, and the rows of its validation half."""
    draws = np.random.default_rng(3)
    leaves = draws.random((60, 3)) < 0.4  # a1, a2, B
    top = np.column_stack([leaves[:, :2].any(1), leaves[:, 2], draws.random(60) < 0.3])
    targets = [top.astype(float), leaves.astype(float)]
    known = [np.ones_like(level) for level in targets]
    known[1][::7] = 0
    scores = [1 / (1 + np.exp(-2 * level - draws.normal(size=level.shape))) for level in targets]
    scores[1][:, 1] = 0.95 + 0.05 * scores[1][:, 1]  # a class on a scale of its own
    records = [StudyRecord(f"s{n}", f"p{n // 2}", ("T1",), "", (), ("B",), "val" if n < 30 else "test") for n in range(60)]
    return Cohort(None, records, targets, known, TREE), scores, np.arange(30)  # type: ignore[arg-type]


def test_parents_by_children_follow_their_definitions(answered: tuple[Cohort, list[np.ndarray], np.ndarray]) -> None:
    cohort, scores, val = answered
    assert [list(level) for level in TREE.levels] == [["A", "B", "C"], ["a1", "a2", "B"]]
    labels = np.where(cohort.known[1] > 0, cohort.targets[1], np.nan)[val]
    fold = np.array(sorted({f"p{n // 2}": 0 for n in range(30)}))
    chance = np.empty((60, 3))
    for row in range(60):  # a validation study by the rules of the other patients' folds
        own = np.flatnonzero(fold == f"p{row // 2}") % FOLDS
        others = [n for n in range(30) if row >= 30 or np.flatnonzero(fold == f"p{n // 2}") % FOLDS != own]
        rules = fit(labels[others], scores[1][others], "platt")
        chance[row] = [float(rule.apply(score)) for rule, score in zip(rules, scores[1][row], strict=True)]
    expected = {
        "own": scores[0][:, 0],
        "children": scores[1][:, :2].max(axis=1),
        "scaled_children": chance[:, :2].max(axis=1),
        "any_child": 1 - (1 - chance[:, 0]) * (1 - chance[:, 1]),
    }
    for way, parent in expected.items():
        found = with_parents(scores, way, cohort, val)  # type: ignore[arg-type]
        np.testing.assert_allclose(found[0][:, 0], parent)
        np.testing.assert_array_equal(found[0][:, 2], scores[0][:, 2])  # nothing below it
        np.testing.assert_array_equal(found[1], scores[1])  # the last level stays as it is
    assert np.corrcoef(expected["children"], scores[1][:, 1])[0, 1] > 0.95  # its scale alone decides
    assert np.corrcoef(expected["any_child"], scores[1][:, 1])[0, 1] < 0.9
