"""The dependency prior: numbers worked out by hand, who may talk to whom, and toy problems with and without dependencies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hlip.metrics import class_aucs
from hlip.taxonomy import Taxonomy
from hlip.training.optimizer import OptimizerConfig, make_optimizer
from hp2l.dependency import DependencyPrior, DependentHead, Relations, log_odds_ratios
from hp2l.head import Head, HP2LOutput
from hp2l.loss import HP2LLoss, LossConfig

TREE = Taxonomy.from_dict(
    {
        "name": "t",
        "classes": [
            {"name": "vascular", "children": [{"name": "lesions"}, {"name": "lacune"}]},
            {"name": "degeneration", "children": [{"name": "alzheimer"}, {"name": "mild"}]},
            {"name": "normal", "normal": True},
        ],
    }
)  # 3 / 5 classes: 0 vascular, 1 degeneration, 2 normal; 3 lesions, 4 lacune, 5 alzheimer, 6 mild, 7 normal
PAIR = Taxonomy.from_dict({"name": "pair", "classes": [{"name": "a"}, {"name": "b"}]})
ONE = Taxonomy.from_dict({"name": "one", "classes": [{"name": "a"}]})


def known(targets: list[Tensor]) -> list[Tensor]:
    return [torch.ones_like(level) for level in targets]


def filled(taxonomy: Taxonomy, seed: int = 0) -> DependencyPrior:
    """A prior with every number away from its start."""
    prior, generator = DependencyPrior(taxonomy), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (prior.scale, prior.own, prior.ratios):
            part.copy_(torch.randn(part.shape, generator=generator))
        prior.prevalence.copy_(torch.rand(prior.prevalence.shape, generator=generator))
    return prior


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_begins_as_no_change(dtype) -> None:
    targets = [torch.from_numpy(level) for level, _ in TREE.encode_all([["lesions", "mild"], ["alzheimer"], ["normal"]])]
    prior = DependencyPrior.from_cooccurrence(TREE, targets, known(targets))
    assert prior.ratios.any()
    logits = [torch.randn(4, count, generator=torch.Generator().manual_seed(0)).to(dtype) for count in TREE.counts]
    for before, after in zip(logits, prior(logits), strict=True):
        assert after.dtype == dtype
        assert torch.equal(before, after)
    assert prior.penalty().item() == 0.0


def test_messages_by_hand() -> None:
    prior = DependencyPrior(PAIR)
    with torch.no_grad():
        prior.scale.fill_(0.5)
        prior.ratios.copy_(torch.tensor([[9.0, 2.0], [2.0, 9.0]]))
        prior.own.copy_(torch.tensor([[9.0, 1.0], [-3.0, 9.0]]))
        prior.prevalence.copy_(torch.tensor([0.25, 0.5]))
    # A: a to b 0.5 * 2 + 1 = 2; b to a 0.5 * 2 - 3 = -2; the diagonal is not sent
    assert prior.matrix().tolist() == [[0.0, 2.0], [-2.0, 0.0]]
    # p = 0.75 and 0.25: b gets 2 * (0.75 - 0.25), a gets -2 * (0.25 - 0.5)
    (moved,) = prior([torch.tensor([[math.log(3.0), -math.log(3.0)]])])
    assert moved[0].tolist() == pytest.approx([math.log(3.0) + 0.5, -math.log(3.0) + 1.0], abs=1e-6)
    # the two pairs' own parts, 1 and -3, both at the mean distance
    assert prior.penalty().item() == pytest.approx((1 + 9) / 2)


def test_forward_and_penalty_against_a_slow_loop() -> None:
    prior, relations = filled(TREE), Relations(TREE)
    logits = [torch.randn(2, count, generator=torch.Generator().manual_seed(1)) for count in TREE.counts]
    moved = torch.cat(prior(logits), dim=1)
    joined = torch.cat(logits, dim=1)
    scale, ratios, own = prior.scale.item(), prior.ratios.tolist(), prior.own.tolist()
    penalty, pairs = 0.0, 0
    for j in range(8):
        expected = joined[:, j].clone()
        for i in range(8):
            if relations.allowed[i, j]:
                a = scale * ratios[i][j] + own[i][j]
                expected += a * (joined[:, i].sigmoid() - prior.prevalence[i])
                penalty += relations.weights()[i, j].item() * (a - scale * ratios[i][j]) ** 2
                pairs += 1
        assert moved[:, j].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert prior.penalty().item() == pytest.approx(penalty / pairs, rel=1e-5)


def test_kin_and_the_normal_class_send_nothing() -> None:
    allowed = Relations(TREE).allowed
    heard = {i: [j for j in range(8) if allowed[i, j]] for i in range(8)}
    # vascular: degeneration and its two children; lesions: its sibling and the other branch
    assert heard == {
        0: [1, 5, 6],
        1: [0, 3, 4],
        2: [],
        3: [1, 4, 5, 6],
        4: [1, 3, 5, 6],
        5: [0, 3, 4, 6],
        6: [0, 3, 4, 5],
        7: [],
    }
    assert torch.equal(allowed, allowed.T)
    ragged = Taxonomy.from_dict({"name": "r", "classes": [{"name": "a", "children": [{"name": "b"}]}, {"name": "z"}]})
    # a, z; b, z again: a leaf is kin of itself at another level
    assert Relations(ragged).allowed.int().tolist() == [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]


def test_distances_in_the_tree_by_hand() -> None:
    weights, allowed = Relations(TREE).weights(), Relations(TREE).allowed
    # siblings 2, a class and its nephew over the root 3, cousins 4, top classes 2
    assert (weights[3, 5] / weights[3, 4]).item() == pytest.approx(2.0)
    assert (weights[3, 1] / weights[3, 4]).item() == pytest.approx(1.5)
    assert (weights[0, 1] / weights[3, 4]).item() == pytest.approx(1.0)
    assert weights[allowed].mean().item() == pytest.approx(1.0)
    assert not weights[~allowed].any()


def test_log_odds_ratios_by_hand_and_without_unknown_labels() -> None:
    # both 3, only a 1, only b 1, neither 3: ln(3.5^2 / 1.5^2) = 1.694596, variance 2 / 3.5 + 2 / 1.5 = 1.904762
    table = [[1, 1]] * 3 + [[1, 0], [0, 1]] + [[0, 0]] * 3
    present = torch.tensor(table, dtype=torch.float64)
    ratios = log_odds_ratios(present, torch.ones_like(present), {(0, 1): None, (1, 0): None})
    expected = 1.694596 / 2.904762
    assert ratios[0].tolist() == pytest.approx([0.0, expected], abs=1e-6)
    assert ratios[1].tolist() == pytest.approx([expected, 0.0], abs=1e-6)
    # studies of which one label is unknown change the prevalence alone
    more = torch.cat([torch.tensor(table), torch.tensor([[1, 0], [1, 0]])]).float()
    mask = torch.cat([torch.ones(8, 2), torch.tensor([[1.0, 0.0]] * 2)])
    prior = DependencyPrior.from_cooccurrence(PAIR, [more], [mask])
    assert prior.ratios[0, 1].item() == pytest.approx(expected, abs=1e-6)
    assert prior.prevalence.tolist() == pytest.approx([6.5 / 11, 4.5 / 9])
    nothing = DependencyPrior.from_cooccurrence(PAIR, [more], [torch.zeros(10, 2)])
    assert not nothing.ratios.any()
    assert nothing.prevalence.tolist() == [0.5, 0.5]


def test_a_pair_hardly_seen_takes_its_parents_ratio() -> None:
    often = [["lesions", "alzheimer"]] * 200 + [["lesions"]] * 50 + [["alzheimer"]] * 50 + [["normal"]] * 200
    targets = [torch.from_numpy(level) for level, _ in TREE.encode_all(often)]
    ratios = DependencyPrior.from_cooccurrence(TREE, targets, known(targets)).ratios
    # no study has lacune or mild: a, b, c, d = 0.5, 0.5, 0.5, 500.5, so raw = ln(1001), variance 6 + 1 / 500.5
    parents = ratios[0, 1].item()
    assert parents == pytest.approx(math.log((200.5 / 50.5) ** 2) / (1 + 2 / 200.5 + 2 / 50.5), rel=1e-5)
    middle = {"raw": math.log(1001), "share": 1 / (7 + 1 / 500.5)}
    assert ratios[4, 6].item() == pytest.approx(parents + middle["share"] * (middle["raw"] - parents), rel=1e-5)
    # seen often: nearly its own, whatever the parents say; siblings have no pair above them
    assert ratios[3, 5].item() == pytest.approx(math.log((200.5 / 50.5) ** 2), rel=0.01)
    assert ratios[3, 4].item() == pytest.approx(math.log(0.5 * 250.5 / (250.5 * 0.5)) / 7, abs=0.01)
    assert not ratios[2].any()
    assert not ratios[7].any()


def test_pairs_are_told_from_sender_to_receiver_the_strongest_first() -> None:
    prior = filled(TREE)
    with torch.no_grad():
        prior.own[6, 3] = -50.0  # mild to lesions
    rows, matrix = prior.pairs(TREE), prior.matrix()
    assert len(rows) == int(prior.allowed.sum())
    assert list(rows[0].values()) == [2, "mild", 2, "lesions", prior.ratios[6, 3].item(), matrix[6, 3].item()]
    strengths = [abs(row["learnt"]) for row in rows]
    assert strengths == sorted(strengths, reverse=True)


def test_a_message_carries_no_gradient_to_its_sender() -> None:
    prior = filled(TREE)
    logits = [torch.randn(3, count, requires_grad=True) for count in TREE.counts]
    prior(logits)[1][:, 1].sum().backward()
    assert logits[0].grad is not None
    assert logits[1].grad is not None
    assert not logits[0].grad.any()
    assert logits[1].grad.nonzero()[:, 1].unique().tolist() == [1]


def test_gradients_reach_both_parts_and_only_the_pairs_that_may_talk() -> None:
    targets = [torch.from_numpy(level) for level, _ in TREE.encode_all([["lesions", "mild"], ["alzheimer"], ["lacune"]])]
    prior = DependencyPrior.from_cooccurrence(TREE, targets, known(targets))
    logits = [torch.randn(3, count, generator=torch.Generator().manual_seed(0)) for count in TREE.counts]
    HP2LLoss(TREE)(prior(logits), targets)[0].backward()
    assert prior.scale.grad is not None
    assert prior.own.grad is not None
    assert prior.scale.grad.all()
    assert torch.equal(prior.own.grad != 0, prior.allowed > 0)


@pytest.mark.parametrize("taxonomy", [ONE, PAIR, Taxonomy.load("brain_mri_flat"), Taxonomy.load("brain_mri")])
def test_one_class_one_level_and_the_built_in_trees(taxonomy) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = [(torch.rand(6, count, generator=generator) > 0.5).float() for count in taxonomy.counts]
    prior = DependencyPrior.from_cooccurrence(taxonomy, targets, known(targets))
    logits = [torch.randn(6, count, generator=generator) for count in taxonomy.counts]
    *moved, penalty = prior(logits, with_penalty=True)
    (sum(level.sum() for level in moved) + penalty).backward()
    assert all(torch.equal(before, after) for before, after in zip(logits, moved, strict=True))
    assert prior.scale.grad is not None
    assert prior.own.grad is not None
    assert prior.ratios.isfinite().all()
    assert bool(prior.allowed.any()) == (taxonomy is not ONE)


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="do not fit levels of"):
        DependencyPrior(TREE)([torch.zeros(2, 3)])
    with pytest.raises(ValueError, match="targets of 2 classes"):
        DependencyPrior.from_cooccurrence(TREE, [torch.zeros(4, 2)], [torch.ones(4, 2)])


class Stub(Head):
    """Logits of both levels from one layer, with an extra loss and a mask of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.updates = torch.nn.Linear(4, 8), 0

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        logits = list(self.layer(tokens.mean(dim=1)).split(TREE.counts, dim=1))
        return HP2LOutput(logits, logits, extra={"own": logits[0].mean()})

    def loss_config(self, config: LossConfig) -> LossConfig:
        return LossConfig(consistency=0.0)

    def level_loss_mask(self, targets, masks):
        return [0 * mask for mask in masks]

    def extra_losses(self, output: HP2LOutput, targets, masks) -> dict[str, Tensor]:
        assert output.extra is not None
        return {"own": 3 * output.extra["own"]}

    def update_prototypes(self, output: HP2LOutput, targets, masks=None) -> None:
        self.updates += 1


