"""HLIP as a whole: texts and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hlip.model import HLIP, LARGEST_SCALE, CheckpointError, HLIPConfig, load
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec

TEXTS = ["This study shows: acute infarction.", "This study shows: no hemorrhage, no mass.", "This study shows: glioma."] * 3


def config(**vision) -> HLIPConfig:
    sizes = {"size": (8, 16, 16), "patch": (2, 8, 8), "width": 24, "heads": 2, "scopes": ["scan", "study"]} | vision
    return HLIPConfig(
        embed_dim=12,
        vision=VisionConfig(**sizes),
        text=TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24),
    )


@pytest.fixture
def model(tmp_path: Path) -> HLIP:
    torch.manual_seed(0)
    made = HLIP(config(), text_source=grow_text_source(tmp_path / "text", TEXTS, config().text)).eval()
    made.volume_spec = VolumeSpec.load("demo")
    made.facts = {"simulated": True}
    return made


def volumes(scans: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (scans, 1, 8, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def test_features_have_unit_length_and_texts_do_not_depend_on_their_neighbours(model):
    study = model.encode_study(volumes(), [2, 1])
    assert study.shape == (2, 2, 12)
    torch.testing.assert_close(study.norm(dim=-1), torch.ones(2, 2))
    together = model.encode_text(TEXTS[:2])
    torch.testing.assert_close(together[0], model.encode_text(TEXTS[:1])[0], atol=1e-5, rtol=1e-5)  # padding is masked


def test_a_checkpoint_rebuilds_itself_from_its_own_folder(model, tmp_path):
    model.save(tmp_path / "run" / "model")
    moved = tmp_path / "elsewhere"
    (tmp_path / "run").rename(moved)
    again = load(moved)
    assert not again.training
    assert again.volume_spec == model.volume_spec
    assert again.facts == {"simulated": True}
    torch.testing.assert_close(again.encode_study(volumes(), [3]), model.encode_study(volumes(), [3]))
    torch.testing.assert_close(again.encode_text(TEXTS), model.encode_text(TEXTS))


def test_temperatures_are_two_and_stay_within_bounds(model):
    assert model.logit_scale_sentence.shape == model.logit_scale_report.shape == (1,)
    assert model.logit_scale_sentence.item() == pytest.approx(2.65926, abs=1e-5)
    with torch.no_grad():
        model.logit_scale_sentence.fill_(5.0)
        model.logit_scale_report.fill_(-1.0)
    model.clamp_temperatures()
    assert model.logit_scale_sentence.item() == pytest.approx(LARGEST_SCALE)
    assert model.logit_scale_report.item() == 0.0


def test_no_parameter_is_without_gradient(model):
    """DDP and DeepSpeed refuse parameters that no loss reaches."""
    ids = model.tokenizer(TEXTS[:2])
    features = model.train()(volumes(), [2, 1], ids, ids)
    sum(value.sum() for value in features.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None] == []


def test_a_damaged_or_foreign_checkpoint_is_named(model, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load(tmp_path / "absent")
    folder = tmp_path / "model"
    model.save(folder)
    weights = load_file(folder / "model.safetensors")
    weights["visual.norm.weight"] = torch.ones(7)
    del weights["visual.norm.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"visual.norm.bias: missing; visual.norm.weight: shape \(7,\), expected \(24,\)"):
        load(folder)
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(description | {"format": "other"}))
    with pytest.raises(CheckpointError, match="'other' is not 'hlip-1'"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        load(folder)


def test_a_grown_vocabulary_is_the_same_every_time(tmp_path):
    from hlip.text import Tokenizer, word_pieces

    words = {"no": 5, "glioma": 3, "mass": 3, "once": 1, ".": 9}
    pieces = list(word_pieces(words, 100))
    assert pieces[-3:] == ["no", "glioma", "mass"]  # by frequency, then by letter; a word seen once is spelled out
    assert list(word_pieces(dict(reversed(words.items())), 100)) == pieces
    assert len(word_pieces(words, 8)) >= 5 + 2 * len(set("noglimasce."))  # letters are never cut
    grow_text_source(tmp_path, ["No glioma. No glioma."], TextConfig())
    tokens = Tokenizer(tmp_path, 16).hf.tokenize("No glim, glioma")
    assert tokens == ["no", "g", "##l", "##i", "##m", "[UNK]", "glioma"]


def test_a_vocabulary_needs_texts(tmp_path):
    with pytest.raises(ValueError, match="no report"):
        grow_text_source(tmp_path, [" ", ""], TextConfig())
