"""2-D backbones of timm (ConvNeXt, ViT, ...) as encoder: an image's three colours as channels, the same heads on top."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from einops import rearrange
from torch import Tensor, nn

from hlip.volume import VolumeSpec
from hp2l.encoders.channels import ChannelEncoder, checked_channels


@dataclass
class ImageConfig:
    """A 2-D backbone."""

    name: str = "vit_small_patch16_384"
    """timm's, with or without the tag of its weights: `convnext_tiny`, `vit_small_patch16_384.augreg_in21k_ft_in1k`."""
    pretrained: bool = True
    """Begin with timm's weights (fetched from the hub once), or at random."""
    weights: Path | None = None
    """A safetensors file with the backbone's weights, instead of the hub's."""
    channels: tuple[str, ...] = ("red", "green", "blue")
    """Names of the prepared volumes that are its colours."""

    def __post_init__(self) -> None:
        self.channels = checked_channels(self.channels, "image")
        self.weights = None if self.weights is None else Path(self.weights)
        if not timm.is_model(self.name):
            near = ", ".join(get_close_matches(self.name, timm.list_models(), 3, 0.5))
            raise ValueError(
                f"image.name '{self.name}' is no model of timm{f' (nearest: {near})' if near else ''}; timm.list_models() has all"
            )


class ImageTrunk(nn.Module):
    """(B, 3, 1, H, W) float in [0, 1] -> the backbone's last features, a map or a sequence of tokens."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageConfig, size: tuple[int, int], pretrained: bool):
        super().__init__()
        self.net = create_backbone(config, size, pretrained)
        known = self.net.pretrained_cfg
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(known[name]).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """As `forward_features` of timm gives them."""
        features: Tensor = self.net.forward_features((rearrange(images, "B c 1 H W -> B c H W") - self.mean) / self.std)
        return features

    def place(self, features: Tensor) -> Tensor:
        """(B, C, 1, h, w), whether channels come first or last, or tokens in a row."""
        if features.ndim == 3:
            h, w = self.net.patch_embed.grid_size
            return rearrange(features[:, self.net.num_prefix_tokens :], "B (h w) C -> B C 1 h w", h=h, w=w)
        if features.shape[1] != self.net.num_features:
            features = rearrange(features, "B h w C -> B C h w")
        return rearrange(features, "B C h w -> B C 1 h w")

    def summary(self, features: Tensor) -> Tensor:
        """(B, C), the backbone's own pooling."""
        pooled: Tensor = self.net.forward_head(features, pre_logits=True)
        return pooled


class ImageEncoder(ChannelEncoder):
    """A timm backbone; its features become tokens, its pooled feature stands for a class token."""

    kind = "image"

    def __init__(self, config: ImageConfig, spec: VolumeSpec, *, pretrained: bool | None = None):
        if spec.size[0] != 1:
            raise ValueError(
                f"a 2-D backbone reads volumes of depth 1, not {spec.size}: `hlip import images` and --spec image make them"
            )
        start = config.pretrained if pretrained is None else pretrained
        super().__init__(ImageTrunk(config, (spec.size[1], spec.size[2]), start), config, spec)

    @classmethod
    def build(cls, settings: dict[str, Any], spec: VolumeSpec | None) -> ImageEncoder:
        """With these settings of `ImageConfig`; weights are not fetched."""
        assert spec is not None
        return cls(ImageConfig(**settings | {"weights": None}), spec, pretrained=False)

    @property
    def width(self) -> int:
        """C, channels of the tokens."""
        return int(self.trunk.net.num_features)  # type: ignore[union-attr, arg-type]

    def blocks(self) -> list[nn.Module]:
        """Blocks of a ViT, stages of a CNN."""
        net: Any = self.trunk.net
        return [net.get_submodule(stage["module"]) for stage in net.feature_info]

    def norm(self) -> nn.Module | None:
        """After the last block, or in a CNN's pooling."""
        net: Any = self.trunk.net
        places = [getattr(net, "norm", None), getattr(net, "norm_pre", None), getattr(getattr(net, "head", None), "norm", None)]
        return next((part for part in places if isinstance(part, nn.Module) and any(True for _ in part.parameters())), None)

    def pooling(self) -> list[nn.Module]:
        """What timm's `forward_head` alone reads."""
        parts = (getattr(self.trunk.net, name, None) for name in ("attn_pool", "fc_norm", "head"))
        return [part for part in parts if isinstance(part, nn.Module)]

    def save(self, folder: str | Path) -> None:
        """As every channel encoder; where the weights once came from is left out."""
        self.settings = ImageConfig(**asdict(self.settings) | {"weights": None})
        super().save(folder)


def create_backbone(config: ImageConfig, size: tuple[int, int], pretrained: bool) -> Any:
    """timm's model without its classifier, for images of this (H, W).

    Raises:
        ValueError: weights that cannot be fetched or read, or a size that the backbone refuses.
    """
    options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained or config.weights is not None}
    if config.weights is not None:
        options["pretrained_cfg_overlay"] = {"file": str(config.weights)}
    try:
        try:
            return timm.create_model(config.name, img_size=size, **options)  # a ViT's position table follows
        except TypeError:
            return timm.create_model(config.name, **options)  # a CNN takes any size
    except (OSError, RuntimeError) as error:
        remedy = "--image.pretrained false starts at random, --image.weights FILE.safetensors reads a file"
        raise ValueError(f"image.name {config.name}: its weights cannot be had ({error}); {remedy}") from error
