"""Model cards: numbers appear, a header that the hub reads, and no word on what is not recorded."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from huggingface_hub import ModelCard

from hlip.hub.card import UNKNOWN, model_card
from hlip.model import HLIP, HLIPConfig
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec

FACTS = {
    "step": 690,
    "studies": 1678,
    "simulated": True,
    "kind": "pretrain",
    "prompts": "plain",
    "license": "apache-2.0",
    "parameters": 1048577,
    "weights": "averaged",
    "chosen_by": "val_auc",
    "training": {
        "batch_size": 64,
        "steps": 700,
        "precision": "bf16",
        "seed": 17,
        "optimizer": {"lr": 4.5e-4, "betas": [0.9, 0.95]},
        "loss": {"sentence": 0.25, "report": 0.75},
        "sampling": {"max_scans": 5, "sentence_dropout": True},
        "init": "/home/someone/runs/first",
        "validation": {"split": "val"},
    },
    "metrics": {
        "val_auc": 0.7123,
        "val_classes": 14,
        "test_balanced_accuracy": 0.41,
        "recall_at_1": 0.0625,
        "val_f1": float("nan"),
        "train_loss": 2.5,
    },
    "data": {"studies": 1679, "scans": 7531, "patients": 1601, "sequences": {"T1": 1500, "FLAIR": 903}, "split": "train"},
}


def description(spec: str | None = "demo", **facts) -> dict:
    return {
        "format": "hlip-1",
        "model": asdict(HLIPConfig()),
        "volume_spec": VolumeSpec.load(spec).as_dict() if spec else None,
        "facts": facts,
    }


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def test_a_card_tells_every_recorded_number_where_it_belongs():
    card = model_card(description(**FACTS))
    what = section(card, "What it is")
    for words in (
        "48 x 224 x 224",
        "6 x 16 x 16",
        "8 x 14 x 14",
        "1568 tokens",
        "8 of scan scope, 4 of study scope",
        "1048577",
    ):
        assert words in what
    data = section(card, "Training data")
    for words in ("studies: 1679", "scans: 7531", "patients: 1601", "T1 1500, FLAIR 903", "split: train", "SIMULATED"):
        assert words in data
    rows = section(card, "Training procedure").splitlines()
    for row in (
        "| steps done | 690 |",
        "| steps planned | 700 |",
        "| weights | averaged |",
        "| studies a step | 64 |",
        "| mixed precision | bf16 |",
        "| peak learning rate | 0.00045 |",
        "| weight of the report loss | 0.75 |",
        "| `optimizer.betas` | 0.9, 0.95 |",
        "| `sampling.sentence_dropout` | yes |",
        "| `init` | first |",  # no path of the machine it was trained on
    ):
        assert row in rows
    assert rows[-1] == "Not recorded: warm-up steps, weight decay."
    results = section(card, "Results")
    for row in (
        "| `val_auc` | 0.7123 | validation |",
        "| `val_classes` | 14 | validation |",
        "| `test_balanced_accuracy` | 0.41 | test |",
        "| `recall_at_1` | 0.0625 | validation |",  # as validation's split says
        "| `val_f1` | not defined | validation |",
        "| `train_loss` | 2.5 | training |",
    ):
        assert row in results.splitlines()
    assert "`val_auc` chose this checkpoint" in results
    assert "say nothing about real patients" in section(card, "Limits")
    assert "/home" not in card


def test_the_hub_reads_the_header():
    read = ModelCard(model_card(description(**FACTS))).data
    assert (read.library_name, read.license) == ("hlip-hp2l", "apache-2.0")
    assert read.tags == ["radiology", "mri", "zero-shot-image-classification"]
    found = {
        result.metric_name: (result.metric_type, result.metric_value, result.dataset_split) for result in read.eval_results
    }
    assert found == {  # neither counts, nor losses, nor what is not defined
        "val_auc": ("roc_auc", 0.7123, "validation"),
        "test_balanced_accuracy": ("balanced_accuracy", 0.41, "test"),
        "recall_at_1": ("recall", 0.0625, "validation"),
    }
    assert {result.dataset_name for result in read.eval_results} >= {"simulated studies, test split"}


def test_a_card_without_facts_claims_nothing():
    card = model_card(description(spec=None))
    read = ModelCard(card).data
    assert read.tags == ["radiology", "zero-shot-image-classification"]
    assert (read.license, read.eval_results, read.base_model) == (None, None, None)
    for title in ("Input", "Training data", "Training procedure", "Results", "Limits"):
        text = section(card, title).strip().replace("Not recorded", UNKNOWN)
        assert UNKNOWN in text
        assert text.count("\n") < 6  # a line says it, no empty table or list does
        assert "|" not in text
    assert "parameters" not in card
    assert "- studies" not in card
    assert "SIMULATED" not in card
    assert "chose this checkpoint" not in card


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("demo", ["24 x 64 x 64", "6.5 x 3.2 x 3.2 mm", "axes of the scan", "D is z", "0.5, 99.5", "z to the inferior"]),
        ("chest_ct", ["112 x 336 x 336", "3 x 1 x 1 mm", "axes of the patient", "chest, level -400 and width 1500 HU"]),
        ("head_ct", ["blood, level 80 and width 200 HU", "resized to 256 x 256", "D is the axis of largest spacing"]),
    ],
)
def test_the_input_is_said_in_words(spec, words):
    card = model_card(description(spec))
    assert [word for word in words if word not in section(card, "Input")] == []
    assert ("ct" in ModelCard(card).data.tags) == (spec != "demo")


def test_simulated_is_told_apart_from_real_and_from_unknown():
    banners = {
        section(model_card(description(**facts)), "Training data").split("\n")[1] for facts in ({}, {"simulated": False}, FACTS)
    }
    assert len(banners) == 3


def test_parameters_and_mapped_keys_are_counted(tmp_path):
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24)
    config = HLIPConfig(embed_dim=12, vision=VisionConfig(width=24, heads=2, scopes=["scan"]), text=text)
    model = HLIP(config, grow_text_source(tmp_path / "text", ["acute infarction", "glioma"] * 2, text))
    model.facts = {"kind": "official", "source": "owner/name", "keys": "352 of 352 keys mapped"}
    what = section(model.card(), "What it is")
    assert f"- parameters: {sum(p.numel() for p in model.parameters())}\n" in what
    assert "converted from an official checkpoint: owner/name; 352 of 352 keys mapped" in what
    model.facts = {"parameters": 7}
    assert "- parameters: 7\n" in section(model.card(), "What it is")


def test_an_official_source_is_named_and_a_hub_id_becomes_the_base_model():
    card = model_card(description(kind="official", source="hf-hub:owner/name@v1"))
    assert "official checkpoint: hf-hub:owner/name@v1" in card
    assert ModelCard(card).data.base_model == "owner/name"
    card = model_card(description(official="/home/someone/epoch_20.pt"))
    assert "BERT, its source not recorded" in card
    assert "grown from reports" in model_card(description())
    assert "official checkpoint: epoch_20.pt" in card
    assert ModelCard(card).data.base_model is None


ODD = [None, True, 3, float("inf"), "a | b\n---\n: c", [1, {"a": None}], {"x": {"y": []}, "auc": "high"}, {"auc": True}]


@pytest.mark.parametrize("value", ODD, ids=str)
def test_facts_of_another_kind_never_keep_a_checkpoint_from_being_written(value):
    names = [*FACTS, "official", "source"]
    for facts in [dict.fromkeys(names, value), *({name: value} for name in names)]:
        card = ModelCard(model_card(description(**facts)))
        assert card.data.library_name == "hlip-hp2l"
        assert card.text.count("\n## ") == 7
