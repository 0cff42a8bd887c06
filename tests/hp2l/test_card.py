"""The card of a fine-tuned model: what config.json tells stands in it, what it does not is not claimed."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from hlip.cli import build_parser
from hlip.hub.card import UNKNOWN
from hlip.model import HLIP, HLIPConfig
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec
from hp2l.card import ENCODERS, HEADS, diagnoser_card
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import CNNConfig, CNNEncoder, ImageConfig, ImageEncoder
from hp2l.heads import KINDS, HeadConfig

FACTS = {
    "step": 150,
    "kind": "finetune",
    "studies": 1679,
    "simulated": True,
    "tuned": "last",
    "val_auc_level_1": 0.8423,
    "val_auc_level_2": float("nan"),
    "val_auc_level_3": 0.743,
    "val_auc": 0.7997,
}
HLIP_ENCODER = {
    "kind": "hlip",
    "channels": None,
    "volume_spec": VolumeSpec.load("demo").as_dict(),
    "facts": {"kind": "pretrain", "studies": 9021, "simulated": False, "data": {"sequences": {"T1": 5, "FLAIR": 4}}},
}


def description(head: HeadConfig | None = None, tree: str = "brain_mri", encoder: dict | None = HLIP_ENCODER, **facts) -> dict:
    content = {
        "format": "hp2l-1",
        "head": asdict(head or HeadConfig()),
        "taxonomy": Taxonomy.load(tree).to_dict(),
        "facts": facts,
    }
    return content | ({} if encoder is None else {"encoder": encoder})


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def test_a_card_tells_what_is_recorded_where_it_belongs():
    card = diagnoser_card(description(HeadConfig(width=144, heads=4, blocks=(2, 2, 2), dependency=0.1), **FACTS))
    what = section(card, "What it is").splitlines()
    assert "4 / 6 / 16" in what[1]
    assert any(line.startswith("- encoder: `hlip`") for line in what)
    assert "- fine-tuning of the encoder: tuned: its last blocks were trained with the head" in what
    assert any(line.startswith("- head: `hp2l`") for line in what)
    assert [line for line in what if line.startswith("| `")] == [  # what differs from the default and nothing else
        "| `blocks` | 2, 2, 2 | 2, 4, 4 |",
        "| `width` | 144 | 768 |",
        "| `heads` | 4 | 12 |",
        "| `dependency` | 0.1 | none |",
    ]
    tree, classes = Taxonomy.load("brain_mri"), section(card, "Classes").splitlines()
    for level, names in enumerate(tree.levels, start=1):
        assert f"- level {level}, {tree.level_names[level - 1]} ({len(names)}): {', '.join(names)}" in classes
    assert "`normal` stands for nothing found." in classes
    given = section(card, "Input")
    assert "every scan of a study" in given
    assert "24 x 64 x 64" in given
    assert "`hlip diagnose` and `hlip prepare` do this" in given
    data = section(card, "Training data")
    assert "- studies: 1679" in data
    assert "pretrained on 9021 studies. The training studies do not all say" in data
    results = section(card, "Results")
    for row in (
        "| level 1, category | 0.8423 | validation |",
        "| level 2, family | not defined | validation |",
        "| level 3, subtype | 0.743 | validation |",
        "| mean of the levels | 0.7997 | validation |",
    ):
        assert row in results.splitlines()
    assert "on validation, where the checkpoint was chosen (step 150)" in results
    limits = section(card, "Limits")
    for words in ("say nothing about real patients", "Not a medical device", "not calibrated"):
        assert words in limits
    banner = card.split("## What it is")[0]
    assert "**Fine-tuned on SIMULATED studies only" in banner


def test_what_is_not_defined_on_validation_is_no_result():
    """A level without AUC is named; of a run without any, also of an older one that wrote 0, nothing is claimed."""
    card = diagnoser_card(description(**FACTS | {"val_auc_level_2": None}))
    assert "| level 2, family | not defined | validation |" in section(card, "Results").splitlines()
    levels = [f"val_auc_level_{level}" for level in (1, 2, 3)]
    for facts in (dict.fromkeys([*levels, "val_auc"]), {**dict.fromkeys(levels, float("nan")), "val_auc": 0.0}):
        card = diagnoser_card(description(**FACTS | facts))
        assert ModelCard(card).data.eval_results is None
        assert section(card, "Results").startswith("\nNo AUC on validation: no disease had studies with and without it there.")


def test_the_hub_reads_the_header():
    encoder = HLIP_ENCODER | {"facts": {"kind": "official", "source": "hf-hub:owner/name@v1"}}
    read = ModelCard(diagnoser_card(description(encoder=encoder, license="mit", **FACTS))).data
    assert (read.library_name, read.license, read.base_model) == ("hlip-hp2l", "mit", "owner/name")
    found = {result.metric_name: (result.task_type, result.metric_value, result.dataset_name) for result in read.eval_results}
    place = "simulated studies, validation split"
    assert found == {
        "val_auc_level_1": ("image-classification", 0.8423, place),
        "val_auc_level_3": ("image-classification", 0.743, place),
        "val_auc": ("image-classification", 0.7997, place),
    }


def test_a_card_without_facts_claims_nothing():
    """As of a folder written before config.json told of its encoder."""
    card = diagnoser_card(description(encoder=None))
    read = ModelCard(card).data
    assert (read.license, read.eval_results, read.base_model) == (None, None, None)
    assert f"- encoder: {UNKNOWN}" in section(card, "What it is")
    assert f"fine-tuning of the encoder: {UNKNOWN}" in section(card, "What it is")
    assert "all as they are by default" in section(card, "What it is")
    for title in ("Input", "Training data", "Results"):
        assert UNKNOWN in section(card, title)
    assert "SIMULATED" not in card
    assert "reads every scan" not in card
    assert "encoder, patients" in section(card, "Limits")


def test_channels_are_named_and_colours_are_no_radiology():
    brain = {"kind": "cnn", "channels": ["T1", "FLAIR"], "volume_spec": VolumeSpec.load("demo").as_dict()}
    card = diagnoser_card(description(encoder=brain, tuned="all"))
    assert "by name and in this order: T1, FLAIR. One that is absent is read as zeros." in section(card, "Input")
    assert ModelCard(card).data.tags == ["radiology", "mri", "image-classification", "hierarchical-classification"]
    assert "pretrained on" not in section(card, "Training data")
    smear = {
        "kind": "image",
        "channels": ["red", "green", "blue"],
        "volume_spec": VolumeSpec.load("image").as_dict(),
        "backbone": "convnext_tiny",
        "pretrained": True,
    }
    card = diagnoser_card(description(tree="leukemia", encoder=smear))
    assert ModelCard(card).data.tags == ["image-classification", "hierarchical-classification"]
    assert "`convnext_tiny`; its start: with pretrained weights" in section(card, "What it is")
    assert "resized to 384 x 384" in section(card, "Input")
    assert "NIfTI" not in section(card, "Input")


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_has_words(kind):
    assert f"- head: `{kind}`, {HEADS[kind]}" in diagnoser_card(description(HeadConfig(kind=kind)))


ODD = [None, True, 3, float("inf"), "a | b\n---\n: c", [1, {"a": None}], {"x": {"y": []}}]


@pytest.mark.parametrize("value", ODD, ids=str)
def test_facts_of_another_kind_never_keep_a_checkpoint_from_being_written(value):
    names = [*FACTS, "license", "data"]
    for facts in [dict.fromkeys(names, value), *({name: value} for name in names)]:
        card = ModelCard(diagnoser_card(description(**facts)))
        assert card.data.library_name == "hlip-hp2l"
        assert card.text.count("\n## ") == 7
    assert ModelCard(diagnoser_card(description(encoder=HLIP_ENCODER | {"facts": value}))).data.library_name == "hlip-hp2l"


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_snippet_runs_as_it_stands(kind, tiny_store, tmp_path, capsys):
    torch.manual_seed(0)
    store = Store(tiny_store)
    head, tree = HeadConfig(blocks=(1, 2, 2), width=16, heads=2), Taxonomy.load("brain_mri")
    if kind == "hlip":
        text = TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24)
        vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["scan", "study"])
        encoder = HLIP(HLIPConfig(12, vision, text), text_source=grow_text_source(tmp_path / "text", ["No glioma."], text))
        encoder.volume_spec = store.spec
    elif kind == "cnn":
        encoder = CNNEncoder(CNNConfig(channels=("T1", "FLAIR"), width=64), store.spec)
    else:
        flat = VolumeSpec(size=(1, 16, 16), fit="square", resize=(16, 16))
        encoder = ImageEncoder(ImageConfig("resnet10t", pretrained=False), flat)
    made = Diagnoser(encoder, head, tree).eval()
    made.save(tmp_path / "made")
    card = (tmp_path / "made" / "README.md").read_text()
    python, shell = re.findall(r"```(?:python)?\n(.*?)```", section(card, "How to use it"), re.DOTALL)
    parsed = build_parser().parse_args(shlex.split(shell)[1:])
    assert (parsed.command, parsed.finetuned) == ("diagnose", Path("FOLDER_OR_HUB_ID"))
    if kind == "image":  # the store's volumes are no images
        return
    exec(python.replace("FOLDER_OR_HUB_ID", str(tmp_path / "made")).replace("STORE", str(tiny_store)), {})
    printed = capsys.readouterr().out.splitlines()
    volumes = made.encoder.reader(store, store.records[0])
    for line, names, scores in zip(printed, tree.levels, made.diagnose(volumes, [len(volumes)]), strict=True):
        assert line == f"{names[int(scores[0].argmax())]} {float(scores[0].max())}"
