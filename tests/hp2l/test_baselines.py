"""The flat head: level scores are maxima below, and only the last level is trained."""

from __future__ import annotations

import pytest
import torch

from hlip.taxonomy import Taxonomy
from hp2l.baselines import FlatConfig, FlatHead
from hp2l.loss import HP2LLoss, LossConfig


def test_level_scores_are_the_maximum_below() -> None:
    taxonomy = Taxonomy.load("brain_mri")
    torch.manual_seed(0)
    head = FlatHead(FlatConfig(input_width=8), taxonomy).eval()
    torch.nn.init.normal_(head.head.weight)
    output = head(torch.randn(6, 5, 8), return_attention=True)
    leaves = output.logits[-1]
    for level in range(1, 4):
        for index in range(taxonomy.counts[level - 1]):
            slow = torch.stack([leaves[:, leaf] for leaf in taxonomy.subtree_leaves(level, index)]).max(dim=0).values
            assert torch.equal(output.logits[level - 1][:, index], slow)
    assert all(probability.isfinite().all() for probability in output.probabilities())
    head.update_prototypes(output, [])


def test_with_a_class_token_and_one_step() -> None:
    taxonomy = Taxonomy.load("leukemia")
    head = FlatHead(FlatConfig(input_width=8, dropout=0.1), taxonomy, with_cls=True)
    tokens, cls = torch.randn(4, 5, 8), torch.randn(4, 8)
    targets = [torch.from_numpy(t) for t, _ in taxonomy.encode_all([["normal"], ["reactive"], ["leukemia"], None])]
    masks = [torch.from_numpy(m) for _, m in taxonomy.encode_all([["normal"], ["reactive"], ["leukemia"], None])]
    loss = HP2LLoss(taxonomy, LossConfig(level_weights=(0.0, 0.0, 1.0), consistency=0.0))
    total, parts = loss(head(tokens, cls.unsqueeze(1)).logits, targets, masks)
    total.backward()
    assert total.item() == pytest.approx(parts["bce_3"].item())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())
    with pytest.raises(ValueError, match="no class token was given"):
        head(tokens)


def test_a_class_without_a_last_level_cannot_be_scored() -> None:
    tree = Taxonomy.from_dict(
        {"name": "t", "classes": [{"name": "a", "children": [{"name": "b"}]}, {"name": "c", "levels": [1]}]}
    )
    with pytest.raises(ValueError, match=r"nothing below 'c' \(level 1\) reaches the last level"):
        FlatHead(FlatConfig(input_width=8), tree)
