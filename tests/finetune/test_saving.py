"""What a run leaves of itself: the table of classes, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from finetune.saving import CLASSES, write_classes
from hlip.taxonomy import Taxonomy


def test_every_class_has_its_numbers_and_its_auc_where_there_is_one(tmp_path):
    """a: 3 of the 4 pairs in order; b has no negative that is known; c no positive at all."""
    tree = Taxonomy.from_dict({"name": "t", "classes": [{"name": "a, left"}, {"name": "b"}, {"name": "c"}]})
    targets = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]]).float()
    known = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 0, 1], [0, 0, 0]]).float()
    scores = torch.tensor([[0.9, 0.5, 0.5], [0.3, 0.5, 0.5], [0.4, 0.5, 0.5], [0.1, 0.5, 0.5], [0.0, 0.0, 0.0]])
    write_classes(tmp_path, [scores], SimpleNamespace(targets=[targets], known=[known]), tree)  # type: ignore[arg-type]
    assert (tmp_path / CLASSES).read_text().splitlines() == [
        "level,class,positives,negatives,auc",
        '1,"a, left",2,2,0.75',
        "1,b,2,0,",
        "1,c,0,4,",
    ]
    assert [path.name for path in tmp_path.iterdir()] == [CLASSES]
