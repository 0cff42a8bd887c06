"""Several runs of one command: one encoding for all, a table that says what it is, folders that hold one kind of thing."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import finetune.tokens as tokens
from finetune.settings import FinetuneConfig
from finetune.several import as_lines, check_folder, expand, spread, spreads
from finetune.train import Run, main
from hlip.config import parse_config
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import load

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")

TINY = Path(__file__).with_name("tiny.yaml")
TREE = Taxonomy.load("brain_mri")


def finetune(store: Path, encoder: Path, out: Path, *more: str) -> None:
    files = ["--config", str(TINY), "--store", str(store), "--encoder", str(encoder), "--out", str(out), "--trackers", "[]"]
    main([*files, *more])


def test_several_seeds_and_folds_come_to_a_table(tiny_store, tiny_pretrained, tmp_path, capsys, monkeypatch):
    out, encode, encoded = tmp_path / "runs", tokens.encode, Counter()

    def counted(model, store, records, *more):
        encoded.update(record.study_id for record in records)
        return encode(model, store, records, *more)

    monkeypatch.setattr(tokens, "encode", counted)
    more = ("--seeds", "2", "--cohort.folds", "2", "--cohort.fold", "-1")
    finetune(tiny_store, tiny_pretrained, out, *more)
    names = ["seed_0_fold_0", "seed_0_fold_1", "seed_1_fold_0", "seed_1_fold_1"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "summary.json", "summary.md", "tokens", "training.png"]
    assert len(encoded) == 32
    assert set(encoded.values()) == {1}  # of train and val, once for four runs
    printed, summary = capsys.readouterr().out, json.loads((out / "summary.json").read_text())
    assert "run 4 of 4" in printed
    values = [load(out / name).facts["val_auc"] for name in names]
    assert list(summary["runs"]["val_auc"].values()) == values
    means = [np.mean(values[:2]), np.mean(values[2:])]
    assert summary["over"] == "runs"
    for own, told in (
        (values, summary["summary"]),
        (means, summary["by_seed"]["summary"]),
    ):  # each table's spread is of its columns
        found = told["val_auc"]
        assert (found["mean"], found["runs"]) == (pytest.approx(np.mean(own)), len(own))
        assert found["sd"] == pytest.approx(np.std(own, ddof=1))
    for words in (
        "on the optimistic side",
        "| mean | sd over 4 runs |",
        "Each seed, a mean over its folds; sd over seeds:",
        "| measure | seed_0 | seed_1 | mean | sd over 2 seeds |",
        "Out of fold: every labelled",
    ):
        assert words in (out / "summary.md").read_text()
        assert words in printed
    assert summary["by_seed"]["runs"]["val_auc"] == {"seed_0": pytest.approx(means[0]), "seed_1": pytest.approx(means[1])}
    assert f"| val_auc | {means[0]:.3f} | {means[1]:.3f} | {np.mean(means):.3f} |" in (out / "summary.md").read_text()
    check_out_of_fold(tiny_store, out, summary)
    before = (out / "seed_1_fold_1" / "metrics.jsonl").read_bytes()
    finetune(tiny_store, tiny_pretrained, out, *more)
    assert (out / "seed_1_fold_1" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(
        SystemExit, match=r"runs: holds the runs seed_0_fold_0, .*, and a single one is asked for; choose another"
    ):
        finetune(tiny_store, tiny_pretrained, out)


def check_out_of_fold(store: Path, out: Path, summary: dict) -> None:
    """Seed 1, level 1: every study of train and val once, by the model of the other fold; scikit-learn's AUC, `normal` left out."""
    records, scores = Store(store), {}
    for fold in (0, 1):
        model = load(out / f"seed_1_fold_{fold}")
        with np.load(out / f"seed_1_fold_{fold}" / "validation.npz") as arrays:
            own = dict(zip(arrays["studies"].tolist(), arrays["level_1"], strict=True))
        first = next(iter(own))
        volumes = records.volumes(first)
        assert own[first] == pytest.approx(model.diagnose(volumes, [len(volumes)])[0][0].numpy(), abs=1e-5)
        assert not own.keys() & scores.keys()
        scores |= own
    assert scores.keys() == {record.study_id for split in ("train", "val") for record in records.split(split)}
    table, truth = np.array(list(scores.values())), np.array([TREE.encode(records.record(s).labels)[0] for s in scores])
    areas = [
        roc_auc_score(truth[:, k], table[:, k])
        for k, name in enumerate(TREE.levels[0])
        if name != TREE.normal and 0 < truth[:, k].sum() < len(truth)
    ]
    assert summary["out_of_fold"]["runs"]["auc_level_1"]["seed_1"] == pytest.approx(np.mean(areas))


