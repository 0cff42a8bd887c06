"""One study through a fine-tuned model, and where its prompt looked."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import hlip
from finetune.diagnosis import command
from finetune.diagnosis.command import diagnose_command, path_notes, scaled_levels, titled
from finetune.diagnosis.looks import chosen_prototypes, prompt_maps, prototype_similarity
from finetune.diagnosis.pictures import LEGENDS, ImageRow, draw_image, draw_levels
from finetune.diagnosis.reading import read
from finetune.diagnosis.written import on_scans
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
    assert [len(level["similarity_to_prototypes"]) for level in content["levels"]] == list(model.taxonomy.counts)
    assert list(content["units"]) == ["scores", "attention_to_prototypes", "similarity_to_prototypes"]
    output = read(model, volumes, ())
    assert len(output.prompt_attention) == 3


def test_the_choice_among_prototypes_is_drawn(model, tiny_store, tmp_path):
    model.save(tmp_path / "model")
    diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
    assert (tmp_path / "maps" / "levels.png").stat().st_size > 10000
    chosen = chosen_prototypes(read(model, Store(tiny_store).volumes("s3"), ()))
    assert [len(row) for row in chosen] == [4, 6]
    assert [row.sum() for row in chosen] == pytest.approx([1.0, 1.0])


def test_levels_are_drawn_with_what_prototypes_had_to_do_with_them(model, tiny_store, tmp_path, monkeypatch):
    """Cosines with averaged prototypes at every level, on one axis; the last level has no choice to show, and says why."""
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    tree, output = model.taxonomy, read(model, Store(tiny_store).volumes("s3"), ())
    near, scores = prototype_similarity(model.head, output), output.probabilities()
    near[0][0] = -0.75  # the study may lie away from a prototype
    assert near[2].tolist() == pytest.approx(
        torch.cosine_similarity(output.cls[2], model.head.bank.prototypes(3)).tolist(), abs=1e-5
    )
    draw_levels(scores, chosen_prototypes(output), near, tree, tmp_path / "x.png", "s3")
    for level, (own, beside) in enumerate(zip(drawn[0].axes[::2], drawn[0].axes[1::2], strict=True)):
        names = [label.get_text() for label in own.get_yticklabels()]
        shown = dict(zip(names, [bar.get_width() for bar in beside.containers[0]], strict=True))
        assert shown == pytest.approx({name: near[level][tree.levels[level].index(name)] for name in names})
        assert own.get_ylim() == beside.get_ylim()
        assert beside.get_xlim() == pytest.approx((-0.7875, 1))
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend[-1] == "cosine of the study with its prototype (-1 to 1)"
    unread = ["", "", "no prompt reads prototypes at the last level"]
    assert [axes.get_xlabel() for axes in drawn[0].axes[::2]] == unread
    learnt = Diagnoser(model.encoder, HeadConfig(blocks=(4, 2, 2), width=24, heads=2, prototypes="learnable"), tree).eval()
    output = read(learnt, Store(tiny_store).volumes("s3"), ())
    assert prototype_similarity(learnt.head, output) == []
    draw_levels(scores, chosen_prototypes(output), [], tree, tmp_path / "x.png", "s3")
    assert [axes.get_xlabel() for axes in drawn[1].axes] == unread


@pytest.fixture
def titles(monkeypatch) -> list[str]:
    """What stands above pictures."""
    from matplotlib.figure import FigureBase

    found, plain = [], FigureBase.text
    monkeypatch.setattr(
        FigureBase, "text", lambda self, x, y, text, **more: found.append(text) or plain(self, x, y, text, **more)
    )
    return found


def test_the_prompts_map_is_said_to_be_of_blocks_for_all_scans_and_classes(model, tiny_store, tmp_path, titles, capsys):
    for level in model.head.levels:
        level.prompting.attn.qkv.weight.data *= 20  # a look that chooses
    model.save(tmp_path / "model")
    diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
    volumes = Store(tiny_store).volumes("s3")
    looked = read(model, volumes, ()).prompt_attention[2][0].mean(dim=0)
    times = (looked / looked.mean()).reshape(4, 2, 2)
    assert times.max() > 1.2
    found = nib.load(tmp_path / "maps" / "level_3_prompt_1_T1.nii.gz").get_fdata()
    cells = times.repeat_interleave(2, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert found.ravel().tolist() == pytest.approx(cells.flatten().tolist(), rel=1e-4)
    assert "s3, level 3 (subtype): where the prompt looked (one look for all classes)" in titles
    span = f"{times.min():.3g} to {times.max():.3g} times an even look"
    assert f"one map of 4 x 2 x 2 blocks (depth x height x width) for all scans of the study: {span}" in titles
    printed = capsys.readouterr().out
    assert (
        "each of 4 x 2 x 2 blocks (depth x height x width), in times an even look (1 is even); one map for all classes"
        in printed
    )
    assert "one map for all scans of the study" in printed


def test_a_head_without_a_prompt_says_so(model, tiny_store, tmp_path, capsys):
    flat = Diagnoser(model.encoder, HeadConfig(kind="flat", blocks=(4, 2, 2), dependency=0.1), model.taxonomy).eval()
    flat.head.dependency.own.data[1, 5] = -7.0  # both of the levels' classes, counted together
    flat.save(tmp_path / "model")
    diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
    assert "no maps: a head of kind flat has no prompt" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["dependency.csv", "levels.png", "scores.json"]
    first = (tmp_path / "maps" / "dependency.csv").read_text().splitlines()[:2]
    names = [model.taxonomy.levels[0][1], model.taxonomy.levels[1][1]]
    assert first == ["from_level,from,to_level,to,prior,learnt", f"1,{names[0]},2,{names[1]},0.0,-7.0"]


def test_a_model_over_named_scans_says_what_was_missing_and_has_grad_cam(tiny_store, tmp_path, capsys, titles):
    torch.manual_seed(0)
    encoder = CNNEncoder(CNNConfig(channels=("T1", "DWI"), width=64), Store(tiny_store).spec)
    model = Diagnoser(encoder, HeadConfig(kind="linear"), Taxonomy.load("brain_mri")).eval()
    model.save(tmp_path / "model")
    diagnose_command(said(tmp_path / "model", tiny_store, tmp_path / "maps"))
    assert "not in the study, zeros instead: DWI" in capsys.readouterr().out
    for level in (1, 2, 3):
        assert (tmp_path / "maps" / f"level_{level}_grad_cam.png").stat().st_size > 3000
        image = nib.load(tmp_path / "maps" / f"level_{level}_grad_cam_1_T1.nii.gz")
        assert image.shape == (8, 16, 16)
        assert image.get_fdata().max() in (pytest.approx(1.0), 0.0)
    content = json.loads((tmp_path / "maps" / "scores.json").read_text())
    best = max(content["levels"][1]["scores"].items(), key=lambda pair: pair[1])[0]
    assert f"s3, level 2 (family): Grad-CAM (for {best}, the highest class)" in titles
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


def test_a_level_that_could_not_be_scaled_is_said_to_be_raw(model, tiny_store, tmp_path, capsys):
    counts = model.taxonomy.counts
    model.scaling = Scaling(tuple((Rule("none" if level == 2 else "platt"),) * count for level, count in enumerate(counts)), 9)
    model.save(tmp_path / "run" / "model")
    diagnose_command(said(tmp_path / "run", tiny_store, tmp_path / "out"))
    assert "level 3 (subtype): too few labelled validation studies to scale it" in " ".join(capsys.readouterr().out.split())
    levels = json.loads((tmp_path / "out" / "scores.json").read_text())["levels"]
    assert ["probabilities" in level for level in levels] == [True, True, False]


def test_an_images_map_is_drawn_as_cells_in_one_unit_for_all_levels(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plain = [], Axes.imshow
    monkeypatch.setattr(
        Axes, "imshow", lambda self, values, **more: drawn.append((values, more)) or plain(self, values, **more)
    )
    pixels = torch.full((6, 9, 3), 200, dtype=torch.uint8).numpy()
    maps = [("1", torch.tensor([[0.5, -2.0, 0.0]])), ("2", torch.tensor([[0.0, 0.1, 0.0]]))]
    draw_image(pixels, [ImageRow("prompt", "where", maps)], tmp_path / "x.png", "t")
    layers = [(values, more) for values, more in drawn if "alpha" in more]
    assert [(more["vmin"], more["vmax"], more["interpolation"]) for _, more in layers] == [(-2.0, 2.0, "nearest")] * 2
    assert layers[0][0][3].tolist() == [0.5] * 3 + [-2.0] * 3 + [0.0] * 3
    assert layers[0][1]["alpha"][0].tolist() == pytest.approx([0.175] * 3 + [0.7] * 3 + [0.0] * 3)
    draw_image(pixels, [ImageRow("prompt", "where", maps[1:])], tmp_path / "x.png", "t")
    assert drawn[-1][1]["vmax"] == pytest.approx(torch.tensor(1.5).log2().item())  # next to even looks like it
    unit = LEGENDS["prompt"]
    assert list(unit.ticks_within(2.0).values()) == ["1", "2", "0.5", "4", "0.25", "1.5", "0.67", "1.25", "0.8"]
    assert unit.ticks_within(4.5).keys() == {0, 1, -1, 2, -2, 3, -3, 4, -4}


def test_a_file_is_named_with_its_folder(tmp_path):
    (tmp_path / "patient_7").mkdir()
    (tmp_path / "patient_7" / "im0.png").touch()
    assert titled(tmp_path / "patient_7" / "im0.png") == "patient_7/im0.png"
    assert (titled(tmp_path / "patient_7"), titled(Path("s3"))) == ("patient_7", "s3")


def test_levels_that_disagree_are_named():
    tree = Taxonomy.load("brain_mri")

    def highest(*names: str) -> list[torch.Tensor]:
        scores = [torch.zeros(1, count) for count in tree.counts]
        for level, name in enumerate(names):
            scores[level][0, tree.levels[level].index(name)] = 1.0
        return scores

    every = (1, 2, 3)
    assert path_notes(tree, highest("vascular", "infarction", "acute infarction"), every) == []
    (note,) = path_notes(tree, highest("vascular", "infarction", "glioma"), every)
    assert note == "the levels disagree: the highest subtype, glioma, does not lie below the highest family, infarction"
    (note,) = path_notes(tree, highest("vascular", "infarction", "normal"), every)
    assert note == "the levels disagree: the highest subtype, normal, does not lie below the highest category, vascular"
    assert path_notes(tree, highest("normal", "infarction", "normal"), every) == []  # the middle level knows no normal class
    for level, nearly in ((1, 0.9995), (2, 1.0)):  # a tie as printed, of either level, says nothing
        tied = highest("vascular", "infarction", "glioma")
        tied[level][0, 0] = nearly
        assert path_notes(tree, tied, every) == []
        tied[level][0, 0] = 0.99
        assert len(path_notes(tree, tied, every)) == 1
    for scaled in ((), (1, 2), (2,), (1, 3)):
        assert path_notes(tree, highest("vascular", "infarction", "glioma"), scaled) == []  # raw scores cannot be compared


def test_only_levels_with_probabilities_are_held_against_one_another(model):
    assert scaled_levels(model) == set()
    counts = model.taxonomy.counts
    model.scaling = Scaling(tuple((Rule("none" if level == 2 else "platt"),) * count for level, count in enumerate(counts)), 9)
    assert scaled_levels(model) == {1, 2}


def test_a_class_that_no_training_study_had_is_named_and_claims_nothing(model, tiny_store, tmp_path, capsys, monkeypatch):
    from matplotlib.figure import Figure

    drawn, tree = [], model.taxonomy
    for level in (1, 2, 3):
        model.head.bank.updates(level).fill_(7)
    model.head.bank.updates(3)[2] = 0
    told = f"level 1: {tree.levels[0][1]}"
    model.facts = {"step": 5, "without_training_studies": [told]}
    loud, seen = Rule("platt", 1.0, 9.0, positives=5, negatives=5), Rule("platt", 1.0, positives=5, negatives=5)
    rules = [[seen] * count for count in tree.counts]
    rules[2][2] = rules[0][1] = loud  # would be the highest
    rules[1][3] = Rule("platt", positives=0, negatives=10)
    model.scaling = Scaling(tuple(map(tuple, rules)), 10)
    model.save(tmp_path / "model")
    assert f"**Not learnt**, as no training study had them, whatever their scores say: {told}." in model.card()
    assert f"that nothing was checked of them: level 2: {tree.levels[1][3]}." in model.card()
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    given = said(tmp_path / "model", tiny_store, tmp_path / "maps")
    given.top = 99
    diagnose_command(given)
    printed, content = capsys.readouterr().out, json.loads((tmp_path / "maps" / "scores.json").read_text())
    for level, name in ((1, tree.levels[0][1]), (3, tree.levels[2][2])):
        entry = content["levels"][level - 1]
        assert entry["not_learnt"] == [name]
        for kind in ("probabilities", "similarity_to_prototypes"):
            assert [key for key, value in entry[kind].items() if value is None] == [name]
        note = f"({entry['name']}): not learnt, as no training study up to the kept step had it: {name}; without probability"
        assert note in printed
        assert not any(f" {name} " in line for line in printed.splitlines() if "note" not in line)
        labels = [text.get_text() for text in drawn[0].axes[2 * level - 2].get_yticklabels()]
        assert labels[0] == f"{name} (not learnt)"  # the lowest
    assert f"no validation study had {tree.levels[1][3]}: " in printed
    assert "not_learnt" not in content["levels"][1]


def test_json_goes_to_other_programs(model, tiny_store, tmp_path, capsys):
    model.save(tmp_path / "model")
    given = said(tmp_path / "model", tiny_store, tmp_path / "maps")
    given.json, given.out = True, None
    diagnose_command(given)
    content = json.loads(capsys.readouterr().out)
    assert (content["study"], [level["name"] for level in content["levels"]]) == ("s3", list(model.taxonomy.level_names))


def test_a_map_lies_at_one_place_of_the_patient_in_scans_of_any_plane(model, tiny_store, monkeypatch):
    store = Store(tiny_store)
    record, blocks = store.record("s3"), torch.arange(16.0).reshape(4, 2, 2)
    assert [values.tolist() for values in on_scans(model, store, record, blocks, [0])] == [blocks.tolist()]
    store.spec = replace(store.spec, through_plane="acquired")
    planes = [np.eye(4)[[2, 1, 0, 3]], np.eye(4)[[0, 2, 1, 3]]]  # axial; sagittal: its depth is x, its height z
    monkeypatch.setattr(Store, "affines", lambda self, study: np.stack(planes))
    axial, sagittal = on_scans(model, store, record, blocks, [0, 1])
    assert axial.tolist() == blocks.tolist()
    assert all(sagittal[x, z, y] == blocks[z, y, x] for x in range(2) for z in range(4) for y in range(2))


def test_originals_of_a_store_are_looked_for_beside_its_manifest(model, tiny_store, tmp_path, monkeypatch):
    model.save(tmp_path / "model")
    bases: list[Path | None] = []
    monkeypatch.setattr(
        command, "write_looks", lambda *given: bases.append(given[-2]) or (tmp_path / "maps").mkdir(exist_ok=True) or []
    )
    given = said(tmp_path / "model", tiny_store, tmp_path / "maps")
    diagnose_command(given)
    given.manifest = tmp_path / "in" / "manifest.jsonl"
    diagnose_command(given)
    assert bases == [None, tmp_path / "in"]
