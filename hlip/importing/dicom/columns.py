"""What of a hospital's table may stand beside hashed ids: a list of what is taken, since none of what is not could be complete.

A column of any language may name a person. Those by which methods are compared in groups are taken, each read as what it should be, so that
nothing else can stand in it; any other only if its user names it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hlip.dicom.people import OLDEST, model_of, vendor_of
from hlip.importing import fields
from hlip.importing.cells import UNKNOWN
from hlip.study import Study

_SHOWN, _LENGTH = 3, 20  # cells of a column, letters of a cell


def _age(value: object) -> int | None:
    years = fields.age(value)
    return None if years is None else min(int(years), OLDEST)


TAKEN: Mapping[str, Callable[[Any], Any]] = {
    "sex": fields.sex,
    "age": _age,
    "vendor": lambda value: vendor_of(str(value)),
    "model": lambda value: model_of(str(value)),
    "field_strength": fields.field_strength,
}
"""Column, in any letters -> what is made of its cells; a cell that is nothing of the kind is left out."""


def without_names(before: Sequence[Study], after: Sequence[Study], keep: Collection[str] = ()) -> tuple[list[Study], list[str]]:
    """Studies with the columns that may be taken, and notes on columns and cells that were not. Notes quote cells: they are for the terminal.

    Args:
        before, after: the same studies, before and after tables were joined.
        keep: columns that are taken over as they are written.
    """
    dropped: Counter[str] = Counter()
    odd: defaultdict[str, Counter[str]] = defaultdict(Counter)
    cleaned = []
    for old, new in zip(before, after, strict=True):
        extra = dict(old.extra)
        for name, value in new.extra.items():
            if name in old.extra and old.extra[name] == value:
                continue
            if name in keep:
                extra[name] = value
            elif (known := name.strip().lower()) in TAKEN:
                found = TAKEN[known](value)
                if found is not None and found != "":
                    extra[known] = found
                elif str(value).strip().lower() not in UNKNOWN:
                    odd[known][str(value)] += 1
            else:
                dropped[name] += 1
        cleaned.append(replace(new, patient_id=old.patient_id, extra=extra))
    notes = []
    if dropped:
        names = ", ".join(sorted(dropped))
        notes.append(
            f"columns left out, since they may name a patient: {names}; --keep-columns NAME takes one over as it is written"
        )
    return cleaned, notes + [_on_cells(name, cells) for name, cells in sorted(odd.items())]


def _on_cells(column: str, cells: Counter[str]) -> str:
    often = sorted(cells, key=lambda cell: (-cells[cell], cell))
    shown = ", ".join(f"'{cell[:_LENGTH]}'" for cell in often[:_SHOWN])
    more = ", ..." if len(cells) > _SHOWN else ""
    return f"cells of {column} that are not understood, and left out: {cells.total()} ({shown}{more}); correct them, and import again"
