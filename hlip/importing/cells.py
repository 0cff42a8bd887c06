"""What columns and cells of a table mean, whichever import reads it: sections of reports, labels, splits, classes left open."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hlip.importing.outcome import SHOWN
from hlip.importing.splits import SPLIT_NAMES

if TYPE_CHECKING:
    from hlip.taxonomy import Taxonomy

SECTIONS = ("clinical_information", "indication", "history", "technique", "comparison", "findings", "impression", "conclusion")
"""Columns that hold parts of a report, in the order of one."""
NAMES = {
    "study_id": ("studyinstanceuid", "studyuid", "studyid"),  # StudyID beside StudyInstanceUID is another number
    "patient_id": ("patientid", "participantid", "subjectid", "patientenid"),
    "accession_number": ("accessionnumber", "accessionno", "accession", "untersuchungsnummer", "auftragsnummer"),
    "report": ("report", "reporttext", "befundtext", "befundbericht"),
    "clinical_information": ("clinicalinformation", "klinischeangaben"),
    "indication": ("indication", "indikation", "fragestellung"),
    "history": ("history", "anamnese"),
    "technique": ("technique", "technik"),
    "comparison": ("comparison", "vergleich", "voraufnahmen", "voruntersuchungen"),
    "findings": ("findings", "befund", "befunde"),
    "impression": ("impression", "beurteilung"),
    "conclusion": ("conclusion", "zusammenfassung"),
}
"""Column -> what others call it, in small letters without spaces and marks; of several in one table the first counts."""
RESERVED = ("scans", "sentences", "labels", "imported", "report")
"""Fields of a manifest that a column of metadata would overwrite."""
YES, NO, UNKNOWN = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}, {"", "-1", "-1.0", "nan"}
"""What a cell under a class may say, in lower case."""


def plain(column: str) -> str:
    """A column's name as `NAMES` writes it."""
    return re.sub(r"[\W_]+", "", column.casefold())


@lru_cache(maxsize=64)
def names_of(columns: tuple[str, ...], wanted: tuple[str, ...]) -> Mapping[str, str]:
    """Column -> our name of it, for those that are called otherwise; one that is there under our name is not looked for."""
    found = {}
    for ours in wanted:
        theirs = [column for name in NAMES[ours] for column in columns if plain(column) == name]
        if theirs and ours not in columns:
            found[theirs[0]] = ours
    return found


def renamed(row: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """A row under our names of columns."""
    names = names_of(tuple(row), tuple(wanted))
    return {names.get(name, name): text for name, text in row.items()}


def zeros_lost(there: Iterable[str], here: Iterable[str]) -> dict[str, str]:
    """Numbers of a table -> those of studies from which they differ by leading zeros alone, as spreadsheets drop them."""
    bare = {name.lstrip("0"): name for name in here if name.isdigit()}
    pairs = ((name, bare.get(name.lstrip("0"), name)) for name in there if name.isdigit())
    return {name: other for name, other in pairs if name != other}


def put_together(sections: Mapping[str, str]) -> str:
    """A report from its sections: "FINDINGS: ...", one below the other; empty ones are passed over."""
    return "\n".join(f"{name.replace('_', ' ').upper()}: {sections[name]}" for name in SECTIONS if sections.get(name))


def report_of(row: Mapping[str, str]) -> str:
    """The report of a row: its column report, else its sections put together."""
    cells = renamed(row, ("report", *SECTIONS))
    return cells.get("report") or put_together(cells)


def labels_of(cell: str, tree: Taxonomy | None) -> tuple[str, ...] | None:
    """The labels of a cell, parted by ;, as classes of the tree if there is one; None where it says nothing.

    Raises:
        TaxonomyError: a label that stands for none of the classes.
    """
    names = [name.strip() for name in cell.split(";") if name.strip()]
    return tuple(dict.fromkeys(tree.meant_by(name) if tree else name for name in names)) or None


def split_of(cell: str) -> str | None:
    """The split that a cell means; None where it is empty.

    Raises:
        ValueError: no split is called so.
    """
    if cell and cell.lower() not in SPLIT_NAMES:
        raise ValueError(f"split '{cell}' is none of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES.get(cell.lower())


def unknown_note(file: Path, said: Mapping[str, int], empty: int = 0) -> list[str]:
    """What to tell of cells that say neither yes nor no of a class, beside others of their row that do.

    Args:
        said: class -> cells that say -1 or nan.
        empty: cells without a word.
    """
    if not said and not empty:
        return []
    most = Counter(said).most_common(SHOWN)
    which = ", ".join(f"{name} {count}" for name, count in most) + (", ..." if len(said) > len(most) else "")
    parts = [f"-1 or nan, uncertain, {sum(said.values())} ({which})"] if said else []
    parts += [f"empty {empty}"] if empty else []
    return [
        f"{file.name}: cells that leave a class open: {'; '.join(parts)}. A manifest cannot hold a single class as unknown: it is not among "
        "the study's labels and counts as absent. To prevent that, empty the study's whole row: it then has no labels at all"
    ]
