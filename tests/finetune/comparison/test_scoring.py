"""What a zero-shot score table says it asked."""

from __future__ import annotations

from finetune.comparison.scoring import prompt_texts
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import ZeroShotSettings

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
    own = prompt_texts(TREE, ZeroShotSettings("plain", synonyms=False, parents="own"))
    children = prompt_texts(TREE, ZeroShotSettings("plain", synonyms=False, parents="children"))
    assert set(own) == {"a parent", "a1", "a2", "a leaf of both levels", "of the first level alone"}
    assert set(own) - set(children) == {"a parent"}
    assert set(prompt_texts(TREE, ZeroShotSettings("plain", parents="children"))) - set(children) == {"a two"}
