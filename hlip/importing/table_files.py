"""Reading the files of tables: CSV and TSV in UTF-8, with line numbers, strictly.

Notable choices:
- What parts the cells is read from the header: comma, semicolon or tab, whichever gives the columns that are needed, else the most (on a tie
  the comma; the tab where the file is called *.tsv). Spreadsheets write semicolons where the comma is the decimal mark.
- Another encoding than UTF-8 is refused, not guessed: as a wrong guess it would change names. The message names what the bytes look like.
- A first line "sep=;", which Excel writes and obeys, says what parts the cells and is no header.
- A row longer than the header is a fault: a report whose commas are not in quotes would otherwise lose its end silently.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from hlip.importing.outcome import ImportingError, some

_MARKS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SHOWN_COLUMNS = 30  # of a table that lacks one

Row = tuple[int, dict[str, str]]
"""Line number (of the row's first line) and cells of a table's row."""


class Faults:
    """What is wrong with a table: texts with their lines; the same text on many lines is one fault."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines: dict[str, list[int]] = {}

    def add(self, line: int, text: str) -> None:
        self._lines.setdefault(text, []).append(line)

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __str__(self) -> str:
        told = [
            f"line {lines[0]}{f' and {len(lines) - 1} more' if len(lines) > 1 else ''}: {text}"
            for text, lines in self._lines.items()
        ]
        return f"{self.file}: {len(told)} problem(s){some(told)}"

    def stop(self) -> None:
        """
        Raises:
            ImportingError: there is any.
        """
        if self:
            raise ImportingError(str(self))


def read_table(file: str | Path, needed: Sequence[str] = ()) -> list[Row]:
    """Rows of a CSV or TSV in UTF-8, cells stripped; empty lines are passed over.

    Raises:
        ImportingError: missing, no such table, another encoding, no row, a column twice, a needed column that is not there, or a row that is
            longer than the header.
    """
    file = Path(file)
    if not file.is_file():
        raise ImportingError(f"{file}: no such table")
    _check_text(file)
    faults, rows, line = Faults(file), [], 1
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header = lines.readline()
            if "\0" in header:
                raise csv.Error("NUL")
            said = _said_mark(header)
            mark = said or _mark(header, file, needed)
            lines.seek(0)
            before = len([lines.readline()]) if said else 0
            reader = csv.reader(
                lines, delimiter=mark, strict=True
            )  # else a quote that is not closed takes the next rows with it
            columns = [name.strip() for name in next(reader, [])]
            line = before + reader.line_num + 1
            for cells in reader:
                if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
                    remedy = f"put text with {_MARKS.get(mark, mark)} into quotes"
                    faults.add(line, f"{len(cells)} cells under {len(columns)} columns; {remedy}")
                elif any(cell.strip() for cell in cells):
                    rows.append((line, _cells(columns, cells)))
                line = before + reader.line_num + 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImportingError(f"{file}: {_not_utf_8(file) or _quoted(error, line) or f'no table in UTF-8 ({error})'}") from error
    _check_columns(file, columns, needed)
    faults.stop()
    if not rows:
        raise ImportingError(f"{file}: holds no row")
    return rows


def _quoted(error: Exception, line: int) -> str:
    """The remedy where quotes are at fault; "" where they are not."""
    if not any(words in str(error) for words in ("unexpected end", "expected after")):
        return ""
    return (
        f"the quotes of the row that begins on line {line} do not close, or text goes on behind them; it may have taken the next rows with it. "
        'Quotes stand around the whole cell, and a quote within is written ""'
    )


def read_columns(file: Path) -> list[str]:
    """Names in the first line of a table, whatever its encoding; none where it is no text."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        first = lines.readline()
        said = _said_mark(first)
        first = lines.readline() if said else first
    try:
        return [name.strip() for name in next(csv.reader([first], delimiter=said or _mark(first, file)), [])]
    except csv.Error:
        return []


def require_columns(file: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    """
    Raises:
        ImportingError: a needed column that is not there.
    """
    if missing := [name for name in needed if name not in columns]:
        shown = ", ".join(columns[:_SHOWN_COLUMNS])
        raise ImportingError(f"{file}: no column {' and '.join(missing)}; its columns are {shown}")


def _said_mark(first: str) -> str:
    """What parts the cells, where the first line is Excel's "sep=;"; else ""."""
    found = re.fullmatch(r"\"?sep=([^\w\s\"]|\t)\"?", first.strip("\r\n "), re.IGNORECASE)
    return found[1] if found else ""


def _check_text(file: Path) -> None:
    """
    Raises:
        ImportingError: a spreadsheet, whatever it is called.
    """
    with file.open("rb") as content:
        start = content.read(8)
    if start.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise ImportingError(f"{file}: a spreadsheet (.xlsx, .xls, .ods), not a CSV; open it and save it as 'CSV UTF-8'")


def _mark(header: str, file: Path, needed: Sequence[str] = ()) -> str:
    """What parts the cells of a table with this first line: gives most of the needed columns, then most columns at all."""
    first = "\t" if file.suffix.lower() == ".tsv" else ","

    def gives(mark: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=mark), [])]
        return sum(name in names for name in needed), len(names)

    return max(sorted(_MARKS, key=lambda mark: mark != first), key=gives)  # of equals the first


def _not_utf_8(file: Path) -> str:
    """What a file's bytes look like instead, and the remedy; "" where they are UTF-8."""
    content = file.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:200]:
        name, code = "UTF-16", "UTF-16"
    else:
        try:
            content.decode("utf-8")
            return ""
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
        try:
            content.decode("cp1252")
            name, code = f"Windows-1252 (cp1252, which spreadsheets write as plain CSV) from line {line} on", "CP1252"
        except UnicodeDecodeError:
            return f"line {line} is in another encoding than UTF-8; save the table as CSV in UTF-8"
    return f"looks like {name}, not UTF-8; save it as 'CSV UTF-8', or: iconv -f {code} -t UTF-8 {file} > utf8.csv"


def _cells(columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    filled = [*cells, *[""] * (len(columns) - len(cells))]
    return {name: text.strip() for name, text in zip(columns, filled, strict=False) if name}


def _check_columns(file: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise ImportingError(f"{file}: the column {twice[0]} stands there twice")
    require_columns(file, columns, needed)
