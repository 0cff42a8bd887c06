"""Score tables as files, and their mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from hlip.taxonomy import Taxonomy
from hp2l.comparison.compare import CompareError, Scores, mean_of, provenance_of

TREE = Taxonomy.from_dict(
    {
        "name": "small",
        "level_names": ["category", "subtype"],
        "classes": [
            {"name": "vascular", "children": [{"name": "infarct"}, {"name": "aneurysm"}]},
            {"name": "normal", "normal": True},
        ],
    }
)
NAMES = [list(level) for level in TREE.levels]


def table(seed: int = 0, studies: int = 7, dtype: type = np.float64) -> Scores:
    generator = np.random.default_rng(seed)
    levels = [generator.random((studies, len(names))).astype(dtype) for names in NAMES]
    source = provenance_of(TREE, checkpoint="ab" * 32, volume_spec="cd" * 32, prompts={"templates": ["{c}."]}, simulated=True)
    ids, patients = [f"{i:03d}" for i in range(studies)], [f"0{i // 2}" for i in range(studies)]  # digits stay text
    scores = Scores("zero_shot", ids, patients, ["val", "val", *["test"] * (studies - 2)], levels, source)
    known = [np.ones(level.shape, bool) for level in levels]
    known[1][3] = False
    return scores.with_truth(NAMES, [generator.random(level.shape) < 0.5 for level in levels], known)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_table_comes_back_as_it_was(tmp_path: Path, suffix: str, dtype: type) -> None:
    scores = table(dtype=dtype)
    scores.save(tmp_path / f"zero_shot{suffix}")
    again = Scores.load(tmp_path / f"zero_shot{suffix}")
    for name in ("method", "study_ids", "patient_ids", "split", "provenance", "class_names"):
        assert getattr(again, name) == getattr(scores, name), name
    for field in ("levels", "labels"):
        for mine, theirs in zip(getattr(scores, field), getattr(again, field), strict=True):
            assert theirs.dtype == np.float64
            np.testing.assert_array_equal(mine, theirs)
    assert again.taxonomy == TREE
    assert again.taxonomy.normal == "normal"


def test_parquet_is_one_compact_file_with_its_provenance_inside(tmp_path: Path) -> None:
    table(studies=500, dtype=np.float32).save(tmp_path / "a.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    stored = pq.read_table(tmp_path / "a.parquet")
    assert stored.column_names == ["study_id", "patient_id", "split", "level", "class", "score", "label"]
    assert str(stored.schema.field("score").type) == "float"
    assert str(stored.schema.field("class").type).startswith("dictionary")
    assert stored["label"].null_count == len(NAMES[1])
    header = json.loads(stored.schema.metadata[b"hp2l"])
    assert header["method"] == "zero_shot"
    assert header["provenance"]["taxonomy"]["digest"] == TREE.digest
    assert set(header["provenance"]["versions"]) >= {"hlip-hp2l", "torch"}
    table(studies=500).save(tmp_path / "b.parquet")
    assert str(pq.read_table(tmp_path / "b.parquet").schema.field("score").type) == "double"


def test_a_table_of_another_tool_is_read(tmp_path: Path) -> None:
    scores = table()
    scores.save(tmp_path / "a.csv")
    pd.read_csv(tmp_path / "a.csv", dtype={"study_id": str, "patient_id": str}).to_parquet(tmp_path / "other.parquet")
    again = Scores.load(tmp_path / "other.parquet")
    assert (again.method, again.study_ids, again.provenance) == ("other", scores.study_ids, {})
    np.testing.assert_array_equal(again.levels[1], scores.levels[1])


def test_tables_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match=r"ends in \.parquet or \.csv"):
        table().save(tmp_path / "a.json")
    with pytest.raises(CompareError, match="no such score table"):
        Scores.load(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_text("nonsense")
    with pytest.raises(CompareError, match="no parquet file"):
        Scores.load(tmp_path / "a.parquet")
    table().save(tmp_path / "a.csv")
    whole = pd.read_csv(tmp_path / "a.csv", dtype=str)
    for name, frame, match in (
        ("hole", whole.iloc[:-1], "level 2: not every study.*1 lack one, first 006"),
        ("twice", pd.concat([whole, whole.iloc[-1:]]), "level 2: not every study.*two"),
        ("columns", whole.drop(columns=["label", "split"]), "no column split, label"),
        ("patients", whole.assign(patient_id=range(len(whole))), "more than one patient_id"),
    ):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        with pytest.raises(CompareError, match=match):
            Scores.load(tmp_path / f"{name}.csv")


def test_mean_is_of_the_same_studies_and_says_of_what() -> None:
    first, second = table(0), table(0)
    second.method = "fine_tuned"
    second.levels = [1 - level for level in second.levels]
    found = mean_of([first, second.reordered(first.study_ids[::-1])], "both")
    assert found.method == "both"
    for level in found.levels:
        np.testing.assert_allclose(level, 0.5)
    assert set(found.provenance["mean_of"]) == {"zero_shot", "fine_tuned"}
    assert "tree" not in found.provenance["mean_of"]["zero_shot"]["taxonomy"]
    assert found.taxonomy == TREE
    assert found.provenance["simulated"] is True
    second.levels = [level * 5 for level in second.levels]
    with pytest.raises(CompareError, match="fine_tuned: scores outside"):
        mean_of([first, second], "both")
