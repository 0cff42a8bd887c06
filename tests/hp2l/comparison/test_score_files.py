"""Cells of a score table that would count as something that they do not say: refused, by table and study."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hp2l.comparison.scores import CompareError, Scores

Change = Callable[[pd.DataFrame], pd.DataFrame]


def frame() -> pd.DataFrame:
    """Six studies of six patients, three splits, two classes."""
    studies = [f"s{n}" for n in range(6)]
    split = dict(zip(studies, ["train", "train", "val", "val", "test", "test"], strict=True))
    rows = [(s, f"p{s[1]}", split[s], 1, c, 0.25, int(c == "a")) for s in studies for c in ("a", "b")]
    return pd.DataFrame(rows, columns=["study_id", "patient_id", "split", "level", "class", "score", "label"])


def written(table: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path)
    return path


def setting(column: str, value: object, study: str = "s3") -> Change:
    return lambda table: table.assign(**{column: table[column].astype(object).where(table["study_id"] != study, value)})


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (setting("split", None), "no split in 2 rows (studies s3)"),
        (setting("patient_id", None), "no patient_id in 2 rows (studies s3)"),
        (setting("class", None), "no class in 2 rows (studies s3)"),
        (setting("study_id", None), "no study_id in 2 rows (row 7)"),
        (setting("split", "hold-out"), "splits called hold-out, of studies s3; there are train, val and test"),
    ],
)
def test_an_empty_or_unknown_cell_is_named(change: Change, said: str, suffix: str, tmp_path: Path) -> None:
    path = written(change(frame()), tmp_path / f"table{suffix}")
    with pytest.raises(CompareError, match=re.escape(said)) as caught:
        Scores.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("score", np.inf, "bad values of score (first inf), in studies s3; give finite scores"),
        ("score", -np.inf, "bad values of score (first -inf), in studies s3"),
        ("score", np.nan, "bad values of score (first nan), in studies s3"),
        ("label", 2, "bad values of label (first 2), in studies s3; 1 is present, 0 absent, empty unknown"),
    ],
)
def test_scores_are_finite_and_labels_are_one_or_zero(
    column: str, value: float, said: str, suffix: str, tmp_path: Path
) -> None:
    table = frame()
    table[column] = table[column].astype(float).where(table["study_id"] != "s3", value)
    with pytest.raises(CompareError, match=re.escape(said)):
        Scores.load(written(table, tmp_path / f"table{suffix}"))


def test_splits_are_read_by_their_usual_names(tmp_path: Path) -> None:
    table = frame()
    names = {"train": "Training", "val": "validation", "test": "TEST"}
    found = Scores.load(written(table.assign(split=table["split"].map(names)), tmp_path / "table.parquet"))
    assert found.split == ["train", "train", "val", "val", "test", "test"]


def test_an_unknown_label_stays_unknown(tmp_path: Path) -> None:
    table = frame()
    table["label"] = table["label"].astype(float).where(table["study_id"] != "s3")
    labels = Scores.load(written(table, tmp_path / "table.csv")).labels
    assert labels is not None
    np.testing.assert_array_equal(np.isnan(labels[0]).any(axis=1), [False, False, False, True, False, False])


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_file_without_a_table_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text(text)
    with pytest.raises(CompareError, match=r"empty\.csv is no score table .*`hlip score` writes one"):
        Scores.load(path)
    path.write_text(",".join(frame().columns) + "\n")
    with pytest.raises(CompareError, match="without rows"):
        Scores.load(path)


def test_tables_made_in_memory_are_held_to_the_same() -> None:
    with pytest.raises(CompareError, match="1 scores are infinite, of studies b"):
        Scores("m", ["a", "b"], ["p", "q"], ["val", "test"], [np.array([[0.5], [np.inf]])])
    with pytest.raises(CompareError, match=r"splits called \['validation'\], of studies a"):
        Scores("m", ["a", "b"], ["p", "q"], ["validation", "test"], [np.zeros((2, 1))])
    fine = Scores("m", ["a", "b"], ["p", "q"], ["val", "test"], [np.zeros((2, 1))])
    with pytest.raises(CompareError, match="labels other than 1, 0 and unknown, of studies b"):
        fine.with_truth([["x"]], [np.array([[1], [2]])], [np.ones((2, 1))])
