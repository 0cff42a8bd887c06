"""HP2L around any encoder: image tokens in, logits of every level of a taxonomy out, in one forward pass.

Liu et al., *A hierarchical prompt and prototype learning framework for brain disorder classification*, Medical Image
Analysis 112 (2026) 104063. A level is: a block over [cls, prompt, X]; the prompt's cross-attention over the level's class
prototypes, which gives the next level's prompt; a block over [cls, X] without the prompt; a linear head on cls.
Notable choices:
- the encoder stays outside: tokens are an argument, so cached tokens, HLIP or a CNN are the same to this module;
- the last level has no prompt learning: no later level would read its prompt, so its weights could never get a gradient
  (and distributed training refuses parameters without one). `HP2L.similarity` shows its prototypes instead;
- prototypes move only in `update_prototypes`, outside autograd; call it once a step, on every process;
- config + taxonomy + state dict rebuild the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlip.taxonomy import Taxonomy
from hp2l.blocks import BlockConfig, TokenEntry, block_shape, make_block, start_as_vit
from hp2l.head import Head, HP2LOutput
from hp2l.prompts import PromptAttention, PromptLearning, PromptUpdate, attention_row
from hp2l.prototypes import Averaging, FixedPrototypes, LearnedPrototypes, PrototypeBank, Prototypes, unit_vectors

__all__ = ["HP2L", "HP2LConfig", "HP2LOutput", "Level", "Prompt"]

Prompt = Literal["none", "one_hot", "learnable", "prototypes"]


@dataclass(frozen=True)
class HP2LConfig(BlockConfig):
    """How an HP2L head is built; plain values, fit for JSON and YAML."""

    prompt_update: PromptUpdate = "sum"
    """`sum` is the paper's eq. 15; `residual` adds projection, residual and LayerNorm."""
    prompt_heads: int = 1
    """Heads of the prompt's attention over prototypes; the paper's equation has one."""
    prompt_attention: PromptAttention = "vit"
    """How that attention begins, see `PromptLearning`: nearly even, with a ViT's small weights (vit), or with logits of size 1 (unit, ours)."""
    momentum: float = 0.99
    """EMA momentum of the prototypes."""
    averaging: Averaging = "plain"
    """Where the average begins, see `PrototypeBank`: plain is the paper's."""
    prompt: Prompt = "prototypes"
    """The ablation of prompts: no prompt token (none), a fixed one-hot vector a level (one_hot), a learnt token a level (learnable), or
    one token that travels and is updated from the prototypes (prototypes, the method). The first three read no prototypes."""
    prototypes: Prototypes = "ema"
    """The ablation of prototypes: the travelling prompt is never updated (none), class k's prototype is the k-th unit vector (one_hot),
    prototypes are learnt by gradient (learnable), or averaged (ema, the method). With another `prompt` it must be `none`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_heads("prompt_heads")
        for name, values in (
            ("prompt", get_args(Prompt)),
            ("prototypes", get_args(Prototypes)),
            ("averaging", get_args(Averaging)),
            ("prompt_attention", get_args(PromptAttention)),
        ):
            if getattr(self, name) not in values:
                raise ValueError(f"head.{name} '{getattr(self, name)}' is none of {', '.join(values)}")
        if self.prompt != "prototypes" and self.prototypes != "none":
            raise ValueError(
                f"head.prompt {self.prompt} reads no prototypes, but head.prototypes is {self.prototypes}: give --head.prototypes none"
            )


class Level(nn.Module):
    """One level: prompting block, prompt learning (not at the last level, nor without prototypes), vanilla block, head."""

    def __init__(self, config: HP2LConfig, count: int, *, last: bool) -> None:
        super().__init__()
        self.prompting = make_block(config)
        learns = not last and config.prototypes != "none"
        self.prompt_learning = (
            PromptLearning(
                config.width, heads=config.prompt_heads, update=config.prompt_update, attention=config.prompt_attention
            )
            if learns
            else None
        )
        self.vanilla = make_block(config)
        self.head = nn.Linear(config.width, count)

    def forward(
        self, cls: Tensor, prompt: Tensor, tokens: Tensor, prototypes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """cls (B, 1, C), prompt (B, 1 or 0, C), tokens (B, N, C), prototypes (K, C) -> next cls, prompt, tokens, attention or None."""
        sizes = [1, prompt.shape[1], tokens.shape[1]]
        cls, prompt, tokens = self.prompting(torch.cat([cls, prompt, tokens], dim=1)).split(sizes, dim=1)
        attention = None
        if self.prompt_learning is not None:
            prompt, attention = self.prompt_learning(prompt, prototypes)
        cls, tokens = self.vanilla(torch.cat([cls, tokens], dim=1)).split([1, tokens.shape[1]], dim=1)
        return cls, prompt, tokens, attention


class HP2L(Head, TokenEntry):
    """The hierarchical classifier over an encoder's tokens.

    Args:
        config: see `HP2LConfig`.
        classes: the taxonomy, or the number of classes of each level.
        prototypes: start of the averaged prototypes, one (K_l, C) tensor a level; `None`: N(0, 1).
    """

    def __init__(
        self, config: HP2LConfig, classes: Taxonomy | Sequence[int], prototypes: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__(config)
        self.config = config
        self.counts = classes.counts if isinstance(classes, Taxonomy) else tuple(classes)
        if not self.counts or min(self.counts) < 1:
            raise ValueError(f"every level needs at least one class, not {self.counts}")
        if config.prompt in ("prototypes", "learnable"):
            self.prompt = nn.Parameter(torch.zeros(1, 1, config.width))
        self.levels = nn.ModuleList(
            Level(config, count, last=place == len(self.counts)) for place, count in enumerate(self.counts, start=1)
        )
        later = len(self.counts) - 1 if config.prompt == "learnable" else 0
        self.later_prompts = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, config.width)) for _ in range(later))
        self.bank = self._make_bank()
        if config.prompt == "one_hot":
            self.register_buffer("level_codes", unit_vectors(len(self.counts), config.width), persistent=False)
        given = (getattr(self, name, None) for name in ("cls", "prompt"))
        start_as_vit(self, *(token for token in given if token is not None), *self.later_prompts)
        for level in self._levels():
            if level.prompt_learning is not None:
                level.prompt_learning.start()
        if prototypes is not None:
            self.begin_at(prototypes)

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """Scores of every level.

        Args:
            tokens: image tokens (B, N, input width), N >= 1, equal for all studies of the batch (pool before).
            cls: the encoder's class token, (B, input width) or (B, 1, input width): needed with `config.cls == "encoder"`.
            return_attention: also return the prompt's attention over prototypes and over image tokens.

        Raises:
            ValueError: a shape that does not fit, or a class token missing or given against the configuration.
        """
        tokens, state = self.enter(tokens, cls)
        prompt = tokens[:, :0]
        output = HP2LOutput([], [], [] if return_attention else None, [] if return_attention else None)
        for place, (module, prototypes) in enumerate(zip(self._levels(), self._prototypes(), strict=True)):
            own = self._prompt(place)
            prompt = prompt if own is None else own.expand(len(tokens), -1, -1).to(tokens.dtype)
            if output.prompt_attention is not None and self.config.prompt != "none":
                row = attention_row(module.prompting, torch.cat([state, prompt, tokens], dim=1), row=1)
                output.prompt_attention.append(row[:, :, 2:])
            state, prompt, tokens, attention = module(state, prompt, tokens, prototypes)
            if output.prototype_attention is not None and attention is not None:
                output.prototype_attention.append(attention)
            output.cls.append(state[:, 0])
            output.logits.append(module.head(state[:, 0]))
        return output

    @torch.no_grad()
    def update_prototypes(self, output: HP2LOutput, targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> None:
        """Move the prototypes towards this batch's class tokens; once a training step, on every process.

        Args:
            output: of this batch.
            targets: (B, K_l) a level, 0 or 1, not smoothed.
            masks: (B, K_l) a level, 1 = known; `None`: all known.
        """
        if isinstance(self.bank, PrototypeBank):
            self.bank.update(output.cls, targets, masks)

    def begin_at(self, prototypes: Sequence[Tensor]) -> None:
        """Begin the averaged prototypes at these, one (K_l, C) tensor a level.

        Raises:
            ValueError: the head averages none, or other shapes.
        """
        self._averaged().initialise(prototypes)

    @torch.no_grad()
    def start_levels(self, blocks: Sequence[nn.Module]) -> None:
        """Begin every level's two blocks as the last two of a trained encoder.

        Args:
            blocks: of the encoder, with timm's parameter names.

        Raises:
            ValueError: fewer than two, blocks of another shape, or none of a transformer.
        """
        if len(blocks) < 2:
            raise ValueError(f"levels have two blocks each, the encoder has {len(blocks)}: start them fresh")
        config = self.config
        for given in blocks[-2:]:
            shape = block_shape(given)
            if (*shape[:2], round(shape[2] * shape[0])) != (config.width, config.heads, int(config.mlp_ratio * config.width)):
                told = "--head.width {} --head.heads {} --head.mlp_ratio {:g}".format(*shape)
                raise ValueError(f"levels that begin as the encoder's blocks need its width, heads and mlp_ratio: give {told}")
        for level in self._levels():
            level.prompting.load_state_dict(blocks[-2].state_dict())
            level.vanilla.load_state_dict(blocks[-1].state_dict())

    def draw_prototypes(self, seed: int) -> None:
        """Prototypes that begin at random begin at another place; others stay."""
        if isinstance(self.bank, PrototypeBank | LearnedPrototypes):
            self.bank.draw(seed)

    def similarity(self, output: HP2LOutput) -> list[Tensor]:
        """Cosine of each study's class token with each class prototype, (B, K_l) float32 in [-1, 1], a level each.

        Raises:
            ValueError: the head has no averaged prototypes: its class tokens were never drawn to any.
        """
        bank = self._averaged()
        pairs = ((cls.float(), bank.prototypes(level)) for level, cls in enumerate(output.cls, start=1))
        return [F.normalize(cls, dim=-1) @ F.normalize(prototypes, dim=-1).T for cls, prototypes in pairs]

    def _make_bank(self) -> PrototypeBank | LearnedPrototypes | FixedPrototypes | None:
        config = self.config
        if config.prototypes == "ema":
            return PrototypeBank(
                self.counts,
                config.width,
                momentum=config.momentum,
                averaging=config.averaging,
            )
        # The last level's are never read: learnt ones would get no gradient.
        if config.prototypes == "learnable":
            return LearnedPrototypes(self.counts[:-1], config.width)
        return FixedPrototypes(self.counts[:-1], config.width) if config.prototypes == "one_hot" else None

    def _averaged(self) -> PrototypeBank:
        if not isinstance(self.bank, PrototypeBank):
            raise ValueError(f"head.prototypes {self.config.prototypes} are not averaged: this needs head.prototypes ema")
        return self.bank

    def _prompt(self, place: int) -> Tensor | None:
        """The prompt (1, 1, C) that enters a level from outside (level = place + 1); `None`: the one of the level before goes on."""
        if self.config.prompt == "one_hot":
            return self.get_buffer("level_codes")[place].reshape(1, 1, -1)
        if place == 0:
            return getattr(self, "prompt", None)
        return self.later_prompts[place - 1] if self.config.prompt == "learnable" else None

    def _levels(self) -> Iterator[Level]:
        for module in self.levels:
            assert isinstance(module, Level)
            yield module

    def _prototypes(self) -> Iterator[Tensor | None]:
        for level in range(1, len(self.counts) + 1):
            if isinstance(self.bank, PrototypeBank):
                # A copy: autograd keeps what the key and value layers read, and the bank may move before the backward pass.
                yield self.bank.prototypes(level).clone()
            else:
                yield self.bank.prototypes(level) if self.bank is not None and level < len(self.counts) else None
