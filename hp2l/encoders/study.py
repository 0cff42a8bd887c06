"""A pretrained HLIP as encoder: every scan is read, nothing is zero-filled, tokens are pooled over place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hlip.model import HLIP
from hlip.vision import StudyEncoder
from hlip.volume import VolumeSpec
from hp2l.encoders.base import Encoder
from hp2l.tokens import Axes, Blocks, Tokens, pool_over_place


class HLIPEncoder(Encoder):
    """HLIP's vision tower; the text tower comes along, so that zero-shot answers and text prototypes stay at hand."""

    kind = "hlip"

    def __init__(self, model: HLIP):
        super().__init__()
        self.model = model

    @property
    def visual(self) -> StudyEncoder:
        """The vision tower."""
        return self.model.visual

    @property
    def width(self) -> int:
        """C, channels of the tokens."""
        return self.model.config.vision.width

    @property
    def volume_spec(self) -> VolumeSpec | None:  # type: ignore[override]  # the model's own
        """How its scans were prepared."""
        return self.model.volume_spec

    @property
    def architecture(self) -> dict[str, Any]:
        """Heads, scopes, patches, ..."""
        return asdict(self.model.config.vision)

    def read(
        self, visual: nn.Module, volumes: Tensor, scans_per_study: Sequence[int], blocks: Blocks, axes: Sequence[Axes] = ()
    ) -> Tokens:
        """Patch tokens averaged over scans and blocks of place; the first class token."""
        assert isinstance(visual, StudyEncoder)
        tokens = visual.tokens(volumes, scans_per_study)
        return Tokens(pool_over_place(tokens, blocks, axes), tokens.cls[:, 0])

    def blocks(self) -> list[nn.Module]:
        """Transformer blocks."""
        return list(self.visual.blocks)

    def norm(self) -> nn.Module:
        """After the last block."""
        return self.visual.norm

    def save(self, folder: str | Path) -> None:
        """An HLIP checkpoint folder."""
        self.model.save(folder)
