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
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from hlip.taxonomy import Taxonomy
from hp2l.prompts import PromptLearning, PromptUpdate, attention_row
from hp2l.prototypes import PrototypeBank


@dataclass(frozen=True)
class HP2LConfig:
    """How an HP2L head is built; plain values, fit for JSON and YAML."""

    width: int = 768
    """C, width of the levels."""
    input_width: int | None = None
    """Width of the encoder's tokens; a linear layer brings them to `width` where it differs. `None`: equal."""
    heads: int = 12
    """Attention heads of the transformer blocks."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP, as a multiple of `width`."""
    dropout: float = 0.0
    """Dropout after the attention's projection and in the MLP."""
    drop_path: float = 0.0
    """Stochastic depth of both blocks of every level."""
    cls: Literal["learned", "encoder"] = "learned"
    """Where the class token starts: a learnt vector (the paper), or the encoder's class token, given at each call."""
    prompt_update: PromptUpdate = "sum"
    """`sum` is the paper's eq. 15; `residual` adds projection, residual and LayerNorm."""
    prompt_heads: int = 1
    """Heads of the prompt's attention over prototypes; the paper's equation has one."""
    momentum: float = 0.99
    """EMA momentum of the prototypes."""
    warm_start: bool = False
    """Set a prototype to the class's mean at its first update, instead of averaging from the random start."""
    prototype_seed: int = 0
    """Seed of the prototypes' start from N(0, 1)."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "prompt_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"HP2LConfig.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("heads", "prompt_heads"):
            if self.width % getattr(self, name):
                raise ValueError(f"HP2LConfig.width {self.width} is no multiple of {name} {getattr(self, name)}")
        if self.cls not in ("learned", "encoder"):
            raise ValueError(f"HP2LConfig.cls '{self.cls}' is neither learned nor encoder")


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

    def probabilities(self) -> list[Tensor]:
        """Sigmoid scores (B, K_l) float32 of each level: multi-label, they need not sum to 1."""
        return [logits.float().sigmoid() for logits in self.logits]


class Level(nn.Module):
    """One level: prompting block, prompt learning (not at the last level), vanilla block, head."""

    def __init__(self, config: HP2LConfig, count: int, *, last: bool) -> None:
        super().__init__()
        self.prompting = _block(config)
        self.prompt_learning = (
            None if last else PromptLearning(config.width, heads=config.prompt_heads, update=config.prompt_update)
        )
        self.vanilla = _block(config)
        self.head = nn.Linear(config.width, count)

    def forward(
        self, cls: Tensor, prompt: Tensor, tokens: Tensor, prototypes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """cls, prompt (B, 1, C), tokens (B, N, C), prototypes (K, C) -> next cls, prompt, tokens, and attention or None."""
        cls, prompt, tokens = self.prompting(torch.cat([cls, prompt, tokens], dim=1)).split([1, 1, tokens.shape[1]], dim=1)
        attention = None
        if self.prompt_learning is not None:
            prompt, attention = self.prompt_learning(prompt, prototypes)
        cls, tokens = self.vanilla(torch.cat([cls, tokens], dim=1)).split([1, tokens.shape[1]], dim=1)
        return cls, prompt, tokens, attention


class HP2L(nn.Module):
    """The hierarchical classifier over an encoder's tokens.

    Args:
        config: see `HP2LConfig`.
        classes: the taxonomy, or the number of classes of each level.
        prototypes: start of the prototypes, one (K_l, C) tensor a level; `None`: N(0, 1).
    """

    def __init__(
        self, config: HP2LConfig, classes: Taxonomy | Sequence[int], prototypes: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.counts = classes.counts if isinstance(classes, Taxonomy) else tuple(classes)
        if not self.counts or min(self.counts) < 1:
            raise ValueError(f"every level needs at least one class, not {self.counts}")
        input_width = config.input_width or config.width
        self.project = nn.Identity() if input_width == config.width else nn.Linear(input_width, config.width)
        if config.cls == "learned":
            self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        self.prompt = nn.Parameter(torch.zeros(1, 1, config.width))
        self.levels = nn.ModuleList(
            Level(config, count, last=place == len(self.counts)) for place, count in enumerate(self.counts, start=1)
        )
        self.bank = PrototypeBank(
            self.counts,
            config.width,
            momentum=config.momentum,
            warm_start=config.warm_start,
            seed=config.prototype_seed,
        )
        self._start()
        if prototypes is not None:
            self.bank.initialise(prototypes)

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """Scores of every level.

        Args:
            tokens: image tokens (B, N, input width), N >= 1, equal for all studies of the batch (pool before).
            cls: the encoder's class token, (B, input width) or (B, 1, input width): needed with `config.cls == "encoder"`.
            return_attention: also return the prompt's attention over prototypes and over image tokens.

        Raises:
            ValueError: a shape that does not fit, or a class token missing or given against the configuration.
        """
        tokens, state = self._enter(tokens, cls)
        prompt = self.prompt.expand(len(tokens), -1, -1).to(tokens.dtype)
        output = HP2LOutput([], [], [] if return_attention else None, [] if return_attention else None)
        for module, prototypes in zip(self._levels(), self._prototypes(), strict=True):
            if output.prompt_attention is not None:
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
        self.bank.update(output.cls, targets, masks)

    def similarity(self, output: HP2LOutput) -> list[Tensor]:
        """Cosine of each study's class token with each class prototype, (B, K_l) float32 in [-1, 1], a level each."""
        pairs = zip(output.cls, self._prototypes(), strict=True)
        return [F.normalize(cls.float(), dim=-1) @ F.normalize(prototypes, dim=-1).T for cls, prototypes in pairs]

    def _enter(self, tokens: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor]:
        """Checked and projected tokens (B, N, C) and the starting class token (B, 1, C)."""
        width = self.config.input_width or self.config.width
        if tokens.ndim != 3 or tokens.shape[1] < 1 or tokens.shape[2] != width:
            raise ValueError(f"tokens {tuple(tokens.shape)} are not (B, N >= 1, {width})")
        if (cls is None) == (self.config.cls == "encoder"):
            given = "no class token was given" if cls is None else "a class token was given"
            raise ValueError(f"HP2LConfig.cls is '{self.config.cls}', but {given}")
        if cls is None:
            tokens = self.project(tokens)
            return tokens, self.cls.expand(len(tokens), -1, -1).to(tokens.dtype)
        if tuple(cls.shape) not in ((len(tokens), width), (len(tokens), 1, width)):
            raise ValueError(f"class token {tuple(cls.shape)} is neither {(len(tokens), width)} nor {(len(tokens), 1, width)}")
        cls = cls.reshape(len(tokens), 1, width)
        return self.project(tokens), self.project(cls)

    def _levels(self) -> Iterator[Level]:
        for module in self.levels:
            assert isinstance(module, Level)
            yield module

    def _prototypes(self) -> Iterator[Tensor]:
        # A copy: autograd keeps what the key and value layers read, and the bank may move before the backward pass.
        for level in range(1, len(self.counts) + 1):
            yield self.bank.prototypes(level).clone()

    def _start(self) -> None:
        """Start as a ViT does: truncated normal of 0.02, biases zero."""
        for parameter in (getattr(self, "cls", None), self.prompt):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _block(config: HP2LConfig) -> Block:
    """A pre-norm transformer block as the encoders have it: LayerNorm eps 1e-6, exact GELU, qkv bias."""
    return Block(
        config.width,
        config.heads,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=True,
        proj_drop=config.dropout,
        drop_path=config.drop_path,
        norm_layer=cast("type[nn.Module]", partial(nn.LayerNorm, eps=1e-6)),
    )
