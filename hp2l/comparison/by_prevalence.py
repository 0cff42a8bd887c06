"""What needs no image: every study of a class scored with the class's share of positives among the validation studies.

It is the score that calibration error and Brier score begin at, and a decision rule that treats all for the frequent classes and none for
the others; its highest class is always the most frequent one. A method is worth something only beyond it.

Shapes: N test studies, K classes of a level.
"""

from __future__ import annotations

import numpy as np

from hp2l.comparison.truth import Truth
from hp2l.statistics.cases import Floats, ratio


def prevalence_scores(truth: Truth) -> list[Floats] | None:
    """Per level (N, K_l), all rows alike; 0 for a class of which no validation study is known. None without a validation study."""
    if truth.validation == 0:
        return None
    rows, found = truth.split == "val", []
    studies = int((truth.split == "test").sum())
    for target, known in zip(truth.targets, truth.known, strict=True):
        share = ratio((target & known)[rows].sum(axis=0), known[rows].sum(axis=0))
        found.append(np.tile(np.nan_to_num(share), (studies, 1)))
    return found


def most_frequent(truth: Truth) -> list[str]:
    """The class of highest share at each level; empty without a validation study."""
    scores = prevalence_scores(truth) or []
    return [names[int(score[0].argmax())] for names, score in zip(truth.class_names, scores, strict=False)]
