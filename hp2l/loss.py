"""Losses of a hierarchical classifier: binary cross-entropy a level, and consistency along the tree's edges.

    total = sum_l lambda_l * BCE_l + lambda_c * consistency          (HP2L, Liu et al., Medical Image Analysis 112, 2026)

Unknown labels (mask 0) never count; a mean over what is known is one over all processes together, however it is spread. All sums run in
float32, whatever the logits' dtype. Rare classes: see `hp2l.long_tail`; such a form changes the cross-entropy alone. Consistency compares
the probabilities that will be scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlip.taxonomy import Taxonomy
from hp2l.long_tail import Balance, LongTail, balance
from hp2l.processes import share_of_count

Direction = Literal["published", "reverse"]


def level_bce(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    smoothing: float = 0.1,
    positive_weight: Tensor | None = None,
    negative_weight: Tensor | None = None,
    shift: Tensor | None = None,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Sigmoid binary cross-entropy of one level, mean over the known (study, class) pairs; 0 where none is known.

    Args:
        logits: (B, K).
        targets: (B, K), 0 or 1.
        mask: (B, K), 1 = known; `None`: all known.
        smoothing: s; targets become 1 - s/2 and s/2 (0.1: 0.95 and 0.05).
        positive_weight: (K,), factor on the loss of the studies that have the class, e.g. negatives / positives in the training split.
            It follows the label, not the smoothed target: else a weight of 1 / s would call every absent class present.
        negative_weight: (K,), the same for the studies that do not have it.
        shift: (K,), added to the logits: the log-odds of the class's prior (logit adjustment).
        focal_gamma: exponent of (1 - p of the true side), Lin et al. 2017; 0 is plain cross-entropy.

    Returns:
        float32 scalar.
    """
    logits, targets = logits.float(), targets.float()
    if shift is not None:
        logits = logits + shift
    present = targets > 0.5
    loss = F.binary_cross_entropy_with_logits(logits, targets * (1.0 - smoothing) + 0.5 * smoothing, reduction="none")
    if focal_gamma:
        # log sigmoid of the wrong side's logit is log(1 - p of the true side), safe for large logits.
        loss = loss * (focal_gamma * F.logsigmoid(torch.where(present, -logits, logits))).exp()
    if positive_weight is not None:
        loss = torch.where(present, positive_weight * loss, loss)
    if negative_weight is not None:
        loss = torch.where(present, loss, negative_weight * loss)
    if mask is None:
        return loss.mean()
    mask = mask.float()
    return (loss * mask).sum() / share_of_count(mask.sum())


def edge_consistency(
    parents: Tensor,
    children: Tensor,
    child_targets: Tensor,
    known: Tensor | None = None,
    *,
    direction: Direction = "published",
) -> Tensor:
    """Consistency between two neighbouring levels: mean over the batch, summed over E edges.

    `published`: y_c * max(0, p_parent - p_child): fires where a child is truly present and less probable than its parent.
    `reverse` (the usual constraint, ours): max(0, p_child - p_parent): a child is never above its parent, present or not.

    Args:
        parents, children: probabilities (B, E) of both ends of each edge.
        child_targets: (B, E), 0 or 1.
        known: (B, E), 1 = the labels of both ends are known; the mean is over known studies. `None`: all known.

    Returns:
        float32 scalar.
    """
    parents, children = parents.float(), children.float()
    if direction == "published":
        penalty = child_targets.float() * F.relu(parents - children)
    else:
        penalty = F.relu(children - parents)
    if known is None:
        return penalty.mean(dim=0).sum()
    known = known.float()
    return ((penalty * known).sum(dim=0) / share_of_count(known.sum(dim=0))).sum()


