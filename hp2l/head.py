"""What training may ask of any classifier over a disease tree, and what such a classifier returns.

    loss = HP2LLoss(taxonomy, head.loss_config(config))
    output = head(tokens, cls)                                       # the module that the engine wrapped
    total, parts = loss(output.logits, targets, head.level_loss_mask(targets, masks))
    extra = head.extra_losses(output, targets, masks)                # already weighted
    (total + sum(extra.values())).backward()                         # then the optimizer's step
    head.update_prototypes(output, targets, masks)                   # once a step, on every process

All but the forward pass are called on the head itself, without the engine's wrapper, and read no parameter: whatever a loss needs
stands in the output, so that gradients are reduced and sharded parameters gathered as in any forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from hp2l.loss import LossConfig


class HP2LOutput(NamedTuple):
    """What a hierarchical head returns; each list has one entry a level, in order."""

    logits: list[Tensor]
    """(B, K_l)."""
    cls: list[Tensor]
    """(B, C): the class token after each level; what the prototypes average."""
    prototype_attention: list[Tensor] | None = None
    """(B, prompt heads, K_l) of levels 1 to L-1: which prototype the prompt chose. Only with `return_attention`."""
    prompt_attention: list[Tensor] | None = None
    """(B, heads, N): how the prompt attends to the image tokens in the prompting block; the rest to 1 is its attention
    to cls and to itself. Only with `return_attention`."""
    extra: dict[str, Tensor] | None = None
    """What the head's `extra_losses` read; the names are the head's own."""

    def probabilities(self) -> list[Tensor]:
        """Sigmoid scores (B, K_l) float32 of each level: multi-label, they need not sum to 1."""
        return [logits.float().sigmoid() for logits in self.logits]


class Head(nn.Module):
    """A classifier over an encoder's tokens: `head(tokens (B, N, C), cls (B, C) or None, return_attention) -> HP2LOutput`.

    The methods here are those of a head that needs nothing beside the losses of the levels.
    """

    def loss_config(self, config: LossConfig) -> LossConfig:
        """The loss that this head can be trained with, where not every form fits it: the one given, with what does not fit left out."""
        return config

    def level_loss_mask(self, targets: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """The entries (B, K_l) of each level that its loss counts, 1 or 0: never more than the known ones in `masks`."""
        return list(masks)

    def extra_losses(self, output: HP2LOutput, targets: Sequence[Tensor], masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Losses beside those of the levels, float32 scalars, already weighted: add them to the total."""
        return {}

    def update_prototypes(self, output: HP2LOutput, targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> None:
        """Move what moves outside autograd; once a training step, on every process. Nothing, where a head has no such thing."""
