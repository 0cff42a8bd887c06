"""A run folder: its log, its states to continue from, and the signals that end it early."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator

from hlip.files.folders import recover, replace_folder

RESUME = ("auto", "never")
"""How a run begins where one stands already; anything else is the path of a checkpoint."""


class RunLog:
    """`metrics.jsonl` of a run folder, written by the main process; lines of steps that a resumed run repeats are dropped."""

    def __init__(self, folder: Path, main: bool, start: int = 0):
        self.path, self.main, self.began = folder / "metrics.jsonl", main, time.perf_counter()
        self.before = 0.0
        """Seconds of the run until it was stopped."""
        if main:
            kept = [line for line in self._lines() if json.loads(line)["step"] <= start]
            self.path.write_text("".join(kept), encoding="utf-8")
            self.before = json.loads(kept[-1])["seconds"] if kept else 0.0

    def write(self, step: int, **values: float) -> None:
        """Append one line: the step, seconds of the run so far (while it ran), and the values."""
        if self.main:
            row = {"step": step, "seconds": round(self.before + time.perf_counter() - self.began, 2), **values}
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")

    def values(self, name: str) -> list[float]:
        """All values of a measure so far, in order."""
        return [row[name] for row in map(json.loads, self._lines()) if name in row]

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        # a line cut short by a crash is not JSON and is left out
        return [line for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]


def changed_settings(out: Path, config: Mapping[str, Any], free: Collection[str]) -> list[str]:
    """What differs from the settings that a run folder was begun with, `head.width 144, now 72`; nothing if it is new.

    Args:
        out: the run folder, with its `config.yaml`.
        config: the settings now, as plain values.
        free: top-level settings that may change.
    """
    path = out / "config.yaml"
    if not path.is_file():
        return []
    before = _flat(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    now = _flat(yaml.safe_load(yaml.safe_dump(dict(config))))
    fixed = [
        key for key in before if key in now and key.split(".")[0] not in free
    ]  # what an older version did not know says nothing
    return [f"{key} {before[key]}, now {now[key]}" for key in fixed if before[key] != now[key]]


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


class Checkpoints:
    """The states of a run, RUN/checkpoints/step-000350: each appears whole or not at all, and the last few are kept.

    Args:
        folder: where they are.
        keep: how many are left on disk.
    """

    def __init__(self, folder: Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep {keep}: at least the last checkpoint must be kept")
        self.folder, self.keep = folder, keep

    def all(self) -> list[Path]:
        """Complete ones, oldest first."""
        return sorted(path.parent for path in self.folder.glob("step-*/run.json"))

    def save(self, accelerator: Accelerator, step: int) -> None:
        """Save the state after `step`, then drop those that are too old, and what a crash left unfinished. All processes call it."""
        save_state(accelerator, self.folder / f"step-{step:09d}", step)
        if accelerator.is_main_process:
            for old in self.all()[: -self.keep]:
                (old / "run.json").unlink()  # from here on it is no checkpoint, even if this is the last thing that happens
            for path in {*self.folder.glob("step-*"), *self.folder.glob(".step-*")} - set(self.all()):
                shutil.rmtree(path, ignore_errors=True)

    def distrust(self, step: int) -> list[Path]:
        """What is left after the checkpoint of this step, if there is one, is no longer taken for good."""
        for path in self.all():
            if path.name == f"step-{step:09d}":
                (path / "run.json").replace(path / "distrusted.json")
        return self.all()

    def restore(self, accelerator: Accelerator, resume: str) -> int:
        """Load the state to continue from and return its step, 0 for a fresh start.

        Args:
            accelerator: with model, optimizer and whatever else was prepared or registered.
            resume: auto, the last one there is; never; or the path of one.

        Raises:
            SystemExit: `never`, but there are some; a path that is none; a state of another engine or number of processes.
        """
        there = self.all()
        if resume == "never" and there:
            raise SystemExit(f"{self.folder}: this run has begun ({there[-1].name}); choose another --out, or --resume auto")
        if resume not in RESUME:
            if not (Path(resume) / "run.json").is_file():
                raise SystemExit(
                    f"--resume {resume}: no checkpoint there (auto, never, or a folder like {self.folder}/step-000000500)"
                )
            return restore_state(accelerator, Path(resume))
        return restore_state(accelerator, there[-1]) if there else 0


def save_state(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Optimizer, weights and scaler of every process, to continue after `step`; the folder appears whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        facts = {"step": step, "processes": accelerator.num_processes, "engine": str(accelerator.distributed_type)}
        (partial / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        replace_folder(partial, folder)
    accelerator.wait_for_everyone()


def restore_state(accelerator: Accelerator, folder: Path) -> int:
    """Load what `save_state` wrote and return its step; 0 when there is nothing to continue.

    Raises:
        SystemExit: it was saved under another engine or number of processes.
    """
    if accelerator.is_main_process:
        recover(folder)
    accelerator.wait_for_everyone()
    if not (folder / "run.json").is_file():
        return 0
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    engine = str(accelerator.distributed_type)
    sharded = "DEEPSPEED" in facts["engine"] or "DEEPSPEED" in engine
    if sharded and (facts["engine"], facts["processes"]) != (engine, accelerator.num_processes):
        raise SystemExit(
            f"{folder}: saved by {facts['processes']} process(es) under {facts['engine']}, but this is {accelerator.num_processes} under "
            f"{engine}. DeepSpeed's state is cut by process: launch as before, or start a new run from the model folder beside it."
        )
    accelerator.load_state(str(folder))
    return int(facts["step"])


class StopSignal:
    """Notes that the run should end: SIGTERM or SIGUSR1 of a scheduler, Ctrl-C, or the launcher's death.

    The run then finishes its step, saves and ends; a second Ctrl-C ends it at once.
    """

    SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT")

    def __init__(self) -> None:
        self.received: str | None = None
        self._parent = os.getppid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for name in self.SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and threading.current_thread() is threading.main_thread():
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *fault: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def asked(self, accelerator: Accelerator) -> str | None:
        """Why to stop, if any process was told to; all processes call it and agree."""
        if self.received is None and os.getppid() != self._parent:
            self.received = "the launcher is gone"
        if accelerator.num_processes == 1:
            return self.received
        told = torch.tensor([self.received is not None], dtype=torch.float32, device=accelerator.device)
        if accelerator.reduce(told, "sum").item() == 0:
            return None
        return self.received or "another process was told to stop"

    def _note(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
