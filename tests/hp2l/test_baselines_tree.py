"""Heads that walk the tree, by hand: its nodes, the cascade, the decision tree, nearest prototypes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hlip.taxonomy import Taxonomy
from hp2l.baselines import Cascade, DecisionTree, NearestPrototypes
from hp2l.baselines.cascade import CLOSED, decisions
from hp2l.baselines.decision_tree import tree_distances
from hp2l.baselines.nearest import mean_of_nearest
from hp2l.blocks import BlockConfig
from hp2l.loss import HP2LLoss, LossConfig
from hp2l.tree_nodes import tree_nodes

CONFIG = BlockConfig(width=8, heads=2, mlp_ratio=2.0)
# Levels: a f z / b e g z / c d e h z. e and z are carried; g and h are single children. Nodes: a f z b e g c d h.
TREE = Taxonomy.from_dict(
    {
        "name": "ragged",
        "classes": [
            {"name": "a", "children": [{"name": "b", "children": [{"name": "c"}, {"name": "d"}]}, {"name": "e"}]},
            {"name": "f", "children": [{"name": "g", "children": [{"name": "h"}]}]},
            {"name": "z", "normal": True},
        ],
    }
)
A, F, Z, NODE_B, E, G, C, D, H = range(9)


def tokens(rows: int, width: int = 8) -> Tensor:
    return torch.randn(rows, 3, width, generator=torch.Generator().manual_seed(0))


def test_a_carried_leaf_is_one_node() -> None:
    nodes = tree_nodes(TREE)
    assert nodes.of == [[A, F, Z], [NODE_B, E, G, Z], [C, D, E, H, Z]]
    assert nodes.paths == [(A,), (F,), (Z,), (A, NODE_B), (A, E), (F, G), (A, NODE_B, C), (A, NODE_B, D), (F, G, H)]
    assert decisions(nodes) == {None: [A, F, Z], A: [NODE_B, E], NODE_B: [C, D]}
    repeated = {"name": "t", "classes": [{"name": "a", "children": [{"name": "a"}, {"name": "b"}]}]}
    assert tree_nodes(Taxonomy.from_dict(repeated)).of == [[0], [1, 2]], (
        "with a sibling, the repeated name is a class of its own"
    )


def test_four_models_for_the_leukemia_tree() -> None:
    assert len(Cascade(CONFIG, Taxonomy.load("leukemia")).models) == 4


# -- cascade


def fixed(head: Cascade, values: dict[int, float]) -> Cascade:
    """Models whose logits are constants."""
    for model, children in zip(head.models, head.decisions.values(), strict=True):
        torch.nn.init.zeros_(model.head.weight)
        with torch.no_grad():
            model.head.bias.copy_(torch.tensor([values[child] for child in children]))
    return head


@torch.no_grad()
def test_a_cascade_takes_the_path_that_its_logits_say() -> None:
    values = {A: 1.0, F: -0.5, Z: 0.0, NODE_B: -2.0, E: 3.0, C: 4.0, D: -4.0}
    head = fixed(Cascade(CONFIG, TREE), values)
    trained = head.train()(tokens(1)).logits
    assert [level[0].tolist() for level in trained] == [[1.0, -0.5, 0.0], [-2.0, 3.0, -0.5, 0.0], [4.0, -4.0, 3.0, -0.5, 0.0]]
    tested = head.eval()(tokens(1)).logits
    # b failed, so c and d are closed though c's own model is sure; f failed, so g and h are; 0.0 is a score of 0.5: z is open.
    # Closed ones stand by how far they were missed: f by 0.5, b by 2.
    by_f, by_b = CLOSED + math.tanh(-0.5), CLOSED + math.tanh(-2.0)
    expected = [[1.0, -0.5, 0.0], [-2.0, 3.0, by_f, 0.0], [by_b, by_b, 3.0, by_f, 0.0]]
    for ours, theirs in zip(tested, expected, strict=True):
        assert ours[0].tolist() == pytest.approx(theirs)
    strict = fixed(Cascade(CONFIG, TREE, threshold=0.8), values).eval()(tokens(1)).logits  # a scores 0.73: its branch closes
    assert (strict[1][0, :3] < CLOSED).all()
    assert strict[1][0, 3] == 0.0
    open_all = fixed(Cascade(CONFIG, TREE, threshold=0.01), values).eval()(tokens(1)).logits
    assert open_all[2][0].tolist() == [4.0, -4.0, 3.0, -0.5, 0.0]
    values[NODE_B] = -40.0
    unsure = fixed(Cascade(CONFIG, TREE), values).eval()(tokens(1)).logits
    assert unsure[1][0, 0] > unsure[2][0, 0]  # an open class is above every closed one, however low its score


def test_a_cascades_doors_are_where_its_models_stand_on_average() -> None:
    """Two of four known studies have a; of these one of two has b. With smoothing 0.1 a share s is learnt as 0.9 s + 0.05."""
    labels = [["c"], ["e"], ["h"], ["z"], None]
    targets, masks = zip(*((torch.from_numpy(t), torch.from_numpy(m)) for t, m in TREE.encode_all(labels)), strict=True)
    head = Cascade(CONFIG, TREE)
    head.observe(targets, masks, smoothing=0.1)
    scores = torch.sigmoid(head.bars)
    assert scores[A].item() == pytest.approx(0.5)
    assert scores[F].item() == pytest.approx(0.9 * 0.25 + 0.05)
    assert scores[NODE_B].item() == pytest.approx(0.5)
    assert scores[C].item() == pytest.approx(0.95)
    given = Cascade(CONFIG, TREE, threshold=0.3)
    given.observe(targets, masks, smoothing=0.1)
    assert torch.sigmoid(given.bars).tolist() == pytest.approx([0.3] * len(given.bars))


@torch.no_grad()
def test_a_single_child_is_open_where_its_parent_is() -> None:
    """f's threshold is its share, 0.25, below a half: its only child g, with no model and no threshold of its own, hides h no more."""
    targets, masks = zip(
        *((torch.from_numpy(t), torch.from_numpy(m)) for t, m in TREE.encode_all([["c"], ["e"], ["h"], ["z"]])), strict=True
    )
    values = {A: 1.0, F: -0.5, Z: 0.0, NODE_B: 2.0, E: 3.0, C: 4.0, D: -4.0}
    head = fixed(Cascade(CONFIG, TREE), values)
    head.observe(targets, masks, smoothing=0.0)
    found = head.eval()(tokens(1)).logits
    assert [found[0][0, 1].item(), found[1][0, 2].item(), found[2][0, 3].item()] == [-0.5, -0.5, -0.5]
    values[F] = -2.0  # a score of 0.12
    found = fixed(head, values).eval()(tokens(1)).logits
    missed = CLOSED + math.tanh(-2.0 - math.log(0.25 / 0.75))
    assert [found[0][0, 1].item(), found[1][0, 2].item(), found[2][0, 3].item()] == pytest.approx([-2.0, missed, missed])


