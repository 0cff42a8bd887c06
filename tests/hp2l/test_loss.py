"""Losses against numbers worked out by hand, and gradients that must be zero."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hlip.taxonomy import Taxonomy
from hp2l.loss import HP2LLoss, LossConfig, edge_consistency, level_bce

LN3 = math.log(3.0)  # sigmoid(ln 3) = 0.75
TREE = Taxonomy.from_dict(
    {"name": "t", "classes": [{"name": "a", "children": [{"name": "b"}, {"name": "c"}]}, {"name": "z"}]}
)  # 2 / 3 classes; edges a-b, a-c, z-z


def logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def test_smoothed_cross_entropy_by_hand() -> None:
    # present: -(0.95 ln 0.75 + 0.05 ln 0.25) = 0.342613; absent: -(0.05 ln 0.75 + 0.95 ln 0.25) = 1.331364
    logits, targets = torch.tensor([[LN3, LN3]]), torch.tensor([[1.0, 0.0]])
    assert level_bce(logits, targets).item() == pytest.approx((0.342613 + 1.331364) / 2, abs=1e-6)
    assert level_bce(logits[:, :1], targets[:, :1]).item() == pytest.approx(0.342613, abs=1e-6)
    assert level_bce(logits[:, :1], targets[:, :1], smoothing=0.0).item() == pytest.approx(-math.log(0.75), abs=1e-6)
    assert level_bce(torch.zeros(2, 3), torch.ones(2, 3)).item() == pytest.approx(math.log(2.0), abs=1e-6)


def test_unknown_entries_count_neither_above_nor_below_the_line() -> None:
    logits = torch.tensor([[LN3, 50.0], [7.0, -50.0]], requires_grad=True)
    targets, mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    loss = level_bce(logits, targets, mask)
    loss.backward()
    assert loss.item() == pytest.approx(0.342613, abs=1e-6)
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[True, False], [False, False]]


def test_nothing_known_is_zero_with_a_zero_gradient() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = level_bce(logits, torch.ones(3, 2), torch.zeros(3, 2))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_positive_weight_and_focal_by_hand() -> None:
    logits, targets = torch.tensor([[LN3, LN3]]), torch.tensor([[1.0, 0.0]])
    weighted = level_bce(logits, targets, smoothing=0.0, positive_weight=torch.tensor([4.0, 4.0]))
    assert weighted.item() == pytest.approx((-4 * math.log(0.75) - math.log(0.25)) / 2, abs=1e-6)
    # focal: (1 - 0.75)^2 on the present class, (1 - 0.25)^2 on the absent one
    focal = level_bce(logits, targets, smoothing=0.0, focal_gamma=2.0)
    assert focal.item() == pytest.approx((-math.log(0.75) * 0.0625 - math.log(0.25) * 0.5625) / 2, abs=1e-6)
    extreme = torch.tensor([[80.0, -80.0]], requires_grad=True)
    level_bce(extreme, targets, focal_gamma=2.0).backward()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


def test_cross_entropy_runs_in_float32_for_bfloat16_logits() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.ones(4, 3)
    assert level_bce(logits, targets).dtype == torch.float32
    assert level_bce(logits, targets).item() == level_bce(logits.float(), targets).item()


def test_consistency_by_hand() -> None:
    parents = torch.tensor([[0.8, 0.8, 0.2], [0.9, 0.6, 0.6]])
    children = torch.tensor([[0.5, 0.1, 0.9], [0.7, 0.1, 0.5]])
    present = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    # edge 1: (0.3 + 0.2) / 2; edge 2: (0 + 0.5) / 2; edge 3: (0 + 0) / 2
    assert edge_consistency(parents, children, present).item() == pytest.approx(0.25 + 0.25, abs=1e-6)
    # study 2 of edge 1 unknown: 0.3 / 1 + 0.5 / 2
    known = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    assert edge_consistency(parents, children, present, known).item() == pytest.approx(0.3 + 0.25, abs=1e-6)
    # the opposite direction: only edge 3 of study 1 has its child above its parent, by 0.7
    assert edge_consistency(parents, children, present, direction="reverse").item() == pytest.approx(0.35, abs=1e-6)


def test_consistency_gradient_is_zero_where_the_child_is_absent_or_above_its_parent() -> None:
    parents = torch.tensor([[0.8, 0.8, 0.2]], requires_grad=True)
    children = torch.tensor([[0.5, 0.1, 0.9]], requires_grad=True)
    edge_consistency(parents, children, torch.tensor([[1.0, 0.0, 1.0]])).backward()
    assert parents.grad is not None
    assert children.grad is not None
    assert parents.grad.tolist() == [[1.0, 0.0, 0.0]]
    assert children.grad.tolist() == [[-1.0, 0.0, 0.0]]


def inputs() -> tuple[list[Tensor], list[Tensor]]:
    logits = [
        torch.tensor([[logit(0.8), logit(0.3)], [logit(0.4), logit(0.9)]]),
        torch.tensor([[logit(0.6), logit(0.2), logit(0.1)], [logit(0.5), logit(0.5), logit(0.7)]]),
    ]
    return logits, [torch.from_numpy(target) for target, _ in TREE.encode_all([["b"], ["z"]])]


def test_the_total_and_its_parts() -> None:
    logits, targets = inputs()
    total, parts = HP2LLoss(TREE)(logits, targets)
    assert list(parts) == ["bce_1", "bce_2", "consistency"]
    # present edges: a-b of study 1: 0.8 - 0.6; z-z of study 2: 0.9 - 0.7; each halved by the batch of two
    assert parts["consistency"].item() == pytest.approx(0.2, abs=1e-6)
    for level in (1, 2):
        assert parts[f"bce_{level}"].item() == pytest.approx(level_bce(logits[level - 1], targets[level - 1]).item())
    expected = parts["bce_1"] + parts["bce_2"] + 0.5 * parts["consistency"]
    assert total.item() == pytest.approx(expected.item(), abs=1e-6)
    assert not any(part.requires_grad for part in parts.values())
    config = LossConfig(level_weights=(0.0, 2.0), consistency=3.0, smoothing=0.0)
    weighted, parts = HP2LLoss(TREE, config)(logits, targets)
    assert weighted.item() == pytest.approx(2 * parts["bce_2"].item() + 3 * 0.2, abs=1e-5)


def test_masks_reach_every_term() -> None:
    logits, targets = inputs()
    masks = [torch.from_numpy(mask) for _, mask in TREE.encode_all([["a"], ["z"]])]
    _, parts = HP2LLoss(TREE)(logits, targets, masks)
    assert parts["consistency"].item() == pytest.approx(0.2, abs=1e-6)  # z-z over the one study known at level 2
    assert parts["bce_2"].item() == pytest.approx(level_bce(logits[1][1:], targets[1][1:]).item(), abs=1e-6)
    nothing = [torch.zeros_like(target) for target in targets]
    total, _ = HP2LLoss(TREE)(logits, targets, nothing)
    assert total.item() == 0.0


def test_positive_weights_a_level() -> None:
    logits, targets = inputs()
    weights = [torch.tensor([1.0, 1.0]), torch.tensor([5.0, 1.0, 1.0])]
    _, plain = HP2LLoss(TREE)(logits, targets)
    _, parts = HP2LLoss(TREE, positive_weights=weights)(logits, targets)
    assert parts["bce_1"] == plain["bce_1"]
    assert parts["bce_2"].item() == pytest.approx(
        level_bce(logits[1], targets[1], positive_weight=torch.tensor([5.0, 1.0, 1.0])).item()
    )


def test_one_level_and_levels_without_an_edge() -> None:
    flat = Taxonomy.load("brain_mri_flat")
    total, parts = HP2LLoss(flat)([torch.zeros(2, 16)], [torch.ones(2, 16)])
    assert list(parts) == ["bce_1", "consistency"]
    assert total.item() == pytest.approx(math.log(2.0), abs=1e-6)
    skipping = Taxonomy.from_dict({"name": "t", "classes": [{"name": "a", "levels": [1, 3]}, {"name": "b", "levels": [2]}]})
    logits = [torch.zeros(2, 1, requires_grad=True) for _ in range(3)]
    total, parts = HP2LLoss(skipping)(logits, [torch.ones(2, 1)] * 3)
    total.backward()
    assert parts["consistency"].item() == 0.0


def test_what_does_not_fit_is_an_error() -> None:
    logits, targets = inputs()
    with pytest.raises(ValueError, match="do not fit levels of"):
        HP2LLoss(TREE)(logits[:1], targets[:1])
    with pytest.raises(ValueError, match="do not fit levels of"):
        HP2LLoss(TREE)(logits, targets[::-1])
    with pytest.raises(ValueError, match="3 level weight"):
        HP2LLoss(TREE, LossConfig(level_weights=(1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="positive weights"):
        HP2LLoss(TREE, positive_weights=[torch.ones(2)])
    with pytest.raises(ValueError, match="smoothing"):
        LossConfig(smoothing=1.0)
    with pytest.raises(ValueError, match="direction"):
        LossConfig(direction="up")  # type: ignore[arg-type]


def test_the_loss_has_no_state_and_no_parameters() -> None:
    loss = HP2LLoss(Taxonomy.load("brain_mri"))
    assert not loss.state_dict()
    assert not list(loss.parameters())
