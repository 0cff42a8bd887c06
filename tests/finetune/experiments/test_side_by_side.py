"""Several processes: the same results as one, a failure that costs the others nothing, a stop that is no loss."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from finetune.experiments import side_by_side
from finetune.experiments.agenda import Agenda
from finetune.experiments.plan import Variant, make_job

from .small import QUICK, TINY, command, setting, write_experiment

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")
VARIANTS = """\
 - {name: hp2l, label: HP2L}
 - {name: bad, label: Bad, overrides: {head.level_start: encoder}}
 - {name: linear, label: Linear, overrides: {head.kind: linear, head.blocks: "[1,2,2]"}}
"""


def test_two_workers_equal_one_and_a_failing_variant_costs_the_others_nothing(tiny_store, encoder, tmp_path, capfd):
    one = write_experiment(tmp_path / "one.yaml", VARIANTS)
    words = ["--config", TINY, "--seeds", 1, "--steps", 2, *QUICK, "--only", one, "--workers"]
    outs = {workers: tmp_path / f"out_{workers}" for workers in (1, 2)}
    for workers, out in outs.items():
        with pytest.raises(RuntimeError, match="1 of 3 variants failed"):
            command(encoder, tiny_store, out, *words, workers)
    assert multiprocessing.active_children() == []
    said = capfd.readouterr()
    assert "run 3 of 3: Linear, seed 0" in said.out
    assert "3/3" in said.err
    assert "step 2" not in said.out + said.err  # a run's own words are in its log
    alone, beside = (json.loads((out / "results.json").read_text()) for out in outs.values())
    assert list(alone["failed"].items()) == list(beside["failed"].items())
    assert list(alone["failed"]) == ["Bad"]
    runs = {out: sorted(path.relative_to(out) for path in out.glob("runs/*/seed_*/scores.npz")) for out in outs.values()}
    assert runs[outs[1]] == runs[outs[2]]
    assert len(runs[outs[1]]) == 2
    for place in runs[outs[1]]:
        with np.load(outs[1] / place) as left, np.load(outs[2] / place) as right:
            assert all(np.array_equal(left[name], right[name]) for name in left.files)
        names = [sorted(path.name for path in (out / place).parent.iterdir()) for out in outs.values()]
        assert names[0] == names[1]
    assert len(list(outs[2].glob("tokens*"))) == 2  # variants that read other tokens do not take them from one another


def test_a_stopped_command_saves_its_runs_and_goes_on_later(tiny_store, encoder, tmp_path):
    one = write_experiment(tmp_path / "one.yaml", " - {name: hp2l, label: H}\n")
    out = tmp_path / "out"
    words = [encoder, tiny_store, out, "--config", TINY, "--seeds", 1, "--steps", 120, *QUICK, "--only", one, "--workers"]
    interrupted = threading.Thread(target=interrupt_at_first_step, args=(out,))
    interrupted.start()
    with pytest.raises(KeyboardInterrupt):
        command(*words, 2)
    interrupted.join()
    assert multiprocessing.active_children() == []
    (folder,) = out.glob("runs/*/seed_0")
    assert not (folder / "result.json").exists()
    assert "stopped after step" in (folder / "log.txt").read_text()
    assert len(list((folder / "checkpoints").glob("step-*/run.json"))) == 1
    command(*words, 1)
    assert json.loads((folder / "result.json").read_text())["steps"] == 120
    assert "continuing after step" in (folder / "log.txt").read_text()


def interrupt_at_first_step(out: Path) -> None:
    """Ctrl-C, as soon as a run has written a line; never, if none does."""
    until = time.monotonic() + 600
    while time.monotonic() < until:
        if any(path.stat().st_size for path in out.glob("runs/*/seed_0/metrics.jsonl")):
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.01)


def test_a_worker_that_dies_is_that_runs_failure(tmp_path, capsys):
    job = make_job(Variant("hp2l", "HP2L"), setting(tmp_path))
    ours, theirs = multiprocessing.Pipe()
    worker = side_by_side._Worker(SimpleNamespace(join=lambda: None, exitcode=-9), ours, (job, 1))
    theirs.close()
    team = [worker]
    with Agenda([(job, seed) for seed in range(3)]) as agenda:
        agenda.take()
        side_by_side._listen(worker, team, agenda)
        assert agenda.take() is None  # no other seed of it
    assert team == []
    assert agenda.failed == {job.key: "its process ended, SIGKILL"}
    assert side_by_side._cause(3) == "exit status 3"


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(6))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert side_by_side.share(0, 0) == (4, 1)
    assert side_by_side.share(0, 3) == (2, 3)
    assert side_by_side.share(2, 0) == (2, 3)
    assert side_by_side.share(1, 0) == (1, 0)
    assert side_by_side.share(9, 0) == (9, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert side_by_side.share(0, 0) == (1, 0)
