"""Encoders a hierarchical head can sit on."""

from __future__ import annotations

from pathlib import Path

from hlip.model import load
from hp2l.encoders.base import Encoder
from hp2l.encoders.study import HLIPEncoder

__all__ = ["Encoder", "HLIPEncoder", "load_encoder"]


def load_encoder(path: str | Path) -> Encoder:
    """The encoder of a checkpoint folder."""
    return HLIPEncoder(load(path))
