"""The truth beside score tables: which study has which class, what is unknown, and which classes count.

Shapes: N studies, K classes of a level; levels are 0-based here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hp2l.comparison.scores import CompareError, Scores


@dataclass
class Truth:
    """Truth and splits shared by all methods, in the first method's order of studies."""

    targets: list[NDArray[np.bool_]]
    known: list[NDArray[np.bool_]]
    class_names: list[list[str]]
    normal: str | None
    split: NDArray[np.str_]
    patients: NDArray[np.str_]
    minimum: int
    prevalence: list[NDArray[np.float64]] | None

    def counts(self, level: int, split: str | None, positive: bool) -> NDArray[np.intp]:
        """Positive or negative studies of each class (K_l,) in a split, or in all of them."""
        rows = np.ones(len(self.split), bool) if split is None else self.split == split
        truth = self.targets[level] if positive else ~self.targets[level]
        return (truth & self.known[level])[rows].sum(axis=0)

    @property
    def validation(self) -> int:
        """Labelled studies of the validation split: thresholds and calibration come from them."""
        rows = self.split == "val"
        return int(np.any([table[rows].any(axis=1) for table in self.known], axis=0).sum())

    def in_macro(self, level: int) -> NDArray[np.bool_]:
        enough = np.minimum(self.counts(level, "test", True), self.counts(level, "test", False)) >= self.minimum
        return enough & np.array([name != self.normal for name in self.class_names[level]], dtype=bool)


def truth_of(
    first: Scores,
    targets: Sequence[ArrayLike],
    mask: Sequence[ArrayLike],
    class_names: Sequence[Sequence[str]],
    normal: str | None,
    minimum: int,
    prevalence: Sequence[ArrayLike] | None,
) -> Truth:
    """Truth checked against the tables' shapes."""
    expected = [(len(first.study_ids), len(names)) for names in class_names]
    for what, given in (("scores", first.levels), ("targets", targets), ("mask", mask)):
        if (found := [np.shape(table) for table in given]) != expected:
            raise CompareError(f"{what} have shapes {found}, expected {expected} (studies, classes of each level)")
    known = [np.asarray(table).astype(bool) for table in mask]
    split = np.asarray(first.split, dtype=str)
    if not any(table[split == "test"].any() for table in known):
        raise CompareError("no labelled study in the test split: nothing to measure")
    positive = [np.asarray(table) > 0.5 for table in targets]
    rates = None if prevalence is None else [np.asarray(level, dtype=np.float64) for level in prevalence]
    if (train := split == "train").any():
        rates = [(t & m)[train].sum(0) / np.maximum(m[train].sum(0), 1) for t, m in zip(positive, known, strict=True)]
    names = [list(level) for level in class_names]
    return Truth(positive, known, names, normal, split, np.asarray(first.patient_ids, dtype=str), minimum, rates)


def left_out(truth: Truth, level: int) -> dict[str, str]:
    """Class -> why it is not part of the macro means of this level."""
    positive, negative = truth.counts(level, "test", True), truth.counts(level, "test", False)
    reasons = {}
    for k, (name, kept) in enumerate(zip(truth.class_names[level], truth.in_macro(level), strict=True)):
        if not kept:
            few = f"{positive[k]} positive and {negative[k]} negative test studies, {truth.minimum} of each needed"
            reasons[name] = "the normal class" if name == truth.normal else few
    return reasons


def patients_across_splits(truth: Truth) -> list[str]:
    """Patients with studies in more than one split."""
    pairs = np.unique(np.stack([truth.patients, truth.split]), axis=1)
    patients, count = np.unique(pairs[0], return_counts=True)
    return list(patients[count > 1])


def cohort_sizes(truth: Truth) -> dict[str, Any]:
    """Sizes of the splits and positives of every class in each of them."""
    present = [split for split in ("train", "val", "test") if (truth.split == split).any()]
    splits = {}
    for split in present:
        rows = truth.split == split
        splits[split] = {"studies": int(rows.sum()), "patients": len(np.unique(truth.patients[rows]))}
    classes: dict[str, Any] = {}
    for level, names in enumerate(truth.class_names):
        counts = {split: truth.counts(level, split, True) for split in present}
        classes[str(level + 1)] = {n: {s: int(counts[s][k]) for s in present} for k, n in enumerate(names)}
        if truth.prevalence is not None:
            for k, n in enumerate(names):
                classes[str(level + 1)][n]["train_prevalence"] = float(truth.prevalence[level][k])
    sizes = {"studies": splits["test"]["studies"], "patients": splits["test"]["patients"]}
    return {**sizes, "splits": splits, "classes": classes}