@dataclass(frozen=True)
class LossConfig:
    """Weights and forms of the loss; plain values, fit for JSON and YAML."""

    level_weights: tuple[float, ...] | None = None
    """Weight of each level's cross-entropy, one number a level; null: 1 each."""
    consistency: float = 0.5
    """Weight of the consistency between neighbouring levels; 0 leaves the term out."""
    direction: Direction = "published"
    """Consistency: published punishes a present class that is less probable than its parent; reverse (the usual constraint, ours) any
    class that is more probable than its parent."""
    smoothing: float = 0.1
    """Label smoothing of the cross-entropy: targets 1 - s/2 and s/2."""
    focal_gamma: float = 0.0
    """Focal exponent; 0 is plain cross-entropy. It goes with any long_tail."""
    long_tail: LongTail = "none"
    """Balance of rare classes, from the counts of the training labels: none; class_balanced, by the effective number of studies (beta);
    logit_adjusted, a class's prior log-odds taken out of its score (tau); positive_weight, negatives / positives on the studies that
    have the class."""
    beta: float = 0.999
    """Of class_balanced, in [0, 1): 0 changes nothing, towards 1 is the inverse of the frequency (Cui et al. 2019 try 0.9 to 0.9999)."""
    tau: float = 1.0
    """Of logit_adjusted: share of the prior's log-odds taken out of the scores; 1 is right for the balanced error (Menon et al. 2021)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"loss.smoothing must be in [0, 1), not {self.smoothing}")
        if self.direction not in ("published", "reverse"):
            raise ValueError(f"loss.direction '{self.direction}' is neither published nor reverse")
        if self.focal_gamma < 0.0 or self.consistency < 0.0:
            raise ValueError("loss.focal_gamma and loss.consistency must not be negative")
        if any(weight < 0.0 for weight in self.level_weights or ()):
            raise ValueError(f"loss.level_weights must not be negative: {self.level_weights}")
        if self.long_tail not in get_args(LongTail):
            raise ValueError(f"loss.long_tail '{self.long_tail}' is none of {', '.join(get_args(LongTail))}")
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"loss.beta must be in [0, 1), not {self.beta}")
        if self.tau < 0.0:
            raise ValueError(f"loss.tau must not be negative, not {self.tau}")


class HP2LLoss(nn.Module):
    """The whole loss for one taxonomy; the edges and weights move with `.to(device)` and are not in the state dict.

    Args:
        taxonomy: gives levels and edges.
        config: see `LossConfig`.
        positive_weights: (K_l,) a level, factors on the loss of present classes, chosen by hand; `None`: 1. Weights from counts come with
            `from_counts`.
    """

    def __init__(
        self, taxonomy: Taxonomy, config: LossConfig | None = None, positive_weights: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__()
        self.config = config or LossConfig()
        self.counts = taxonomy.counts
        self.weights = tuple(self.config.level_weights or (1.0,) * taxonomy.depth)
        if len(self.weights) != taxonomy.depth:
            given = f"loss.level_weights {list(self.weights)}: {len(self.weights)} weight{'s' * (len(self.weights) != 1)}"
            raise ValueError(f"{given} for {taxonomy.depth} level{'s' * (taxonomy.depth != 1)} of {taxonomy.name}")
        if positive_weights is not None:
            check_levels("positive weights", positive_weights, taxonomy)
        for level in range(1, taxonomy.depth):
            edges = torch.tensor(taxonomy.edges(level), dtype=torch.int64).reshape(-1, 2)
            self.register_buffer(f"edges_{level}", edges, persistent=False)
        self._balanced = self.config.long_tail == "none"
        for level in range(1, taxonomy.depth + 1):
            weight = None if positive_weights is None else positive_weights[level - 1].float()
            self._register_balance(level, weight, None, None)

    @classmethod
    def from_counts(
        cls, taxonomy: Taxonomy, config: LossConfig | None, positives: Sequence[Tensor], known: Sequence[Tensor]
    ) -> HP2LLoss:
        """A loss balanced as `config.long_tail` says; with `none` the counts change nothing.

        Args:
            positives, known: (K_l,) a level: training studies with the class, and those whose label is known and counted:
                `count_labels(targets, head.level_loss_mask(targets, masks))` over the whole training split, alike on every process.
        """
        loss = cls(taxonomy, config)
        for name, counts in (("positives", positives), ("known labels", known)):
            check_levels(name, counts, taxonomy)
        if loss.config.long_tail != "none":
            for level, (n, seen) in enumerate(zip(positives, known, strict=True), start=1):
                parts: Balance = balance(loss.config.long_tail, n, seen, beta=loss.config.beta, tau=loss.config.tau)
                loss._register_balance(level, *parts)
        loss._balanced = True
        return loss

    def forward(
        self, logits: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and its parts before weighting, detached: `bce_1` ... `bce_L`, `consistency`.

        Args:
            logits, targets, masks: (B, K_l) a level, as in `level_bce`.

        Raises:
            ValueError: shapes that do not fit, or a long-tail form without counts.
        """
        self._check(logits, targets)
        parts = {}
        for level, (logit, target) in enumerate(zip(logits, targets, strict=True), start=1):
            parts[f"bce_{level}"] = level_bce(
                logit,
                target,
                None if masks is None else masks[level - 1],
                smoothing=self.config.smoothing,
                positive_weight=getattr(self, f"present_{level}"),
                negative_weight=getattr(self, f"absent_{level}"),
                shift=getattr(self, f"shift_{level}"),
                focal_gamma=self.config.focal_gamma,
            )
        parts["consistency"] = self._consistency(logits, targets, masks)
        total = sum(
            (weight * parts[f"bce_{level}"] for level, weight in enumerate(self.weights, start=1)),
            start=self.config.consistency * parts["consistency"],
        )
        return total, {name: part.detach() for name, part in parts.items()}

    def _register_balance(self, level: int, present: Tensor | None, absent: Tensor | None, shift: Tensor | None) -> None:
        for name, part in (("present", present), ("absent", absent), ("shift", shift)):
            self.register_buffer(f"{name}_{level}", part, persistent=False)

    def _check(self, logits: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        shapes = [tuple(level.shape) for level in logits]
        if shapes != [tuple(level.shape) for level in targets] or [shape[1] for shape in shapes] != list(self.counts):
            found = [tuple(level.shape) for level in targets]
            raise ValueError(f"logits {shapes} and targets {found} do not fit levels of {self.counts} classes")
        if not self._balanced:
            raise ValueError(
                f"loss.long_tail '{self.config.long_tail}' needs the training split's counts: HP2LLoss.from_counts"
            )

    def _consistency(self, logits: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Tensor:
        probabilities = [level.float().sigmoid() for level in logits]
        total = probabilities[0].new_zeros(())
        for level in range(1, len(self.counts)):
            parent, child = self.get_buffer(f"edges_{level}").T
            total = total + edge_consistency(
                probabilities[level - 1][:, parent],
                probabilities[level][:, child],
                targets[level][:, child],
                None if masks is None else masks[level - 1][:, parent] * masks[level][:, child],
                direction=self.config.direction,
            )
        return total


def check_levels(what: str, given: Sequence[Tensor], taxonomy: Taxonomy) -> None:
    """One (K_l,) tensor a level.

    Raises:
        ValueError: other shapes.
    """
    shapes = [tuple(level.shape) for level in given]
    if shapes != [(count,) for count in taxonomy.counts]:
        raise ValueError(f"{what} {shapes} do not fit the levels {taxonomy.counts} of {taxonomy.name}")
