"""How far the pretrained encoder follows: frozen, its last blocks, all of it, or low-rank additions (LoRA).

A frozen encoder is run once over the cohort and its tokens are kept. An encoder that is trained sees voxels at each step, so it
becomes one module with the head, which the engine can wrap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hlip.vision import StudyEncoder
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import Encoder
from hp2l.head import HP2LOutput
from hp2l.tokens import Axes


@dataclass
class TuningConfig:
    """What of the encoder is trained."""

    encoder: Literal["frozen", "last", "all", "lora"] = "frozen"
    """frozen: nothing, and the cohort is encoded once. last: its last `blocks` and the final norm. all. lora: low-rank additions to the
    attention's linear layers (Hu et al., arXiv 2106.09685; needs peft), merged into the weights when saved."""
    blocks: int = 2
    """Blocks that `last` trains."""
    rank: int = 8
    """Of the additions of `lora`; their scale is 2."""
    lr_scale: float = 0.1
    """Learning rate of the encoder, relative to the head's."""
    max_scans: int = 8
    """Scans a training step draws of a study at most; validation sees all."""
    checkpoint_blocks: bool = False
    """Recompute the encoder's blocks in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.rank < 1 or self.max_scans < 1:
            raise ValueError("tuning: blocks, rank and max_scans must be at least 1")


class Tuned(nn.Module):
    """Encoder and head as one module: voxels in, logits of every level out.

    Args:
        model: its vision tower and head become this module's; a text tower stays outside, it gets no gradient.
        config: what of the encoder is trained.
    """

    def __init__(self, model: Diagnoser, config: TuningConfig):
        super().__init__()
        self.visual = trainable(model.encoder, config)
        self.head = model.head
        self.blocks, self.start = model.config.blocks, model.config.cls == "encoder"
        for module in model.encoder.pooling() if not self.start else ():
            module.requires_grad_(False)  # nothing reads it
        self.read = model.encoder.read  # a method, so that the encoder is no part of this module

    def forward(self, volumes: Tensor, scans_per_study: Sequence[int], axes: Sequence[Axes] = ()) -> HP2LOutput:
        """(S, 1, D, H, W) uint8 of all scans, B counts on the host, the axes of their grids (as of `Encoder.read`)."""
        tokens = self.read(self.visual, volumes, scans_per_study, self.blocks, axes)
        output: HP2LOutput = self.head(tokens.patches, tokens.cls if self.start else None)
        return output


def trainable(encoder: Encoder, config: TuningConfig) -> nn.Module:
    """The encoder's trunk with exactly the parameters trainable that the configuration names; changed in place.

    Raises:
        ValueError: more blocks than there are, low-rank additions where there is no attention, or peft is not installed.
    """
    visual, blocks = encoder.visual, encoder.blocks()
    visual.requires_grad_(config.encoder == "all")
    if isinstance(visual, StudyEncoder):
        visual.config.patch_dropout, visual.config.checkpoint_blocks = 0.0, config.checkpoint_blocks
    if config.encoder == "last":
        if config.blocks > len(blocks):
            raise ValueError(
                f"tuning.blocks {config.blocks}: the encoder has {len(blocks)}; `--tuning.encoder all` trains it whole"
            )
        for module in (*blocks[-config.blocks :], encoder.norm()):
            if module is not None:
                module.requires_grad_(True)
    if config.encoder == "lora":
        add_low_rank(visual, config.rank)
    return visual


def add_low_rank(visual: nn.Module, rank: int) -> None:
    """Low-rank additions to every attention's linear layers, in place; only they are trained."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("tuning.encoder lora needs peft: pip install 'hlip-hp2l[lora]'") from error
    targets = r"(.*\.)?blocks\.\d+\.attn\.(qkv|proj)"
    if not any(re.fullmatch(targets, name) for name, _ in visual.named_modules()):
        raise ValueError("tuning.encoder lora is for transformers: this encoder has no attention; take last or all")
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), visual)


@torch.no_grad()
def merged(visual: nn.Module, gathered: dict[str, Tensor]) -> dict[str, Tensor]:
    """A trunk's weights under their own names; low-rank additions are added to the layers that they belong to.

    Args:
        visual: the trained trunk.
        gathered: its whole state, as an engine gives it.
    """
    state = {}
    for name, value in gathered.items():
        if ".lora_" in name:
            continue
        layer, base, leaf = name.rpartition(".base_layer.")
        if base and leaf == "weight":
            down, up = (gathered[f"{layer}.lora_{side}.default.weight"] for side in ("A", "B"))
            value = value + visual.get_submodule(layer).scaling["default"] * (up @ down).to(value)  # type: ignore[index]
        state[f"{layer}.{leaf}" if base else name] = value
    return state
