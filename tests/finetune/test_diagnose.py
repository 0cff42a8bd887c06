"""One study through a fine-tuned model, and where its prompt looked."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import pytest
import torch

import hlip
from finetune.diagnose import diagnose_command, path_notes, read
from finetune.looked import chosen_prototypes, prompt_maps
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import CNNConfig, CNNEncoder
from hp2l.head import HP2LOutput
from hp2l.heads import HeadConfig
from hp2l.scaling import Scaling
from hp2l.statistics.calibration import Rule


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
    maps = prompt_maps(HP2LOutput([], [], None, [first, second]), model.config.blocks)
    assert maps[0].shape == (1, 4, 2, 2)
    assert maps[0].flatten()[0].item() == pytest.approx(4.0)
    assert maps[0].flatten()[1].item() == pytest.approx(-6.0)  # the floor
    expected = [(3 / 32 + 1 / 16) / 2, (1 / 32 + 1 / 16) / 2]
    even = sum(expected) / 2
    assert maps[1].flatten()[:2].tolist() == pytest.approx(
        [torch.tensor(value / even).log2().item() for value in expected], abs=1e-5
    )


def said(checkpoint: Path, store: Path, out: Path) -> argparse.Namespace:
    settings = {
        "finetuned": checkpoint,
        "study": "s3",
        "store": store,
        "manifest": None,
        "top": 3,
        "device": "cpu",
        "json": False,
    }
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
        assert "probability" not in printed
        assert f"{scores[level - 1].max():.3f}" in printed
        assert (tmp_path / "maps" / f"level_{level}_prompt.png").stat().st_size > 5000
        assert nib.load(tmp_path / "maps" / f"level_{level}_prompt_1_T1.nii.gz").shape == (8, 16, 16)
    content = json.loads((tmp_path / "maps" / "scores.json").read_text())
    assert list(content["levels"][2]["scores"].values()) == pytest.approx(scores[2][0].tolist())
    assert sum(content["levels"][0]["attention_to_prototypes"].values()) == pytest.approx(1.0)
    output = read(model, volumes)
    assert len(output.prompt_attention) == 3


def test_the_choice_among_prototypes_is_drawn(model, tiny_store, tmp_path):
    model.save(tmp_path / "model")
    diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
    assert (tmp_path / "maps" / "levels.png").stat().st_size > 10000
    chosen = chosen_prototypes(read(model, Store(tiny_store).volumes("s3")))
    assert [len(row) for row in chosen] == [4, 6]
    assert [row.sum() for row in chosen] == pytest.approx([1.0, 1.0])


def test_a_head_without_a_prompt_says_so(model, tiny_store, tmp_path, capsys):
    flat = Diagnoser(model.encoder, HeadConfig(kind="flat", blocks=(4, 2, 2)), model.taxonomy).eval()
    flat.save(tmp_path / "model")
    diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
    assert "no maps: a head of kind flat has no prompt" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["levels.png", "scores.json"]


def test_a_model_over_named_scans_says_what_was_missing_and_has_grad_cam(tiny_store, tmp_path, capsys):
    torch.manual_seed(0)
    encoder = CNNEncoder(CNNConfig(channels=("T1", "DWI"), width=64), Store(tiny_store).spec)
    model = Diagnoser(encoder, HeadConfig(kind="linear"), Taxonomy.load("brain_mri")).eval()
    model.save(tmp_path / "model")
    diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
    assert "not in the study, zeros instead: DWI" in capsys.readouterr().out
    for level in (1, 2, 3):
        assert (tmp_path / "maps" / f"level_{level}_grad_cam.png").stat().st_size > 3000
        assert nib.load(tmp_path / "maps" / f"level_{level}_grad_cam_1_T1.nii.gz").shape == (8, 16, 16)
    other = CNNEncoder(CNNConfig(channels=("DWI",), width=64), Store(tiny_store).spec)
    Diagnoser(other, HeadConfig(kind="linear"), Taxonomy.load("brain_mri")).save(tmp_path / "model")
    with pytest.raises(ValueError, match="the model reads DWI; the study has T1"):
        diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))


def test_classes_are_ordered_by_probability_where_the_checkpoint_knows_it(model, tiny_store, tmp_path, capsys):
    """A class that shouts loses: its bias makes the last class of each level the likeliest."""
    quiet, loud = Rule("platt", 1.0, 9.0), Rule("platt", 1.0, -9.0)
    model.scaling = Scaling(tuple((*[loud] * (count - 1), quiet) for count in model.taxonomy.counts), 70)
    model.save(tmp_path / "model")
    diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
    printed = capsys.readouterr().out
    assert "Platt-scaled on 70 validation studies" in printed
    content = json.loads((tmp_path / "maps" / "scores.json").read_text())
    for level, names in zip(content["levels"], model.taxonomy.levels, strict=True):
        raw, scaled = level["scores"], level["probabilities"]
        assert max(scaled, key=scaled.get) == names[-1]
        odds = raw[names[0]] / (1 - raw[names[0]]) * torch.tensor(-9.0).exp().item()
        assert scaled[names[0]] == pytest.approx(odds / (1 + odds), rel=1e-4)
        first = next(line for line in printed.splitlines() if level["name"] in line)
        assert names[-1] in first
        assert f"{scaled[names[-1]]:.3f}" in first
        assert f"{raw[names[-1]]:.3f}" in first


def test_levels_that_disagree_are_named():
    tree = Taxonomy.load("brain_mri")

    def highest(*names: str) -> list[torch.Tensor]:
        scores = [torch.zeros(1, count) for count in tree.counts]
        for level, name in enumerate(names):
            scores[level][0, tree.levels[level].index(name)] = 1.0
        return scores

    assert path_notes(tree, highest("vascular", "infarction", "acute infarction")) == []
    (note,) = path_notes(tree, highest("vascular", "infarction", "glioma"))
    assert note == "the levels disagree: the highest subtype, glioma, does not lie below the highest family, infarction"
    (note,) = path_notes(tree, highest("vascular", "infarction", "normal"))
    assert note == "the levels disagree: the highest subtype, normal, does not lie below the highest category, vascular"
    assert path_notes(tree, highest("normal", "infarction", "normal")) == []  # the middle level knows no normal class


def test_json_goes_to_other_programs(model, tiny_store, tmp_path, capsys):
    model.save(tmp_path / "model")
    given = said(tmp_path / "model", tiny_store, tmp_path / "maps")
    given.json, given.out = True, None
    diagnose_command(given)
    content = json.loads(capsys.readouterr().out)
    assert (content["study"], [level["name"] for level in content["levels"]]) == ("s3", list(model.taxonomy.level_names))
