"""Processes that survive each other: results, errors, deaths and hangs are each told of the job they belong to."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hlip.prepare.workers import Lost, work_through

SOURCE = """
import os, signal, subprocess, time


def act(name, what, *, tell):
    tell("began")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("/"):
        program = subprocess.Popen(["sleep", "600"], start_new_session=True)
        open(what, "w").write(str(program.pid))
        time.sleep(600)
    if what == "hang":
        time.sleep(600)
    if what == "slow":  # longer than the limit in all, but not in one step
        for step in range(4):
            time.sleep(0.5)
            tell(step)
    if what == "full":
        raise OSError(28, "No space left on device")
    if what == "greedy":
        try:
            bytearray(2**31)
        except MemoryError:
            return "refused"
    return f"{name} {os.environ['OMP_NUM_THREADS']}"
"""


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What workers run; they must be able to import it."""
    (tmp_path / "act_in_worker.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "act_in_worker", raising=False)
    return importlib.import_module("act_in_worker").act


def test_one_death_and_one_hang_cost_one_job_each(act: Callable[..., Any]) -> None:
    whats = ["fine", "die", "fine", "hang", "slow", "fine", "fine"]
    jobs = [(f"j{n}", what) for n, what in enumerate(whats)]
    found = dict(work_through(act, jobs, 2, seconds=2.0))
    assert found.pop(("j1", "die")) == Lost("killed", "began", "SIGKILL")
    lost = found.pop(("j3", "hang"))
    assert (lost.why, lost.step) == ("timeout", "began")
    assert found == {job: f"{job[0]} 1" for job in jobs if job[1] in ("fine", "slow")}


def test_what_a_stopped_worker_ran_is_stopped_with_it(act: Callable[..., Any], tmp_path: Path) -> None:
    note = tmp_path / "pid"
    ((_, lost),) = work_through(act, [("a", str(note))], 1, seconds=2.0)
    assert lost.why == "timeout"
    program = int(note.read_text())
    psutil.wait_procs([psutil.Process(program)] if psutil.pid_exists(program) else [], timeout=10)
    assert not psutil.pid_exists(program) or psutil.Process(program).status() == psutil.STATUS_ZOMBIE


def test_an_error_of_the_function_stops_all(act: Callable[..., Any]) -> None:
    with pytest.raises(OSError, match="No space left"):
        list(work_through(act, [("a", "fine"), ("b", "full"), ("c", "hang")], 1))


def test_memory_is_limited(act: Callable[..., Any]) -> None:
    assert list(work_through(act, [("a", "greedy")], 1, memory=2**30)) == [(("a", "greedy"), "refused")]
    assert list(work_through(act, [("a", "greedy")], 1)) == [(("a", "greedy"), "a 1")]


def test_no_jobs_no_workers(act: Callable[..., Any]) -> None:
    assert list(work_through(act, [], 4)) == []
