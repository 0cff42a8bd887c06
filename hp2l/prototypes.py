"""One vector a class and level: averaged (PrototypeBank, the method), and learnt or fixed ones for the paper's ablation.

PrototypeBank: one vector a class and level, moved towards the class's studies by an exponential moving average.

HP2L, step 5 (Liu et al., Medical Image Analysis 112, 2026). Notable choices:
- no loop over classes: sums over positives are one matrix product a level;
- sums and counts are reduced over all processes before the step, in float64, so that every process holds the same
  prototypes, and two processes what one would;
- buffers stay float32 when the model is cast: in bfloat16 a step of 1 % would be rounded away;
- a study whose features are not finite (an overflow under mixed precision) does not count: one bad step would stay for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hp2l.processes import summed

Prototypes = Literal["none", "one_hot", "learnable", "ema"]
Averaging = Literal["plain", "first", "corrected"]


class PrototypeBank(nn.Module):
    """Class prototypes P_l (K_l, C) of each level, float32 buffers, saved in the state dict.

    Args:
        counts: K_l, number of classes of each level.
        width: C.
        momentum: m in P <- m P + (1 - m) mean; in [0, 1).
        averaging: plain, from the random start on (the paper). first: a class's first update sets its prototype to the mean. corrected:
            the start has no part in it, and early means count alike (the bias correction of Adam; Kingma & Ba, arXiv 1412.6980, section 3).
        seed: of the start from N(0, 1), drawn by a generator of its own, so that all processes start equal.
    """

    def __init__(
        self, counts: Sequence[int], width: int, *, momentum: float = 0.99, averaging: Averaging = "plain", seed: int = 0
    ) -> None:
        super().__init__()
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"head.momentum {momentum} is not in [0, 1)")
        if averaging not in get_args(Averaging):
            raise ValueError(f"averaging '{averaging}' is none of {', '.join(get_args(Averaging))}")
        self.counts, self.width, self.momentum, self.averaging = tuple(counts), width, momentum, averaging
        for level, (count, values) in enumerate(zip(self.counts, _normal(self.counts, width, seed), strict=True), start=1):
            self.register_buffer(f"level_{level}", values)
            # How often a class was updated: 0 means that its prototype is still the start.
            self.register_buffer(f"updates_{level}", torch.zeros(count, dtype=torch.int64))

    @property
    def depth(self) -> int:
        """Number of levels."""
        return len(self.counts)

    def prototypes(self, level: int) -> Tensor:
        """P_l (K_l, C) float32 of a level (from 1): the buffer itself."""
        return self.get_buffer(f"level_{level}")

    def updates(self, level: int) -> Tensor:
        """(K_l,) int64: number of updates each class of a level (from 1) has had."""
        return self.get_buffer(f"updates_{level}")

    def draw(self, seed: int) -> None:
        """Start from N(0, 1) drawn anew."""
        self.initialise(_normal(self.counts, self.width, seed))

    @torch.no_grad()
    def initialise(self, start: Sequence[Tensor]) -> None:
        """Start from given vectors, one (K_l, C) tensor a level, instead of N(0, 1); for example from text embeddings.

        Raises:
            ValueError: another number of levels, or a shape that is not (K_l, C).
        """
        wanted = [(count, self.width) for count in self.counts]
        if [tuple(values.shape) for values in start] != wanted:
            raise ValueError(f"prototypes must have the shapes {wanted}, not {[tuple(v.shape) for v in start]}")
        for level, values in enumerate(start, start=1):
            self.prototypes(level).copy_(values)
            self.updates(level).zero_()

    @torch.no_grad()
    def update(self, features: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> None:
        """One step of the moving average for all levels. Every process must call it equally often (one reduction a call).

        A class without a positive in the global batch keeps its prototype.

        Args:
            features: class tokens of each level, (B, C), any float dtype; detached here.
            targets: (B, K_l) of each level; above 0.5 is a positive (give them without label smoothing).
            masks: (B, K_l) of each level, 1 = known; an unknown entry is no positive. `None`: all known.
        """
        self._check(features, targets, masks)
        rows = [
            _sums(feature, target, None if masks is None else masks[place])
            for place, (feature, target) in enumerate(zip(features, targets, strict=True))
        ]
        total = summed(torch.cat(rows))
        for level, row in enumerate(total.split(self.counts), start=1):
            self._step(level, row[:, :-1], row[:, -1:])

    def _step(self, level: int, sums: Tensor, counts: Tensor) -> None:
        """Move the prototypes of the classes that are present: sums (K_l, C), counts (K_l, 1)."""
        prototypes, updates = self.prototypes(level), self.updates(level)
        momentum = self._momenta(updates.unsqueeze(1).to(counts))
        moved = momentum * prototypes + (1.0 - momentum) * sums / counts.clamp(min=1.0)
        prototypes.copy_(torch.where(counts > 0, moved, prototypes.to(moved.dtype)))
        updates += (counts[:, 0] > 0).to(updates.dtype)

    def _momenta(self, done: Tensor) -> Tensor:
        """(K, 1): m of each class's next update, after so many (K, 1), a float."""
        if self.averaging == "first":
            return torch.where(done == 0, 0.0, self.momentum)
        if self.averaging == "corrected":  # of the corrected average itself, so that no uncorrected one need be kept
            return self.momentum * (1 - self.momentum**done) / (1 - self.momentum ** (done + 1))
        return torch.full_like(done, self.momentum)

    def _check(self, features: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor] | None) -> None:
        given = {"features": len(features), "targets": len(targets)} | ({} if masks is None else {"masks": len(masks)})
        for name, levels in given.items():
            if levels != self.depth:
                raise ValueError(f"{name} of {levels} level(s) for a bank of {self.depth}")
        for level, (feature, target) in enumerate(zip(features, targets, strict=True), start=1):
            wanted = (len(feature), self.width), (len(feature), self.counts[level - 1])
            if (tuple(feature.shape), tuple(target.shape)) != wanted:
                raise ValueError(
                    f"level {level}: features {tuple(feature.shape)} and targets {tuple(target.shape)} "
                    f"do not fit (B, C) = {wanted[0]} and (B, K) = {wanted[1]}"
                )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PrototypeBank:
        """Move with the model, but stay float32 under `.half()`, `.bfloat16()` and `.double()`."""
        before = {name: buffer for name, buffer in self.named_buffers() if buffer.is_floating_point()}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = self.get_buffer(name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"counts={self.counts}, width={self.width}, momentum={self.momentum}, averaging={self.averaging}"


class LearnedPrototypes(nn.Module):
    """Class prototypes P_l (K_l, C) that the loss moves (the ablation "learnable"); the start is `PrototypeBank`'s, N(0, 1)."""

    def __init__(self, counts: Sequence[int], width: int, *, seed: int = 0) -> None:
        super().__init__()
        self.counts, self.width = tuple(counts), width
        # (1, K, C): the optimizer lets what has a leading 1 undecayed, as it does class tokens and prompts.
        self.values = nn.ParameterList(nn.Parameter(values[None]) for values in _normal(counts, width, seed))

    @torch.no_grad()
    def draw(self, seed: int) -> None:
        """Start from N(0, 1) drawn anew."""
        for own, values in zip(self.values, _normal(self.counts, self.width, seed), strict=True):
            own.copy_(values)

    def prototypes(self, level: int) -> Tensor:
        """P_l (K_l, C) of a level (from 1)."""
        return self.values[level - 1][0]


def _normal(counts: Sequence[int], width: int, seed: int) -> list[Tensor]:
    """(K_l, C) a level, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator, device="cpu") for count in counts]


class FixedPrototypes(nn.Module):
    """Class prototypes that never move (the ablation "one-hot"): class k of a level is the k-th unit vector of C.

    Raises:
        ValueError: a level has more classes than C.
    """

    def __init__(self, counts: Sequence[int], width: int) -> None:
        super().__init__()
        for level, count in enumerate(counts, start=1):
            self.register_buffer(f"level_{level}", unit_vectors(count, width), persistent=False)

    def prototypes(self, level: int) -> Tensor:
        """P_l (K_l, C) of a level (from 1)."""
        return self.get_buffer(f"level_{level}")


def unit_vectors(count: int, width: int) -> Tensor:
    """(count, width) float32: row k is 1 at k.

    Raises:
        ValueError: more rows than the width holds.
    """
    if count > width:
        raise ValueError(f"{count} one-hot vectors do not fit width {width}: choose a width of at least {count}")
    return torch.eye(count, width)


def _sums(features: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
    """(K, C + 1): per class the sum of its positives' features, and their number."""
    # Exact enough that the order of summation (one process, or two) does not show; MPS knows no float64.
    dtype = torch.float32 if features.device.type == "mps" else torch.float64
    features = features.detach().to(dtype)
    finite = features.isfinite().all(dim=1, keepdim=True)
    positive = ((targets > 0.5) & finite).to(dtype)
    if mask is not None:
        positive = positive * (mask > 0.5).to(dtype)
    features = torch.where(finite, features, torch.zeros_like(features))
    return torch.cat([positive.T @ features, positive.sum(dim=0).unsqueeze(1)], dim=1)
