"""Score tables as files: one row a study, level and class, as parquet (one file) or CSV (with a JSON file beside it).

Columns: study_id, patient_id, split, level (from 1), class, score, label (1, 0, or empty where the truth is unknown). Method and
provenance are JSON, in parquet's schema metadata under the key `hp2l`. In parquet texts are dictionaries, and scores are float32
where that loses nothing (as a model writes them), else float64: what is read is exactly what was written.

Splits of other tools' tables are read by their usual names (`SPLITS`). A study without a patient or a split, a split of another name, a
score that is not finite and a label that is neither 1 nor 0 are refused, by name: none of them is guessed.

Shapes: N studies, K_l classes of level l.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hlip.files.jsonable import jsonable

COLUMNS = ("study_id", "patient_id", "split", "level", "class", "score", "label")
METADATA = b"hp2l"
SUFFIXES = (".parquet", ".csv")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""A split's name in a table, in any case -> its name here."""


class CompareError(ValueError):
    """Score tables that cannot be read or compared; the message names the difference and the remedy."""


@dataclass
class Content:
    """A table's content, by name as in `hp2l.comparison.scores.Scores`."""

    method: str
    study_ids: list[str]
    patient_ids: list[str]
    split: list[str]
    levels: list[NDArray[np.float64]]
    provenance: dict[str, Any]
    class_names: list[list[str]]
    labels: list[NDArray[np.float64]]


def write(path: Path, content: Content) -> None:
    """Write a table in the form that its suffix names.

    Raises:
        CompareError: another suffix than `SUFFIXES`.
    """
    header = jsonable({"method": content.method, "provenance": content.provenance})
    if _suffix(path) == ".csv":
        _long(content).to_csv(path, index=False)
        _sidecar(path).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
    else:
        table = _arrow(content).replace_schema_metadata({METADATA: json.dumps(header).encode()})
        pq.write_table(table, path, compression="zstd")


def read(path: Path) -> Content:
    """Read a table of `write`.

    Raises:
        CompareError: no such file, a column is missing, a study lacks a class, has one twice, or two patients or splits, or a cell holds
            what it must not.
    """
    suffix = _suffix(path)
    if not path.is_file():
        raise CompareError(f"{path}: no such score table")
    if suffix == ".csv":
        text = {"study_id": str, "patient_id": str, "split": str, "class": str}
        try:
            frame = pd.read_csv(
                path, dtype=text, float_precision="round_trip", keep_default_na=False, na_values={"label": "", "score": ""}
            )
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
            raise CompareError(f"{path} is no score table ({error}); `hlip score` writes one") from error
        beside = _sidecar(path)
        header = _header(beside, beside.read_bytes()) if beside.is_file() else {}
    else:
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise CompareError(f"{path} is no parquet file ({error}); `hlip score` writes score tables") from error
        frame = table.to_pandas()
        header = _header(path, (table.schema.metadata or {}).get(METADATA, b"{}"))
    return _wide(path, frame, header)


def _suffix(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise CompareError(f"{path}: a score table ends in {' or '.join(SUFFIXES)}")
    return path.suffix


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".provenance.json")


def _header(path: Path, text: bytes) -> dict[str, Any]:
    """Method and provenance, as `write` left them."""
    try:
        found = json.loads(text)
        provenance = found.get("provenance", {})
    except (ValueError, AttributeError) as error:
        raise CompareError(
            f"{path}: what it says of the table's origin is no JSON object ({error}); score the model again"
        ) from error
    if not isinstance(provenance, dict):
        raise CompareError(f"{path}: the provenance is a {type(provenance).__name__}, no object; score the model again")
    return dict(found)


def _long(content: Content) -> pd.DataFrame:
    tables = []
    for level, (names, score, label) in enumerate(
        zip(content.class_names, content.levels, content.labels, strict=True), start=1
    ):
        columns = {
            "study_id": np.repeat(content.study_ids, len(names)),
            "patient_id": np.repeat(content.patient_ids, len(names)),
            "split": np.repeat(content.split, len(names)),
            "level": level,
            "class": np.tile(names, len(score)),
            "score": score.ravel(),
            "label": pd.array(label.ravel(), dtype="Float64").astype("Int64"),
        }
        tables.append(pd.DataFrame(columns, columns=list(COLUMNS)))
    return pd.concat(tables)


def _arrow(content: Content) -> pa.Table:
    """The same columns as `_long`, without a text for every row."""
    studies, sizes = len(content.study_ids), [len(names) for names in content.class_names]
    row = np.concatenate([np.repeat(np.arange(studies), size) for size in sizes])
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
    place = np.concatenate([np.tile(np.arange(size) + first, studies) for size, first in zip(sizes, start, strict=True)])
    score, label = (np.concatenate([table.ravel() for table in tables]) for tables in (content.levels, content.labels))
    narrow = score.astype(np.float32)
    texts = {
        "study_id": (content.study_ids, row),
        "patient_id": (content.patient_ids, row),
        "split": (content.split, row),
        "class": ([name for names in content.class_names for name in names], place),
    }
    columns = {name: _dictionary(values, codes) for name, (values, codes) in texts.items()}
    columns["level"] = pa.array(np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int8), np.multiply(sizes, studies)))
    columns["score"] = pa.array(narrow if np.array_equal(narrow, score) else score)
    columns["label"] = pa.array(np.nan_to_num(label).astype(np.int8), mask=np.isnan(label))
    return pa.table({name: columns[name] for name in COLUMNS})


