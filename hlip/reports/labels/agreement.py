"""How well mined labels agree with given ones: precision, recall, F1 and Cohen's kappa of every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlip.taxonomy import Taxonomy


@dataclass(frozen=True)
class Agreement:
    """Counts of one class at one level."""

    level: int
    name: str
    both: int
    """Given and mined."""
    mined_only: int
    given_only: int
    neither: int

    @property
    def precision(self) -> float:
        """NaN where nothing was mined."""
        return _ratio(self.both, self.both + self.mined_only)

    @property
    def recall(self) -> float:
        """NaN where nothing was given."""
        return _ratio(self.both, self.both + self.given_only)

    @property
    def f1(self) -> float:
        """NaN where nothing was mined or given."""
        return _ratio(2 * self.both, 2 * self.both + self.mined_only + self.given_only)

    @property
    def kappa(self) -> float:
        """Cohen's; NaN where chance alone agrees always."""
        total = self.both + self.mined_only + self.given_only + self.neither
        mined, given = self.both + self.mined_only, self.both + self.given_only
        chance = _ratio(mined * given + (total - mined) * (total - given), total * total)
        return _ratio((self.both + self.neither) / total - chance, 1 - chance) if total else float("nan")


def agreement(
    given: Sequence[Sequence[str]], mined: Sequence[Sequence[str] | None], tree: Taxonomy, *, names: Sequence[str] | None = None
) -> list[Agreement]:
    """One row a class and level, labels closed upward on both sides. A study that mining left unlabelled counts as one with no class.

    Args:
        given: labels of each study.
        mined: of the same studies.
        names: study ids, for errors.

    Raises:
        TaxonomyError: a given label is not in the tree.
    """
    truth = tree.encode_all(list(given), names=names)
    guess = tree.encode_all([() if labels is None else labels for labels in mined])
    rows = []
    for level in range(1, tree.depth + 1):
        true, said = truth[level - 1][0] > 0, guess[level - 1][0] > 0
        known = truth[level - 1][1] > 0
        for item in tree.classes(level):
            t, s = true[known[:, item.index], item.index], said[known[:, item.index], item.index]
            counts = [int(np.sum(which)) for which in (t & s, ~t & s, t & ~s, ~t & ~s)]
            rows.append(Agreement(level, item.name, *counts))
    return rows


def mean(rows: Sequence[Agreement], measure: str) -> float:
    """Mean of a measure over the classes where it is defined."""
    values = np.array([getattr(row, measure) for row in rows], dtype=float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
