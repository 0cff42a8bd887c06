"""Losses against numbers worked out by hand, and gradients that must be zero."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hlip.taxonomy import Taxonomy
from hp2l.long_tail import balance, count_labels
from hp2l.loss import HP2LLoss, LossConfig, edge_consistency, level_bce

from .two_processes import run_two

LN3 = math.log(3.0)  # sigmoid(ln 3) = 0.75
TREE = Taxonomy.from_dict(
    {"name": "t", "classes": [{"name": "a", "children": [{"name": "b"}, {"name": "c"}]}, {"name": "z"}]}
)  # 2 / 3 classes; edges a-b, a-c, z-z
ONE = Taxonomy.from_dict({"name": "one", "classes": [{"name": "a"}]})


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


def test_weights_follow_the_label_and_not_the_smoothed_target() -> None:
    # absent at p = 0.75: 1.331364 as without weights, though its smoothed target is 0.05; present: 4 * 0.342613
    logits, targets = torch.tensor([[LN3], [LN3]]), torch.tensor([[1.0], [0.0]])
    loss = level_bce(logits, targets, positive_weight=torch.tensor([4.0]))
    assert loss.item() == pytest.approx((4 * 0.342613 + 1.331364) / 2, abs=1e-6)
    loss = level_bce(logits, targets, positive_weight=torch.tensor([4.0]), negative_weight=torch.tensor([0.5]))
    assert loss.item() == pytest.approx((4 * 0.342613 + 0.5 * 1.331364) / 2, abs=1e-6)
    # with any weight, an absent class is best at the smoothed target 0.05, a present one at 0.95
    best = torch.tensor([[logit(0.95)], [logit(0.05)]], requires_grad=True)
    level_bce(best, targets, positive_weight=torch.tensor([100.0])).backward()
    assert best.grad is not None
    assert best.grad.abs().max() < 1e-5


def test_smoothing_moves_the_point_of_rest_of_a_logit() -> None:
    sure = torch.tensor([[logit(0.95), 40.0]], requires_grad=True)
    level_bce(sure, torch.ones(1, 2)).backward()
    smoothed, sure.grad = sure.grad, None
    level_bce(sure, torch.ones(1, 2), smoothing=0.0).backward()
    assert smoothed is not None
    assert sure.grad is not None
    # d/dz = p - target, halved by the two entries
    assert smoothed[0].tolist() == pytest.approx([0.0, 0.025], abs=1e-6)
    assert sure.grad[0].tolist() == pytest.approx([-0.025, 0.0], abs=1e-6)


def test_logit_adjustment_by_hand() -> None:
    # one study in four has the class: the logit ln 3 is trained as ln 3 - ln 3 = 0
    shift = balance("logit_adjusted", torch.tensor([1.0]), torch.tensor([4.0])).shift
    loss = level_bce(torch.tensor([[LN3]]), torch.tensor([[1.0]]), shift=shift, smoothing=0.3)
    assert loss.item() == pytest.approx(math.log(2.0), abs=1e-6)


def test_logit_adjustment_lifts_a_rare_class_to_the_balanced_error() -> None:
    # Nothing to see, one positive in ten: the plain score falls to 0.1, the adjusted one to 0.5, where neither side is favoured.
    targets = [(torch.arange(10) == 0).float()[:, None]]
    counts = count_labels(targets, [torch.ones(10, 1)])
    rest = {}
    for form in ("none", "logit_adjusted"):
        loss = HP2LLoss.from_counts(ONE, LossConfig(smoothing=0.0, long_tail=form), *counts)  # type: ignore[arg-type]
        bias = torch.zeros(1, 1, requires_grad=True)
        optimizer = torch.optim.SGD([bias], lr=2.0)
        for _ in range(300):
            optimizer.zero_grad()
            loss([bias.expand(10, 1)], targets)[0].backward()
            optimizer.step()
        rest[form] = bias.sigmoid().item()
    assert rest == pytest.approx({"none": 0.1, "logit_adjusted": 0.5}, abs=1e-3)


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


def slow_total(config: LossConfig, logits: list[Tensor], targets: list[Tensor], masks: list[Tensor]) -> float:
    """The loss as loops over single numbers."""
    p = [[[1 / (1 + math.exp(-z)) for z in row] for row in level.tolist()] for level in logits]
    total = 0.0
    for level, weight in enumerate(config.level_weights or (1.0, 1.0)):
        terms = []
        for k in range(TREE.counts[level]):
            column = [(b, targets[level][b, k].item()) for b in range(4) if masks[level][b, k]]
            n, m = (sum(y == side for _, y in column) for side in (1.0, 0.0))
            present = absent = 1.0
            shift = 0.0
            if n and m and config.long_tail == "positive_weight":
                present = m / n
            elif n and m and config.long_tail == "logit_adjusted":
                shift = config.tau * math.log(n / m)
            elif n and m and config.long_tail == "class_balanced":
                present, absent = ((1 - config.beta) / (1 - config.beta**side) for side in (n, m))
                mean = (n * present + m * absent) / (n + m)
                present, absent = present / mean, absent / mean
            for b, y in column:
                q = 1 / (1 + math.exp(-logits[level][b, k].item() - shift))
                soft = y * (1 - config.smoothing) + config.smoothing / 2
                entropy = -soft * math.log(q) - (1 - soft) * math.log(1 - q)
                focal = ((1 - q) if y else q) ** config.focal_gamma
                terms.append((present if y else absent) * focal * entropy)
        total += weight * sum(terms) / max(1, len(terms))
    for parent, child in TREE.edges(1):
        seen = [b for b in range(4) if masks[0][b, parent] and masks[1][b, child]]
        for b in seen:
            gap = p[0][b][parent] - p[1][b][child]
            fired = targets[1][b, child].item() * max(0.0, gap) if config.direction == "published" else max(0.0, -gap)
            total += config.consistency * fired / len(seen)
    return total


@pytest.mark.parametrize("form", ["none", "class_balanced", "logit_adjusted", "positive_weight"])
@pytest.mark.parametrize("direction", ["published", "reverse"])
@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_every_form_against_a_slow_loop(form, direction, gamma) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = [2 * torch.randn(4, count, generator=generator) for count in TREE.counts]
    # class c of level 2 has no positive
    targets = [torch.from_numpy(target) for target, _ in TREE.encode_all([["b"], ["z"], ["b", "z"], ["z"]])]
    masks = [torch.ones(4, 2), torch.ones(4, 3)]
    masks[0][1, 0] = masks[1][0, 0] = masks[1][3, 2] = 0.0
    config = LossConfig(
        level_weights=(0.7, 1.3), direction=direction, focal_gamma=gamma, long_tail=form, beta=0.6, tau=0.8, smoothing=0.1
    )
    total, _ = HP2LLoss.from_counts(TREE, config, *count_labels(targets, masks))(logits, targets, masks)
    assert total.item() == pytest.approx(slow_total(config, logits, targets, masks), abs=1e-5)
    if form != "none":
        plain = slow_total(replace(config, long_tail="none"), logits, targets, masks)
        assert abs(total.item() - plain) > 1e-3


@pytest.mark.parametrize("form", ["none", "class_balanced", "logit_adjusted", "positive_weight"])
@pytest.mark.parametrize("direction", ["published", "reverse"])
def test_an_unknown_entry_gets_no_gradient_from_any_term(form, direction) -> None:
    # Far from its neighbours in both directions, so that every edge would fire.
    logits = [torch.tensor([[3.0, -3.0]] * 2, requires_grad=True), torch.tensor([[-1.0, 4.0, 0.0]] * 2, requires_grad=True)]
    targets = [torch.from_numpy(target) for target, _ in TREE.encode_all([["b"], ["z"]])]
    masks = [torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])]
    config = LossConfig(direction=direction, long_tail=form)
    HP2LLoss.from_counts(TREE, config, *count_labels(targets, masks))(logits, targets, masks)[0].backward()
    for level, mask in zip(logits, masks, strict=True):
        assert level.grad is not None
        assert torch.equal(level.grad != 0, mask > 0)


def test_a_satisfied_tree_gets_no_gradient_from_consistency() -> None:
    for direction, parent, child in (("published", -1.0, 1.0), ("reverse", 1.0, -1.0)):
        logits = [torch.full((2, 2), parent, requires_grad=True), torch.full((2, 3), child, requires_grad=True)]
        config = LossConfig(level_weights=(0.0, 0.0), direction=direction)  # type: ignore[arg-type]
        total, _ = HP2LLoss(TREE, config)(logits, [torch.ones(2, 2), torch.ones(2, 3)])
        total.backward()
        assert total.item() == 0.0
        assert not any(level.grad is None or level.grad.any() for level in logits)


@pytest.mark.parametrize("form", ["class_balanced", "logit_adjusted", "positive_weight"])
def test_long_tail_forms_leave_consistency_as_scored_and_have_no_state(form) -> None:
    logits, targets = inputs()
    counts = [torch.tensor([1.0, 9.0]), torch.tensor([1.0, 0.0, 9.0])], [torch.full((2,), 10.0), torch.full((3,), 10.0)]
    loss = HP2LLoss.from_counts(TREE, LossConfig(long_tail=form), *counts)
    assert loss(logits, targets)[1]["consistency"].item() == pytest.approx(0.2, abs=1e-6)
    assert not loss.state_dict()
    with pytest.raises(ValueError, match="from_counts"):
        HP2LLoss(TREE, LossConfig(long_tail=form))(logits, targets)
    for wrong in (counts[0][:1], counts[0][::-1]):
        with pytest.raises(ValueError, match=r"positives .* do not fit the levels"):
            HP2LLoss.from_counts(TREE, LossConfig(long_tail=form), wrong, counts[1])


@pytest.mark.parametrize("form", ["none", "class_balanced", "logit_adjusted", "positive_weight"])
def test_one_class_that_no_study_has_is_learnt_as_absent(form) -> None:
    targets, masks = [torch.zeros(5, 1)], [torch.ones(5, 1)]
    logits = torch.zeros(5, 1, requires_grad=True)
    loss = HP2LLoss.from_counts(ONE, LossConfig(smoothing=0.0, long_tail=form), *count_labels(targets, masks))
    loss([logits], targets, masks)[0].backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([0.1] * 5)


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
    with pytest.raises(ValueError, match=r"^loss.level_weights \[1.0, 1.0, 1.0\]: 3 weights for 2 levels"):
        HP2LLoss(TREE, LossConfig(level_weights=(1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="positive weights"):
        HP2LLoss(TREE, positive_weights=[torch.ones(2)])
    with pytest.raises(ValueError, match=r"^loss.smoothing"):
        LossConfig(smoothing=1.0)
    with pytest.raises(ValueError, match=r"^loss.direction"):
        LossConfig(direction="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^loss.long_tail 'focal'"):
        LossConfig(long_tail="focal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^loss.beta"):
        LossConfig(beta=1.0)
    with pytest.raises(ValueError, match=r"^loss.tau"):
        LossConfig(tau=-1.0)
    with pytest.raises(ValueError, match=r"^loss.level_weights"):
        LossConfig(level_weights=(1.0, -1.0))


def test_the_loss_has_no_state_and_no_parameters() -> None:
    loss = HP2LLoss(Taxonomy.load("brain_mri"))
    assert not loss.state_dict()
    assert not list(loss.parameters())


WORKER = """
from hlip.taxonomy import Taxonomy
from hp2l.loss import HP2LLoss

