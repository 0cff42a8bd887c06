"""One study through a fine-tuned model, and where its prompt looked."""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import pytest
import torch

import hlip
from finetune.diagnose import diagnose_command, prompt_maps, read
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser
from hp2l.head import HP2LOutput
from hp2l.heads import HeadConfig


@pytest.fixture
def model(tiny_store: Path) -> Diagnoser:
    torch.manual_seed(0)
    encoder = hlip.create(
        "tiny_scan_study", vision={"size": [8, 16, 16], "patch": [2, 8, 8], "scopes": ["scan", "study"]}
    ).eval()
    encoder.volume_spec = Store(tiny_store).spec
    config = HeadConfig(blocks=(4, 2, 2), width=24, heads=2)
    return Diagnoser(encoder, config, Taxonomy.load("brain_mri")).eval()


def test_maps_are_attention_over_an_even_look(model):
    """Eight times an even look at the first place of level 1, nothing elsewhere; twice by one of two heads."""
    first = torch.zeros(1, 2, 16)
    first[..., 0] = 0.5
    second = torch.full((1, 2, 16), 1 / 16)
    second[0, 0] = torch.tensor([3 / 16, 1 / 16] * 8) / 2
    maps = prompt_maps(model, HP2LOutput([], [], None, [first, second]))
    assert maps[0].shape == (1, 4, 2, 2)
    assert maps[0].flatten()[0].item() == pytest.approx(4.0)
    assert maps[0].flatten()[1].item() == pytest.approx(-6.0)  # the floor
    expected = [(3 / 32 + 1 / 16) / 2, (1 / 32 + 1 / 16) / 2]
    even = sum(expected) / 2
    assert maps[1].flatten()[:2].tolist() == pytest.approx(
        [torch.tensor(value / even).log2().item() for value in expected], abs=1e-5
    )


def said(checkpoint: Path, store: Path, out: Path) -> argparse.Namespace:
    settings = {"finetuned": checkpoint, "study": "s3", "store": store, "manifest": None, "top": 3, "device": "cpu"}
    return argparse.Namespace(**settings, out=out)


def test_the_command_prints_levels_and_writes_a_map_each(model, tiny_store, tmp_path, capsys):
    model.save(tmp_path / "model")
    diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
    printed = capsys.readouterr().out
    volumes = Store(tiny_store).volumes("s3")
    scores = model.diagnose(volumes, [len(volumes)])
    for level in (1, 2, 3):
        best = model.taxonomy.levels[level - 1][int(scores[level - 1].argmax())]
        assert f"{best} " in printed
        assert f"{scores[level - 1].max():.3f}" in printed
        assert (tmp_path / "maps" / f"level_{level}_prompt.png").stat().st_size > 5000
        assert nib.load(tmp_path / "maps" / f"level_{level}_prompt.nii.gz").shape == (8, 16, 16)
    output = read(model, volumes)
    assert len(output.prompt_attention) == 3


def test_a_head_without_a_prompt_says_so(model, tiny_store, tmp_path):
    flat = Diagnoser(model.encoder, HeadConfig(kind="flat", blocks=(4, 2, 2)), model.taxonomy).eval()
    flat.save(tmp_path / "model")
    with pytest.raises(ValueError, match="a head of kind flat has no prompt"):
        diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
