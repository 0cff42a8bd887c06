"""Encoders a hierarchical head can sit on: a pretrained HLIP, the paper's CNN, a 2-D backbone of timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hlip.model import CheckpointError, checkpoint_folder, load
from hlip.volume import VolumeSpec
from hp2l.encoders.base import Encoder, ScanReader
from hp2l.encoders.channels import FORMAT, ChannelEncoder
from hp2l.encoders.cnn import CNNConfig, CNNEncoder
from hp2l.encoders.image import ImageConfig, ImageEncoder
from hp2l.encoders.study import HLIPEncoder

__all__ = [
    "FRESH", "CNNConfig", "CNNEncoder", "ChannelEncoder", "Encoder", "HLIPEncoder", "ImageConfig", "ImageEncoder", "ScanReader",
    "load_encoder", "make_encoder",
]  # fmt: skip

FRESH = ("cnn", "image")
"""Encoders that no checkpoint of ours is needed for."""
KINDS: dict[str, type[ChannelEncoder]] = {"cnn": CNNEncoder, "image": ImageEncoder}


def make_encoder(name: str, cnn: CNNConfig, image: ImageConfig, spec: VolumeSpec, *, fetch: bool = True) -> Encoder:
    """The encoder that a configuration names, as it is before fine-tuning.

    Args:
        name: `cnn`, `image`, or a run or checkpoint folder of a pretrained HLIP (or one of these, saved).
        cnn, image: their settings.
        spec: how the scans are prepared that it will see.
        fetch: read a backbone's pretrained weights; False where others follow at once.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
    """
    if name == "cnn":
        return CNNEncoder(cnn, spec)
    if name == "image":
        return ImageEncoder(image, spec, pretrained=None if fetch else False)
    return load_encoder(name)


def load_encoder(path: str | Path) -> Encoder:
    """The encoder of a checkpoint or run folder.

    Raises:
        CheckpointError: no checkpoint, a damaged one, or one of another kind.
    """
    try:
        folder = checkpoint_folder(path)
        description: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (CheckpointError, json.JSONDecodeError):
        description = {}  # an official checkpoint, or a fault that its own reader names
    if description.get("format") != FORMAT:
        return HLIPEncoder(load(path))
    if description.get("kind") not in KINDS:
        raise CheckpointError(f"{folder}: an encoder of kind '{description.get('kind')}' is not known ({', '.join(KINDS)})")
    return KINDS[description["kind"]].open(folder, description)
