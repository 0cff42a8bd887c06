"""The prompt that travels through the levels: its attention over class prototypes, and the rows of attention to look at.

HP2L, steps 1 to 3 (Liu et al., Medical Image Analysis 112, 2026). The transformer blocks are timm's, so that a level can
start from the weights of an encoder's block; attention weights are recomputed for the prompt's row alone, when asked for.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from einops import rearrange
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch.nn import functional as F

PromptUpdate = Literal["sum", "residual"]
PromptAttention = Literal["vit", "unit"]


class PromptLearning(nn.Module):
    """Cross-attention of the prompt over one level's class prototypes.

        q = prompt W_q, k = P W_k, v = P W_v, a = softmax(q k^T / sqrt(d)) over the K classes

    `sum` is the paper's eq. 15: the new prompt is sum_c a_c v_c. `residual` adds what the public account describes: an output
    projection, the old prompt, and a LayerNorm.

    Args:
        width: C.
        heads: attention heads; d = C / heads. The paper's equation has one.
        attention: vit reads prompt and prototypes as they are, with weights that begin at 0.02: nearly even over the classes at first, the
            more so the narrower the head. unit (ours) normalises what queries and keys are made of, see `start`.
    """

    def __init__(self, width: int, *, heads: int = 1, update: PromptUpdate = "sum", attention: PromptAttention = "vit") -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} head(s)")
        if update not in get_args(PromptUpdate):
            raise ValueError(f"prompt update '{update}' is none of {', '.join(get_args(PromptUpdate))}")
        if attention not in get_args(PromptAttention):
            raise ValueError(f"prompt attention '{attention}' is none of {', '.join(get_args(PromptAttention))}")
        self.heads, self.update, self.attention = heads, update, attention
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, width) if update == "residual" else nn.Identity()
        self.norm = nn.LayerNorm(width, eps=1e-6) if update == "residual" else nn.Identity()

    def start(self) -> None:
        """After the weights have begun as a ViT's: with unit attention, queries and keys of size 1, so that logits spread by about 1."""
        if self.attention == "unit":
            for part in (self.query, self.key):
                nn.init.normal_(part.weight, std=part.in_features**-0.5)

    def forward(self, prompt: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """prompt (B, 1, C) and prototypes (K, C) -> the next prompt (B, 1, C) and the attention a (B, heads, K)."""
        prototypes = prototypes.to(prompt.dtype)
        query = rearrange(self.query(self._compared(prompt)), "b 1 (h d) -> b h 1 d", h=self.heads)
        key = rearrange(self.key(self._compared(prototypes)), "k (h d) -> h d k", h=self.heads)
        value = rearrange(self.value(prototypes), "k (h d) -> h k d", h=self.heads)
        attention = (query @ key * query.shape[-1] ** -0.5).softmax(dim=-1)
        chosen = rearrange(attention.to(value.dtype) @ value, "b h 1 d -> b 1 (h d)")
        following = self.norm(prompt + self.project(chosen)) if self.update == "residual" else chosen
        return following, rearrange(attention, "b h 1 k -> b h k")

    def _compared(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) if self.attention == "unit" else x


def attention_row(block: Block, tokens: Tensor, row: int) -> Tensor:
    """How one token attends to all tokens inside a timm block.

    Args:
        tokens: the block's input (B, T, C).
        row: index of the attending token.

    Returns:
        (B, heads, T) softmax weights, which sum to 1 over T.
    """
    attention = cast(Attention, block.attn)
    query, key, _ = rearrange(
        attention.qkv(block.norm1(tokens)), "b t (three h d) -> three b h t d", three=3, h=attention.num_heads
    )
    query, key = attention.q_norm(query[:, :, row : row + 1]), attention.k_norm(key)
    weights = torch.einsum("b h i d, b h t d -> b h t", query * attention.scale, key)
    return weights.softmax(dim=-1)
