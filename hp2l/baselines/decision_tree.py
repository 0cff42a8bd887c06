"""A hierarchical prototypical decision tree: our reading of the baseline "HPDT" in HP2L's main table.

The recipe of HPDT is not public in what we have: this is our reading of the name, and its figures are no reproduction of the paper's row.
Each node of the tree has a prototype; a study goes down an edge with a probability that falls with its distance to the child's prototype,
and a class's score is the product along its path. A distance-matching term asks that distances between prototypes be proportional to
distances in the tree, with the best common factor (the scale-free distortion of Garnot and Landrieu, *Leveraging Class Hierarchies with
Metric-Guided Prototype Learning*, BMVC 2021). Multi-label: siblings do not compete, each edge is a yes or no of its own. HP2L's consistency
has no place here: a class never scores above its parent, so the term would pull down the parents of all present classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlip.taxonomy import Taxonomy
from hp2l.baselines.trunk import BLOCKS_A_LEVEL, Trunk, make_output
from hp2l.blocks import BlockConfig, start_as_vit
from hp2l.head import Head, HP2LOutput
from hp2l.loss import LossConfig
from hp2l.tree_nodes import Nodes, tree_nodes


class DecisionTree(Head):
    """Two blocks a level, then gates at the nodes and products along the paths.

    A leaf that deeper levels carry is one node: its score there is the same.

    Args:
        distance_loss: weight of the distance-matching term.
    """

    def __init__(self, config: BlockConfig, taxonomy: Taxonomy, *, distance_loss: float = 0.1) -> None:
        super().__init__()
        self.counts, self.distance_loss = taxonomy.counts, distance_loss
        nodes = tree_nodes(taxonomy)
        self.of = nodes.of
        self.trunk = Trunk(config, BLOCKS_A_LEVEL * taxonomy.depth)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.prototypes = nn.Parameter(torch.zeros(1, len(nodes.paths), config.width))
        self.radius = nn.Parameter(torch.ones(len(nodes.paths)))
        self.sharpness = nn.Parameter(torch.full((1,), 10.0))
        on_path = torch.zeros(len(nodes.paths), len(nodes.paths))
        for node, path in enumerate(nodes.paths):
            on_path[node, list(path)] = 1.0
        self.register_buffer("on_path", on_path, persistent=False)
        self.register_buffer("tree_distances", tree_distances(nodes), persistent=False)
        start_as_vit(self, *([self.trunk.cls] if config.cls == "learned" else []), self.prototypes)

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """tokens (B, N, input width), cls as the configuration says -> logits (B, K_l) float32; `extra`: `distance`."""
        state = self.norm(self.trunk(tokens, cls))
        prototypes = self.prototypes[0].float()
        # Mean over channels: about 1 at the start whatever the width, since the state is normalised and prototypes begin near 0.
        distances = (state.float().unsqueeze(1) - prototypes).square().mean(dim=-1)
        gates = self.sharpness.float() * (self.radius.float() - distances)
        paths = self.path_logits(gates)
        logits = [paths[:, nodes] for nodes in self.of]
        return make_output(logits, [state] * len(logits), return_attention, {"distance": self._distortion(prototypes)})

    def path_logits(self, gates: Tensor) -> Tensor:
        """Gates' logits z (B, nodes) -> logits (B, nodes) of the products of sigmoids along each path, exact in both tails."""
        # p = exp(-S) with S the sum of softplus(-z): logit p = log p - log(1 - p) = -S - log(1 - exp(-S)).
        with torch.autocast(gates.device.type, enabled=False):
            total = (F.softplus(-gates.float()) @ self.get_buffer("on_path").float().T).clamp(min=1e-37)
        return -total - (-torch.expm1(-total)).log()

    def loss_config(self, config: LossConfig) -> LossConfig:
        """No consistency: the tree's edges hold by construction."""
        return replace(config, consistency=0.0)

    def extra_losses(self, output: HP2LOutput, targets: Sequence[Tensor], masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """`distance`: how far the prototypes' distances are from being proportional to the tree's."""
        assert output.extra is not None
        return {"distance": self.distance_loss * output.extra["distance"]}

    def _distortion(self, prototypes: Tensor) -> Tensor:
        """Mean over pairs of nodes of (s d / D - 1)^2, d between prototypes, D in the tree, s the best factor; 0 for a single node."""
        if len(prototypes) == 1:
            return prototypes.new_zeros(())
        first, second = torch.triu_indices(len(prototypes), len(prototypes), offset=1, device=prototypes.device)
        apart = ((prototypes[first] - prototypes[second]).square().sum(dim=-1) + 1e-12).sqrt()
        ratio = apart / self.get_buffer("tree_distances")[first, second].to(apart)
        scale = ratio.sum() / ratio.square().sum()
        return (scale * ratio - 1.0).square().mean()


def tree_distances(nodes: Nodes) -> Tensor:
    """(nodes, nodes) float32: edges between two nodes, over a common root above the first level."""
    paths = [set(path) for path in nodes.paths]
    return torch.tensor([[float(len(one ^ other)) for other in paths] for one in paths])
