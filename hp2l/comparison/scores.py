"""Score tables: what one way of diagnosing says about every study.

Zero-shot with any checkpoint and any fine-tuned head write the same table, so whatever comes later (comparison, report)
asks no model anything. Files: `hp2l.comparison.score_files`.

Shapes: N studies, K_l classes of level l.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip.files.jsonable import jsonable
from hlip.taxonomy import Taxonomy
from hp2l.comparison import score_files
from hp2l.comparison.score_files import CompareError

__all__ = ["CompareError", "Scores", "jsonable", "provenance_of"]

PACKAGES = ("hlip-hp2l", "torch", "open_clip_torch", "transformers", "timm")


@dataclass
class Scores:
    """What one method says about every study: one probability-like score a class, larger means more likely."""

    method: str
    """`zero_shot`, `fine_tuned`, or any other name; used as key in the comparison."""
    study_ids: list[str]
    patient_ids: list[str]
    split: list[str]
    """`train`, `val` or `test` of each study."""
    levels: list[NDArray[np.float64]]
    """Per level (N, K_l) float64, finite."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Shown in the report as it is; `provenance_of` makes the keys that `hp2l.comparison.alignment` checks."""
    class_names: list[list[str]] | None = None
    labels: list[NDArray[np.float64]] | None = None
    """Per level (N, K_l): 1, 0, or NaN where the truth is unknown."""

    def __post_init__(self) -> None:
        studies = len(self.study_ids)
        if len(set(self.study_ids)) != studies:
            raise CompareError(f"{self.method}: a study id occurs more than once")
        if len(self.patient_ids) != studies or len(self.split) != studies:
            raise CompareError(f"{self.method}: study_ids, patient_ids and split differ in length")
        self.levels = [np.asarray(table, dtype=np.float64) for table in self.levels]
        for level, table in enumerate(self.levels, start=1):
            if table.ndim != 2 or len(table) != studies:
                raise CompareError(f"{self.method}, level {level}: scores {table.shape} are not ({studies}, classes)")
            bad = ~np.isfinite(table)
            if bad.any():
                what = "NaN" if np.isnan(table).any() else "infinite"
                which = score_files.some_of(self.study_ids[row] for row in np.flatnonzero(bad.any(axis=1)))
                raise CompareError(f"{self.method}, level {level}: {int(bad.sum())} scores are {what}, of studies {which}")
        self._check_truth()

    def _check_truth(self) -> None:
        """Splits by their names, and labels that are 1, 0 or unknown: anything else would count as something that it is not."""
        if unknown := sorted(set(self.split) - {"train", "val", "test"}):
            which = score_files.some_of(
                study for study, split in zip(self.study_ids, self.split, strict=True) if split in unknown
            )
            raise CompareError(f"{self.method}: splits called {unknown}, of studies {which}; there are train, val and test")
        for level, labels in enumerate(self.labels or [], start=1):
            bad = ~(np.isnan(labels) | (labels == 0) | (labels == 1))
            if bad.any():
                which = score_files.some_of(self.study_ids[row] for row in np.flatnonzero(bad.any(axis=1)))
                raise CompareError(f"{self.method}, level {level}: labels other than 1, 0 and unknown, of studies {which}")

    @property
    def taxonomy(self) -> Taxonomy | None:
        """The tree that the table was scored on, if its provenance holds it."""
        entry = self.provenance.get("taxonomy")
        tree = entry.get("tree") if isinstance(entry, Mapping) else None
        return Taxonomy.from_dict(tree, f"the taxonomy in the score table of {self.method}") if tree else None

    @property
    def probabilities(self) -> bool:
        """Whether all scores lie in [0, 1]."""
        return all(table.size == 0 or (table.min() >= 0 and table.max() <= 1) for table in self.levels)

    def with_truth(self, class_names: Sequence[Sequence[str]], targets: Sequence, mask: Sequence) -> Scores:
        """The same scores with class names and labels (NaN where `mask` is false), ready for `save`."""
        labels = [np.where(np.asarray(known, bool), target, np.nan) for target, known in zip(targets, mask, strict=True)]
        return replace(self, class_names=[list(names) for names in class_names], labels=labels)

    def reordered(self, study_ids: Sequence[str]) -> Scores:
        """The same table in another order of the same studies."""
        row = {study: index for index, study in enumerate(self.study_ids)}
        order = [row[study] for study in study_ids]
        return replace(
            self,
            study_ids=list(study_ids),
            patient_ids=[self.patient_ids[i] for i in order],
            split=[self.split[i] for i in order],
            levels=[table[order] for table in self.levels],
            labels=None if self.labels is None else [table[order] for table in self.labels],
        )

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write a `.parquet` file, or a `.csv` with a JSON file beside it; the scores are kept exactly.

        Raises:
            CompareError: the class names are not set (see `with_truth`), or another suffix.
        """
        if self.class_names is None:
            raise CompareError(f"{self.method}: set class names first, Scores.with_truth(class_names, targets, mask)")
        labels = self.labels or [np.full(table.shape, np.nan) for table in self.levels]
        table = score_files.Content(
            self.method,
            self.study_ids,
            self.patient_ids,
            self.split,
            self.levels,
            self.provenance,
            self.class_names,
            labels,
        )
        score_files.write(Path(path), table)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read a table of `save`, class names and labels included.

        Raises:
            CompareError: not such a table, or with holes.
        """
        return cls(**vars(score_files.read(Path(path))))

    to_csv, from_csv = save, load


def provenance_of(
    taxonomy: Taxonomy,
    *,
    checkpoint: str | None = None,
    volume_spec: str | None = None,
    prompts: Any = None,
    simulated: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Where a table comes from, under the names that are checked when tables are compared.

    Args:
        taxonomy: the tree scored on; it travels whole, so that a comparison needs no other file.
        checkpoint: SHA-256 of the weights. volume_spec: digest of the `VolumeSpec` of the volumes that were read.
        prompts: templates and settings of zero-shot, in any JSON form.
        simulated: whether the studies are simulated.
        more: anything else to show.
    """
    tree = {"name": taxonomy.name, "digest": taxonomy.digest, "tree": taxonomy.to_dict()}
    entry = {"checkpoint": checkpoint, "volume_spec": volume_spec, "taxonomy": tree, "prompts": prompts}
    return {**entry, "simulated": simulated, "versions": {name: version(name) for name in PACKAGES}, **more}
