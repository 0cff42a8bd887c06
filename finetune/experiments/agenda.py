"""The runs that are left: which is next, how each ended, how far all are."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tqdm import tqdm

from finetune.experiments.plan import Job

Planned = tuple[Job, int]
"""A job and the seed of one of its runs."""


class Agenda:
    """Hands out runs one by one and notes how they ended; of a job that failed no further seed is handed out.

    Args:
        runs: in the order in which they are to begin.

    Use it as a context, for its bar over runs with the time that is left.
    """

    def __init__(self, runs: Sequence[Planned]):
        self.waiting, self.count, self.begun = deque(runs), len(runs), 0
        self._faults: dict[str, dict[int, str]] = {}

    def __enter__(self) -> Agenda:
        # smoothing 0: the mean of all runs so far; the last one's kind says little of the next one's
        self.bar = tqdm(total=self.count, desc="runs", unit="run", smoothing=0, disable=not self.count)
        return self

    def __exit__(self, *fault: object) -> None:
        self.bar.close()

    def take(self) -> Planned | None:
        """The next run; None where none is left."""
        while self.waiting:
            job, seed = self.waiting.popleft()
            self.begun += 1
            if job.key not in self._faults:
                tqdm.write(f"run {self.begun} of {self.count}: {job.label}, seed {seed}")
                return job, seed
            self.bar.update()
        return None

    def done(self, run: Planned, fault: str | None) -> None:
        """Note that a run ended, and what went wrong if anything did."""
        job, seed = run
        if fault is not None:
            self._faults.setdefault(job.key, {})[seed] = fault
            tqdm.write(f"  failed: {job.label}, seed {seed}: {fault}")
        self.bar.update()

    @property
    def failed(self) -> dict[str, str]:
        """Key of a job -> what went wrong, with the first seed that failed."""
        return {key: faults[min(faults)] for key, faults in self._faults.items()}
