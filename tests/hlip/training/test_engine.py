"""The cores of a process, and backward passes that are summed."""

from __future__ import annotations

import os

import pytest
import torch

from hlip.training.engine import share_cores


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
