"""What tests of experiments share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hlip.model import HLIP, HLIPConfig
from hlip.store import Store
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig


@pytest.fixture(scope="session")
def encoder(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny checkpoint."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24)
    vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["slice", "scan", "study"])
    model = HLIP(HLIPConfig(16, vision, text), text_source=grow_text_source(folder / "text", ["There is glioma seen."], text))
    model.volume_spec = Store(tiny_store).spec
    model.save(folder / "model")
    return folder
