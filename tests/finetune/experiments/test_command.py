"""The command: each run once, scores of the saved models, a page that can be made again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.experiments import measures, runs
from finetune.experiments.cli import add_experiments
from hlip.model import HLIP, HLIPConfig
from hlip.store import Store
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hp2l.diagnoser import load

from .small import TINY, write_experiment

pytestmark = pytest.mark.usefixtures("fresh_engine")


@pytest.fixture(scope="module")
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


def command(*words: object) -> None:
    parser = argparse.ArgumentParser()
    add_experiments(parser.add_subparsers())
    arguments = parser.parse_args(["experiments", *map(str, words)])
    arguments.run(arguments)


def test_the_command_trains_each_run_once_and_writes_its_page(tiny_store, encoder, tmp_path, monkeypatch, capsys):
    rows = " - {name: hp2l, label: HP2L, published: {bacc_3: 88.43}}\n - {name: d, label: Flat, depth: 1, published: {bacc_3: 74.23}}\n"
    one = write_experiment(tmp_path / "one.yaml", rows)
    two = write_experiment(tmp_path / "two.yaml", " - {name: hp2l, label: Again}\n")
    out = tmp_path / "out"
    words = [encoder, tiny_store, out, "--config", TINY, "--seeds", 2, "--threads", 1, "--resamples", 50, "--only", one, two]
    command(*words)
    said = capsys.readouterr().out
    assert "2 of them distinct" in said
    assert "run 4 of 4" in said
    folders = sorted((out / "runs").glob("*/seed_*"))
    assert len(folders) == 4
    assert all((folder / "result.json").is_file() and not (folder / "checkpoints").exists() for folder in folders)
    assert sorted(path.name.split("-")[0] for path in (out / "tokens").iterdir()) == ["test", "train", "val"]
    page = (out / "index.html").read_text()
    assert "SIMULATED" in page
    assert "88.43" in page
    assert "http" not in page.replace("http://www.w3.org", "")

    monkeypatch.setattr(runs, "finetune", lambda argv: pytest.fail("trained again"))
    monkeypatch.setattr(measures, "MINIMUM", 1)  # two studies a class
    command(*words)
    results = json.loads((out / "results.json").read_text())
    hp2l, flat = results["experiments"][0]["variants"]
    assert len(hp2l["measures"]["bacc_3"]["seeds"]) == 2
    assert 0 <= hp2l["measures"]["bacc_3"]["low"] <= hp2l["measures"]["bacc_3"]["high"] <= 1
    assert "recovery" in hp2l["measures"]
    assert "recovery" not in flat["measures"]
    assert set(flat["difference"]) == {"auc_3", "bacc_3", "distance"}
    assert results["experiments"][0]["order"]["bacc_3"]["published"] == ["HP2L", "Flat"]
    assert "| HP2L |" in (out / "results.md").read_text()


def test_another_call_adds_to_the_page_and_says_its_overrides(tiny_store, encoder, tmp_path, capsys):
    out = tmp_path / "out"
    words = [encoder, tiny_store, out, "--config", TINY, "--seeds", 1, "--threads", 1, "--resamples", 10, "--steps", 2]
    words += ["--taxonomy", "brain_mri", "--override", "head.momentum=0.5", "head.dropout=0.1", "--only"]
    command(*words, "prompt_update", "taxonomy")
    assert "Left out of 'Another tree'" in capsys.readouterr().out
    one = write_experiment(tmp_path / "one.yaml", " - {name: sum, label: Sum, overrides: {head.prompt_update: sum}}\n", "sum")
    command(*words, one)
    assert "1 of 1 runs are there already" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert [experiment["name"] for experiment in results["experiments"]] == ["prompt_update", "one"]
    assert results["overrides"] == {"head.momentum": "0.5", "head.dropout": "0.1"}
    assert "recovered" in results["experiments"][0]["variants"][0]
    for name in ("index.html", "results.md"):
        assert (
            "head.momentum=0.5, head.dropout=0.1 for all variants, tree brain_mri (4 / 6 / 16 classes)"
            in (out / name).read_text()
        )


def test_scores_are_those_of_the_saved_model(tiny_store, encoder, tmp_path):
    one = write_experiment(tmp_path / "one.yaml", " - {name: hp2l, label: HP2L}\n")
    command(
        encoder, tiny_store, tmp_path / "out", "--config", TINY, "--seeds", 1, "--threads", 1, "--resamples", 10, "--only", one
    )
    (folder,) = (tmp_path / "out" / "runs").glob("*/seed_0")
    store, model = Store(tiny_store), load(folder)
    study = store.split("test")[3]
    expected = model.diagnose(store.volumes(study.study_id), [len(study.sequences)])[2][0]
    with np.load(folder / "scores.npz") as arrays:
        torch.testing.assert_close(torch.from_numpy(arrays["test_3"][3]).float(), expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_that_is_trained_with_each_head(tiny_store, tmp_path):
    """Nothing is cached: scores come from each run's own encoder, and the page says how it was."""
    config = tmp_path / "cnn.yaml"
    config.write_text(TINY.read_text() + "encoder: cnn\ncnn: {channels: [T1], width: 64}\ntuning: {encoder: all}\nworkers: 0\n")
    one = write_experiment(
        tmp_path / "one.yaml", " - {name: hp2l, label: HP2L}\n - {name: linear, label: L, overrides: {head.kind: linear}}\n"
    )
    words = ["--seeds", 1, "--threads", 1, "--resamples", 10, "--steps", 3, "--only", one]
    command("cnn", tiny_store, tmp_path / "out", "--config", config, *words)
    assert not (tmp_path / "out" / "tokens").exists()
    store = Store(tiny_store)
    study = store.split("test")[3]
    for folder in (tmp_path / "out" / "runs").glob("*/seed_0"):
        model = load(folder)
        expected = model.diagnose(model.encoder.reader(store, study), [1])[2][0]
        with np.load(folder / "scores.npz") as arrays:
            torch.testing.assert_close(torch.from_numpy(arrays["test_3"][3]).float(), expected, atol=1e-5, rtol=1e-4)
    assert "encoder cnn, trained with each head (all)" in (tmp_path / "out" / "index.html").read_text()


