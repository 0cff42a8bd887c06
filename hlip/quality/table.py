"""quality.parquet: one row a scan of every study of the manifest, typed.

Stores of earlier versions hold quality.csv, or rows as text in their study files; both become the same rows, without the measures that
nobody made.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hlip.files.folders import write_atomically

NAME = "quality.parquet"
OLD_NAME = "quality.csv"
_TEXTS, _NUMBERS, _COUNTS = "list<text>", "list<number>", "list<count>"
COLUMNS = {
    "study_id": "text",
    "scan": "count",  # of the study, from 0
    "path": "text",  # of the source: relative to the manifest where it lies below it
    "sequence": "text",
    "status": "text",  # ok or skipped
    "reason": "text",  # of a skipped one, a short code
    "message": "text",
    "notes": "text",
    "report": "text",  # yes or none
    "shape": _COUNTS,  # of the file
    "spacing_mm": _NUMBERS,
    "orientation": "text",
    "windows": _TEXTS,  # one a volume
    "low": _NUMBERS,  # one a volume: intensity that became 0
    "high": _NUMBERS,  # ... and 255
    "foreground": "number",  # share of the scan's voxels
    "volumes": _COUNTS,  # their numbers among the study's
    "prepared_shape": _COUNTS,
    "black": _NUMBERS,  # one a volume: share of its voxels at 0
    "white": _NUMBERS,  # ... and at 255
    "saturated": "number",
    "ghosting": "number",
    "extent_mm": _NUMBERS,
    "part": "text",
    "cut": "number",  # share of the foreground outside of the prepared volume
    "hashes": _TEXTS,  # one a volume
    "flags": _TEXTS,
    "same_voxels": _TEXTS,  # other studies with one of the scan's volumes
    "same_report": _TEXTS,  # other studies with the study's report
    "digest": "text",  # of the study's file
}
"""Column -> what it holds. What was not measured is null in a number and empty in a list or text."""


def write_table(store: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write STORE/quality.parquet; an earlier version's quality.csv goes."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {"text": pa.string(), "count": pa.int32(), "number": pa.float64()}
    types |= {f"list<{name}>": pa.list_(kind) for name, kind in list(types.items())}
    schema = pa.schema([pa.field(name, types[kind]) for name, kind in COLUMNS.items()])
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([complete(row) for row in rows], schema), out, compression="zstd")
    write_atomically(store / NAME, out.getvalue())
    (store / OLD_NAME).unlink(missing_ok=True)


def read_table(store: Path) -> list[dict[str, Any]]:
    """The rows of a store's table, of an earlier version's too.

    Raises:
        OSError, ValueError: there is none, or it is damaged.
    """
    file = store / NAME
    if file.is_file():
        from pyarrow import ArrowException, parquet

        try:
            return [complete(row) for row in parquet.read_table(file, partitioning=None).to_pylist()]
        except ArrowException as error:
            raise ValueError(f"{file}: damaged ({error}); `hlip quality {store}` makes it again") from error
    with (store / OLD_NAME).open(encoding="utf-8", newline="") as lines:
        return [complete(row) for row in csv.DictReader(lines)]


def complete(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with every column, typed, whatever version wrote it; other keys are dropped."""
    return {name: _value(row.get(name), kind) for name, kind in COLUMNS.items()}


def _value(value: Any, kind: str) -> Any:
    if kind.startswith("list"):
        if isinstance(value, str):  # an earlier version's: "16x14x10", "0 -800", "red green blue"
            value = value.split() if kind == _TEXTS else value.replace("x", " ").split()
        one = {_TEXTS: str, _NUMBERS: float, _COUNTS: int}[kind]
        return [one(item) for item in value or ()]
    if kind == "text":
        return "" if value is None else str(value)
    if value is None or value == "":
        return None
    return int(value) if kind == "count" else float(value)