def test_a_wrapped_head_keeps_its_ways_and_gains_the_penalty() -> None:
    head = DependentHead(Stub(), TREE, penalty=0.5)
    head.dependency.load_state_dict(filled(TREE).state_dict())
    tokens, masks = torch.randn(2, 3, 4), [torch.ones(2, count) for count in TREE.counts]
    own, output = head.head(tokens), head(tokens)
    assert all(torch.equal(a, b) for a, b in zip(output.logits, head.dependency(own.logits), strict=True))
    assert not torch.equal(output.logits[0], own.logits[0])
    extra = head.extra_losses(output, masks, masks)
    assert extra["own"].item() == pytest.approx(3 * own.logits[0].mean().item(), abs=1e-6)
    assert extra["dependency"].item() == pytest.approx(0.5 * head.dependency.penalty().item())
    assert head.loss_config(LossConfig()).consistency == 0.0
    assert not any(mask.any() for mask in head.level_loss_mask(masks, masks))
    head.update_prototypes(output, masks, masks)
    assert head.head.updates == 1


def test_it_travels_in_the_state_dict_and_the_optimizer_takes_it() -> None:
    head, again = DependentHead(Stub(), TREE), DependentHead(Stub(), TREE)
    head.dependency.load_state_dict(filled(TREE, seed=2).state_dict())
    assert set(head.dependency.state_dict()) == {"scale", "own", "ratios", "prevalence"}
    again.load_state_dict(head.state_dict())
    tokens = torch.randn(2, 3, 4)
    assert all(torch.equal(a, b) for a, b in zip(head(tokens).logits, again(tokens).logits, strict=True))
    optimizer = make_optimizer({head: 1.0}, OptimizerConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def toy(count: int, seed: int, depends: bool) -> tuple[Tensor, list[Tensor]]:
    """Four findings in two branches, seen in noise (two standard deviations apart) but for `mild`, whose input says nothing; where labels
    depend, `mild` goes with lesions, nine times in ten."""
    generator = torch.Generator().manual_seed(seed)
    leaves = (torch.rand(count, 4, generator=generator) < torch.tensor([0.4, 0.3, 0.3, 0.3])).float()
    if depends:
        leaves[:, 3] = (leaves[:, 0] - (torch.rand(count, generator=generator) < 0.1).float()).abs()
    seen = torch.randn(count, 4, generator=generator) + 2 * leaves * torch.tensor([1.0, 1.0, 1.0, 0.0])
    top = torch.stack([leaves[:, :2].amax(dim=1), leaves[:, 2:].amax(dim=1)], dim=1)
    normal = (1 - leaves.amax(dim=1))[:, None]
    inputs = torch.cat([seen[:, :2].sum(1, keepdim=True), seen[:, 2:].sum(1, keepdim=True), -seen.sum(1, keepdim=True)], dim=1)
    return torch.cat([inputs, seen, inputs[:, 2:]], dim=1), [
        torch.cat([top, normal], dim=1),
        torch.cat([leaves, normal], dim=1),
    ]


def trained(studies: int, depends: bool, prior: str) -> tuple[list[float], float]:
    """AUC of the four leaves and cross-entropy of their level, on 4,000 new studies; each class sees its own input alone."""
    inputs, targets = toy(studies, 0, depends)
    weight, bias = torch.zeros(8, requires_grad=True), torch.zeros(8, requires_grad=True)
    module = DependencyPrior(TREE)
    if prior == "observed":
        module.observe(targets, known(targets))
    loss, parameters = HP2LLoss(TREE, LossConfig(smoothing=0.0, consistency=0.0)), [weight, bias]
    optimizer = torch.optim.Adam(parameters + (list(module.parameters()) if prior != "none" else []), lr=0.1)
    for _ in range(200):
        total, _ = loss(module(list((inputs * weight + bias).split(TREE.counts, dim=1))), targets)
        optimizer.zero_grad()
        (total + 0.1 * module.penalty()).backward()
        optimizer.step()
    inputs, targets = toy(4000, 1, depends)
    with torch.no_grad():
        logits = module(list((inputs * weight + bias).split(TREE.counts, dim=1)))
        entropy = loss(logits, targets)[1]["bce_2"].item()
    leaves = targets[1][:, :4].numpy()
    return class_aucs(leaves, known([targets[1][:, :4]])[0].numpy(), logits[1][:, :4].numpy()).tolist(), entropy


@pytest.mark.parametrize("studies", [60, 400])
def test_it_helps_where_labels_depend(studies) -> None:
    (alone, entropy), (learnt, _), (observed, lower) = (trained(studies, True, kind) for kind in ("none", "learnt", "observed"))
    assert alone[3] == pytest.approx(0.5, abs=0.03)
    assert learnt[3] > 0.7
    assert observed[3] > 0.78
    assert lower < entropy - 0.02
    # the classes that can be seen lose next to nothing
    assert min(after - before for before, after in zip(alone[:3], observed[:3], strict=True)) > -0.01
    if studies == 60:  # few studies: what the labels say is worth more than learning it pair by pair
        assert observed[3] > learnt[3] + 0.01


@pytest.mark.parametrize(("studies", "auc_lost", "entropy_gained"), [(60, 0.01, 0.01), (400, 0.005, 0.003)])
def test_it_hardly_hurts_where_labels_are_independent(studies, auc_lost, entropy_gained) -> None:
    (alone, before), (observed, after) = (trained(studies, False, kind) for kind in ("none", "observed"))
    assert alone[:3] == pytest.approx(observed[:3], abs=auc_lost)
    assert after - before < entropy_gained
