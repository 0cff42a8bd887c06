"""Heads with blocks, against slow re-statements for one study at a time: PromptViT, TransHP, isolated losses, the prompt ablations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hlip.taxonomy import Taxonomy
from hp2l.baselines import Isolated, LevelHeads, PromptViT, TransHP
from hp2l.baselines.flat import FlatConfig
from hp2l.blocks import BlockConfig
from hp2l.loss import HP2LLoss
from hp2l.model import HP2L, HP2LConfig

B, N, C = 2, 3, 8
CONFIG = BlockConfig(width=C, heads=2, mlp_ratio=2.0)
TREE = Taxonomy.from_dict(
    {
        "name": "t",
        "classes": [
            {"name": "a", "children": [{"name": "b", "children": [{"name": "c"}, {"name": "d"}]}, {"name": "e"}]},
            {"name": "z"},
        ],
    }
)
IMAGES = torch.randn(B, N, C, generator=torch.Generator().manual_seed(0))


def loud(head: nn.Module) -> nn.Module:
    """Weights large enough that every path shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return head.eval()


def run(block: nn.Module, *rows: Tensor) -> Tensor:
    """A block over one study's rows, each (n, C)."""
    return block(torch.cat(rows).unsqueeze(0))[0]


def linear(layer: nn.Linear, row: Tensor) -> Tensor:
    return layer.weight @ row + layer.bias


