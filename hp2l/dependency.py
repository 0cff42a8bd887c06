"""Dependencies between disorders, the future work that HP2L's paper names (Liu et al., 2026): white matter lesions with lacunes, ...

A class tells the others how far its probability is from its prevalence; the receiver adds that to its logit:

    logit'_j = logit_j + sum_i A_ij * (p_i - prevalence_i)          A = scale * R + own,   penalty = mean of w_ij * (A_ij - scale * R_ij)^2

- R (K, K) over the K classes of all levels is what the training labels say: log odds ratios, each drawn towards that of the two parents,
  the more the fewer studies it stands on (`log_odds_ratios`). A receiver that sees nothing itself and a sender that is sure need A = R.
- `scale`, one learnt number, is how much of R holds beside the images: common pairs set it, rare pairs gain from it. Where the images say
  everything it stays near 0, where two heads of one image would otherwise count the same evidence twice.
- `own` (K, K) is what a pair learns for itself. w is the distance in the tree (edges by way of the nearest common ancestor, mean 1):
  neighbours, whose look is alike and whose own dependency the images can teach, leave R cheaply; classes of far branches do not.
- Both are learnt and begin at 0, and so does every change of a logit.
- An ancestor, a descendant or the same leaf at another level sends nothing: consistency covers those. The normal class neither sends nor
  receives: it contradicts all others by definition, which would set `scale` for the pairs that are findings.
- Messages carry no gradient to their sender: a class answers for its own labels only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hlip.taxonomy import Taxonomy, TaxonomyClass
from hp2l.head import Head, HP2LOutput
from hp2l.loss import LossConfig

PRIOR_VARIANCE = 1.0
"""Of a pair's log odds ratio around its parents': a factor e either way is usual."""
PAIR = ("from_level", "from", "to_level", "to", "prior", "learnt")
"""What is told of a pair of classes."""


class DependencyPrior(nn.Module):
    """Messages between the classes of a tree: `prior(logits)`, and `prior.penalty()` in the loss.

    Parameters `scale` (1,) and `own` (K, K; sender, receiver) start at 0. Buffers `ratios` (K, K) and `prevalence` (K,) are in the state
    dict; they start as 0 and 0.5 (nothing known) and are filled by `observe`. K counts the classes of all levels, level after level.
    """

    ratios: Tensor
    prevalence: Tensor
    allowed: Tensor
    weights: Tensor

    def __init__(self, taxonomy: Taxonomy) -> None:
        super().__init__()
        self.counts = taxonomy.counts
        count = sum(self.counts)
        self.scale = nn.Parameter(torch.zeros(1))  # (1,), not (): the optimizer asks for a first dimension
        self.own = nn.Parameter(torch.zeros(count, count))
        self.register_buffer("ratios", torch.zeros(count, count))
        self.register_buffer("prevalence", torch.full((count,), 0.5))
        relations = Relations(taxonomy)
        self.register_buffer("allowed", relations.allowed.float(), persistent=False)
        self.register_buffer("weights", relations.weights(), persistent=False)
        self._parent_pairs = relations.parent_pairs()

    @classmethod
    def from_cooccurrence(cls, taxonomy: Taxonomy, targets: Sequence[Tensor], masks: Sequence[Tensor]) -> DependencyPrior:
        """A prior that has seen the training split; see `observe`."""
        prior = cls(taxonomy)
        prior.observe(targets, masks)
        return prior

    @torch.no_grad()
    def observe(self, targets: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        """Take log odds ratios and prevalences from the training split, alike on every process; unknown labels do not count.

        Args:
            targets, masks: (N, K_l) a level, 0 or 1.
        """
        known = torch.cat([mask.cpu() > 0.5 for mask in masks], dim=1)
        present = torch.cat([target.cpu() > 0.5 for target in targets], dim=1) & known
        if present.shape[1] != sum(self.counts):
            raise ValueError(f"targets of {present.shape[1]} classes do not fit levels of {self.counts}")
        ratios = log_odds_ratios(present.double(), known.double(), self._parent_pairs)
        self.ratios.copy_(ratios * self.allowed.cpu())
        seen = known.sum(dim=0)
        self.prevalence.copy_((present.sum(dim=0) + 0.5) / (seen + 1.0))

    def matrix(self) -> Tensor:
        """A (K, K) float32: what a whole unit of the row's class adds to the logit of the column's; 0 where messages are not sent."""
        return self.allowed * (self.scale.float() * self.ratios.float() + self.own.float())

    def pairs(self, taxonomy: Taxonomy) -> list[dict[str, int | str | float]]:
        """Every pair that may talk, as `PAIR` says, the strongest first: `prior` is R, `learnt` A."""
        classes = [item for level in range(1, taxonomy.depth + 1) for item in taxonomy.classes(level)]
        prior, learnt = self.ratios.float().tolist(), self.matrix().tolist()
        found = [
            (classes[i].level, classes[i].name, classes[j].level, classes[j].name, prior[i][j], learnt[i][j])
            for i, j in self.allowed.nonzero().tolist()
        ]
        found.sort(key=lambda pair: (abs(pair[5]), abs(pair[4])), reverse=True)
        return [dict(zip(PAIR, pair, strict=True)) for pair in found]

    def forward(self, logits: Sequence[Tensor], with_penalty: bool = False) -> list[Tensor]:
        """Logits (B, K_l) of every level with the other classes' messages added, in the dtype given.

        Args:
            logits: (B, K_l) a level.
            with_penalty: put `penalty()` behind them, for an engine that gathers sharded parameters for a module's forward pass only.
        """
        shapes = [tuple(level.shape) for level in logits]
        if [shape[-1] for shape in shapes] != list(self.counts):
            raise ValueError(f"logits {shapes} do not fit levels of {self.counts} classes")
        with torch.autocast(logits[0].device.type, enabled=False):
            joined = torch.cat([level.float() for level in logits], dim=1)
            messages = (joined.detach().sigmoid() - self.prevalence.float()) @ self.matrix()
            moved = (joined + messages).split(self.counts, dim=1)
        changed = [new.to(level.dtype) for new, level in zip(moved, logits, strict=True)]
        return [*changed, self.penalty()] if with_penalty else changed

    def penalty(self) -> Tensor:
        """Mean over the pairs that may talk of w * (A - scale * R)^2, float32; 0 where no pair may."""
        pairs = self.allowed.sum().clamp(min=1.0)
        return (self.weights * self.own.float().square()).sum() / pairs


class DependentHead(Head):
    """Any head with a dependency prior on its logits; both are trained, wrapped by the engine and saved as one module.

    Args:
        head: the classifier.
        taxonomy: its tree.
        penalty: weight of the prior's penalty in the loss. At 0.1 and 26 classes one pair's pull is about that of a variance of 0.1 on
            2,000 studies.
    """

    def __init__(self, head: Head, taxonomy: Taxonomy, penalty: float = 0.1) -> None:
        super().__init__()
        self.head, self.dependency, self.penalty = head, DependencyPrior(taxonomy), penalty

    def forward(self, tokens: Tensor, cls: Tensor | None = None, return_attention: bool = False) -> HP2LOutput:
        """As the head's own, its logits moved by the prior; the penalty stands in `extra`, as the loss reads no parameter."""
        output: HP2LOutput = self.head(tokens, cls, return_attention)
        *logits, penalty = self.dependency(output.logits, with_penalty=True)
        return output._replace(logits=logits, extra={**(output.extra or {}), "dependency": penalty})

    def loss_config(self, config: LossConfig) -> LossConfig:
        return self.head.loss_config(config)

    def level_loss_mask(self, targets: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        return self.head.level_loss_mask(targets, masks)

    def extra_losses(self, output: HP2LOutput, targets: Sequence[Tensor], masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """The head's, and the prior's weighted penalty as `dependency`."""
        assert output.extra is not None
        return {
            **self.head.extra_losses(output, targets, masks),
            "dependency": self.penalty * output.extra["dependency"],
        }

    def update_prototypes(self, output: HP2LOutput, targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> None:
        self.head.update_prototypes(output, targets, masks)


class Relations:
    """How the classes of all levels stand to one another; K x K, level after level."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._classes = [item for level in range(1, taxonomy.depth + 1) for item in taxonomy.classes(level)]
        self._place = {(item.level, item.index): place for place, item in enumerate(self._classes)}
        self._lines = [self._line(item) for item in self._classes]
        count = len(self._classes)
        self.allowed = torch.zeros(count, count, dtype=torch.bool)
        """(K, K): whether the row's class may send to the column's."""
        for i, mine in enumerate(self._lines):
            for j, theirs in enumerate(self._lines):
                related = i in theirs or j in mine
                normal = taxonomy.normal in (self._classes[i].name, self._classes[j].name) and taxonomy.normal is not None
                self.allowed[i, j] = not (related or normal)

    def weights(self) -> Tensor:
        """(K, K) float32: distance in the tree over the mean of the allowed pairs; 0 where not allowed."""
        distance = torch.tensor([[self._distance(a, b) for b in self._lines] for a in self._lines]) * self.allowed
        return distance / (distance.sum() / self.allowed.sum().clamp(min=1)).clamp(min=1.0)

    def parent_pairs(self) -> dict[tuple[int, int], tuple[int, int] | None]:
        """The pair above each allowed pair: both parents (a class without one stands for itself), or None where no pair that may talk
        is above."""
        found: dict[tuple[int, int], tuple[int, int] | None] = {}
        for i, j in self.allowed.nonzero().tolist():
            above = self._above(i), self._above(j)
            found[i, j] = above if above != (i, j) and self.allowed[above] else None
        return found

    def _line(self, item: TaxonomyClass) -> list[int]:
        """A class and its ancestors, upward."""
        line = [self._place[item.level, item.index]]
        while item.parent_level is not None and item.parent_index is not None:
            line.append(self._place[item.parent_level, item.parent_index])
            item = self._classes[line[-1]]
        return line

    def _above(self, place: int) -> int:
        return self._lines[place][min(1, len(self._lines[place]) - 1)]

    @staticmethod
    def _distance(mine: list[int], theirs: list[int]) -> float:
        """Edges between two classes by way of the nearest common ancestor; top classes meet in a root above the tree."""
        shared = len(set(mine) & set(theirs))
        return float(len(mine) + len(theirs) - 2 * shared)


def log_odds_ratios(present: Tensor, known: Tensor, parent_pairs: dict[tuple[int, int], tuple[int, int] | None]) -> Tensor:
    """Log odds ratio of each pair of classes over the studies where both are known, shrunk towards the pair above it.

    With cells a b c d of the 2 x 2 table, each plus 0.5 (Haldane and Anscombe), the ratio is r = ln(ad / bc) with variance
    v = 1/a + 1/b + 1/c + 1/d. Around the parents' ratio r0 (0 where no pair is above) with variance t the expected one is
    r0 + t / (t + v) * (r - r0): a pair seen often keeps its own, a pair hardly seen takes its parents'.

    Args:
        present, known: (N, K), 0 or 1; present only where known.
        parent_pairs: from `Relations.parent_pairs`; pairs that are not in it get 0.

    Returns:
        (K, K) float32, symmetric.
    """
    absent = known - present
    a, b, c, d = (left.T @ right + 0.5 for left in (present, absent) for right in (present, absent))
    raw, variance = (a * d / (b * c)).log(), 1 / a + 1 / b + 1 / c + 1 / d
    share = PRIOR_VARIANCE / (PRIOR_VARIANCE + variance)
    shrunk: dict[tuple[int, int], float] = {}

    def settle(pair: tuple[int, int]) -> float:
        if pair not in shrunk:
            above = parent_pairs[pair]
            base = 0.0 if above is None else settle(above)
            shrunk[pair] = base + float(share[pair]) * (float(raw[pair]) - base)
        return shrunk[pair]

    ratios = torch.zeros_like(raw)
    for pair in parent_pairs:
        ratios[pair] = settle(pair)
    return ratios.float()