share = torch.load(f"{folder}/shares.pt", weights_only=True)[rank]
logits = [level.requires_grad_() for level in share["logits"]]
total, _ = HP2LLoss(Taxonomy.load("brain_mri_2level"))(logits, share["targets"], share["masks"])
total.backward()
torch.save([level.grad for level in logits], f"{folder}/gradients{rank}.pt")
"""


def test_two_processes_equal_one_however_the_known_labels_are_spread(tmp_path: Path) -> None:
    tree = Taxonomy.load("brain_mri_2level")
    generator = torch.Generator().manual_seed(0)
    whole = {
        "logits": [torch.randn(8, count, generator=generator) for count in tree.counts],
        "targets": [(torch.rand(8, count, generator=generator) < 0.3).float() for count in tree.counts],
        "masks": [torch.ones(8, count) for count in tree.counts],
    }
    whole["masks"][1][1:4] = 0.0  # the first process knows one of its four studies at level 2, the second all
    logits = [level.clone().requires_grad_() for level in whole["logits"]]
    total, _ = HP2LLoss(tree)(logits, whole["targets"], whole["masks"])
    total.backward()
    shares = [
        {name: [level[cut].clone() for level in levels] for name, levels in whole.items()} for cut in (slice(4), slice(4, 8))
    ]
    torch.save(shares, tmp_path / "shares.pt")
    run_two(WORKER, tmp_path)
    for rank, cut in enumerate((slice(4), slice(4, 8))):
        found = torch.load(tmp_path / f"gradients{rank}.pt", weights_only=True)
        for level, gradient in zip(logits, found, strict=True):
            assert level.grad is not None
            torch.testing.assert_close(gradient / 2, level.grad[cut], rtol=1e-6, atol=1e-8)  # engines average over processes
