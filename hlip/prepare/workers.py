"""Processes that work through a list of jobs, where the death of one costs one job and not the run.

Notable choices:
- The standard process pool breaks as a whole when the system kills one worker (out of memory), without saying over which job, and it
  has no time limit. Here each worker holds one job at a time, so that the lost one is known; a new worker takes the dead one's place.
- A job may say where it stands (`tell`). That restarts its clock, and the step is named when it is lost.
- Workers ignore Ctrl-C: it is for the parent, which hands out no more and lets them finish what they do.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_GRACE = 60.0  # seconds for a worker to end its job when the run stops
_START = 120.0  # seconds for a worker to come up, before the clock of its first job runs


@dataclass(frozen=True)
class Lost:
    """Instead of a result: the worker died or was stopped."""

    why: str
    """killed (by the system or a crash) or timeout."""
    step: Any = None
    """What the job told last."""
    detail: str = ""


@dataclass
class _Hand:
    """One worker and what it is at."""

    process: Any
    pipe: Connection
    job: Any = None
    step: Any = None
    since: float = 0.0


def work_through(
    function: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...]],
    workers: int,
    *,
    seconds: float | None = None,
    memory: int | None = None,
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield (job, what `function(*job, tell=...)` returned, or `Lost`), as they are done.

    Args:
        function: importable by name; `tell(step)` says where it stands.
        seconds: the longest that one step may take.
        memory: bytes that a worker may take on top of what it starts with; more is a MemoryError there (Linux only).

    Raises:
        Whatever the function raised.
    """
    waiting, hands = deque(jobs), list[_Hand]()
    try:
        while waiting or any(hand.job is not None for hand in hands):
            while waiting and (idle := _idle(hands, workers, function, memory)):
                idle.job, idle.step, idle.since = waiting.popleft(), None, time.monotonic() + _START
                idle.pipe.send(idle.job)
            for hand, found in _news([hand for hand in hands if hand.job is not None], seconds):
                job = hand.job
                if isinstance(found, Lost):
                    hands.remove(hand)
                hand.job = None
                yield job, found
    finally:
        _dismiss(hands)


def _idle(hands: list[_Hand], workers: int, function: Callable[..., Any], memory: int | None) -> _Hand | None:
    free = next((hand for hand in hands if hand.job is None), None)
    if free is None and len(hands) < workers:
        hands.append(free := _hire(function, memory))
    return free


def _news(busy: list[_Hand], seconds: float | None) -> Iterator[tuple[_Hand, Any]]:
    """Waits until something happens; workers with a result, and those that died or were too slow."""
    patience = None
    if seconds is not None:
        patience = max(0.0, min(hand.since for hand in busy) + seconds - time.monotonic()) + 0.01
    ready = wait([hand.pipe for hand in busy], patience)
    for hand in busy:
        if hand.pipe in ready:
            try:
                kind, value = hand.pipe.recv()
            except (EOFError, OSError, pickle.UnpicklingError):  # nobody at the other end
                yield hand, _buried(hand)
                continue
            if kind == "failed":
                raise value
            if kind == "done":
                yield hand, value
            else:
                hand.step, hand.since = value, time.monotonic()
        elif seconds is not None and time.monotonic() - hand.since > seconds:
            _kill(hand)
            yield hand, Lost("timeout", hand.step, f"{seconds:g} s")


def _buried(hand: _Hand) -> Lost:
    hand.process.join()
    code = hand.process.exitcode or 0
    try:
        detail = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    except ValueError:
        detail = f"exit status {code}"
    return Lost("killed", hand.step, detail)


def _hire(function: Callable[..., Any], memory: int | None) -> _Hand:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs, memory), daemon=True)
    with _one_thread():
        process.start()
    theirs.close()  # so that its death is seen at our end
    return _Hand(process, ours)


def _dismiss(hands: list[_Hand]) -> None:
    for hand in hands:
        hand.pipe.close()
    end = time.monotonic() + _GRACE
    for hand in hands:
        hand.process.join(max(0.0, end - time.monotonic()))
        if hand.process.is_alive():
            _kill(hand)


def _kill(hand: _Hand) -> None:
    """At once, with the programs that it runs (a converter), which would go on without it."""
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(hand.process.pid).children(recursive=True)
        hand.process.kill()
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    hand.process.join()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inherited: must be set before a worker imports NumPy."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ |= dict.fromkeys(_THREADS, "1")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _work(function: Callable[..., Any], pipe: Connection, memory: int | None) -> None:
    """In a worker, until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # a library's word on each odd file would drown the progress bar; tables say what is wrong
    logging.disable(logging.WARNING)
    _limit(memory)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(("step", None))  # up and at it: the clock runs from here
            answer = ("done", function(*job, tell=lambda step: pipe.send(("step", step))))
        except Exception as error:
            answer = ("failed", _sendable(error))
        try:
            pipe.send(answer)
        except OSError:
            return


def _limit(memory: int | None) -> None:
    statm = Path("/proc/self/statm")
    if memory is None or sys.platform != "linux" or not statm.is_file():
        return
    import resource

    most = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _sendable(error: Exception) -> Exception:
    """The error, or its words where it would not survive the pipe to the parent process."""
    try:
        pickle.loads(pickle.dumps(error))  # bytes of our own, made this moment
    except Exception:  # whatever an exception class does in there: its words are sent
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
