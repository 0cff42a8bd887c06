"""Classifiers that HP2L is compared with, over the same encoder tokens and with the same output.

`FlatHead` is the flat ViT of the paper's main table: one linear layer for the last level's classes, no hierarchy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hlip.taxonomy import Taxonomy
from hp2l.model import HP2LOutput


@dataclass(frozen=True)
class FlatConfig:
    """How a flat head is built."""

    input_width: int = 768
    """Width of the encoder's tokens."""
    dropout: float = 0.0
    """Dropout before the linear layer."""


class FlatHead(nn.Module):
    """A linear layer on the mean of the image tokens, joined by the class token where one is given.

    A level's score is the maximum over the last level's classes below, so that only the last level is trained: give
    `LossConfig(level_weights=(0, ..., 0, 1), consistency=0)`.

    Args:
        with_cls: whether every call gives a class token: the input is then [cls, mean of tokens] (2 x input width).
    """

    def __init__(self, config: FlatConfig, taxonomy: Taxonomy, *, with_cls: bool = False) -> None:
        super().__init__()
        self.config, self.counts, self.with_cls = config, taxonomy.counts, with_cls
        width = config.input_width * (2 if with_cls else 1)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, self.counts[-1])
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        for level in range(1, taxonomy.depth + 1):
            self.register_buffer(f"below_{level}", _below(taxonomy, level), persistent=False)

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """tokens (B, N, input width), cls (B, input width) or (B, 1, input width) -> logits (B, K_l) of every level."""
        if (cls is not None) != self.with_cls:
            raise ValueError(f"with_cls is {self.with_cls}, but {'no' if cls is None else 'a'} class token was given")
        pooled = tokens.mean(dim=1)
        if cls is not None:
            pooled = torch.cat([cls[:, 0] if cls.ndim == 3 else cls, pooled], dim=-1)
        pooled = self.norm(pooled)
        leaves = self.head(self.dropout(pooled))
        levels = range(1, len(self.counts) + 1)
        logits = [
            leaves.unsqueeze(1).masked_fill(~self.get_buffer(f"below_{level}"), -torch.inf).amax(dim=-1) for level in levels
        ]
        empty: list[Tensor] | None = [] if return_attention else None
        return HP2LOutput(logits, [pooled for _ in levels], empty, empty)

    def update_prototypes(self, output: HP2LOutput, targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> None:
        """Nothing to do: this head has no prototypes."""


def _below(taxonomy: Taxonomy, level: int) -> Tensor:
    """(K_l, K_L) bool: which classes of the last level lie below each class of a level."""
    table = torch.zeros(taxonomy.counts[level - 1], taxonomy.counts[-1], dtype=torch.bool)
    for item in taxonomy.classes(level):
        leaves = taxonomy.subtree_leaves(level, item.index)
        if not leaves:
            raise ValueError(
                f"taxonomy {taxonomy.name}: nothing below '{item.name}' (level {level}) reaches the last level, "
                "so a flat head cannot score it"
            )
        table[item.index, leaves] = True
    return table
