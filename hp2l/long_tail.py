"""Balance of rare classes, from how many training studies are known to have each class and how many are known not to.

Each class is a problem of two sides, present and absent; a form changes the weights of the sides, or shifts the logits in training:

    form              weight, present      weight, absent       added to the logit in training
    class_balanced    c / E(n+)            c / E(n-)            0
    positive_weight   n- / n+              1                    0
    logit_adjusted    1                    1                    tau * ln(n+ / n-)

- class_balanced: Cui et al., *Class-balanced loss based on effective number of samples*, CVPR 2019: E(n) = (1 - beta^n) / (1 - beta), 1 at
  beta = 0 and n towards beta = 1. c makes a class's mean weight over its known studies 1, so that no class loses its say and the learning
  rate holds.
- positive_weight: both sides weigh the same in all, n-.
- logit_adjusted: Menon et al., *Long-tail learning via logit adjustment*, ICLR 2021, whose log prior of a softmax becomes the log-odds
  of one class. Scores take the logits as they are: the shift is of training only, and that is what lifts a rare class.

A class without a positive, or without a negative, has nothing to balance: weights 1 and no shift. (A shift of ln 0 would leave the score
of a class that was never seen wherever it started.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hlip.taxonomy import Taxonomy

LongTail = Literal["none", "class_balanced", "logit_adjusted", "positive_weight"]


class Balance(NamedTuple):
    """What a form does to the classes of one level, (K,) float32 each."""

    present: Tensor
    """Weight of the loss where the class is present."""
    absent: Tensor
    """Weight of the loss where it is absent."""
    shift: Tensor
    """Added to the logits in training."""


def count_labels(targets: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Studies with each class, and studies whose label is known, (K_l,) float32 a level; an unknown label counts in neither.

    Args:
        targets, masks: (N, K_l) a level, 0 or 1: the whole training split, and the entries that its loss counts.
    """
    # Counted whole: float32 stops counting at 2^24.
    known = [mask > 0.5 for mask in masks]
    present = [(target > 0.5) & seen for target, seen in zip(targets, known, strict=True)]
    return [level.sum(dim=0).float() for level in present], [level.sum(dim=0).float() for level in known]


def classes_without_positives(taxonomy: Taxonomy, positives: Sequence[Tensor]) -> list[str]:
    """Names of the classes that no training study is known to have, as `level 3: glioma`, in the tree's order.

    They cannot be learnt, whatever the loss: a caller warns of them before training.

    Args:
        positives: (K_l,) a level, from `count_labels`.
    """
    return [
        f"level {level}: {name}"
        for level, (names, counts) in enumerate(zip(taxonomy.levels, positives, strict=True), start=1)
        for name, count in zip(names, counts.tolist(), strict=True)
        if count < 1
    ]


def balance(form: LongTail, positives: Tensor, known: Tensor, *, beta: float = 0.999, tau: float = 1.0) -> Balance:
    """Weights and shifts of one level's classes; always finite.

    Args:
        positives, known: (K,) counts of one level, from `count_labels`.
        beta: of class_balanced, in [0, 1).
        tau: of logit_adjusted.
    """
    positives, known = positives.double(), known.double()
    negatives = known - positives
    if (negatives < 0).any():
        raise ValueError("more positives than known labels: count both over the same entries (count_labels)")
    two_sided = (positives > 0) & (negatives > 0)
    # Where a side is empty its count is read as 1, so that nothing is divided by zero, and the result is replaced below.
    n, m = positives.clamp(min=1.0), negatives.clamp(min=1.0)
    present, absent, shift = torch.ones_like(n), torch.ones_like(n), torch.zeros_like(n)
    if form == "class_balanced":
        present, absent = 1.0 / effective_number(n, beta), 1.0 / effective_number(m, beta)
        mean = (n * present + m * absent) / (n + m)
        present, absent = present / mean, absent / mean
    elif form == "positive_weight":
        present = m / n
    elif form == "logit_adjusted":
        shift = tau * (n / m).log()
    elif form != "none":
        raise ValueError(f"long_tail '{form}' is none of none, class_balanced, logit_adjusted, positive_weight")
    one, zero = torch.ones_like(n), torch.zeros_like(n)
    chosen = torch.where(two_sided, present, one), torch.where(two_sided, absent, one), torch.where(two_sided, shift, zero)
    return Balance(*(part.float() for part in chosen))


def effective_number(counts: Tensor, beta: float) -> Tensor:
    """E(n) = (1 - beta^n) / (1 - beta), Cui et al. 2019: how much n samples cover where each newcomer repeats some of it."""
    return (1.0 - beta**counts) / (1.0 - beta)
