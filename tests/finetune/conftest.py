"""What tests of fine-tuning share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hlip.model import HLIP, HLIPConfig
from hlip.store import Store
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig


@pytest.fixture(scope="session")
def tiny_pretrained(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose encoder has learnt, in seconds and without the other verb, to tell the four corners apart."""
    folder, store = tmp_path_factory.mktemp("pretrained"), Store(tiny_store)
    torch.manual_seed(0)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24)
    vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["slice", "scan", "study"])
    model = HLIP(HLIPConfig(16, vision, text), text_source=grow_text_source(folder / "text", ["There is glioma seen."], text))
    records = store.split("train")
    names = sorted({record.labels[0] for record in records})
    classes = torch.tensor([names.index(record.labels[0]) for record in records])
    volumes, counts = torch.cat([store.volumes(r.study_id) for r in records]), [len(r.sequences) for r in records]
    probe = nn.Linear(2 * 24, len(names))
    optimizer = torch.optim.Adam([*model.visual.parameters(), *probe.parameters()], lr=3e-3)
    for _ in range(60):
        loss = nn.functional.cross_entropy(probe(model.visual(volumes, counts)[:, 0]), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.volume_spec = store.spec
    model.save(folder / "model")
    return folder


@pytest.fixture
def pretrained(tiny_pretrained: Path) -> Path:
    return tiny_pretrained
