"""Which studies make a step, and which process and which chunk of it sees them.

Everything follows from (seed, epoch) and the studies' sizes, which every process knows: no message is exchanged, a resumed run
continues where it was, and step s holds the same studies on any number of processes.

- Epochs follow one another without a gap: a batch that an epoch cannot fill is filled by the next. No study is lost, and none
  stands twice in a batch.
- A global batch is cut into chunks of equally many studies and about equally many scans: what one forward pass on one device
  holds. Processes take equally many chunks, so that none waits long for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class Place(NamedTuple):
    """One draw of a step."""

    epoch: int
    study: int
    """Its index in the dataset."""
    chunk: int = 0
    """Which forward pass of this process and step holds it."""


class EpochOrder:
    """The order in which the studies of each epoch are seen.

    Args:
        length: studies.
        batch_size: studies a step, all processes together.
        seed: of the order.
        weights: (length,) relative chance of each study at each place; an epoch is then as many draws, with repeats. None: every
            study once.

    Raises:
        ValueError: the studies do not fill one batch.
    """

    def __init__(self, length: int, batch_size: int, seed: int, weights: Sequence[float] | None = None):
        if length < batch_size:
            raise ValueError(f"{length} training studies do not fill one batch of {batch_size}: choose a smaller batch_size")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.chances = None if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> list[Place]:
        """The studies of a step (0-based)."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [Place(epoch, int(self.order(epoch)[place])) for epoch, place in (divmod(p, self.length) for p in places)]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """(length,) the studies of an epoch: a random permutation, its head rid of studies that share their batch with the
        epoch before."""
        if self.chances is not None:
            if epoch != self._epoch:
                draws = np.random.default_rng([self.seed, epoch])
                self._epoch, self._order = epoch, draws.choice(self.length, self.length, p=self.chances)
            return self._order
        if epoch < self._epoch:
            self._epoch = -1
        while self._epoch < epoch:
            previous, self._epoch = self._order, self._epoch + 1
            self._order = np.random.default_rng([self.seed, self._epoch]).permutation(self.length)
            shared = self._epoch * self.length % self.batch_size  # studies of the batch that the epoch before filled
            if shared:
                self._part(set(previous[-shared:].tolist()), self.batch_size - shared)
        return self._order

    def _part(self, before: set[int], head: int) -> None:
        """Exchange studies of the first `head` places that were just seen with the first later ones that were not."""
        others = (place for place in range(head, self.length) if int(self._order[place]) not in before)
        for place in range(head):
            if int(self._order[place]) in before:
                other = next(others)
                self._order[[place, other]] = self._order[[other, place]]


class GlobalBatches(Sampler[list[Place]]):
    """This process's share of each global batch, from step `start` to `steps`.

    Args:
        length: studies.
        batch_size: studies a step, all processes together.
        seed: of the order.
        steps: of the whole run.
        start: steps already done.
        rank: this process.
        world: number of processes.
        sizes: (length,) scans that a draw of each study has, for the balance; equal by default.
        chunk_studies: studies of one forward pass at most; 0 has no limit.
        chunk_scans: scans of one forward pass at most; 0 has no limit. A study larger than that is refused.
        weights: as of `EpochOrder`.

    Raises:
        ValueError: a batch cannot be filled, or cannot be shared evenly.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        steps: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        sizes: Sequence[int] | None = None,
        chunk_studies: int = 0,
        chunk_scans: int = 0,
        weights: Sequence[float] | None = None,
    ):
        if batch_size % world:
            raise ValueError(f"batch_size {batch_size} (all processes together) is not a multiple of {world} processes")
        self.orders = EpochOrder(length, batch_size, seed, weights)
        self.sizes = [1] * length if sizes is None else list(sizes)
        if chunk_scans and max(self.sizes) > chunk_scans:
            raise ValueError(f"chunk_scans {chunk_scans} is less than the {max(self.sizes)} scans drawn from one study")
        self.steps, self.start, self.rank, self.world = steps, start, rank, world
        self.chunk_studies, self.chunk_scans = chunk_studies or batch_size, chunk_scans or sum(self.sizes)

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.start, self.steps):
            places = self.orders.batch(step)
            chunks = self.chunks([self.sizes[place.study] for place in places])
            own = chunks[self.rank :: self.world]  # largest first, so dealt out in turn
            yield [places[place]._replace(chunk=number) for number, chunk in enumerate(own) for place in chunk]

    def chunks(self, sizes: Sequence[int]) -> list[list[int]]:
        """A global batch's places in chunks: as few as the limits allow, a multiple of the number of processes, each with equally
        many studies."""
        studies = len(sizes)
        fitting = (
            n for n in range(self.world, studies + 1, self.world) if studies % n == 0 and studies // n <= self.chunk_studies
        )
        for number in fitting:
            parts = balance(sizes, number)
            if max(sum(sizes[place] for place in part) for part in parts) <= self.chunk_scans:
                return parts
        raise AssertionError("one study a chunk always fits: checked when made")


def balance(sizes: Sequence[int], groups: int) -> list[list[int]]:
    """Places 0..N-1 in groups of N / groups each, of about equal total size: the largest first, each to the lightest group with
    room left. Places stay in order within a group."""
    room = len(sizes) // groups
    if groups == 1 or len(set(sizes)) == 1:
        return [list(range(group * room, (group + 1) * room)) for group in range(groups)]
    parts: list[list[int]] = [[] for _ in range(groups)]
    totals = [0] * groups
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        group = min((g for g in range(groups) if len(parts[g]) < room), key=lambda g: totals[g])
        parts[group].append(place)
        totals[group] += sizes[place]
    return [sorted(part) for part in parts]
