"""Runs that are told to stop, that are killed, whose data is damaged, whose loss is no number: nothing already done is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hlip
import pretrain.train
from pretrain.train import main

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
DROPS = ("--model.vision.patch_dropout", "0.5", "--model.vision.drop_path", "0.2")


def arguments(store: Path, out: Path, *more: str) -> list[str]:
    return ["--config", str(TINY), "--store", str(store), "--out", str(out), "--validation.every", "0", *more]


def rows(run: Path) -> list[dict]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def different_weights(one: Path, other: Path) -> list[str]:
    """Names of the weights in which two runs differ by a bit or more."""
    states = [load_file(run / "model" / "model.safetensors") for run in (one, other)]
    assert states[0]
    assert states[0].keys() == states[1].keys()
    return [key for key, value in states[0].items() if not torch.equal(value, states[1][key])]


def started(command: list[str]) -> subprocess.Popen:
    settings = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=settings, start_new_session=True, **output)


def wait_for(process: subprocess.Popen, run: Path, steps: int) -> None:
    """Until that many steps are logged."""
    for _ in range(1200):
        if len(rows(run)) >= steps or process.poll() is not None:
            break
        time.sleep(0.1)
    assert len(rows(run)) >= steps, process.communicate()[0]


@pytest.mark.parametrize(
    ("whom", "workers"), [pytest.param("the launcher", "0", marks=pytest.mark.slow), ("the whole group", "2")]
)
def test_a_scheduler_s_signal_saves_and_the_same_command_goes_on(tiny_store, tmp_path, whom, workers):
    """SIGTERM to the launcher, as `kill` sends it, or to all its processes, as a scheduler does: the run saves where it is."""
    endless = ("--steps", "4000", "--save_every", "4000", "--log_every", "1")
    settings = arguments(tiny_store, tmp_path / "run", *endless, *DROPS, "--workers", workers)
    process = started([str(Path(sys.executable).with_name("accelerate")), "launch", "pretrain", *settings])
    wait_for(process, tmp_path / "run", 5)
    if whom == "the launcher":
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)
    checkpoints = tmp_path / "run" / "checkpoints"
    for _ in range(300):  # the launcher may be gone before its child has saved
        if list(checkpoints.glob("step-*/run.json")) and (tmp_path / "run" / "model" / "config.json").exists():
            break
        time.sleep(0.1)
    done = json.loads(next(checkpoints.glob("step-*/run.json")).read_text())["step"]
    assert 5 <= done < 4000
    assert hlip.load(tmp_path / "run").facts["step"] == done

    end = str(done + 3)
    time.sleep(1)
    main(arguments(tiny_store, tmp_path / "run", "--steps", end, *DROPS))
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, done + 4))


@pytest.mark.slow
def test_killed_twenty_times_equals_never_killed(tiny_store, tmp_path):
    """SIGKILL at random moments, in the middle of steps and of saves (every step is saved)."""
    settings = ("--steps", "400", "--save_every", "1", "--log_every", "1", "--trackers", "[]", *DROPS)
    main(arguments(tiny_store, tmp_path / "whole", *settings))
    killed, chance = 0, random.Random(0)
    while killed < 20:
        process = started([sys.executable, "-m", "pretrain", *arguments(tiny_store, tmp_path / "cut", *settings)])
        wait_for(process, tmp_path / "cut", min(400, len(rows(tmp_path / "cut")) + 1))
        time.sleep(chance.uniform(0, 0.6))
        process.kill()
        process.communicate()
        killed += 1
    main(arguments(tiny_store, tmp_path / "cut", *settings))
    assert different_weights(tmp_path / "cut", tmp_path / "whole") == []
    pick = [[(row["step"], row["loss"]) for row in rows(run)] for run in (tmp_path / "cut", tmp_path / "whole")]
    assert pick[0] == pick[1]
    left = sorted(path.name for path in (tmp_path / "cut" / "checkpoints").iterdir())
    assert left == ["step-000000399", "step-000000400"]


@pytest.mark.parametrize("call", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_stopped_while_saving_equals_never_stopped(tiny_store, tmp_path, stopped_at, call):
    """As by a crash before the last model is written, before the figure, and in the middle of the model's folder."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main(arguments(tiny_store, whole, *DROPS))
    owner, name = [(hlip.HLIP, "save"), (pretrain.train, "draw_run"), (hlip.HLIP, "describe")][call - 1]
    stopped_at(owner, name, 2, lambda: main(arguments(tiny_store, cut, *DROPS)))
    main(arguments(tiny_store, cut, *DROPS))
    assert different_weights(cut, whole) == []


def test_loader_processes_change_nothing(tiny_store, tmp_path):
    for workers in ("0", "2"):
        main(arguments(tiny_store, tmp_path / workers, *DROPS, "--workers", workers))
    assert different_weights(tmp_path / "0", tmp_path / "2") == []


def test_averaged_weights_are_saved_and_resumed(tiny_store, tmp_path, stopped_at):
    settings = (*DROPS, "--ema", "0.9")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main(arguments(tiny_store, whole, *settings))
    stopped_at(pretrain.train, "train_step", 5, lambda: main(arguments(tiny_store, cut, *settings)))
    main(arguments(tiny_store, cut, *settings))
    assert different_weights(cut, whole) == []
    assert hlip.load(whole).facts["weights"] == "averaged"
    main(arguments(tiny_store, tmp_path / "last", *DROPS))
    assert different_weights(whole, tmp_path / "last")