def compare(head: nn.Module, slow: list[list[Tensor]]) -> None:
    """slow: logits a study and level."""
    made = head(IMAGES).logits
    assert len(made) == TREE.depth
    for level, logits in enumerate(made):
        torch.testing.assert_close(logits, torch.stack([study[level] for study in slow]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", ["shallow", "deep"])
@pytest.mark.parametrize("readout", ["leaves", "levels"])
@torch.no_grad()
def test_prompt_vit(depth, readout) -> None:
    head = loud(PromptViT(CONFIG, TREE, prompts=2, depth=depth, readout=readout))
    slow = []
    for x in IMAGES:
        rows = [head.cls[0], head.prompts[0][0], x]
        for place, block in enumerate(head.blocks):
            if depth == "deep":
                rows[1] = head.prompts[place][0]
            out = run(block, *rows)
            rows = [out[:1], out[1:3], out[3:]]
        scores = [linear(layer, rows[0][0]) for layer in head.heads]
        if readout == "leaves":  # c, d, e, z below a, z and b, e, z
            c, d, e, z = scores[0]
            scores = [torch.stack([max(c, d, e), z]), torch.stack([max(c, d), e, z]), scores[0]]
        slow.append(scores)
    assert len(head.blocks) == 6
    assert len(head.prompts) == (6 if depth == "deep" else 1)
    compare(head, slow)


@torch.no_grad()
def test_without_prompts_it_is_a_flat_vit() -> None:
    head = loud(PromptViT(CONFIG, TREE, prompts=0, readout="levels"))
    slow = []
    for x in IMAGES:
        out = torch.cat([head.cls[0], x])
        for block in head.blocks:
            out = run(block, out)
        slow.append([linear(layer, out[0]) for layer in head.heads])
    assert len(head.blocks) == 6
    compare(head, slow)


@torch.no_grad()
def test_transhp() -> None:
    head = loud(TransHP(CONFIG, TREE))
    slow, prompts = [], []
    for x in IMAGES:
        cls, seen, logits, scores = head.cls[0], torch.zeros(0, C), [], []
        for number, level in enumerate(head.levels, start=1):
            count, before = TREE.counts[number - 1] if number < 3 else 0, len(seen)
            own = level.prompts[0] if count else torch.zeros(0, C)
            out = run(level.prompting, cls, seen, own, x)
            cls, seen, own, x = out[:1], out[1 : 1 + before], out[1 + before : 1 + before + count], out[1 + before + count :]
            absorbed = []
            for k in range(count):
                score = own[k] @ level.vectors[0, k] + level.bias[k]
                absorbed.append(own[k] * torch.sigmoid(score))
                scores.append(score)
            seen = torch.cat([seen, torch.stack(absorbed)]) if count else seen
            out = run(level.vanilla, cls, seen, x)
            cls, seen, x = out[:1], out[1 : 1 + len(seen)], out[1 + len(seen) :]
            logits.append(linear(level.head, cls[0]))
        slow.append(logits)
        prompts.append(torch.stack(scores))
    compare(head, slow)
    extra = head(IMAGES).extra
    torch.testing.assert_close(
        torch.cat([extra["prompt_1"], extra["prompt_2"]], dim=1), torch.stack(prompts), rtol=1e-4, atol=1e-4
    )


def test_transhps_coarse_loss_by_hand() -> None:
    head = loud(TransHP(CONFIG, TREE, prompt_loss=2.0))
    output = head(IMAGES)
    targets = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(B, 3), torch.zeros(B, 4)]
    masks = [torch.ones(B, 2), torch.zeros(B, 3), torch.ones(B, 4)]
    losses = head.extra_losses(output, targets, masks)
    right = output.extra["prompt_1"].sigmoid()
    expected = -2.0 * torch.stack([right[0, 0], 1 - right[0, 1], 1 - right[1, 0], right[1, 1]]).log().mean()
    assert sorted(losses) == ["prompt_1", "prompt_2"]
    torch.testing.assert_close(losses["prompt_1"], expected)
    assert losses["prompt_2"] == 0.0
    losses["prompt_1"].backward()
    assert head.levels[0].vectors.grad.any()
    assert head.levels[0].vanilla.attn.qkv.weight.grad is None, "what comes after the prompting block"
    assert head.levels[1].prompts.grad is None


@torch.no_grad()
def test_isolated_forward() -> None:
    head = loud(Isolated(CONFIG, TREE))
    slow = []
    for x in IMAGES:
        above, logits = torch.zeros(0, C), []
        for level in head.levels:
            out = torch.cat([level.cls[0], above, x])
            for block in level.blocks:
                out = run(block, out)
            above = out[:1]
            logits.append(linear(level.head, out[0]))
        slow.append(logits)
    assert len(head.levels) == TREE.depth
    compare(head, slow)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_an_isolated_levels_loss_reaches_its_own_parameters_and_the_encoder_only(level: int) -> None:
    head = loud(Isolated(BlockConfig(width=C, heads=2, input_width=4), TREE))
    tokens = IMAGES[:, :, :4].clone().requires_grad_()
    targets, masks = [torch.ones(B, count) for count in TREE.counts], [torch.ones(B, count) for count in TREE.counts]
    masks = [mask * (place == level) for place, mask in enumerate(masks, start=1)]
    total, _ = HP2LLoss(TREE, head.loss_config(HP2LLoss(TREE).config))(head(tokens).logits, targets, masks)
    total.backward()
    for name, parameter in head.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == name.startswith(f"levels.{level - 1}."), name
    assert tokens.grad.any()


@torch.no_grad()
def test_linear_probe() -> None:
    head = loud(LevelHeads(FlatConfig(input_width=C), TREE, with_cls=True))
    cls = IMAGES[:, 0] * 2.0
    for study in range(B):
        row = torch.cat([cls[study], sum(IMAGES[study]) / N])
        row = (row - row.mean()) / (row.var(unbiased=False) + 1e-6).sqrt() * head.norm.weight + head.norm.bias
        for level, layer in enumerate(head.heads):
            torch.testing.assert_close(head(IMAGES, cls).logits[level][study], linear(layer, row), rtol=1e-4, atol=1e-5)


# -- the ablations of HP2L itself


def slow_hp2l(model: HP2L, x: Tensor) -> list[Tensor]:
    """One study through a variant; the head's own classes show what is read where."""
    config, cls, logits, prompt = model.config, model.cls[0], [], torch.zeros(0, C)
    for place, level in enumerate(model.levels):
        if config.prompt == "one_hot":
            prompt = torch.zeros(1, C)
            prompt[0, place] = 1.0
        elif config.prompt == "learnable":
            prompt = model.prompt[0] if place == 0 else model.later_prompts[place - 1][0]
        elif config.prompt == "prototypes" and place == 0:
            prompt = model.prompt[0]
        out = run(level.prompting, cls, prompt, x)
        cls, prompt, x = out[:1], out[1 : len(out) - N], out[len(out) - N :]
        if config.prototypes != "none" and place < 2:
            count, learning = TREE.counts[place], level.prompt_learning
            table = torch.eye(C)[:count] if config.prototypes == "one_hot" else model.bank.prototypes(place + 1)
            weights = torch.softmax((learning.query.weight @ prompt[0]) @ (table @ learning.key.weight.T).T / C**0.5, dim=0)
            prompt = sum(weights[k] * (learning.value.weight @ table[k]) for k in range(count)).unsqueeze(0)
        out = run(level.vanilla, cls, x)
        cls, x = out[:1], out[1:]
        logits.append(linear(level.head, cls[0]))
    return logits


VARIANTS = [
    {"prompt": "none", "prototypes": "none"},
    {"prompt": "one_hot", "prototypes": "none"},
    {"prompt": "learnable", "prototypes": "none"},
    {"prototypes": "none"},
    {"prototypes": "one_hot"},
    {"prototypes": "learnable"},
    {},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_ablations_of_hp2l(options) -> None:
    head = loud(HP2L(HP2LConfig(width=C, heads=2, mlp_ratio=2.0, **options), TREE))
    compare(head, [slow_hp2l(head, x) for x in IMAGES])
    shown = head(IMAGES, return_attention=True)
    guided = options.get("prompt", "prototypes") == "prototypes" and options.get("prototypes", "ema") != "none"
    assert len(shown.prototype_attention) == (2 if guided else 0)
    assert len(shown.prompt_attention) == (0 if options.get("prompt") == "none" else 3)
    state = {key: value.clone() for key, value in head.state_dict().items()}
    head.update_prototypes(shown, [torch.ones(B, count) for count in TREE.counts])
    moved = {key for key, value in head.state_dict().items() if not torch.equal(value, state[key])}
    assert bool(moved) == (options == {})
    if options:
        with pytest.raises(ValueError, match=r"are not averaged: this needs head.prototypes ema"):
            head.similarity(shown)


def test_one_hot_needs_room_and_a_start_needs_averages() -> None:
    with pytest.raises(ValueError, match="9 one-hot vectors do not fit width 8"):
        HP2L(HP2LConfig(width=C, heads=2, prototypes="one_hot"), (9, 2))
    with pytest.raises(ValueError, match=r"^head.prototypes learnable are not averaged: this needs head.prototypes ema"):
        HP2L(HP2LConfig(width=C, heads=2, prototypes="learnable"), (2,), prototypes=[torch.zeros(2, C)])


def test_learnt_prototypes_start_where_averaged_ones_do() -> None:
    learnt, averaged = (HP2L(HP2LConfig(width=C, heads=2, prototypes=kind), (2, 3, 4)) for kind in ("learnable", "ema"))
    for level in (1, 2):
        assert torch.equal(learnt.bank.prototypes(level), averaged.bank.prototypes(level))