def _dictionary(values: list[str], codes: NDArray[np.intp]) -> pa.DictionaryArray:
    """Values by their codes, each text stored once."""
    own, texts = pd.factorize(np.asarray(values, dtype=object))
    return pa.DictionaryArray.from_arrays(pa.array(own.astype(np.int32)[codes]), pa.array(list(texts), type=pa.string()))


def _refuse_bad_cells(path: Path, frame: pd.DataFrame) -> None:
    """Cells that would count as something that they do not say."""
    if not len(frame):
        raise CompareError(f"{path}: a table without rows; `hlip score` writes one")
    studies = frame["study_id"]
    for name in ("study_id", "patient_id", "split", "class", "level"):
        empty = (frame[name].isna() | (frame[name].astype(object) == "")).to_numpy(dtype=bool)
        if empty.any():
            where = f"row {int(empty.argmax()) + 1}" if name == "study_id" else f"studies {some_of(studies[empty])}"
            raise CompareError(f"{path}: no {name} in {int(empty.sum())} rows ({where}); fill the column in")
    for name, ask in (("score", "give finite scores"), ("label", "1 is present, 0 absent, empty unknown")):
        try:
            values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise CompareError(f"{path}: the column {name} holds what is no number ({error}); {ask}") from error
        bad = ~np.isfinite(values) if name == "score" else ~(np.isnan(values) | (values == 0) | (values == 1))
        if bad.any():
            first = f"first {values[bad][0]:g}"
            raise CompareError(
                f"{path}: {int(bad.sum())} bad values of {name} ({first}), in studies {some_of(studies[bad])}; {ask}"
            )


def some_of(names: Iterable[Any], most: int = 3) -> str:
    """The first few of different names, and how many more."""
    found = list(dict.fromkeys(str(name) for name in names))
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def _splits(path: Path, studies: Sequence[str], given: Sequence[str]) -> list[str]:
    """Splits under their names here."""
    found = [SPLITS.get(split.strip().lower()) for split in given]
    bad = [study for study, split in zip(studies, found, strict=True) if split is None]
    if bad:
        names = sorted({split for split, known in zip(given, found, strict=True) if known is None})
        raise CompareError(f"{path}: splits called {some_of(names)}, of studies {some_of(bad)}; there are train, val and test")
    return [split for split in found if split is not None]


def _wide(path: Path, frame: pd.DataFrame, header: dict[str, Any]) -> Content:
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise CompareError(f"{path}: no column {', '.join(missing)} (expected {', '.join(COLUMNS)})")
    _refuse_bad_cells(path, frame)
    row, ids = pd.factorize(frame["study_id"])
    first = np.unique(row, return_index=True)[1]
    texts = {"study_id": np.asarray(ids, dtype=object).tolist()}
    for name in ("patient_id", "split"):
        codes, values = pd.factorize(frame[name])
        if (differing := codes != codes[first][row]).any():
            study = texts["study_id"][int(row[differing.argmax()])]
            raise CompareError(f"{path}: study {study} has more than one {name}; give each study one")
        texts[name] = [str(value) for value in np.asarray(values, dtype=object)[codes[first]]]
    texts["split"] = _splits(path, texts["study_id"], texts["split"])
    class_names: list[list[str]] = []
    levels: list[NDArray[np.float64]] = []
    labels: list[NDArray[np.float64]] = []
    for level in np.unique(frame["level"]):
        rows = np.flatnonzero(frame["level"].to_numpy() == level)
        column, names = pd.factorize(frame["class"].iloc[rows])
        filled = np.zeros((len(ids), len(names)), dtype=bool)
        filled[row[rows], column] = True
        if not filled.all() or len(rows) != filled.size:
            lacking = (~filled).any(axis=1)
            which = (
                f"{int(lacking.sum())} lack one, first {texts['study_id'][int(lacking.argmax())]}"
                if lacking.any()
                else "some have two"
            )
            raise CompareError(f"{path}, level {level}: not every study has one score for every class ({which})")
        class_names.append(np.asarray(names, dtype=object).tolist())
        for name, tables in (("score", levels), ("label", labels)):
            grid = np.full(filled.shape, np.nan)
            grid[row[rows], column] = frame[name].iloc[rows].to_numpy(dtype=np.float64, na_value=np.nan)
            tables.append(grid)
    method, provenance = header.get("method", path.stem), header.get("provenance", {})
    return Content(method, texts["study_id"], texts["patient_id"], texts["split"], levels, provenance, class_names, labels)
