"""One run: scores of the saved model, an encoder of its own, a stop and what goes on after it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from finetune.experiments import runs, training
from finetune.experiments.plan import Variant, make_job
from hlip.store import Store, write_index
from hp2l.diagnoser import load
from hp2l.head import HP2LOutput
from hp2l.tokens import Tokens

from .small import QUICK, TINY, command, setting, write_experiment

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")


def test_scores_are_those_of_the_saved_model(tiny_store, encoder, tmp_path):
    one = write_experiment(tmp_path / "one.yaml", " - {name: hp2l, label: HP2L}\n")
    command(encoder, tiny_store, tmp_path / "out", "--config", TINY, "--seeds", 1, *QUICK, "--only", one)
    (folder,) = (tmp_path / "out" / "runs").glob("*/seed_0")
    store, model = Store(tiny_store), load(folder)
    study = store.split("test")[3]
    expected = model.diagnose(store.volumes(study.study_id), [len(study.sequences)])[2][0]
    with np.load(folder / "scores.npz") as arrays:
        torch.testing.assert_close(torch.from_numpy(arrays["test_3"][3]).float(), expected, atol=1e-5, rtol=1e-4)


def test_evenness_of_attention_by_hand():
    """Level 1: (1/2, 1/2, 0, 0) and an even look: log 2 / log 4 and 1. Level 2: even. A level of one class says nothing."""
    first = torch.tensor([[[0.5, 0.5, 0.0, 0.0]], [[0.25] * 4]])
    second, single = torch.full((2, 1, 3), 1 / 3), torch.ones(2, 1, 1)

    class Seen(torch.nn.Module):
        def forward(self, tokens, return_attention):
            assert return_attention
            return HP2LOutput([], [], [first, second, single])

    model = Seen()
    model.encoder = SimpleNamespace(device="cpu")
    assert training.prompt_evenness(model, Tokens(torch.zeros(2, 1, 1), torch.zeros(2, 1))) == pytest.approx((0.75 + 1) / 2)


def test_studies_of_which_the_encoder_reads_nothing_are_not_scored(tiny_store, tmp_path):
    """One validation and two test studies without a T1, under an encoder that reads nothing else."""
    shutil.copytree(tiny_store, tmp_path / "store")
    gone = {"val": 1, "test": 2}

    def without(record):
        if gone.get(record.split, 0) and "T1" in record.sequences:
            gone[record.split] -= 1
            return replace(record, sequences=tuple("SWI" if name == "T1" else name for name in record.sequences))
        return record

    before = Store(tmp_path / "store")
    write_index(tmp_path / "store", [without(record) for record in before.records])
    config = tmp_path / "cnn.yaml"
    config.write_text(TINY.read_text() + "encoder: cnn\ncnn: {channels: [T1], width: 64}\ntuning: {encoder: all}\nworkers: 0\n")
    one = write_experiment(tmp_path / "one.yaml", " - {name: linear, label: L, overrides: {head.kind: linear}}\n", "linear")
    command("cnn", tmp_path / "store", tmp_path / "out", "--config", config, "--seeds", 1, *QUICK, "--steps", 3, "--only", one)
    (folder,) = (tmp_path / "out" / "runs").glob("*/seed_0")
    with np.load(folder / "scores.npz") as arrays:
        for split, few in (("val", 1), ("test", 2)):
            names = arrays[f"{split}_studies"].tolist()
            assert len(names) == len(arrays[f"{split}_3"]) == len(before.split(split)) - few


def test_an_encoder_that_is_trained_with_each_head(tiny_store, tmp_path):
    """Nothing is cached: scores come from each run's own encoder, and the page says how it was."""
    config = tmp_path / "cnn.yaml"
    config.write_text(TINY.read_text() + "encoder: cnn\ncnn: {channels: [T1], width: 64}\ntuning: {encoder: all}\nworkers: 0\n")
    one = write_experiment(
        tmp_path / "one.yaml", " - {name: hp2l, label: HP2L}\n - {name: linear, label: L, overrides: {head.kind: linear}}\n"
    )
    words = ["--seeds", 1, *QUICK, "--steps", 3, "--only", one]
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


def test_a_stopped_run_stops_the_command_and_goes_on_later(tiny_store, encoder, tmp_path, monkeypatch):
    one = write_experiment(tmp_path / "one.yaml", " - {name: hp2l, label: HP2L}\n")
    words = [encoder, tiny_store, tmp_path / "out", "--config", TINY, "--seeds", 1, *QUICK, "--only", one]
    with monkeypatch.context() as patch:
        patch.setattr("finetune.train.StopSignal.asked", lambda self, accelerator: "told to")
        with pytest.raises(KeyboardInterrupt):
            command(*words)
    (folder,) = (tmp_path / "out" / "runs").glob("*/seed_0")
    assert not (folder / "result.json").exists()
    command(*words)
    assert json.loads((folder / "result.json").read_text())["steps"] == 6
    assert "stopped after step 1" in (folder / "log.txt").read_text()


def test_a_failure_is_told_with_what_its_second_line_names(tmp_path, monkeypatch):
    given = setting(tmp_path)
    job = make_job(Variant("s", "S"), given)
    job.folder(given, 0).mkdir(parents=True)

    def broken(*asked):
        raise ValueError("2 studies have labels that do not fit\n  no class 'x', in 2: s1, s2\n  a third line")

    monkeypatch.setattr(training, "train", broken)
    assert training.attempt(job, given, 0) == "2 studies have labels that do not fit: no class 'x', in 2: s1, s2"


def test_tokens_that_one_variant_alone_cannot_have_are_its_own_runs_fault(tmp_path, monkeypatch):
    given, tried = setting(tmp_path), []
    shared, own = make_job(Variant("s", "S"), given), make_job(Variant("o", "O", {"head.blocks": "[1,2,2]"}), given)

    def broken(job, given):
        tried.append(job.label)
        raise OSError("no space left")

    monkeypatch.setattr(runs, "encode_all", broken)
    runs.encode_before([own, own], given)
    with pytest.raises(OSError, match="no space left"):
        runs.encode_before([shared, own], given)
    assert tried[0] == "O"
    assert "S" in tried[1:]
