"""Score tables: what one way of diagnosing says about every study, in memory and as a CSV in long form.

Zero-shot with any checkpoint and any fine-tuned head write the same table, so whatever comes later (comparison, report)
asks no model anything. Method and provenance travel in a small JSON file beside the CSV.

Shapes: N studies, K_l classes of level l.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlip.jsonable import jsonable

_COLUMNS = ("study_id", "patient_id", "split", "level", "class", "score", "label")


class CompareError(ValueError):
    """Score tables that cannot be read or compared; the message names the difference and the remedy."""


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
    """Per level (N, K_l) float64, no NaN."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Checkpoint hash, VolumeSpec hash, taxonomy hash, prompts, versions: shown in the report as it is."""
    class_names: list[list[str]] | None = None
    labels: list[NDArray[np.float64]] | None = None
    """Per level (N, K_l): 1, 0, or NaN where the truth is unknown. Optional: only written to the table."""

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
            if np.isnan(table).any():
                raise CompareError(f"{self.method}, level {level}: {int(np.isnan(table).sum())} scores are NaN")

    def with_truth(self, class_names: Sequence[Sequence[str]], targets: Sequence, mask: Sequence) -> Scores:
        """The same scores with class names and labels (NaN where `mask` is false), ready for `to_csv`."""
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

    def to_csv(self, path: str | Path) -> None:
        """Write one row a study, level and class (label empty where unknown), and method and provenance beside it.

        Raises:
            CompareError: the class names are not set (see `with_truth`).
        """
        if self.class_names is None:
            raise CompareError(f"{self.method}: set class names first, Scores.with_truth(class_names, targets, mask)")
        tables = []
        for level, (names, score) in enumerate(zip(self.class_names, self.levels, strict=True), start=1):
            label = np.full(score.shape, np.nan) if self.labels is None else self.labels[level - 1]
            columns = {
                "study_id": np.repeat(self.study_ids, len(names)),
                "patient_id": np.repeat(self.patient_ids, len(names)),
                "split": np.repeat(self.split, len(names)),
                "level": level,
                "class": np.tile(names, len(score)),
                "score": score.ravel(),
                "label": pd.array(label.ravel(), dtype="Float64").astype("Int64"),
            }
            tables.append(pd.DataFrame(columns, columns=list(_COLUMNS)))
        pd.concat(tables).to_csv(path, index=False)
        header = {"method": self.method, "provenance": self.provenance}
        _sidecar(path).write_text(json.dumps(jsonable(header), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_csv(cls, path: str | Path) -> Scores:
        """Read a table of `to_csv`, class names and labels included.

        Raises:
            CompareError: a column is missing, or a study lacks a class.
        """
        text = {"study_id": str, "patient_id": str, "split": str, "class": str}
        table = pd.read_csv(path, dtype=text, float_precision="round_trip", keep_default_na=False, na_values={"label": ""})
        if missing := [name for name in _COLUMNS if name not in table.columns]:
            raise CompareError(f"{path}: no column {', '.join(missing)} (expected {', '.join(_COLUMNS)})")
        studies = table.drop_duplicates("study_id")
        class_names, levels, labels = [], [], []
        for level, part in table.groupby("level", sort=True):
            names = list(dict.fromkeys(part["class"]))
            if len(part) != len(studies) * len(names):
                raise CompareError(f"{path}, level {level}: not every study has a score for every class")
            grid = part.set_index(["study_id", "class"]).reindex(pd.MultiIndex.from_product([studies["study_id"], names]))
            class_names.append(names)
            levels.append(grid["score"].to_numpy(np.float64).reshape(len(studies), -1))
            labels.append(grid["label"].to_numpy(np.float64).reshape(len(studies), -1))
        header = json.loads(_sidecar(path).read_text(encoding="utf-8")) if _sidecar(path).is_file() else {}
        ids, patients, split = (list(studies[column]) for column in _COLUMNS[:3])
        method = header.get("method", Path(path).stem)
        return cls(method, ids, patients, split, levels, header.get("provenance", {}), class_names, labels)


def _sidecar(path: str | Path) -> Path:
    return Path(path).with_suffix(".provenance.json")
