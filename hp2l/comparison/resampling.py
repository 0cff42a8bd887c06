"""Numbers under resamples of patients: areas of rankings, and sums over studies of which every other metric is a ratio.

All that is compared goes through one call and so sees the same resamples; differences are paired. Resamples come in blocks that
threads work on (NumPy and SciPy let go of the interpreter's lock); a block is small enough for a processor's cache.

Shapes: N studies, J rankings, k sums of one kind, R resamples; column 0 is the cohort itself.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hlip import metrics
from hlip.ranking import Ranking

Floats = NDArray[np.float64]
T = TypeVar("T")
BLOCK = 64
"""Resamples a block."""
MOST_WORKERS = 8


@dataclass(frozen=True)
class Drawn:
    """Numbers of the cohort itself and of every resample."""

    auc: Floats
    """(J, 1 + R), NaN without both classes."""
    average_precision: Floats
    """(J, 1 + R), as it comes: see `centred`."""
    sums: dict[Hashable, Floats]
    """Key -> (k, 1 + R)."""


def resample(
    patients: Sequence[str],
    rankings: Sequence[Ranking],
    rows: Mapping[Hashable, NDArray[np.floating]],
    resamples: int,
    seed: int,
    workers: int | None = None,
) -> Drawn:
    """Everything under the same resamples.

    Args:
        patients: (N,) patient of each study.
        rankings: of the N studies.
        rows: key -> (k, N) what each study adds to k sums; float32 for whole numbers (exact up to 2**24 a sum), else float64.
        resamples: R. seed: of the draws, which depend on nothing else.
        workers: threads; as many as processors, but `MOST_WORKERS` at most, where not given.
    """
    columns = 1 + resamples
    auc, precision = np.empty((len(rankings), columns)), np.empty((len(rankings), columns))
    sums = {key: np.empty((len(table), columns)) for key, table in rows.items()}

    def work(piece: tuple[int, NDArray[np.floating]]) -> None:
        first, weight = piece
        block = slice(first, first + weight.shape[1])
        for place, ranking in enumerate(rankings):
            auc[place, block], precision[place, block] = ranking.areas(weight)
        exact = weight.astype(np.float64)
        for key, table in rows.items():
            sums[key][:, block] = table @ (weight if table.dtype == np.float32 else exact)

    # Matrix products that bring threads of their own would wait for one another, many times longer than they work.
    with threadpool_limits(1, user_api="blas"):
        for _ in _in_threads(work, _pieces(patients, resamples, seed), workers or _processors()):
            pass
    return Drawn(auc, precision, sums)


def centred(samples: Floats) -> Floats:
    """Resamples of average precision moved so that their mean is the value itself, within [0, 1]; (..., 1 + R).

    A patient drawn twice makes positives tie with themselves, which lifts average precision in nearly every resample of a rare
    class; without this the interval lies too high.
    """
    value, drawn = samples[..., :1], samples[..., 1:]
    known = ~np.isnan(drawn)
    mean = metrics.ratio(np.where(known, drawn, 0.0).sum(axis=-1, keepdims=True), known.sum(axis=-1, keepdims=True))
    return np.concatenate([value, np.clip(drawn - (mean - value), 0.0, 1.0)], axis=-1)


def summary(row: NDArray[np.float64], paired: bool = False) -> dict[str, float]:
    """{value, low, high} of one number (1 + R,); with the p-value of being zero if it is a paired difference."""
    low, high = metrics.interval(row[1:])
    known = not np.isnan(row[0])
    entry = {"value": float(row[0]), "low": low if known else np.nan, "high": high if known else np.nan}
    return {**entry, "p": metrics.bootstrap_p(row[1:]) if known else np.nan} if paired else entry


def with_normal_p(row: NDArray[np.float64]) -> dict[str, float]:
    """`summary` of a paired difference (1 + R,) with p of its value over the resamples' standard deviation, taken as normal: where many
    differences are tested, the share of resamples beyond zero could not get small enough to be corrected for their number."""
    entry, drawn = summary(row, True), row[1:][~np.isnan(row[1:])]
    spread = float(drawn.std(ddof=1)) if drawn.size > 1 else 0.0
    known = spread > 0 and not math.isnan(entry["value"])
    return {**entry, "p": math.erfc(abs(entry["value"]) / spread / math.sqrt(2))} if known else entry


def exact(entry: dict[str, Any], count: float) -> dict[str, Any]:
    """A share of `count` whole cases, with Clopper and Pearson's interval where it is 0 or 1: resamples of nothing are all nothing."""
    if entry["value"] not in (0.0, 1.0) or not count:
        return entry
    edge = 0.025 ** (1 / count)
    low, high = (0.0, 1 - edge) if entry["value"] == 0 else (edge, 1.0)
    return {**entry, "low": low, "high": high, "exact": True}


def _pieces(patients: Sequence[str], resamples: int, seed: int) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """(column, weights (N, <= BLOCK)): first the cohort itself, weight 1 each, then its resamples."""
    yield 0, np.ones((len(patients), 1), dtype=np.float32)
    column = 1
    for weight in metrics.patient_bootstrap(patients, resamples, seed, BLOCK):
        yield column, weight
        column += weight.shape[1]


def _in_threads(work: Callable[[T], None], pieces: Iterable[T], workers: int) -> Iterator[None]:
    """Work on pieces, few of which exist at a time."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[None]] = deque()
        for piece in pieces:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _processors() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, MOST_WORKERS)
