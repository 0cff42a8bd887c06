"""The blocks below a baseline's linear layers: plain transformer blocks over [class token, what else is given, image tokens]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hp2l.blocks import BlockConfig, TokenEntry, make_block
from hp2l.head import HP2LOutput

BLOCKS_A_LEVEL = 2
"""As many as HP2L has, so that a comparison changes the method and not the size."""


class Trunk(TokenEntry):
    """Entry and blocks; gives the class token after the last block.

    Args:
        blocks: how many.
    """

    def __init__(self, config: BlockConfig, blocks: int) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(make_block(config) for _ in range(blocks))

    def forward(self, tokens: Tensor, cls: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """tokens (B, N, input width), cls as in `enter`, one more token (B, C) or none -> (B, C)."""
        tokens, state = self.enter(tokens, cls)
        more = [] if given is None else [given.unsqueeze(1).to(tokens.dtype)]
        sequence = torch.cat([state, *more, tokens], dim=1)
        for block in self.blocks:
            sequence = block(sequence)
        return sequence[:, 0]


def make_output(
    logits: list[Tensor], cls: list[Tensor], return_attention: bool, extra: dict[str, Tensor] | None = None
) -> HP2LOutput:
    """The output of a head that has no prompt to show: its lists of attention are empty where they are asked for."""
    attention: list[Tensor] | None = [] if return_attention else None
    return HP2LOutput(logits, cls, attention, attention, extra)
