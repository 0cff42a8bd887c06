"""The paper's own encoder: named sequences as channels, a 3-D CNN with four stride-2 stages, 32 tokens whatever the input's size.

Liu et al., Medical Image Analysis 112 (2026) 104063: T1, T2, FLAIR, DWI and ADC at 1.5 mm, a missing sequence is zeros, tokens of width
768. Not public: kernels, normalisation, how the last stage becomes 32 tokens. Ours: one 3 x 3 x 3 convolution, GroupNorm and GELU a stage,
each stage twice as wide as the one before; the last map is pooled to the head's token blocks (2 x 4 x 4 = 32 by default).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from einops import reduce
from torch import Tensor, nn

from hlip.volume import VolumeSpec
from hp2l.encoders.channels import ChannelEncoder, checked_channels

STAGES = 4


@dataclass
class CNNConfig:
    """The CNN over named sequences."""

    channels: tuple[str, ...] = ("T1", "T2", "FLAIR", "DWI", "ADC")
    """Names of the scans that it reads; one that a study lacks is zeros."""
    width: int = 768
    """C, channels of the last stage; the stages before have an eighth, a quarter and a half of it."""

    def __post_init__(self) -> None:
        self.channels = checked_channels(self.channels, "cnn")
        if self.width < 64 or self.width % 64:
            raise ValueError(f"cnn.width {self.width} is no multiple of 64")


class SequenceCNN(nn.Module):
    """(B, channels, D, H, W) float in [0, 1] -> feature map (B, C, D/16, H/16, W/16), rounded up."""

    def __init__(self, config: CNNConfig):
        super().__init__()
        widths = [config.width // 2**step for step in reversed(range(STAGES))]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(before, after, kernel_size=3, stride=2, padding=1, bias=False),
                nn.GroupNorm(max(1, after // 16), after),
                nn.GELU(),
            )
            for before, after in zip([len(config.channels), *widths], widths, strict=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """The last stage's map."""
        for stage in self.stages:
            images = stage(images)
        return images

    def place(self, features: Tensor) -> Tensor:
        """They are a map already."""
        return features

    def summary(self, features: Tensor) -> Tensor:
        """(B, C), the mean over place."""
        return reduce(features, "B C d h w -> B C", "mean")


class CNNEncoder(ChannelEncoder):
    """The paper's encoder; it starts at random and is trained with the head."""

    kind = "cnn"

    def __init__(self, config: CNNConfig, spec: VolumeSpec | None = None):
        super().__init__(SequenceCNN(config), config, spec)

    @classmethod
    def build(cls, settings: dict[str, Any], spec: VolumeSpec | None) -> CNNEncoder:
        """With these settings of `CNNConfig`, at random."""
        return cls(CNNConfig(**settings), spec)

    @property
    def width(self) -> int:
        """C, channels of the tokens."""
        return cast(CNNConfig, self.settings).width

    def blocks(self) -> list[nn.Module]:
        """The four stages."""
        return list(cast(SequenceCNN, self.trunk).stages)

    def norm(self) -> None:
        """Each stage has its own."""
