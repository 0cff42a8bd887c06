"""`hlip evaluate`, as a user types it: labels from the manifest and from a CSV, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hlip.cli import main
from hlip.metrics import roc_auc
from hlip.model import HLIP, HLIPConfig, load
from hlip.store import Store
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.zeroshot import PromptSet, embed_classes, embed_studies

TEXTS = ["This study shows: acute infarction seen.", "This study shows: glioma noted.", "No significant abnormalities."] * 2
PROTOCOL = """title: Tiny
prompts: plain
classes:
  - {column: Stroke, phrase: acute infarction}
  - {phrase: glioma}
  - {phrase: unheard of}
tasks:
  all: {kind: each}
  which: {kind: choice, classes: [Stroke, glioma]}
"""


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_store: Path) -> Path:
    torch.manual_seed(0)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=120, context_length=24)
    vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["scan", "study"])
    model = HLIP(
        HLIPConfig(embed_dim=12, vision=vision, text=text), text_source=grow_text_source(tmp_path / "bert", TEXTS, text)
    )
    model.volume_spec, model.facts = Store(tiny_store).spec, {"simulated": True}
    model.save(tmp_path / "run" / "model")
    return tmp_path / "run"


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(PROTOCOL)
    return path


def test_labels_of_the_manifest(checkpoint, protocol, tiny_store, tmp_path, capsys):
    out = tmp_path / "out"
    main(
        [
            "evaluate",
            str(checkpoint),
            "--protocol",
            str(protocol),
            "--store",
            str(tiny_store),
            "--out",
            str(out),
            "--resamples",
            "50",
        ]
    )
    result = json.loads((out / "evaluation.json").read_text())
    store, model = Store(tiny_store), load(checkpoint)
    classes = embed_classes(model, [["acute infarction"], ["glioma"]], PromptSet.load("plain"))
    similarity = (embed_studies(model, store, store.records)[:, 0] @ classes.T).numpy()
    truth = np.array([[name in r.labels for name in ("acute infarction", "glioma")] for r in store.records])
    areas = [roc_auc(truth[:, k], similarity[:, k]) for k in range(2)]
    every = result["tasks"]["all"]
    assert [every["classes"][name]["auc"] for name in ("Stroke", "glioma")] == pytest.approx(areas, abs=1e-6)
    assert every["auc"]["value"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert every["left_out"] == ["unheard of"]
    either = truth.any(axis=1)
    called = similarity[either].argmax(axis=1)
    recalls = [np.mean(called[truth[either][:, k]] == k) for k in range(2)]
    assert result["tasks"]["which"]["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-9)
    assert result["cohort"]["studies"] == 40
    with (out / "logits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    scale = float(model.logit_scale_sentence.detach().exp())
    assert float(rows[1]["logit"]) == pytest.approx(scale * similarity[0, 1], rel=1e-4)
    printed = capsys.readouterr().out
    assert "unheard of" in printed
    assert "SIMULATED" in printed


def test_labels_of_a_file(checkpoint, protocol, tiny_store, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("study,Stroke,glioma\ns0,1,0\ns1,0,1\ns2,1,0\ns2,1,0\nelsewhere,1,1\n")
    out = tmp_path / "out"
    more = ["--labels", str(labels), "--out", str(out), "--resamples", "0"]
    main(["evaluate", str(checkpoint), "--protocol", str(protocol), "--store", str(tiny_store), *more])
    result = json.loads((out / "evaluation.json").read_text())
    assert result["cohort"] == {"studies": 3, "without_labels": 37, "labels_without_study": 1, "skipped_scans": 0}
    assert result["tasks"]["all"]["classes"]["Stroke"]["positives"] == 2
    assert result["tasks"]["all"]["auc"]["low"] is None
    printed = capsys.readouterr().out
    assert "nan" not in printed
    assert "95 %" not in printed + result["note"]
    assert "choice of all" in printed  # accuracies of a choice are no mean
    assert [line for line in printed.splitlines() if "mean  " in line and line.count("0.") + line.count("1.") > 1] == []


def test_labels_that_are_no_class_are_named_with_the_nearest(checkpoint, tiny_store, tmp_path, capsys):
    path = tmp_path / "other.yaml"
    path.write_text(PROTOCOL.replace("glioma", "gliomas").replace("acute infarction", "acute infarctions"))
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(checkpoint), "--protocol", str(path), "--store", str(tiny_store), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "'glioma' (nearest: 'gliomas')" in said
    assert "wanted 'Stroke' or 'acute infarctions', 'gliomas', 'unheard of'" in said
    assert not (tmp_path / "out").exists()


def test_a_labels_file_that_is_not_there_is_named_with_the_remedy(checkpoint, protocol, tiny_store, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(checkpoint), "--protocol", str(protocol), "--store", str(tiny_store), "--labels", "missing.csv"])
    assert stop.value.code == 2
    assert "--labels missing.csv: no such file or directory; give a CSV with study ids" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study,Stroke\ns0,2\n", "line 2, column Stroke: '2' is neither 0 nor 1"),
        ("study,Stroke\ns0,1\ns0,0\n", "line 3: study s0 stands twice with different labels"),
        ("study,Other\ns0,1\n", "none of the columns of Tiny"),
        ("study,Stroke\nelsewhere,1\n", "no study of the cohort has labels"),
    ],
)
def test_labels_that_are_refused(checkpoint, protocol, tiny_store, tmp_path, capsys, text, message):
    (tmp_path / "labels.csv").write_text(text)
    more = ["--store", str(tiny_store), "--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(checkpoint), "--protocol", str(protocol), *more])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
