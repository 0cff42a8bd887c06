"""What a run tells of itself while it runs: a line of numbers, `metrics.jsonl`, trackers, a figure, and damage done to it.

On a terminal the last numbers stand behind the progress bar; where output goes to a file (a scheduler's log) each report is a line.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from hlip.model import HLIP
from hlip.store import Store, readable_study
from hlip.training.runs import RunLog
from pretrain.step import BadStepError, Step

SHOWN = ("loss", "loss_sentence", "loss_report", "studies_per_second", "wait_share")


class Watch:
    """The run's reports; every process has one, the main process speaks.

    Args:
        accelerator: of this launch, its trackers begun.
        out: run folder.
        start: steps already done.
        steps: of the whole run.
        store: what is read; studies that were damaged in an earlier part of the run and can be read now are forgiven.
    """

    def __init__(self, accelerator: Accelerator, out: Path, start: int, steps: int, store: Store):
        self.accelerator, self.out, self.steps = accelerator, out, steps
        self.main = accelerator.is_main_process
        self.log = RunLog(out, self.main, start)
        on_terminal = self.main and sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=start, desc="pretrain", unit="step", mininterval=1.0, disable=not on_terminal)
        self.lines = self.main and not on_terminal
        self.pace = Pace(start)
        self.faults: dict[str, str] = known_faults(out, store) if self.main else {}

    def say(self, text: str) -> None:
        """Print on the main process, above the bar."""
        if self.main:
            tqdm.write(text)

    def report(self, done: int, step: Step, model: HLIP, rate: float) -> None:
        """Numbers of the step just done, averaged over processes; all processes call it."""
        named = {"loss": step.losses.total, "loss_sentence": step.losses.sentence, "loss_report": step.losses.report}
        means = self.accelerator.reduce(torch.stack([value.detach().float() for value in named.values()]), "mean")
        values = dict(zip(named, means.tolist(), strict=True))
        for name in ("sentence", "report"):
            values[f"scale_{name}"] = getattr(model, f"logit_scale_{name}").detach().float().exp().item()
        values |= {"grad_norm": step.norm, "lr": rate}
        sums = torch.tensor([self.pace.studies, self.pace.scans, self.pace.waited], device=self.accelerator.device)
        studies, scans, waited = self.accelerator.reduce(sums, "sum").tolist()
        seconds = time.perf_counter() - self.pace.began
        values |= {
            "studies_per_second": studies / seconds,
            "scans_per_second": scans / seconds,
            "wait_share": waited / seconds / self.accelerator.num_processes,
            "memory_gb": peak_memory(self.accelerator.device),
        }
        left = seconds / max(1, done - self.pace.since) * (self.steps - done)
        self.write(done, values)
        self.bar.set_postfix({name: f"{values[name]:.3g}" for name in SHOWN})
        if self.lines:
            tqdm.write(f"step {done} of {self.steps}: {line(values)}, {clock(left)} left")
        self.pace = Pace(done)

    def write(self, done: int, values: dict[str, float]) -> None:
        """To the log and the trackers."""
        self.log.write(done, **values)
        if self.accelerator.trackers:
            self.accelerator.log(values, step=done)

    def damaged(self, faults: Iterable[tuple[str, str]], total: int, most: float) -> None:
        """Note studies that could not be read, on any process; all processes call it.

        Raises:
            SystemExit: they are more than the share `most` of all `total` studies.
        """
        found = gather_object(list(faults))
        if not self.main:
            return
        for study, reason in found:
            if study not in self.faults:
                self.faults[study] = reason
                self.say(f"damaged, another study was drawn instead: {study} ({reason})")
                with (self.out / "damaged.jsonl").open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"study_id": study, "reason": reason}) + "\n")
        if len(self.faults) > most * total:
            raise SystemExit(
                f"{len(self.faults)} of {total} training studies cannot be read, more than damaged_share {most} allows; they are "
                f"listed in {self.out / 'damaged.jsonl'}"
            )

    def bad_step(self, step: int, error: BadStepError, study_ids: list[str], last: str) -> str:
        """Why the run ends here, with the studies that did it; also in RUN/bad_step.json. All processes call it."""
        bad, everything = gather_object(error.study_ids), gather_object(study_ids)
        if self.main:
            content = {"step": step, "fault": str(error), "not_finite": bad, "studies": everything}
            (self.out / "bad_step.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        named = (
            f"from the studies {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}"
            if bad
            else "though every study's features are finite"
        )
        return (
            f"step {step}: {error}, {named}; {last}; the step's studies are in {self.out / 'bad_step.json'}. "
            "Leave out a damaged study (--sampling.exclude '[ID]'), or lower optimizer.lr, and start again"
        )

    def close(self) -> None:
        """The last words: what was damaged."""
        self.bar.close()
        if self.faults:
            self.say(
                f"damaged studies, each replaced by another draw: {len(self.faults)}, listed in {self.out / 'damaged.jsonl'}"
            )


class Pace:
    """What was done, and waited for, since the last report; validating and saving are not counted."""

    def __init__(self, since: int):
        self.since, self.began = since, time.perf_counter()
        self.studies, self.scans, self.waited = 0.0, 0.0, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not training."""
        stopped = time.perf_counter()
        yield
        self.began += time.perf_counter() - stopped


def known_faults(out: Path, store: Store) -> dict[str, str]:
    """Damaged studies that an earlier part of the run noted, and that still are."""
    path, faults = out / "damaged.jsonl", {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if line.endswith("}"):  # a line that a crash cut short is not
            row = json.loads(line)
            if not readable_study(store, row["study_id"]):
                faults[row["study_id"]] = row["reason"]
    return faults


def peak_memory(device: torch.device) -> float:
    """GB at most so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def line(values: dict[str, float]) -> str:
    """A report's numbers, for people."""
    return (
        "loss {loss:.3f} (sentence {loss_sentence:.3f}, report {loss_report:.3f}), {studies_per_second:.3g} studies/s, "
        "waited for data {wait_share:.0%}, gradient {grad_norm:.3g}, rate {lr:.2g}, factors {scale_sentence:.3g} and "
        "{scale_report:.3g}, {memory_gb:.1f} GB"
    ).format(**values)


def clock(seconds: float) -> str:
    """As 1:02:03."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