def damage(store: Path, target: Path, studies: list[str]) -> Path:
    shutil.copytree(store, target)
    for study in studies:
        (target / "studies" / f"{study}.safetensors").write_bytes(b"gone")
    return target


def test_a_damaged_study_is_replaced_and_listed(tiny_store, tmp_path, capsys):
    store = damage(tiny_store, tmp_path / "store", ["s1"])
    main(arguments(store, tmp_path / "run", "--damaged_share", "0.1"))
    assert hlip.load(tmp_path / "run").facts["step"] == 6
    listed = [json.loads(line) for line in (tmp_path / "run" / "damaged.jsonl").read_text().splitlines()]
    assert [row["study_id"] for row in listed] == ["s1"]
    shown = capsys.readouterr().out
    assert "another study was drawn instead: s1" in shown
    assert "each replaced by another draw: 1, listed in" in shown


def test_too_many_damaged_studies_stop_the_run(tiny_store, tmp_path):
    store = damage(tiny_store, tmp_path / "store", ["s1", "s2", "s3"])
    with pytest.raises(SystemExit, match=r"\d of 24 training studies cannot be read, more than damaged_share 0.05 allows"):
        main(arguments(store, tmp_path / "run", "--damaged_share", "0.05"))


def test_a_repaired_store_is_forgiven(tiny_store, tmp_path):
    store = damage(tiny_store, tmp_path / "store", ["s1", "s2", "s3"])
    with pytest.raises(SystemExit, match="cannot be read"):
        main(arguments(store, tmp_path / "run", "--damaged_share", "0.05"))
    for study in ("s1", "s2", "s3"):
        shutil.copy(tiny_store / "studies" / f"{study}.safetensors", store / "studies")
    with (tmp_path / "run" / "damaged.jsonl").open("a") as out:
        out.write('{"study_id": "s4", "rea')  # a crash in the middle of a line
    main(arguments(store, tmp_path / "run", "--damaged_share", "0.05"))
    assert hlip.load(tmp_path / "run").facts["step"] == 6


def test_a_damaged_study_of_validation_is_left_out(tiny_store, tmp_path, capsys):
    study = hlip.Store(tiny_store).split("val")[0].study_id
    main(arguments(damage(tiny_store, tmp_path / "store", [study]), tmp_path / "run", "--validation.every", "3"))
    assert f"left out of validation, cannot be read: {study}" in capsys.readouterr().out
    assert [row["step"] for row in rows(tmp_path / "run") if "val_auc" in row] == [3, 6]


def test_a_checkpoint_that_was_followed_by_a_bad_step_is_not_trusted(tiny_store, tmp_path):
    """Weights of 1e30 are finite, and saved; the next step shows what they are worth."""
    wild = ("--optimizer.lr", "1e30", "--optimizer.warmup_steps", "0", "--save_every", "1", "--log_every", "1")
    with pytest.raises(SystemExit, match="no checkpoint was saved yet"):
        main(arguments(tiny_store, tmp_path / "run", *wild))
    main(arguments(tiny_store, tmp_path / "run"))
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(tiny_store, tmp_path, monkeypatch):
    step = pretrain.train.train_step

    def poisoned(accelerator, model, optimizer, chunks, loss, clip_norm, seed):
        if seed[1] == 4:
            volumes = chunks[0].volumes.float()
            volumes[0] = float("inf")
            chunks = [chunks[0]._replace(volumes=volumes), *chunks[1:]]
        return step(accelerator, model, optimizer, chunks, loss, clip_norm, seed)

    monkeypatch.setattr(pretrain.train, "train_step", poisoned)
    with pytest.raises(
        SystemExit, match=r"step 5: the loss is nan, from the studies s\d+; the last good checkpoint is .*step-000000003"
    ):
        main(arguments(tiny_store, tmp_path / "run"))
    bad = json.loads((tmp_path / "run" / "bad_step.json").read_text())
    assert bad["step"] == 5
    assert len(bad["not_finite"]) == 1
    assert len(bad["studies"]) == 8
    assert hlip.load(tmp_path / "run").facts["step"] == 3
    monkeypatch.undo()
    main(arguments(tiny_store, tmp_path / "run"))
    assert hlip.load(tmp_path / "run").facts["step"] == 6


def test_an_exploding_loss_stops(tiny_store, tmp_path, monkeypatch):
    """Guessing among 8 studies costs ln 8 = 2.08; five times that is too much."""
    step = pretrain.train.train_step

    def exploding(*arguments):
        taken = step(*arguments)
        return taken._replace(losses=taken.losses._replace(total=taken.losses.total * 0 + 10.5))

    monkeypatch.setattr(pretrain.train, "train_step", exploding)
    with pytest.raises(SystemExit, match=r"step 1: the loss has exploded to 10.5.*no checkpoint was saved yet"):
        main(arguments(tiny_store, tmp_path / "run"))
