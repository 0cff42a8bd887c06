"""Runs side by side: a few processes, each of which trains one run after another.

Notable choices:
- A worker holds one run at a time, so that its death (out of memory) is that run's failure alone; another takes its place.
- Ctrl-C and SIGTERM are the command's: it hands out no more, and tells its workers by SIGTERM, at which a run saves its state and ends.
- Workers are no daemons, for a run whose encoder is trained has loader processes of its own. They end when nobody is at the other end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from tqdm import tqdm

from finetune.experiments.agenda import Agenda, Planned
from finetune.experiments.plan import Setting
from finetune.experiments.training import attempt
from hlip.training.runs import StopSignal

MOST_WORKERS = 4
"""As many as the command takes by itself: each holds torch and the cohort's tokens, about 1 GB."""
_STOPPED = ("stopped", None)
_LOOK = 0.5  # seconds between two looks at whether to stop


def share(workers: int, threads: int) -> tuple[int, int]:
    """How many runs go side by side, and how many CPU threads each has; 0 stands for a choice.

    By itself one a core, at most `MOST_WORKERS`, each with an even share of the cores; one where a GPU trains. A run that is alone has
    0, torch's own choice, unless threads are named.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not workers:
        workers = 1 if torch.cuda.is_available() else max(1, min(MOST_WORKERS, cores // max(1, threads)))
    return workers, threads or (max(1, cores // workers) if workers > 1 else 0)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    run: Planned | None = None


def side_by_side(agenda: Agenda, setting: Setting, workers: int) -> None:
    """Work through an agenda.

    Args:
        setting: its `threads` are those of each worker, at least 1.
        workers: most processes at a time.

    Raises:
        KeyboardInterrupt: the command, or one of the workers, was told to stop; unfinished runs saved their states.
    """
    team: list[_Worker] = []
    with StopSignal() as stop:
        try:
            while busy := _busy(team, agenda, setting, workers):
                for worker in _heard(busy):
                    _listen(worker, team, agenda)
                if stop.received:
                    tqdm.write(f"told to stop ({stop.received}): {len(busy)} runs save their states first")
                    raise KeyboardInterrupt
        finally:
            _dismiss(team)


def _busy(team: list[_Worker], agenda: Agenda, setting: Setting, workers: int) -> list[_Worker]:
    """All that have a run, after those without one were given one, and as many were hired as there may be."""
    while sum(worker.run is not None for worker in team) < workers and (run := agenda.take()):
        free = next((worker for worker in team if worker.run is None), None)
        if free is None:
            team.append(free := _hire(setting))
        free.run = run
        free.pipe.send(run)
    return [worker for worker in team if worker.run is not None]


def _heard(busy: list[_Worker]) -> list[_Worker]:
    """Those that have something to say, or died, after a while at most."""
    ready = wait([worker.pipe for worker in busy], _LOOK)
    return [worker for worker in busy if worker.pipe in ready]


def _listen(worker: _Worker, team: list[_Worker], agenda: Agenda) -> None:
    assert worker.run is not None
    try:
        said = worker.pipe.recv()
    except (EOFError, OSError):  # nobody at the other end
        team.remove(worker)
        worker.pipe.close()
        worker.process.join()
        agenda.done(worker.run, f"its process ended, {_cause(worker.process.exitcode)}")
        return
    if said == _STOPPED:
        raise KeyboardInterrupt
    agenda.done(worker.run, said[1])
    worker.run = None


def _cause(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"
    except ValueError:
        return f"exit status {code}"


def _hire(setting: Setting) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, setting), daemon=False)
    with _deaf():
        process.start()
    theirs.close()  # so that its death is seen at our end
    return _Worker(process, ours)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C waits; a process that begins here is deaf to it from its first line on, while it imports as well."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _dismiss(team: list[_Worker]) -> None:
    """Idle workers end as their pipe closes; those at a run save its state first. A second Ctrl-C ends them at once."""
    for worker in team:
        worker.pipe.close()
        if worker.run is not None:
            worker.process.terminate()
    try:
        for worker in team:
            worker.process.join()
    except KeyboardInterrupt:
        for worker in team:
            worker.process.kill()
        raise


def _work(pipe: Connection, setting: Setting) -> None:
    """In a worker, until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(setting.threads)
    while True:
        try:
            job, seed = pipe.recv()
            try:
                answer = ("done", attempt(job, setting, seed))
            except KeyboardInterrupt:
                answer = _STOPPED
            pipe.send(answer)
        except (EOFError, OSError):
            return
