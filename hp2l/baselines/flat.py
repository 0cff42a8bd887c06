"""Linear heads, without blocks of their own: the flat ViT and the linear probe.

- `FlatHead`: the flat ViT of the paper's main table: one linear layer for the last level's classes, no hierarchy.
- `LevelHeads`: one linear layer a level, which know nothing of each other: with a frozen encoder, the linear probe.

Our adaptation, both: the encoder's tokens are frozen and pooled by place, so the linear layer reads [class token, mean of tokens]
behind a LayerNorm. A flat ViT with as many blocks as HP2L is `PromptViT` with no prompt tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hlip.taxonomy import Taxonomy
from hp2l.baselines.trunk import make_output
from hp2l.blocks import start_as_vit
from hp2l.head import Head, HP2LOutput
from hp2l.loss import LossConfig


@dataclass(frozen=True)
class FlatConfig:
    """How a head without blocks is built."""

    input_width: int = 768
    """Width of the encoder's tokens."""
    dropout: float = 0.0
    """Dropout before the linear layer."""


class Pooling(nn.Module):
    """The mean of the image tokens, joined by the class token where one is given.

    Args:
        with_cls: whether every call gives a class token: the result is then [cls, mean of tokens] (2 x input width).
    """

    def __init__(self, *, with_cls: bool) -> None:
        super().__init__()
        self.with_cls = with_cls

    def forward(self, tokens: Tensor, cls: Tensor | None) -> Tensor:
        """tokens (B, N, input width), cls (B, input width) or (B, 1, input width) -> (B, one or two times the width)."""
        if (cls is not None) != self.with_cls:
            raise ValueError(f"with_cls is {self.with_cls}, but {'no' if cls is None else 'a'} class token was given")
        pooled = tokens.mean(dim=1)
        return pooled if cls is None else torch.cat([cls[:, 0] if cls.ndim == 3 else cls, pooled], dim=-1)


class MaximumBelow(nn.Module):
    """Scores of the last level -> scores of every level: the highest among the last level's classes below."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        super().__init__()
        self.depth = taxonomy.depth
        for level in range(1, taxonomy.depth + 1):
            self.register_buffer(f"below_{level}", _below(taxonomy, level), persistent=False)

    def forward(self, leaves: Tensor) -> list[Tensor]:
        """(B, K_L) -> (B, K_l) a level."""
        tables = [self.get_buffer(f"below_{level}") for level in range(1, self.depth + 1)]
        return [leaves.unsqueeze(1).masked_fill(~table, -torch.inf).amax(dim=-1) for table in tables]


class FlatHead(Head):
    """A linear layer for the last level's classes; a level's score is the maximum below, so that only the last level is trained.

    Args:
        with_cls: whether every call gives a class token, see `Pooling`.
    """

    def __init__(self, config: FlatConfig, taxonomy: Taxonomy, *, with_cls: bool = False) -> None:
        super().__init__()
        self.config, self.counts, self.with_cls = config, taxonomy.counts, with_cls
        self.pooling = Pooling(with_cls=with_cls)
        width = config.input_width * (2 if with_cls else 1)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, self.counts[-1])
        self.levels_of = MaximumBelow(taxonomy)
        start_as_vit(self)

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """tokens (B, N, input width), cls (B, input width) or (B, 1, input width) -> logits (B, K_l) of every level."""
        pooled = self.norm(self.pooling(tokens, cls))
        logits = self.levels_of(self.head(self.dropout(pooled)))
        return make_output(logits, [pooled] * len(logits), return_attention)

    def loss_config(self, config: LossConfig) -> LossConfig:
        """Only the last level counts (unless the weights are given), and no consistency: the tree's edges hold by construction."""
        return last_level_only(config, len(self.counts))


class LevelHeads(Head):
    """One linear layer a level on the pooled tokens.

    Args:
        with_cls: whether every call gives a class token, see `Pooling`.
    """

    def __init__(self, config: FlatConfig, taxonomy: Taxonomy, *, with_cls: bool = False) -> None:
        super().__init__()
        self.config, self.counts = config, taxonomy.counts
        self.pooling = Pooling(with_cls=with_cls)
        width = config.input_width * (2 if with_cls else 1)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in self.counts)
        start_as_vit(self)

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """As `FlatHead`."""
        pooled = self.norm(self.pooling(tokens, cls))
        dropped = self.dropout(pooled)
        return make_output([head(dropped) for head in self.heads], [pooled] * len(self.counts), return_attention)

    def loss_config(self, config: LossConfig) -> LossConfig:
        """No consistency: the levels know nothing of each other."""
        return replace(config, consistency=0.0)


def last_level_only(config: LossConfig, depth: int) -> LossConfig:
    """A loss for heads that score the last level alone: its weight 1, the others' 0 (unless weights are given), no consistency."""
    weights = config.level_weights or (*(0.0,) * (depth - 1), 1.0)
    return replace(config, level_weights=weights, consistency=0.0)


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
