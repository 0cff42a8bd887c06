"""Encoders that read named scans as the channels of one image: what the CNN and 2-D backbones have in common."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from hlip.files.folders import whole_folder
from hlip.model import CheckpointError, load_weights
from hlip.volume import VolumeSpec
from hp2l.encoders.base import Encoder
from hp2l.tokens import Axes, Blocks, Tokens, pool_map

FORMAT = "hp2l-encoder-1"
FILES = {"config.json", "model.safetensors"}


class ChannelEncoder(Encoder):
    """A trunk over (B, channels, D, H, W) float in [0, 1].

    Args:
        trunk: what is trained; called with images it gives the last features as they come, of which its `place` makes a map
            (B, C, d, h, w) and its `summary` one vector (B, C).
        settings: the dataclass that rebuilds it, with `channels`.
        spec: how its scans were prepared.
    """

    def __init__(self, trunk: nn.Module, settings: Any, spec: VolumeSpec | None):
        super().__init__()
        self.trunk, self.settings = trunk, settings
        self.channels, self.volume_spec = tuple(settings.channels), spec

    @property
    def visual(self) -> nn.Module:
        """The trunk."""
        return self.trunk

    def features(self, visual: nn.Module, volumes: Tensor, scans_per_study: Sequence[int]) -> Tensor:
        """The trunk's last features of packed studies; arguments as of `read`.

        Raises:
            ValueError: a study without exactly one scan a channel.
        """
        channels = len(self.channels or ())
        if set(scans_per_study) - {channels}:
            raise ValueError(
                f"this encoder reads {channels} channels ({', '.join(self.channels or ())}) of each study, not {scans_per_study}"
            )
        stacked = rearrange(volumes, "(B c) 1 D H W -> B c D H W", c=channels)
        like = next(visual.parameters())
        features: Tensor = visual(stacked.to(like.dtype) / 255)
        return features

    def to_tokens(self, visual: Any, features: Tensor, blocks: Blocks) -> Tokens:
        """The features' map pooled to token blocks; their summary stands for a class token."""
        return Tokens(pool_map(visual.place(features), blocks), visual.summary(features))

    def read(
        self, visual: nn.Module, volumes: Tensor, scans_per_study: Sequence[int], blocks: Blocks, axes: Sequence[Axes] = ()
    ) -> Tokens:
        """See `to_tokens`; channels of one image lie alike."""
        return self.to_tokens(visual, self.features(visual, volumes, scans_per_study), blocks)

    @property
    def architecture(self) -> dict[str, Any]:
        """Its settings: a backbone's name says how it normalises."""
        return asdict(self.settings)

    def save(self, folder: str | Path) -> None:
        """`config.json` and `model.safetensors`."""
        spec = None if self.volume_spec is None else self.volume_spec.as_dict()
        description = {"format": FORMAT, "kind": self.kind, "settings": asdict(self.settings), "volume_spec": spec}
        with whole_folder(folder, FILES) as partial:
            weights = {name: value.detach().contiguous().cpu() for name, value in self.trunk.state_dict().items()}
            save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
            (partial / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path, description: dict[str, Any]) -> ChannelEncoder:
        """From a folder that `save` wrote, and its config.json.

        Raises:
            CheckpointError: weights of another shape, or damaged.
        """
        spec = description["volume_spec"]
        try:
            made = cls.build(description["settings"], None if spec is None else VolumeSpec.from_dict(spec))
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                f"{folder / 'config.json'}: settings of an encoder '{cls.kind}' that cannot be read ({error})"
            ) from error
        load_weights(made.trunk, folder / "model.safetensors")
        return made

    @classmethod
    @abstractmethod
    def build(cls, settings: dict[str, Any], spec: VolumeSpec | None) -> ChannelEncoder:
        """With these settings, at random."""


def checked_channels(channels: Sequence[str], where: str) -> tuple[str, ...]:
    """Names of scans, none twice.

    Raises:
        ValueError: none, or one twice.
    """
    names = tuple(channels)
    if not names or len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"{where}.channels {list(names)}: at least one name, none twice (upper and lower case are alike)")
    return names
