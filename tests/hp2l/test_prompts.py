"""Prompt learning and attention rows, against slow loops over samples, heads and classes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hp2l.prompts import PromptLearning, PromptUpdate, attention_row

B, K, C = 3, 4, 8


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, 1, C, generator=generator), torch.randn(K, C, generator=generator)


def slow(module: PromptLearning, prompt: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 15 for one study, one head and one class at a time."""
    d = C // module.heads
    chosen, weights = torch.zeros(B, C), torch.zeros(B, module.heads, K)
    for b in range(B):
        q = module.query.weight @ prompt[b, 0]
        for h in range(module.heads):
            part = slice(h * d, (h + 1) * d)
            scores = [float(q[part] @ (module.key.weight @ prototypes[c])[part]) / math.sqrt(d) for c in range(K)]
            total = sum(math.exp(score) for score in scores)
            for c in range(K):
                weights[b, h, c] = math.exp(scores[c]) / total
                chosen[b, part] += weights[b, h, c] * (module.value.weight @ prototypes[c])[part]
    return chosen.unsqueeze(1), weights


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("update", ["sum", "residual"])
def test_equals_a_loop(heads: int, update: PromptUpdate) -> None:
    torch.manual_seed(0)
    module = PromptLearning(C, heads=heads, update=update)
    prompt, prototypes = inputs()
    with torch.no_grad():
        following, attention = module(prompt, prototypes)
        chosen, weights = slow(module, prompt, prototypes)
        if update == "residual":
            assert isinstance(module.project, nn.Linear)
            total = prompt + chosen @ module.project.weight.T + module.project.bias
            mean, variance = total.mean(dim=-1, keepdim=True), total.var(dim=-1, keepdim=True, unbiased=False)
            chosen = (total - mean) / (variance + 1e-6).sqrt()
    torch.testing.assert_close(following, chosen, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention, weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(B, heads))


@pytest.mark.parametrize("width", [64, 256])
def test_unit_attention_chooses_from_the_first_step_whatever_the_width(width: int) -> None:
    """Its logits spread by 1 over the classes, whatever the sizes of prompt and prototypes."""
    torch.manual_seed(0)
    module = PromptLearning(width, attention="unit")
    module.start()
    with torch.no_grad():
        _, attention = module(7 + 0.1 * torch.randn(64, 1, width), 3 * torch.randn(40, width))
    assert attention.log().std(dim=-1).mean().item() == pytest.approx(1.0, abs=0.15)


def test_unit_attention_is_that_of_normalised_inputs() -> None:
    torch.manual_seed(0)
    plain, unit = PromptLearning(C), PromptLearning(C, attention="unit")
    unit.load_state_dict(plain.state_dict())
    prompt, prototypes = inputs()
    normal = [
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() for x in (prompt, prototypes)
    ]
    with torch.no_grad():
        _, expected = plain(*normal)
        _, found = unit(prompt, prototypes)
    torch.testing.assert_close(found, expected)


def test_one_class_gives_its_value_whatever_the_prompt() -> None:
    module = PromptLearning(C)
    prompt, prototypes = inputs()
    following, attention = module(prompt, prototypes[:1])
    assert attention.eq(1.0).all()
    torch.testing.assert_close(following[:, 0], module.value(prototypes[:1]).expand(B, C))


def test_sum_forgets_the_old_prompt_except_through_attention_and_residual_keeps_it() -> None:
    prompt, prototypes = inputs()
    same = prototypes[:1].expand(K, C)  # equal prototypes: attention cannot tell anything
    for update, moves in (("sum", False), ("residual", True)):
        module = PromptLearning(C, update=update)  # type: ignore[arg-type]
        difference = (module(prompt, same)[0] - module(prompt + torch.arange(C), same)[0]).abs().max().item()
        assert (difference > 1e-3) == moves, update


def test_prototypes_of_another_dtype_and_bad_arguments() -> None:
    module = PromptLearning(C).bfloat16()
    prompt, prototypes = inputs()
    assert module(prompt.bfloat16(), prototypes)[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="no multiple of 3"):
        PromptLearning(C, heads=3)
    with pytest.raises(ValueError, match="none of sum, residual"):
        PromptLearning(C, update="product")  # type: ignore[arg-type]


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_rows_rebuild_the_blocks_own_attention(qk_norm: bool) -> None:
    torch.manual_seed(0)
    heads, count = 2, 6
    block = Block(C, heads, qkv_bias=True, qk_norm=qk_norm, norm_layer=partial(nn.LayerNorm, eps=1e-6)).eval()  # type: ignore[arg-type]
    tokens = torch.randn(B, count, C)
    with torch.no_grad():
        rows = torch.stack([attention_row(block, tokens, row) for row in range(count)], dim=2)  # (B, heads, T, T)
        value = block.attn.qkv(block.norm1(tokens))[..., 2 * C :].reshape(B, count, heads, C // heads).transpose(1, 2)
        rebuilt = block.attn.proj((rows @ value).transpose(1, 2).reshape(B, count, C))
        torch.testing.assert_close(rebuilt, block.attn(block.norm1(tokens)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows.sum(dim=-1), torch.ones(B, heads, count))
