"""What the validations of a run found: which checkpoint is kept, and when a run ends early."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np


class Validations:
    """Mean validation AUC of each validation so far, NaN where it is not defined.

    Args:
        logged: of those before the run was stopped, None where not defined.
        patience: validations without a better one after which the run ends; 0: none do. Those without an AUC do not count.
    """

    def __init__(self, logged: Iterable[float | None] = (), patience: int = 0) -> None:
        self.means = [math.nan if value is None else value for value in logged]
        self.patience = patience
        self.told_undefined = False

    @property
    def best(self) -> float:
        """The highest so far; NaN where none is defined."""
        return max(self._defined, default=math.nan)

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the last validations that had an AUC brought nothing better."""
        means = self._defined
        return bool(self.patience and means and len(means) - 1 - int(np.argmax(means)) >= self.patience)

    def add(self, mean: float) -> bool:
        """One more; whether its model is the one to keep: the best so far, or the last while none has an AUC."""
        keep = mean > self.best or math.isnan(self.best)
        self.means.append(mean)
        return keep

    def notes(self, step: int, values: Mapping[str, float]) -> list[str]:
        """What to say of the validation that is added next; that an AUC is not defined, once a run."""
        lines = [f"step {step}: " + ", ".join(f"{name} {told(value)}" for name, value in values.items() if name != "val_auc")]
        if math.isnan(values["val_auc"]) and not self.told_undefined:
            self.told_undefined = True
            patience = f"; patience {self.patience} does not count such validations" if self.patience else ""
            lines.append(
                "validation AUC is not defined: no disease class of the validation split has both positives and negatives; the "
                f"model of the last validation is kept{patience}"
            )
        return lines

    @property
    def _defined(self) -> list[float]:
        return [mean for mean in self.means if not math.isnan(mean)]


def told(area: float) -> str:
    """An AUC in three digits."""
    return "not defined" if math.isnan(area) else f"{area:.3f}"
