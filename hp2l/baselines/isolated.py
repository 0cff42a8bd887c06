"""One model with a head a level and isolated losses, after *Breaking Down the Hierarchy* (arXiv 2502.10899).

Our adaptation: "isolated" is taken to the letter. Each level has two blocks, a class token and a projection of its own over the encoder's
tokens, and sees what the level above found (its class token) without a gradient. The encoder, where it is trained, belongs to all levels.
Binary cross-entropy by default; the paper's focal loss is `loss.focal_gamma`.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from hlip.taxonomy import Taxonomy
from hp2l.baselines.trunk import BLOCKS_A_LEVEL, Trunk, make_output
from hp2l.blocks import BlockConfig, start_as_vit
from hp2l.head import Head, HP2LOutput
from hp2l.loss import LossConfig


class Isolated(Head):
    """A level's loss reaches no other level's parameters."""

    def __init__(self, config: BlockConfig, taxonomy: Taxonomy) -> None:
        super().__init__()
        self.counts = taxonomy.counts
        self.levels = nn.ModuleList(IsolatedLevel(config, count) for count in self.counts)
        start_as_vit(self, *(value for name, value in self.named_parameters() if name.endswith(".cls")))

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """tokens (B, N, input width), cls as the configuration says -> logits (B, K_l) of every level."""
        logits: list[Tensor] = []
        states: list[Tensor] = []
        for level in self.levels:
            assert isinstance(level, IsolatedLevel)
            states.append(level(tokens, cls, states[-1].detach() if states else None))
            logits.append(level.head(states[-1]))
        return make_output(logits, states, return_attention)

    def loss_config(self, config: LossConfig) -> LossConfig:
        """No consistency: it would carry a level's labels into the level above."""
        return replace(config, consistency=0.0)


class IsolatedLevel(Trunk):
    """Two blocks over [cls, class token of the level above, image tokens] and a linear layer."""

    def __init__(self, config: BlockConfig, count: int) -> None:
        super().__init__(config, BLOCKS_A_LEVEL)
        self.head = nn.Linear(config.width, count)
