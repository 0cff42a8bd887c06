"""A fine-tuned model's scores as probabilities: Platt scaling of every class, fitted on the validation split and kept in the checkpoint.

A head gives each class a scale of its own, so that raw scores rank studies for one class but not classes for one study. Scaled scores
can be compared between classes, and hold for a population in which diseases are as frequent as in the validation split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hp2l.statistics.calibration import Rule, fit
from hp2l.statistics.cases import masked


@dataclass(frozen=True)
class Scaling:
    """What is done to the scores of every class."""

    rules: tuple[tuple[Rule, ...], ...]
    """K_l rules of each level."""
    studies: int
    """Validation studies they were fitted on."""

    @classmethod
    def of(cls, scores: Sequence[Tensor], targets: Sequence[Tensor], known: Sequence[Tensor]) -> Scaling | None:
        """Fitted on the validation split; None where a score is no finite probability.

        Args:
            scores: (N, K_l) in [0, 1] of each level.
            targets, known: (N, K_l) 0 or 1; a class with fewer than 5 positive or negative studies takes its level's slope (`fit`).
        """
        tables = [level.double().cpu().numpy() for level in scores]
        if any(not ((table >= 0) & (table <= 1)).all() for table in tables):
            return None
        labels = [masked(t.numpy() > 0.5, k.numpy() > 0.5) for t, k in zip(targets, known, strict=True)]
        rules = tuple(tuple(fit(label, table, "platt")) for label, table in zip(labels, tables, strict=True))
        return cls(rules, len(tables[0]))

    @property
    def unscaled(self) -> list[int]:
        """Levels whose scores stay as they are: too few validation studies were labelled there."""
        return [level for level, rules in enumerate(self.rules, start=1) if all(rule.method == "none" for rule in rules)]

    def apply(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """(B, K_l) scores of each level -> probabilities, float32 on the host."""
        found = []
        for rules, level in zip(self.rules, scores, strict=True):
            columns = level.double().cpu().numpy().T
            scaled = [rule.apply(column) for rule, column in zip(rules, columns, strict=True)]
            found.append(torch.from_numpy(np.column_stack(scaled)).float())
        return found

    def to_dict(self) -> dict[str, Any]:
        """As config.json holds it: a class's rule without what can be counted again."""
        kept = ("method", "temperature", "bias", "positives", "negatives")
        return {
            "method": "platt",
            "split": "val",
            "studies": self.studies,
            "levels": [[{name: getattr(rule, name) for name in kept} for rule in rules] for rules in self.rules],
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Scaling:
        """Of `to_dict`."""
        return cls(tuple(tuple(Rule(**rule) for rule in rules) for rules in found["levels"]), int(found["studies"]))