def test_a_failing_variant_is_named_and_the_others_go_on(tiny_store, encoder, tmp_path):
    one = write_experiment(
        tmp_path / "one.yaml",
        " - {name: hp2l, label: HP2L}\n - {name: bad, label: Bad, overrides: {head.level_start: encoder}}\n",
    )
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="1 of 2 variants failed"):
        command(encoder, tiny_store, out, "--config", TINY, "--seeds", 1, "--threads", 1, "--resamples", 10, "--only", one)
    results = json.loads((out / "results.json").read_text())
    assert list(results["failed"]) == ["Bad"]
    assert [row["label"] for row in results["experiments"][0]["variants"]] == ["HP2L"]
    assert "Failed" in (out / "index.html").read_text()


def test_a_stopped_run_stops_the_command_and_goes_on_later(tiny_store, encoder, tmp_path, monkeypatch):
    one = write_experiment(tmp_path / "one.yaml", " - {name: hp2l, label: HP2L}\n")
    words = [
        encoder,
        tiny_store,
        tmp_path / "out",
        "--config",
        TINY,
        "--seeds",
        1,
        "--threads",
        1,
        "--resamples",
        10,
        "--only",
        one,
    ]
    with monkeypatch.context() as patch:
        patch.setattr("finetune.train.StopSignal.asked", lambda self, accelerator: "told to")
        with pytest.raises(KeyboardInterrupt):
            command(*words)
    (folder,) = (tmp_path / "out" / "runs").glob("*/seed_0")
    assert not (folder / "result.json").exists()
    command(*words)
    assert json.loads((folder / "result.json").read_text())["steps"] == 6
    assert "stopped after step 1" in (folder / "log.txt").read_text()
