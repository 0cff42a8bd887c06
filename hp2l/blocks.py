"""What every head over tokens is made of: the way in (projection and class token), and a transformer block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockConfig:
    """Widths, blocks and class token of a head; plain values, fit for JSON and YAML."""

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
    """Stochastic depth of every block."""
    cls: Literal["learned", "encoder"] = "learned"
    """Where the class token starts: a learnt vector (the paper), or the encoder's class token, given at each call."""

    def __post_init__(self) -> None:
        self._check_heads("heads")
        if self.cls not in ("learned", "encoder"):
            raise ValueError(f"head.cls '{self.cls}' is neither learned nor encoder")

    def _check_heads(self, *names: str) -> None:
        """Width and numbers of heads are at least 1, and the heads share the width evenly."""
        for name in ("width", *names):
            if getattr(self, name) < 1:
                raise ValueError(f"head.{name} must be at least 1, not {getattr(self, name)}")
        for name in names:
            if self.width % getattr(self, name):
                raise ValueError(f"head.width {self.width} is no multiple of head.{name} {getattr(self, name)}")


class TokenEntry(nn.Module):
    """The way in: the encoder's tokens at the head's width, and the class token that the head starts from."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.entry_config = config
        input_width = config.input_width or config.width
        self.project = nn.Identity() if input_width == config.width else nn.Linear(input_width, config.width)
        if config.cls == "learned":
            self.cls = nn.Parameter(torch.zeros(1, 1, config.width))

    def enter(self, tokens: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor]:
        """Checked and projected tokens (B, N, C) and the starting class token (B, 1, C).

        Args:
            tokens: (B, N, input width), N >= 1.
            cls: (B, input width) or (B, 1, input width), given exactly where the configuration takes the encoder's.

        Raises:
            ValueError: a shape that does not fit, or a class token missing or given against the configuration.
        """
        config = self.entry_config
        width = config.input_width or config.width
        if tokens.ndim != 3 or tokens.shape[1] < 1 or tokens.shape[2] != width:
            raise ValueError(f"tokens {tuple(tokens.shape)} are not (B, N >= 1, {width})")
        if (cls is None) == (config.cls == "encoder"):
            given = "no class token was given" if cls is None else "a class token was given"
            raise ValueError(f"head.cls is '{config.cls}', but {given}")
        if cls is None:
            tokens = self.project(tokens)
            return tokens, self.cls.expand(len(tokens), -1, -1).to(tokens.dtype)
        if tuple(cls.shape) not in ((len(tokens), width), (len(tokens), 1, width)):
            raise ValueError(f"class token {tuple(cls.shape)} is neither {(len(tokens), width)} nor {(len(tokens), 1, width)}")
        return self.project(tokens), self.project(cls.reshape(len(tokens), 1, width))


def make_block(config: BlockConfig) -> Block:
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


def block_shape(block: nn.Module) -> tuple[int, int, float]:
    """Width, heads and mlp_ratio of a transformer block, ours or timm's.

    Raises:
        ValueError: it is none.
    """
    try:
        attention = block.get_submodule("attn")
        heads: Any = getattr(attention, "heads", None) or attention.num_heads
        width, hidden = block.get_parameter("norm1.weight").numel(), block.get_parameter("mlp.fc1.weight").shape[0]
    except AttributeError as error:
        raise ValueError("the encoder has no transformer blocks: start levels fresh") from error
    return width, int(heads), hidden / width


def start_as_vit(module: nn.Module, *tokens: Tensor) -> None:
    """Start as a ViT does: truncated normal of 0.02 for these tokens and all linear weights, biases zero."""
    for token in tokens:
        nn.init.trunc_normal_(token, std=0.02)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