def test_told_to_stop_the_runs_that_follow_stop_too(tiny_store, tiny_pretrained, tmp_path, capsys, monkeypatch):
    step = Run.step

    def stopping(self, *given):
        os.kill(os.getpid(), signal.SIGTERM)  # the run listens, and ends after this step
        return step(self, *given)

    monkeypatch.setattr(Run, "step", stopping)
    finetune(tiny_store, tiny_pretrained, tmp_path / "runs", "--seeds", "2", "--steps", "3")
    assert "stopped after step 1" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "seed_1").exists()
    assert not (tmp_path / "runs" / "summary.json").exists()
    monkeypatch.setattr(Run, "step", step)
    finetune(tiny_store, tiny_pretrained, tmp_path / "runs", "--seeds", "2", "--steps", "3")
    assert "continuing after step 1" in capsys.readouterr().out
    assert (tmp_path / "runs" / "summary.json").exists()


def test_told_to_stop_in_the_last_step_of_a_run_the_runs_that_follow_stop_too(
    tiny_store, tiny_pretrained, tmp_path, monkeypatch
):
    step = Run.step

    def stopping(self, *given):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *given)

    monkeypatch.setattr(Run, "step", stopping)
    finetune(tiny_store, tiny_pretrained, tmp_path / "runs", "--seeds", "2", "--steps", "1")
    assert (tmp_path / "runs" / "seed_0" / "model").is_dir()
    assert not (tmp_path / "runs" / "seed_1").exists()
    assert not (tmp_path / "runs" / "summary.json").exists()


def test_a_smaller_share_of_labels_reads_what_the_whole_cohort_encoded(tiny_store, tiny_pretrained, tmp_path, monkeypatch):
    encode, encoded = tokens.encode, []

    def counted(model, store, records, *more):
        encoded.append(len(records))
        return encode(model, store, records, *more)

    monkeypatch.setattr(tokens, "encode", counted)
    shared = ("--tokens", str(tmp_path / "tokens"), "--steps", "1")
    finetune(tiny_store, tiny_pretrained, tmp_path / "part", *shared, "--cohort.fraction", "0.25")
    finetune(tiny_store, tiny_pretrained, tmp_path / "whole", *shared)
    assert encoded == [6, 8, 18]
    finetune(tiny_store, tiny_pretrained, tmp_path / "fold", *shared, "--cohort.folds", "4", "--cohort.fold", "1")
    assert encoded == [6, 8, 18]


def test_a_folder_holds_one_run_or_several(tmp_path):
    (tmp_path / "one" / "model").mkdir(parents=True)
    (tmp_path / "many" / "fold_1").mkdir(parents=True)
    (tmp_path / "many" / "fold_1" / "config.yaml").touch()
    check_folder(tmp_path / "one", 1)
    check_folder(tmp_path / "many", 3)
    check_folder(tmp_path / "new", 3)
    with pytest.raises(ValueError, match=r"one: holds a single run, and 2 are asked for; choose another --out"):
        check_folder(tmp_path / "one", 2)
    with pytest.raises(ValueError, match=r"many: holds the runs fold_1, and a single one is asked for"):
        check_folder(tmp_path / "many", 1)


def test_what_is_not_defined_is_in_no_mean():
    nan = float("nan")
    assert spread([0.5, nan, 0.7]) == pytest.approx({"mean": 0.6, "sd": 0.02**0.5, "low": 0.5, "high": 0.7, "runs": 2})
    assert all(np.isnan([spread([nan])[name] for name in ("mean", "sd", "low")]))
    table = {"val_auc": {"seed_0": 0.5, "seed_1": nan}}
    assert as_lines(table, spreads(table), "seeds")[-1] == "| val_auc | 0.500 | not defined | 0.500 | not defined |"
    assert as_lines({"a": {"seed_0": 0.25}}, spreads({"a": {"seed_0": 0.25}}), "seeds") == [
        "| measure | seed_0 |",
        "|---|---|",
        "| a | 0.250 |",
    ]


def test_runs_of_several_begin_from_no_state_of_one_and_share_tokens_of_a_frozen_encoder(tiny_store, tiny_pretrained, tmp_path):
    with pytest.raises(SystemExit, match=r"--resume .*step-3: the state of one run, and 2 are asked for"):
        finetune(tiny_store, tiny_pretrained, tmp_path / "runs", "--seeds", "2", "--resume", str(tmp_path / "step-3"))
    assert not (tmp_path / "runs").exists()
    given = ["--store", "s", "--encoder", "e", "--out", "o", "--steps", "1", "--seeds", "2"]
    for more, place in (([], Path("o/tokens")), (["--tuning.encoder", "all"], None)):
        config = parse_config(FinetuneConfig, command="finetune", description="", argv=given + more)
        assert [run.tokens for run in expand(config)] == [place, place]