def test_each_model_counts_only_studies_that_have_its_node_and_each_decision_once() -> None:
    labels = [["c"], ["e"], ["h"], ["z"], ["b"], None]
    targets, masks = zip(*((torch.from_numpy(t), torch.from_numpy(m)) for t, m in TREE.encode_all(labels)), strict=True)
    counted = Cascade(CONFIG, TREE).level_loss_mask(targets, masks)
    assert counted[0].tolist() == [[1, 1, 1]] * 5 + [[0, 0, 0]]
    # b and e for those with a; g is a single child and z is carried: nothing to decide
    assert counted[1].tolist() == [[1, 1, 0, 0]] * 2 + [[0, 0, 0, 0]] * 2 + [[1, 1, 0, 0]] + [[0, 0, 0, 0]]
    # c and d for those with b, unless they are unknown (the fifth study)
    assert counted[2].tolist() == [[1, 1, 0, 0, 0]] + [[0] * 5] * 5


def test_a_models_loss_moves_that_model_alone_and_only_by_its_studies() -> None:
    torch.manual_seed(0)
    head = Cascade(CONFIG, TREE).train()
    labels = [["c"], ["e"], ["h"]]
    targets, masks = zip(*((torch.from_numpy(t), torch.from_numpy(m)) for t, m in TREE.encode_all(labels)), strict=True)
    images = tokens(3).requires_grad_()
    counted = head.level_loss_mask(targets, masks)
    loss = HP2LLoss(TREE, head.loss_config(LossConfig(level_weights=(0.0, 0.0, 1.0))))
    loss(head(images).logits, targets, counted)[0].backward()
    reached = [any(p.grad is not None and bool(p.grad.any()) for p in model.parameters()) for model in head.models]
    assert reached == [False, False, True]
    assert images.grad[0].any()
    assert not images.grad[1:].any(), "studies without b"


# -- decision tree


def test_path_products() -> None:
    head = DecisionTree(CONFIG, TREE)
    gates = torch.tensor([[0.5, -1.0, 2.0, 0.3, -0.7, 1.5, 0.1, -3.0, 0.9]])
    p = gates.sigmoid()[0].tolist()
    by_hand = [p[A], p[F], p[Z], p[A] * p[NODE_B], p[A] * p[E], p[F] * p[G]]
    by_hand += [p[A] * p[NODE_B] * p[C], p[A] * p[NODE_B] * p[D], p[F] * p[G] * p[H]]
    torch.testing.assert_close(head.path_logits(gates).sigmoid()[0], torch.tensor(by_hand))
    far = head.path_logits(torch.tensor([[80.0] * 9, [-80.0] * 9, [500.0] * 9]))
    assert far.isfinite().all()
    torch.testing.assert_close(far[0, [A, E, C]], 80.0 - torch.tensor([0.0, math.log(2.0), math.log(3.0)]))
    torch.testing.assert_close(far[1, [A, E, C]], torch.tensor([-80.0, -160.0, -240.0]))


