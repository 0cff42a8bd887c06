"""The schedule, the parameter groups and the run's log."""

from __future__ import annotations

import json
import os

import pytest
import torch
from torch import nn

from hlip.engine import OptimizerConfig, RunLog, learning_rate, make_optimizer, parameter_groups, set_learning_rate, share_cores


def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    config = OptimizerConfig(lr=1.0, warmup_steps=4)
    rates = [learning_rate(step, 12, config) for step in range(12)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    # 8 steps of decay: 0.5 * (1 + cos(pi * k / 8)) at k = 2, 4, 6, 7
    assert [rates[4 + k] for k in (2, 4, 6, 7)] == pytest.approx([0.8535534, 0.5, 0.1464466, 0.0380602], abs=1e-7)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_the_learning_rate_of_short_runs():
    assert learning_rate(0, 10, OptimizerConfig(lr=0.2, warmup_steps=0)) == 0.2
    short = OptimizerConfig(lr=0.3, warmup_steps=1600)  # a run shorter than its warm-up still reaches the peak
    assert [learning_rate(step, 3, short) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert learning_rate(0, 1, OptimizerConfig(lr=0.3, warmup_steps=0)) == 0.3


class Model(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 2, 3))
        self.linear = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.temperature = nn.Parameter(torch.zeros(1))
        self.text = nn.Linear(3, 2)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def test_parameter_groups_by_rate_and_decay():
    model = Model()
    groups = parameter_groups({model: 1.0, model.text: 0.1}, weight_decay=0.2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        (group["lr_scale"], group["weight_decay"]): sorted(names[id(parameter)] for parameter in group["params"])
        for group in groups
    }
    assert found == {
        (1.0, 0.2): ["linear.weight"],
        (1.0, 0.0): ["cls_token", "linear.bias", "norm.bias", "norm.weight", "temperature"],
        (0.1, 0.2): ["text.weight"],
        (0.1, 0.0): ["text.bias"],
    }
    assert sum(len(group["params"]) for group in groups) == 8  # each once, and nothing frozen


def test_every_group_follows_the_schedule_at_its_own_scale():
    model = Model()
    optimizer = make_optimizer({model: 1.0, model.text: 0.1}, OptimizerConfig(lr=0.5, betas=(0.8, 0.9), eps=1e-7))
    set_learning_rate(optimizer, 0.2)
    assert len(optimizer.param_groups) == 4
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.2 * group["lr_scale"])
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.9), 1e-7)}


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


def test_a_new_run_begins_a_new_log_and_other_processes_write_nothing(tmp_path):
    RunLog(tmp_path, main=True).write(1, loss=1.0)
    RunLog(tmp_path, main=False).write(2, loss=2.0)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    RunLog(tmp_path, main=True, start=0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("asked", "environment", "threads"),
    [
        (0, {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}, 6),  # the launcher's own default
        (0, {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4"}, 1),
        (0, {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "3"}, 2),  # somebody's choice
        (0, {"OMP_NUM_THREADS": "1"}, 2),  # not launched
        (5, {"OMP_NUM_THREADS": "1"}, 5),
    ],
)
def test_cores_are_shared(monkeypatch, asked, environment, threads):
    for name in ("ACCELERATE_MIXED_PRECISION", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        share_cores(asked)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
