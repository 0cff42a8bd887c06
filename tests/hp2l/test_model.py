"""HP2L: against a slow re-statement of the spec, the flow of information between levels, and rebuilding from plain data."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from hlip.taxonomy import Taxonomy
from hp2l.loss import HP2LLoss
from hp2l.model import HP2L, HP2LConfig, HP2LOutput

B, N, C = 3, 5, 16
CONFIG = HP2LConfig(width=C, heads=2, mlp_ratio=2.0)


def tokens(width: int = C, seed: int = 0) -> Tensor:
    return torch.randn(B, N, width, generator=torch.Generator().manual_seed(seed))


def build(config: HP2LConfig = CONFIG, classes: Taxonomy | tuple[int, ...] = (2, 3, 4)) -> HP2L:
    """A head whose weights are large enough that every path shows in the output."""
    torch.manual_seed(0)
    model = HP2L(config, classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


# -- the spec, slowly: one study, one head, one token at a time


def norm(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.LayerNorm)
    scaled = (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    return scaled * layer.weight + layer.bias


def slow_block(block: Block, x: Tensor) -> Tensor:
    """x (T, C) through a pre-norm block: x + MHA(norm(x)), then x + MLP(norm(x))."""
    count, heads, d = len(x), CONFIG.heads, C // CONFIG.heads
    qkv = norm(block.norm1, x) @ block.attn.qkv.weight.T + block.attn.qkv.bias
    mixed = torch.zeros(count, C)
    for h in range(heads):
        q, k, v = (qkv[:, part * C + h * d : part * C + (h + 1) * d] for part in range(3))
        for t in range(count):
            weights = torch.tensor([math.exp(float(q[t] @ k[s]) / math.sqrt(d)) for s in range(count)])
            mixed[t, h * d : (h + 1) * d] = (weights / weights.sum()) @ v
    x = x + mixed @ block.attn.proj.weight.T + block.attn.proj.bias
    hidden = F.gelu(norm(block.norm2, x) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    return x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


def slow_forward(model: HP2L, x: Tensor) -> list[Tensor]:
    """Logits a level of one study, x (N, C), step by step as the spec numbers them."""
    cls, prompt, logits = model.cls[0], model.prompt[0], []
    for number, level in enumerate(model.levels, start=1):
        joint = slow_block(level.prompting, torch.cat([cls, prompt, x]))  # 1
        cls, prompt, x = joint[:1], joint[1:2], joint[2:]
        if number < len(model.levels):  # 2
            learning, prototypes = level.prompt_learning, model.bank.prototypes(number)
            q, k, v = prompt @ learning.query.weight.T, prototypes @ learning.key.weight.T, prototypes @ learning.value.weight.T
            a = torch.softmax(q @ k.T / math.sqrt(C), dim=-1)
            prompt = sum(a[0, c] * v[c] for c in range(len(prototypes))).unsqueeze(0)
        joint = slow_block(level.vanilla, torch.cat([cls, x]))  # 3
        cls, x = joint[:1], joint[1:]
        logits.append(cls @ level.head.weight.T + level.head.bias)  # 4
    return logits


@torch.no_grad()
def test_forward_equals_the_spec_step_by_step() -> None:
    model = build()
    images = tokens()
    output = model(images)
    slow = [slow_forward(model, image) for image in images]
    for level in range(3):
        expected = torch.cat([study[level] for study in slow])
        torch.testing.assert_close(output.logits[level], expected, rtol=1e-4, atol=1e-4)


# -- the flow of information


@torch.no_grad()
def test_prototypes_of_a_level_act_on_the_next_levels_only() -> None:
    model = build()
    before = model(tokens())
    for moved, touched in ((1, [False, True, True]), (2, [False, False, True]), (3, [False, False, False])):
        kept = model.bank.prototypes(moved).clone()
        model.bank.prototypes(moved).mul_(-2.0)
        after = model(tokens())
        model.bank.prototypes(moved).copy_(kept)
        changed = [not torch.equal(a, b) for a, b in zip(after.logits, before.logits, strict=True)]
        assert changed == touched, f"prototypes of level {moved}"


def test_every_parameter_gets_a_gradient_and_none_is_a_scalar() -> None:
    taxonomy = Taxonomy.load("brain_mri")
    for config in (CONFIG, HP2LConfig(width=C, heads=2, input_width=8, prompt_update="residual", prompt_heads=4)):
        model = build(config, taxonomy).train()
        images = tokens(config.input_width or C)
        targets = [torch.from_numpy(t) for t, _ in taxonomy.encode_all([["glioma"], ["normal"], ["lacunar infarction"]])]
        total, _ = HP2LLoss(taxonomy)(model(images).logits, targets)
        total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.ndim > 0, f"{name}: DeepSpeed cannot hold a 0-dim parameter"
            assert parameter.grad is not None, f"{name}: distributed training refuses a parameter without a gradient"
            assert parameter.grad.any(), name


@torch.no_grad()
def test_one_study_does_not_depend_on_the_others_of_the_batch() -> None:
    model = build()
    whole, alone = model(tokens()), model(tokens()[1:2])
    for a, b in zip(whole.logits, alone.logits, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("counts", [(1,), (16,), (1, 1), (4, 16), (2, 3, 4, 1)])
def test_any_depth_and_single_classes(counts: tuple[int, ...]) -> None:
    output = build(classes=counts)(tokens(), return_attention=True)
    assert [tuple(level.shape) for level in output.logits] == [(B, count) for count in counts]
    assert [tuple(level.shape) for level in output.cls] == [(B, C)] * len(counts)
    assert output.prototype_attention is not None
    assert output.prompt_attention is not None
    assert [tuple(a.shape) for a in output.prototype_attention] == [(B, 1, count) for count in counts[:-1]]
    assert [tuple(a.shape) for a in output.prompt_attention] == [(B, 2, N)] * len(counts)


@torch.no_grad()
def test_attention_is_given_on_request_and_changes_nothing() -> None:
    model = build()
    plain, shown = model(tokens()), model(tokens(), return_attention=True)
    assert plain.prompt_attention is None
    assert plain.prototype_attention is None
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, shown.logits, strict=True))
    for attention in shown.prototype_attention:
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(B, 1))
    for attention in shown.prompt_attention:
        assert (attention > 0).all()
        assert (attention.sum(dim=-1) < 1.0).all()
    # Level 1, head 0, by hand: the prompt's softmax over [cls, prompt, image tokens].
    block, d = model.levels[0].prompting, C // CONFIG.heads
    for study, image in enumerate(tokens()):
        qkv = (
            norm(block.norm1, torch.cat([model.cls[0], model.prompt[0], image])) @ block.attn.qkv.weight.T + block.attn.qkv.bias
        )
        scores = qkv[:, C : C + d] @ qkv[1, :d] / math.sqrt(d)
        torch.testing.assert_close(shown.prompt_attention[0][study, 0], scores.softmax(dim=0)[2:], rtol=1e-4, atol=1e-6)


# -- prototypes and training


def test_update_uses_this_batchs_class_tokens_and_only_moves_the_bank() -> None:
    model = build(HP2LConfig(width=C, heads=2, momentum=0.0))
    output = model(tokens())
    targets = [torch.zeros(B, count) for count in (2, 3, 4)]
    targets[1][0, 2] = targets[1][2, 2] = 1.0
    untouched = model.bank.prototypes(2)[:2].clone()
    parameters = [parameter.clone() for parameter in model.parameters()]
    model.update_prototypes(output, targets)
    expected = (output.cls[1][0] + output.cls[1][2]) / 2
    torch.testing.assert_close(model.bank.prototypes(2)[2], expected)
    assert torch.equal(model.bank.prototypes(2)[:2], untouched)
    assert not model.bank.prototypes(2).requires_grad
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))
    assert model.similarity(model(tokens()))[1].shape == (B, 3)
    assert model.similarity(HP2LOutput([], [expected[None]] * 3))[1][0, 2].item() == pytest.approx(1.0, abs=1e-5)


def test_prototypes_may_move_before_the_backward_pass() -> None:
    gradients = []
    for update in (False, True):
        model = build()
        output = model(tokens())
        if update:
            model.update_prototypes(output, [torch.ones(B, count) for count in (2, 3, 4)])
        output.logits[-1].sum().backward()
        gradients.append(model.levels[0].prompt_learning.key.weight.grad)
    assert torch.equal(*gradients)


def test_it_learns_a_small_tree() -> None:
    taxonomy = Taxonomy.from_dict(
        {"name": "t", "classes": [{"name": "a", "children": [{"name": "b"}, {"name": "c"}]}, {"name": "z"}]}
    )
    torch.manual_seed(0)
    labels = [["b"], ["c"], ["z"], ["b", "c"], ["c", "z"]] * 4
    leaves = torch.from_numpy(taxonomy.encode_all(labels)[1][0])
    images = 0.5 * torch.randn(20, N, C)
    images[:, 2] += leaves @ (2.0 * torch.randn(3, C))  # the finding stands in one token
    targets = [torch.from_numpy(target) for target, _ in taxonomy.encode_all(labels)]
    model, loss = HP2L(HP2LConfig(width=C, heads=2, mlp_ratio=2.0, momentum=0.9), taxonomy), HP2LLoss(taxonomy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        output = model(images)
        total, _ = loss(output.logits, targets)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        model.update_prototypes(output, targets)
    probabilities = model(images).probabilities()
    for scores, target in zip(probabilities, targets, strict=True):
        assert torch.equal(scores > 0.5, target > 0.5)
    assert model.bank.updates(2).tolist() == [150] * 3
    # Single-label studies lie nearest to the prototype of their own class.
    single = [row for row, names in enumerate(labels) if len(names) == 1]
    nearest = model.similarity(model(images))[1][single].argmax(dim=1)
    assert torch.equal(nearest, targets[1][single].argmax(dim=1))


# -- rebuilding, options, errors


@torch.no_grad()
def test_config_taxonomy_and_weights_rebuild_it(tmp_path: Path) -> None:
    taxonomy = Taxonomy.load("brain_mri")
    model = build(HP2LConfig(width=C, heads=2, cls="encoder", prompt_update="residual"), taxonomy)
    cls = tokens(seed=1)[:, 0]
    model.update_prototypes(model(tokens(), cls), [torch.ones(B, count) for count in taxonomy.counts])
    text = json.dumps({"config": asdict(model.config), "taxonomy": taxonomy.to_dict()})
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    saved = json.loads(text)
    torch.manual_seed(9)
    again = HP2L(HP2LConfig(**saved["config"]), Taxonomy.from_dict(saved["taxonomy"])).eval()
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for a, b in zip(model(tokens(), cls).logits, again(tokens(), cls).logits, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(model.bank.prototypes(3), again.bank.prototypes(3))


@torch.no_grad()
def test_class_token_from_the_encoder() -> None:
    model = build(HP2LConfig(width=C, heads=2, input_width=8, cls="encoder"))
    assert not hasattr(model, "cls")
    images, cls = tokens(8), tokens(8, seed=1)[:, 0]
    flat, third = model(images, cls), model(images, cls.unsqueeze(1))
    assert all(torch.equal(a, b) for a, b in zip(flat.logits, third.logits, strict=True))
    other = model(images, -cls)
    assert not torch.allclose(flat.logits[0], other.logits[0])
    with pytest.raises(ValueError, match="cls is 'encoder', but no class token was given"):
        model(images)
    with pytest.raises(ValueError, match=r"class token \(3, 16\) is neither \(3, 8\) nor \(3, 1, 8\)"):
        model(images, torch.zeros(3, 16))
    with pytest.raises(ValueError, match="cls is 'learned', but a class token was given"):
        build()(tokens(), tokens()[:, 0])


def test_given_prototypes_and_bad_arguments() -> None:
    start = [torch.full((count, C), float(count)) for count in (2, 3)]
    model = HP2L(CONFIG, (2, 3), prototypes=start)
    assert torch.equal(model.bank.prototypes(2), start[1])
    with pytest.raises(ValueError, match="must have the shapes"):
        HP2L(CONFIG, (2, 4), prototypes=start)
    with pytest.raises(ValueError, match="at least one class"):
        HP2L(CONFIG, (2, 0))
    with pytest.raises(ValueError, match=r"not \(B, N >= 1, 16\)"):
        model(tokens(8))
    with pytest.raises(ValueError, match=r"^head.width 16 is no multiple of head.heads 5"):
        HP2LConfig(width=C, heads=5)
    with pytest.raises(ValueError, match=r"^head.cls 'given' is neither learned nor encoder"):
        HP2LConfig(cls="given")  # type: ignore[arg-type]


@torch.no_grad()
def test_low_precision() -> None:
    model, reference = build(), build()(tokens()).probabilities()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = model(tokens(), return_attention=True)
    cast = model.bfloat16()(tokens().bfloat16(), return_attention=True)
    assert model.bank.prototypes(1).dtype == torch.float32
    for output in (autocast, cast):
        for ours, exact in zip(output.probabilities(), reference, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, exact, rtol=0.1, atol=0.05)
        model.update_prototypes(output, [torch.ones(B, count) for count in (2, 3, 4)])


def test_the_package_is_light_to_import_and_its_names_exist() -> None:
    code = (
        "import sys, hp2l; hp2l.Taxonomy; assert 'torch' not in sys.modules and 'timm' not in sys.modules;"
        "[getattr(hp2l, name) for name in hp2l.__all__]; assert set(hp2l.__all__) <= set(dir(hp2l))"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(root)}, timeout=120)
    import hp2l

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hp2l.nothing
