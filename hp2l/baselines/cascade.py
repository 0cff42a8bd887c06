"""A cascade: one model a decision node, run one after another; an early mistake is final.

After *Breaking Down the Hierarchy* (arXiv 2502.10899), which has four models for seven classes. Our adaptation:
- the models share the encoder, and each has two blocks and a class token of its own;
- multi-label: a model says yes or no to each of its children, and every child at or above the threshold opens the models below (the
  paper's classes exclude one another);
- a node with a single child has no model: there is nothing to decide, the child takes its parent's score and threshold;
- binary cross-entropy by default; the paper's focal loss is `loss.focal_gamma`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from hlip.taxonomy import Taxonomy
from hp2l.baselines.trunk import BLOCKS_A_LEVEL, Trunk, make_output
from hp2l.blocks import BlockConfig, start_as_vit
from hp2l.head import Head, HP2LOutput
from hp2l.loss import LossConfig
from hp2l.tree_nodes import Nodes, tree_nodes

CLOSED = -14.0
"""Logit of a class that no decision led to: a score below 1e-6, finite so that no loss or mean becomes NaN."""


class Cascade(Head):
    """One model for the top, and one for every node with at least two children.

    In training mode a class's logit is that of its own model, and `level_loss_mask` leaves in it only the studies that truly have the
    parent. In evaluation mode a class is scored by its own model if every model above said yes to its path; else it is closed: its score
    is below every open one's, and closed ones stand in the order of the score that closed them.

    Args:
        threshold: score, in (0, 1), from which a class opens the models below it. None: a class's share among the training studies that
            have its parent (`observe`), as a model trained with smoothed labels gives it: a fixed 0.5 is hardly reached by rare classes, and
            a cascade with it would be judged by its closed doors.
    """

    def __init__(self, config: BlockConfig, taxonomy: Taxonomy, *, threshold: float | None = None) -> None:
        super().__init__()
        self.counts, self.threshold = taxonomy.counts, threshold
        nodes = tree_nodes(taxonomy)
        self.of = nodes.of
        self.decisions = decisions(nodes)
        self.models = nn.ModuleList(NodeModel(config, len(children)) for children in self.decisions.values())
        decided = [child for children in self.decisions.values() for child in children]
        deciders, above = [], torch.zeros(len(nodes.paths), len(nodes.paths), dtype=torch.bool)
        for node, path in enumerate(nodes.paths):
            deciders.append(next(step for step in reversed(path) if step in decided))
            above[node, list(path[:-1])] = True
        # a class itself, or the one whose score a single child takes
        self.register_buffer("deciders", torch.tensor(deciders), persistent=False)
        self.register_buffer("columns", torch.tensor([decided.index(node) for node in deciders]), persistent=False)
        self.register_buffer("above", above, persistent=False)
        self.register_buffer("bars", torch.full((len(nodes.paths),), log_odds(0.5 if threshold is None else threshold)))
        self._register_training(taxonomy, set(decided))
        tokens = [model.cls for model in self._models() if config.cls == "learned"]
        start_as_vit(self, *tokens)

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """tokens (B, N, input width), cls as the configuration says -> logits (B, K_l), see the class."""
        ran = [model.run(tokens, cls) for model in self._models()]
        logits = torch.cat([scores for _, scores in ran], dim=-1)[:, self.get_buffer("columns")]
        if not self.training:
            logits = self.decide(logits)
        return make_output([logits[:, nodes] for nodes in self.of], [ran[0][0]] * len(self.of), return_attention)

    @torch.no_grad()
    def observe(self, targets: Sequence[Tensor], masks: Sequence[Tensor], smoothing: float) -> None:
        """Set the thresholds of the classes that a model decides, if none was given, by the training labels.

        Args:
            targets, masks: (N, K_l) a level.
            smoothing: of the targets that the models are trained on.
        """
        if self.threshold is not None:
            return
        bars = self.get_buffer("bars")
        targets, masks = ([part.to(bars.device) for part in parts] for parts in (targets, masks))
        counted = self.level_loss_mask(targets, masks)
        for nodes, target, mask in zip(self.of, targets, counted, strict=True):
            asked = mask.sum(dim=0)
            shares = (target * mask).sum(dim=0) / asked.clamp(min=1)
            for column, node in enumerate(nodes):
                if asked[column] > 0:
                    learnt = float(shares[column]) * (1 - smoothing) + smoothing / 2
                    bars[node] = log_odds(min(max(learnt, 0.005), 0.995))

    def decide(self, logits: Tensor) -> Tensor:
        """Logits (B, nodes) of all models -> the same, and below a node that failed at its threshold: `CLOSED` plus by how far the highest
        failure above missed it, in (-1, 0)."""
        bars = self.get_buffer("bars")[self.get_buffer("deciders")]
        short = (logits - bars).clamp(max=0)
        above = self.get_buffer("above")
        misses = short.unsqueeze(1).masked_fill(~above, 0.0).amin(dim=-1)
        return torch.where(misses < 0, CLOSED + misses.tanh(), logits.clamp(min=CLOSED + 1))

    def loss_config(self, config: LossConfig) -> LossConfig:
        """No consistency: a model's score is given its parent, so that the two cannot be compared."""
        return replace(config, consistency=0.0)

    def level_loss_mask(self, targets: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """A class counts for the studies that are known to have its parent, once: not where a deeper level only carries it."""
        present = torch.cat([(target > 0.5) & (mask > 0.5) for target, mask in zip(targets, masks, strict=True)], dim=1)
        present = torch.cat([present, torch.ones_like(present[:, :1])], dim=1)
        counted = []
        for level, mask in enumerate(masks, start=1):
            allowed = present[:, self.get_buffer(f"parent_{level}")] & self.get_buffer(f"decided_{level}")
            counted.append(mask * allowed.to(mask.dtype))
        return counted

    def _register_training(self, taxonomy: Taxonomy, decided: set[int]) -> None:
        """Buffers (K_l,) of each level: whether a model decides the class there, and its parent's column in all levels side by side (one
        behind the last: no parent)."""
        starts = [sum(taxonomy.counts[:level]) for level in range(taxonomy.depth + 1)]
        met: set[int] = set()
        for level, nodes in enumerate(self.of, start=1):
            items = taxonomy.classes(level)
            places = [
                starts[-1]
                if item.parent_level is None or item.parent_index is None
                else starts[item.parent_level - 1] + item.parent_index
                for item in items
            ]
            self.register_buffer(f"parent_{level}", torch.tensor(places), persistent=False)
            here = torch.tensor([node in decided and node not in met for node in nodes])
            self.register_buffer(f"decided_{level}", here, persistent=False)
            met.update(nodes)

    def _models(self) -> list[NodeModel]:
        return [model for model in self.models if isinstance(model, NodeModel)]


class NodeModel(Trunk):
    """The model of one decision node: two blocks and one output a child."""

    def __init__(self, config: BlockConfig, children: int) -> None:
        super().__init__(config, BLOCKS_A_LEVEL)
        self.head = nn.Linear(config.width, children)

    def run(self, tokens: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor]:
        """The class token (B, C) and the children's logits (B, children)."""
        state = self(tokens, cls)
        return state, self.head(state)


def log_odds(share: float) -> float:
    """Of a probability in (0, 1)."""
    return math.log(share) - math.log1p(-share)


def decisions(nodes: Nodes) -> dict[int | None, list[int]]:
    """The children of each decision node; `None` is the top, which always decides."""
    children: dict[int | None, list[int]] = {None: []}
    for node, path in enumerate(nodes.paths):
        children.setdefault(path[-2] if len(path) > 1 else None, []).append(node)
    return {parent: below for parent, below in children.items() if parent is None or len(below) > 1}