@torch.no_grad()
def test_gates_and_levels_of_the_decision_tree() -> None:
    torch.manual_seed(0)
    head = DecisionTree(CONFIG, TREE).eval()
    for parameter in head.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    output = head(tokens(2))
    for study in range(2):
        sequence = torch.cat([head.trunk.cls, tokens(2)[study : study + 1]], dim=1)
        for block in head.trunk.blocks:
            sequence = block(sequence)
        state = head.norm(sequence[0, 0])
        gate = [
            torch.sigmoid(head.sharpness[0] * (head.radius[n] - sum((state - head.prototypes[0, n]) ** 2) / 8))
            for n in range(9)
        ]
        scores = [level[study] for level in output.probabilities()]
        torch.testing.assert_close(scores[0], torch.stack([gate[A], gate[F], gate[Z]]), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(scores[2][1], gate[A] * gate[NODE_B] * gate[D], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(scores[2][2], scores[1][1])  # e, carried
        torch.testing.assert_close(scores[1][2], gate[F] * gate[G], rtol=1e-4, atol=1e-6)
        assert scores[1][0] <= scores[0][0], "never above its parent"


def test_the_distance_term() -> None:
    flat = Taxonomy.from_dict({"name": "t", "classes": [{"name": "a", "children": [{"name": "b"}, {"name": "c"}]}]})
    distances = tree_distances(tree_nodes(flat))
    assert distances.tolist() == [[0, 1, 1], [1, 0, 2], [1, 2, 0]]
    head = DecisionTree(CONFIG, flat, distance_loss=0.5)
    with torch.no_grad():
        head.prototypes.zero_()
        head.prototypes[0, 1, 0], head.prototypes[0, 2, 0] = 3.0, -3.0  # on a line: proportional to the tree's, by 3
    output = head(tokens(2))
    assert output.extra["distance"].item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        head.prototypes[0, 2, 0] = 3.0 - 6.0 * 0.5  # distances a-b 3, a-c 0, b-c 3: ratios 3, 0, 1.5
    scale = (3.0 + 1.5) / (9.0 + 2.25)
    expected = ((3.0 * scale - 1) ** 2 + 1 + (1.5 * scale - 1) ** 2) / 3
    losses = head.extra_losses(head(tokens(2)), [], [])
    assert losses["distance"].item() == pytest.approx(0.5 * expected, abs=1e-4)
    losses["distance"].backward()
    assert head.prototypes.grad.isfinite().all()
    assert head.prototypes.grad.any()
    assert head.trunk.blocks[0].attn.qkv.weight.grad is None


# -- nearest prototypes


def test_mean_of_the_nearest() -> None:
    cosines = torch.tensor([[0.9, 0.1, 0.5, -0.2]])
    candidates = torch.tensor([[True, True, True, False], [False, False, False, True], [False] * 4])
    for nearest, expected in ((1, [0.9, -0.2, -1.0]), (2, [0.7, -0.2, -1.0]), (9, [0.5, -0.2, -1.0])):
        torch.testing.assert_close(mean_of_nearest(cosines, candidates, nearest), torch.tensor([expected]))


@torch.no_grad()
def test_prototypes_are_class_means_and_scores_their_cosines() -> None:
    head = NearestPrototypes(4, TREE, nearest=2, with_cls=False)
    images = tokens(4, 4)
    labels = [["c"], ["c"], ["e"], ["z"]]
    targets, masks = zip(*((torch.from_numpy(t), torch.from_numpy(m)) for t, m in TREE.encode_all(labels)), strict=True)
    untrained = head(images)
    assert all((logits == -10.0).all() for logits in untrained.logits), "no prototype yet: similarity -1, scale 10"
    head.update_prototypes(untrained, targets, masks)
    rows = []
    for image in images:
        mean = sum(image) / 3
        rows.append((mean - mean.mean()) / (mean.var(unbiased=False) + 1e-5).sqrt())
    prototype = {"a": sum(rows[:3]) / 3, "b": sum(rows[:2]) / 2, "c": sum(rows[:2]) / 2, "e": rows[2], "z": rows[3]}
    output = head(images)
    for study, row in enumerate(rows):
        cosine = {
            name: float(row @ other / row.norm() / other.norm()) for name, other in prototype.items()
        }  # fmt: skip
        best = sorted([cosine[name] for name in ("a", "b", "c", "e")], reverse=True)[:2]
        expected = [
            [sum(best) / 2, -1.0, cosine["z"]],
            [(cosine["b"] + cosine["c"]) / 2, cosine["e"], -1.0, cosine["z"]],
            [cosine["c"], -1.0, cosine["e"], -1.0, cosine["z"]],
        ]
        for level in range(3):
            torch.testing.assert_close(output.logits[level][study], 10.0 * torch.tensor(expected[level]), rtol=1e-4, atol=1e-4)
