"""PromptViT: learnable prompt tokens beside the image tokens, no taxonomy (Jia et al., *Visual Prompt Tuning*, ECCV 2022).

Our adaptation: the paper freezes a whole ViT and inserts prompts into it; here the encoder is outside, and the prompts enter the blocks
of the head, which are trained. HP2L's paper does not say how its PromptViT scores coarse levels: `readout` chooses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from hlip.taxonomy import Taxonomy
from hp2l.baselines.flat import MaximumBelow, last_level_only
from hp2l.baselines.trunk import BLOCKS_A_LEVEL, make_output
from hp2l.blocks import BlockConfig, TokenEntry, make_block, start_as_vit
from hp2l.head import Head, HP2LOutput
from hp2l.loss import LossConfig

Depth = Literal["shallow", "deep"]
Readout = Literal["leaves", "levels"]


class PromptViT(Head, TokenEntry):
    """Two blocks a level over [cls, prompts, image tokens], then linear layers on cls.

    Args:
        prompts: P, number of prompt tokens; 0 is a flat ViT with the same blocks.
        depth: one set of prompts that passes through all blocks (shallow), or a new set before each block, which replaces what became
            of the last (deep).
        readout: one linear layer for the last level, the other levels' scores being the maximum below (leaves), or one a level (levels).
    """

    def __init__(
        self,
        config: BlockConfig,
        taxonomy: Taxonomy,
        *,
        prompts: int = 8,
        depth: Depth = "shallow",
        readout: Readout = "leaves",
    ) -> None:
        super().__init__(config)
        self.counts, self.readout = taxonomy.counts, readout
        blocks = BLOCKS_A_LEVEL * taxonomy.depth
        self.blocks = nn.ModuleList(make_block(config) for _ in range(blocks))
        sets = 0 if prompts == 0 else blocks if depth == "deep" else 1
        self.prompts = nn.ParameterList(nn.Parameter(torch.zeros(1, prompts, config.width)) for _ in range(sets))
        self.heads = nn.ModuleList(nn.Linear(config.width, count) for count in self._scored())
        self.levels_of = MaximumBelow(taxonomy) if readout == "leaves" else None
        start_as_vit(self, *([self.cls] if config.cls == "learned" else []), *self.prompts)

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """tokens (B, N, input width), cls as the configuration says -> logits (B, K_l) of every level."""
        tokens, state = self.enter(tokens, cls)
        prompts = tokens[:, :0]
        for place, block in enumerate(self.blocks):
            if place < len(self.prompts):
                prompts = self.prompts[place].expand(len(tokens), -1, -1).to(tokens.dtype)
            sizes = [1, prompts.shape[1], tokens.shape[1]]
            state, prompts, tokens = block(torch.cat([state, prompts, tokens], dim=1)).split(sizes, dim=1)
        logits = [head(state[:, 0]) for head in self.heads]
        if self.levels_of is not None:
            logits = self.levels_of(logits[0])
        return make_output(logits, [state[:, 0]] * len(self.counts), return_attention)

    def loss_config(self, config: LossConfig) -> LossConfig:
        """No taxonomy: no consistency, and with `leaves` the last level alone (unless the weights are given)."""
        return last_level_only(config, len(self.counts)) if self.readout == "leaves" else replace(config, consistency=0.0)

    def _scored(self) -> tuple[int, ...]:
        return self.counts[-1:] if self.readout == "leaves" else self.counts
