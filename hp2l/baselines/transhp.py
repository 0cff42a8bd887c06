"""TransHP: prompts of the coarse classes inside the blocks (Wang et al., *TransHP: Image Classification with Hierarchical Prompting*,
NeurIPS 2023).

A level above the last has a prompting block over [cls, prompts seen so far, one learnable prompt a class, image tokens]. What became of
a class's prompt is compared with a learnt vector of that class; a coarse loss trains these scores, and the later blocks see the prompts
weighted by them. Our adaptation:
- multi-label: the weights are sigmoids, so that several prompts may be absorbed, and the coarse loss is a binary cross-entropy (the
  paper: softmax over the classes, one true class);
- every level is read from cls by a linear layer after its second block, as in HP2L, and has HP2L's losses, the consistency between
  levels among them, so that the two differ in their prompts alone (the paper has no such term);
- the blocks are those of the head, two a level; the paper places prompting blocks inside the ViT itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hlip.taxonomy import Taxonomy
from hp2l.baselines.trunk import make_output
from hp2l.blocks import BlockConfig, TokenEntry, make_block, start_as_vit
from hp2l.head import Head, HP2LOutput
from hp2l.loss import level_bce


class TransHPLevel(nn.Module):
    """Prompting block (at the last level: a plain one), plain block, linear layer."""

    def __init__(self, config: BlockConfig, count: int, *, last: bool) -> None:
        super().__init__()
        self.prompting = make_block(config)
        self.vanilla = make_block(config)
        self.head = nn.Linear(config.width, count)
        self.prompts = None if last else nn.Parameter(torch.zeros(1, count, config.width))
        self.vectors = None if last else nn.Parameter(torch.zeros(1, count, config.width))
        self.bias = None if last else nn.Parameter(torch.zeros(count))

    def forward(self, cls: Tensor, seen: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """cls (B, 1, C), prompts seen (B, M, C), tokens (B, N, C) -> the same after the level, with M + K prompts, and the
        prompts' scores (B, K) or None at the last level."""
        count = seen.shape[1]
        if self.prompts is not None:
            seen = torch.cat([seen, self.prompts.expand(len(tokens), -1, -1).to(seen.dtype)], dim=1)
        cls, seen, tokens = _through(self.prompting, cls, seen, tokens)
        scores = None
        if self.vectors is not None and self.bias is not None:
            own = seen[:, count:]
            scores = (own * self.vectors).sum(dim=-1) + self.bias
            seen = torch.cat([seen[:, :count], own * scores.sigmoid().unsqueeze(-1).to(own.dtype)], dim=1)
        cls, seen, tokens = _through(self.vanilla, cls, seen, tokens)
        return cls, seen, tokens, scores


class TransHP(Head, TokenEntry):
    """The hierarchical prompting head.

    Args:
        prompt_loss: weight of the coarse loss of each level above the last.
    """

    def __init__(self, config: BlockConfig, taxonomy: Taxonomy, *, prompt_loss: float = 1.0) -> None:
        super().__init__(config)
        self.counts, self.prompt_loss = taxonomy.counts, prompt_loss
        last = taxonomy.depth
        self.levels = nn.ModuleList(
            TransHPLevel(config, count, last=level == last) for level, count in enumerate(self.counts, start=1)
        )
        names = ("cls", "prompts", "vectors")
        start_as_vit(self, *(value for name, value in self.named_parameters() if name.rsplit(".", 1)[-1] in names))

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """tokens (B, N, input width), cls as the configuration says -> logits (B, K_l); `extra`: `prompt_l`, the prompts' scores."""
        tokens, state = self.enter(tokens, cls)
        seen = tokens[:, :0]
        logits, states, extra = [], [], {}
        for number, level in enumerate(self.levels, start=1):
            assert isinstance(level, TransHPLevel)
            state, seen, tokens, scores = level(state, seen, tokens)
            logits.append(level.head(state[:, 0]))
            states.append(state[:, 0])
            if scores is not None:
                extra[f"prompt_{number}"] = scores
        return make_output(logits, states, return_attention, extra)

    def extra_losses(self, output: HP2LOutput, targets: Sequence[Tensor], masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """`prompt_l` of each level above the last: which prompts should be absorbed, unsmoothed."""
        assert output.extra is not None
        levels = range(len(self.counts) - 1)
        return {
            (name := f"prompt_{place + 1}"): self.prompt_loss
            * level_bce(output.extra[name], targets[place], masks[place], smoothing=0.0)
            for place in levels
        }


def _through(block: nn.Module, *parts: Tensor) -> tuple[Tensor, ...]:
    """Parts of one sequence through a block, and apart again."""
    return block(torch.cat(parts, dim=1)).split([part.shape[1] for part in parts], dim=1)
