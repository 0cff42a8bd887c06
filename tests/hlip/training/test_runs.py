"""The run's log and its checkpoints."""

from __future__ import annotations

import json
import os
import signal

import pytest
from torch import nn

from hlip.training.runs import Checkpoints, RunLog, StopSignal


def test_the_log_drops_repeated_steps_and_half_lines(tmp_path):
    log = RunLog(tmp_path, main=True)
    for step in (1, 2, 3, 4):
        log.write(step, loss=float(step))
    with log.path.open("a") as out:
        out.write('{"step": 3, "lo')  # a crash in the middle of a line
    again = RunLog(tmp_path, main=True, start=2)
    again.write(3, loss=30.0)
    rows = [json.loads(line) for line in again.path.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert all(row["seconds"] >= 0 for row in rows)


def test_seconds_are_those_of_the_run_pauses_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": 40.0}\n{"step": 2, "seconds": 90.0}\n')
    log = RunLog(tmp_path, main=True, start=1)
    log.write(2, loss=1.0)
    assert 40.0 <= json.loads(log.path.read_text().splitlines()[-1])["seconds"] < 60.0


def test_a_new_run_begins_a_new_log_and_other_processes_write_nothing(tmp_path):
    RunLog(tmp_path, main=True).write(1, loss=1.0)
    RunLog(tmp_path, main=False).write(2, loss=2.0)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    RunLog(tmp_path, main=True, start=0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert RunLog(tmp_path, main=True).values("loss") == []


def test_the_last_checkpoints_are_kept_and_the_last_is_gone_on_from(tmp_path, accelerator):
    model = accelerator.prepare(nn.Linear(2, 2))
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.restore(accelerator, "auto") == 0
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step-000000001.partial").mkdir()  # left by a crash
    for step in (5, 10, 15):
        nn.init.constant_(model.weight, float(step))
        checkpoints.save(accelerator, step)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()) == [
        f"step-{step:09d}" for step in (10, 15)
    ]
    nn.init.zeros_(model.weight)
    assert checkpoints.restore(accelerator, "auto") == 15
    assert (model.weight == 15).all()
    assert checkpoints.restore(accelerator, str(checkpoints.all()[0])) == 10
    assert (model.weight == 10).all()
    with pytest.raises(SystemExit, match="has begun"):
        checkpoints.restore(accelerator, "never")
    with pytest.raises(SystemExit, match="no checkpoint there"):
        checkpoints.restore(accelerator, str(tmp_path))
    (checkpoints.all()[1] / "run.json").unlink()  # the last one never became whole
    assert checkpoints.restore(accelerator, "auto") == 10


def test_a_checkpoint_of_another_engine_is_refused(tmp_path, accelerator):
    checkpoints = Checkpoints(tmp_path, keep=1)
    accelerator.prepare(nn.Linear(2, 2))
    checkpoints.save(accelerator, 3)
    facts = checkpoints.all()[0] / "run.json"
    facts.write_text(json.dumps({"step": 3, "processes": 4, "engine": "DistributedType.DEEPSPEED"}))
    with pytest.raises(SystemExit, match=r"4 process\(es\) under .*DEEPSPEED.* launch as before"):
        checkpoints.restore(accelerator, "auto")


def test_a_signal_is_noted_and_a_second_ctrl_c_ends_at_once(accelerator):
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert stop.asked(accelerator) is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked(accelerator) == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
