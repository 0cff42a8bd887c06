"""Encoder, head and tree as one model: what it computes, and that each kind of head survives its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hlip.model import HLIP, CheckpointError, HLIPConfig
from hlip.model import load as load_pretrained
from hlip.taxonomy import Taxonomy
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hp2l.diagnoser import Diagnoser, load
from hp2l.heads import HeadConfig
from hp2l.tokens import pool_over_place

HEADS = [
    HeadConfig(blocks=(2, 2, 2), width=16, heads=2),
    HeadConfig(blocks=(1, 2, 2), width=16, heads=2, cls="learned", prompt_update="sum"),
    HeadConfig(kind="flat", blocks=(2, 1, 1)),
    HeadConfig(kind="flat", blocks=(2, 1, 1), cls="learned"),
]


@pytest.fixture(params=HEADS, ids=lambda config: f"{config.kind}-{config.cls}")
def diagnoser(request: pytest.FixtureRequest, tmp_path: Path) -> Diagnoser:
    torch.manual_seed(0)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24)
    vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["scan", "study"], patch_dropout=0.5)
    encoder = HLIP(HLIPConfig(12, vision, text), text_source=grow_text_source(tmp_path / "text", ["No glioma."], text))
    made = Diagnoser(encoder, request.param, Taxonomy.load("leukemia")).eval()
    made.facts = {"step": 7}
    return made


def volumes(scans: int) -> torch.Tensor:
    return torch.randint(0, 256, (scans, 1, 8, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def test_a_diagnosis_is_encoder_then_pooling_then_head(diagnoser):
    scans = volumes(4)
    made = diagnoser.diagnose(scans, [3, 1])
    with torch.no_grad():
        encoded = diagnoser.encoder.visual.tokens(scans, [3, 1])
        start = encoded.cls[:, 0] if diagnoser.config.cls == "encoder" else None
        logits = diagnoser.head(pool_over_place(encoded, diagnoser.config.blocks), start).logits
    assert [tuple(level.shape) for level in made] == [(2, count) for count in diagnoser.taxonomy.counts]
    for level, expected in zip(made, logits, strict=True):
        torch.testing.assert_close(level, expected.sigmoid())
    alone = diagnoser.diagnose(scans[3:], [1])  # a study does not depend on its neighbours
    for level, expected in zip(alone, made, strict=True):
        torch.testing.assert_close(level[0], expected[1], atol=1e-5, rtol=1e-5)


def test_a_folder_rebuilds_every_kind_of_head(diagnoser, tmp_path):
    diagnoser.save(tmp_path / "run" / "model")
    again = load(tmp_path / "run")
    assert again.config == diagnoser.config  # JSON's lists are tuples again
    assert again.taxonomy == diagnoser.taxonomy
    assert again.facts == {"step": 7}
    for one, other in zip(again.diagnose(volumes(3), [2, 1]), diagnoser.diagnose(volumes(3), [2, 1]), strict=True):
        assert torch.equal(one, other)


def test_a_damaged_folder_is_named(diagnoser, tmp_path):
    folder = tmp_path / "model"
    diagnoser.save(folder)
    weights = load_file(folder / "head.safetensors")
    gone = sorted(weights)[0]
    save_file({key: value for key, value in weights.items() if key != gone}, folder / "head.safetensors")
    with pytest.raises(CheckpointError, match=f"head.safetensors: weights of another model; {gone}: missing"):
        load(folder)
    (folder / "head.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"head.safetensors: cannot be read"):
        load(folder)
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(description | {"format": "other"}))
    with pytest.raises(CheckpointError, match=r"'other' is not 'hp2l-1'"):
        load(folder)
    with pytest.raises(CheckpointError, match=r"no checkpoint here"):
        load(tmp_path / "absent")


def test_a_folder_of_runs_is_refused_by_their_names(diagnoser, tmp_path):
    for run in ("seed_0", "seed_1"):
        diagnoser.save(tmp_path / "runs" / run / "model")
    (tmp_path / "runs" / "tokens").mkdir()
    for opened in (load, load_pretrained):
        with pytest.raises(CheckpointError, match=r"runs: no checkpoint here .*\. It holds seed_0, seed_1: name one of them$"):
            opened(tmp_path / "runs")
    with pytest.raises(CheckpointError, match=r"or an official checkpoint\)$"):
        load(tmp_path / "runs" / "tokens")


def test_what_is_not_defined_is_null_in_its_folder(diagnoser, tmp_path):
    diagnoser.facts = {"step": 7, "val_auc": float("nan")}
    diagnoser.save(tmp_path / "model")
    text = (tmp_path / "model" / "config.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["facts"] == {
        "step": 7,
        "val_auc": None,
    }
    assert load(tmp_path / "model").config == diagnoser.config


def test_options_of_other_kinds_in_an_older_checkpoint_say_nothing(diagnoser, tmp_path):
    folder = tmp_path / "model"
    diagnoser.save(folder)
    description = json.loads((folder / "config.json").read_text())
    description["head"] |= {"threshold": 0.5, "nearest": 5}
    (folder / "config.json").write_text(json.dumps(description))
    assert load(folder).config == diagnoser.config


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match=r"head.kind 'round' is neither hp2l nor flat"):
        HeadConfig(kind="round")
