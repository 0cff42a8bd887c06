"""k-nearest prototypes: no training of the representation at all, only a scale and a bias on top of similarities.

Each class of each level has a prototype, the average of its studies' pooled tokens. A class's similarity is the mean cosine to its k
nearest prototypes, among its own and those of the classes below it. Ours: of "k-nearest prototypes" no recipe is given; the scale of each
level and the bias of each class are learnt, since a cosine is no score (they change no ranking within a class).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlip.taxonomy import Taxonomy
from hp2l.baselines.flat import Pooling
from hp2l.baselines.trunk import make_output
from hp2l.head import Head, HP2LOutput
from hp2l.loss import LossConfig
from hp2l.prototypes import PrototypeBank
from hp2l.tree_nodes import tree_nodes


class NearestPrototypes(Head):
    """Cosines of pooled tokens with class prototypes.

    Args:
        input_width: of the encoder's tokens.
        nearest: k; a class with fewer prototypes takes all it has. One that never had a positive has none: its similarity is -1.
        momentum: of the averages; the first update sets them to the class's mean.
        with_cls: whether every call gives a class token, see `Pooling`.
    """

    def __init__(
        self, input_width: int, taxonomy: Taxonomy, *, nearest: int = 3, momentum: float = 0.99, with_cls: bool = False
    ) -> None:
        super().__init__()
        self.counts, self.nearest = taxonomy.counts, nearest
        self.pooling = Pooling(with_cls=with_cls)
        width = input_width * (2 if with_cls else 1)
        self.bank = PrototypeBank(self.counts, width, momentum=momentum, averaging="first")
        self.scale = nn.Parameter(torch.full((len(self.counts),), 10.0))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(count)) for count in self.counts)
        for level in range(1, taxonomy.depth + 1):
            self.register_buffer(f"own_{level}", own_and_below(taxonomy, level), persistent=False)

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """tokens (B, N, input width), cls where `with_cls` -> logits (B, K_l) float32: scale times similarity plus bias."""
        pooled = self.pooling(tokens, cls).float()
        pooled = F.layer_norm(pooled, pooled.shape[-1:])
        levels = range(1, len(self.counts) + 1)
        with torch.autocast(pooled.device.type, enabled=False):
            prototypes = torch.cat([self.bank.prototypes(level) for level in levels])
            cosines = F.normalize(pooled, dim=-1) @ F.normalize(prototypes, dim=-1).T
        live = torch.cat([self.bank.updates(level) for level in levels]) > 0
        logits = [
            self.scale[level - 1] * mean_of_nearest(cosines, self.get_buffer(f"own_{level}") & live, self.nearest)
            + self.bias[level - 1]
            for level in levels
        ]
        return make_output(logits, [pooled] * len(logits), return_attention)

    def loss_config(self, config: LossConfig) -> LossConfig:
        """No consistency: only a scale and biases are trained."""
        return replace(config, consistency=0.0)

    @torch.no_grad()
    def update_prototypes(self, output: HP2LOutput, targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> None:
        """Move the averages towards this batch."""
        self.bank.update(output.cls, targets, masks)


def mean_of_nearest(cosines: Tensor, candidates: Tensor, nearest: int) -> Tensor:
    """Cosines (B, M) and each class's candidates (K, M) bool -> (B, K): the mean of the k highest; -1 without a candidate."""
    table = cosines.unsqueeze(1).masked_fill(~candidates, -torch.inf)
    best = table.topk(min(nearest, table.shape[-1]), dim=-1).values
    found = best.isfinite()
    total = best.masked_fill(~found, 0.0).sum(dim=-1)
    count = found.sum(dim=-1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.full_like(total, -1.0))


def own_and_below(taxonomy: Taxonomy, level: int) -> Tensor:
    """(K_l, sum of K) bool: the prototypes of a class, its own and those of the nodes below; a carried leaf counts once."""
    starts = [sum(taxonomy.counts[:place]) for place in range(taxonomy.depth)]
    of = tree_nodes(taxonomy).of
    table = torch.zeros(taxonomy.counts[level - 1], sum(taxonomy.counts), dtype=torch.bool)
    for item in taxonomy.classes(level):
        met: set[int] = set()
        for deeper in range(level, taxonomy.depth + 1):
            for index in taxonomy.subtree(level, item.index, deeper):
                node = of[deeper - 1][index]
                if node not in met:
                    table[item.index, starts[deeper - 1] + index] = True
                met.add(node)
    return table
