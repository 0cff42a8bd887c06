"""Losses of a hierarchical classifier: binary cross-entropy a level, and consistency along the tree's edges.

    total = sum_l lambda_l * BCE_l + lambda_c * consistency          (HP2L, Liu et al., Medical Image Analysis 112, 2026)

Unknown labels (mask 0) never count. All sums run in float32, whatever the logits' dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlip.taxonomy import Taxonomy

Direction = Literal["published", "reverse"]


def level_bce(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    smoothing: float = 0.1,
    positive_weight: Tensor | None = None,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Sigmoid binary cross-entropy of one level, mean over the known (study, class) pairs; 0 where none is known.

    Args:
        logits: (B, K).
        targets: (B, K), 0 or 1.
        mask: (B, K), 1 = known; `None`: all known.
        smoothing: s; targets become 1 - s/2 and s/2 (0.1: 0.95 and 0.05).
        positive_weight: (K,), factor on the positive term, e.g. negatives / positives in the training split.
        focal_gamma: exponent of (1 - p of the true side), Lin et al. 2017; 0 is plain cross-entropy.

    Returns:
        float32 scalar.
    """
    logits, targets = logits.float(), targets.float()
    soft = targets * (1.0 - smoothing) + 0.5 * smoothing
    weight = None if positive_weight is None else positive_weight.to(logits)
    loss = F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weight, reduction="none")
    if focal_gamma:
        # log sigmoid of the wrong side's logit is log(1 - p of the true side), safe for large logits.
        loss = loss * (focal_gamma * F.logsigmoid(torch.where(targets > 0.5, -logits, logits))).exp()
    if mask is None:
        return loss.mean()
    mask = mask.float()
    return (loss * mask).sum() / mask.sum().clamp(min=1.0)


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
        known: (B, E), 1 = the child's label is known; the mean is over known studies. `None`: all known.

    Returns:
        float32 scalar.
    """
    parents, children = parents.float(), children.float()
    if direction == "published":
        penalty = child_targets.float() * F.relu(parents - children)
    else:
        penalty = F.relu(children - parents)
    known = torch.ones_like(penalty) if known is None else known.float()
    return ((penalty * known).sum(dim=0) / known.sum(dim=0).clamp(min=1.0)).sum()


@dataclass(frozen=True)
class LossConfig:
    """Weights and forms of the loss; plain values, fit for JSON and YAML."""

    level_weights: tuple[float, ...] | None = None
    """lambda_l, one a level; `None`: 1 each."""
    consistency: float = 0.5
    """lambda_c; 0 leaves the term out."""
    direction: Direction = "published"
    """Which side of an edge is punished, see `edge_consistency`."""
    smoothing: float = 0.1
    """Label smoothing of the cross-entropy: targets 1 - s/2 and s/2."""
    focal_gamma: float = 0.0
    """Focal exponent; 0 is plain cross-entropy."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"LossConfig.smoothing must be in [0, 1), not {self.smoothing}")
        if self.direction not in ("published", "reverse"):
            raise ValueError(f"LossConfig.direction '{self.direction}' is neither published nor reverse")
        if self.focal_gamma < 0.0 or self.consistency < 0.0:
            raise ValueError("LossConfig.focal_gamma and consistency must not be negative")


class HP2LLoss(nn.Module):
    """The whole loss for one taxonomy; the edges and weights move with `.to(device)` and are not in the state dict.

    Args:
        taxonomy: gives levels and edges.
        config: see `LossConfig`.
        positive_weights: (K_l,) a level, factors on the positive terms; `None`: 1.
    """

    def __init__(
        self, taxonomy: Taxonomy, config: LossConfig | None = None, positive_weights: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__()
        self.config = config or LossConfig()
        self.counts = taxonomy.counts
        self.weights = tuple(self.config.level_weights or (1.0,) * taxonomy.depth)
        if len(self.weights) != taxonomy.depth:
            raise ValueError(f"{len(self.weights)} level weight(s) for the {taxonomy.depth} level(s) of {taxonomy.name}")
        shapes = None if positive_weights is None else [tuple(weight.shape) for weight in positive_weights]
        if shapes not in (None, [(count,) for count in self.counts]):
            raise ValueError(f"positive weights {shapes} do not fit the levels {self.counts} of {taxonomy.name}")
        for level in range(1, taxonomy.depth):
            edges = torch.tensor(taxonomy.edges(level), dtype=torch.int64).reshape(-1, 2)
            self.register_buffer(f"edges_{level}", edges, persistent=False)
        for level in range(1, taxonomy.depth + 1):
            weight = None if positive_weights is None else positive_weights[level - 1].float()
            self.register_buffer(f"positive_{level}", weight, persistent=False)

    def forward(
        self, logits: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and its parts before weighting, detached: `bce_1` ... `bce_L`, `consistency`.

        Args:
            logits, targets, masks: (B, K_l) a level, as in `level_bce`.
        """
        shapes = [tuple(level.shape) for level in logits]
        if shapes != [tuple(level.shape) for level in targets] or [shape[1] for shape in shapes] != list(self.counts):
            found = [tuple(level.shape) for level in targets]
            raise ValueError(f"logits {shapes} and targets {found} do not fit levels of {self.counts} classes")
        parts = {}
        for level, (logit, target) in enumerate(zip(logits, targets, strict=True), start=1):
            parts[f"bce_{level}"] = level_bce(
                logit,
                target,
                None if masks is None else masks[level - 1],
                smoothing=self.config.smoothing,
                positive_weight=getattr(self, f"positive_{level}"),
                focal_gamma=self.config.focal_gamma,
            )
        parts["consistency"] = self._consistency(logits, targets, masks)
        total = sum(
            (weight * parts[f"bce_{level}"] for level, weight in enumerate(self.weights, start=1)),
            start=self.config.consistency * parts["consistency"],
        )
        return total, {name: part.detach() for name, part in parts.items()}

    def _consistency(self, logits: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Tensor:
        probabilities = [level.float().sigmoid() for level in logits]
        total = probabilities[0].new_zeros(())
        for level in range(1, len(self.counts)):
            parent, child = self.get_buffer(f"edges_{level}").T
            total = total + edge_consistency(
                probabilities[level - 1][:, parent],
                probabilities[level][:, child],
                targets[level][:, child],
                None if masks is None else masks[level][:, child],
                direction=self.config.direction,
            )
        return total
