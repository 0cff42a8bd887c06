"""What scanners and people are called in a manifest: one word a thing, however the source writes it; and what a table's columns mean.

The fields are those by which methods are compared within groups: sex (M, F, O), age (years), vendor, field_strength (tesla).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hlip.dicom.people import known_vendor
from hlip.study import Study

_TESLA = (0.055, 0.064, 0.2, 0.3, 0.35, 0.5, 0.55, 1.0, 1.5, 3.0, 4.7, 7.0, 9.4)
_NEAR = 0.05  # of a nominal field; magnets run at 2.89 T and are sold as 3 T
_SEXES = {
    **dict.fromkeys(("m", "male", "man", "männlich", "maennlich", "mann"), "M"),
    **dict.fromkeys(("f", "female", "woman", "w", "weiblich", "frau"), "F"),
    **dict.fromkeys(("o", "other", "d", "divers"), "O"),
}
_EMPTY = ("", "nan", "n/a", "na")
_COLUMNS = {"sex": "sex", "gender": "sex", "patientsex": "sex", "age": "age", "patientage": "age"}
_UNITS = {
    **dict.fromkeys(("", "y", "yr", "yrs", "year", "years", "yo", "j", "jahr", "jahre"), 1.0),
    **dict.fromkeys(("m", "month", "months", "monat", "monate"), 1 / 12),
    **dict.fromkeys(("w", "week", "weeks", "woche", "wochen"), 7 / 365.25),
    **dict.fromkeys(("d", "day", "days", "tag", "tage"), 1 / 365.25),
}


def vendor(text: object) -> str:
    """Who built the scanner: Siemens, GE, Philips, ...; an unknown name as it is written."""
    name = str(text or "").strip()
    return known_vendor(name) or name


def field_strength(value: object) -> float | None:
    """Tesla: 2.89 is 3.0, 15000 (gauss) is 1.5; None where it is no number of a magnet."""
    try:
        tesla = float(str(value).strip().rstrip("Tt"))
    except ValueError:
        return None
    tesla = tesla / 1e4 if tesla > 100 else tesla
    if not math.isfinite(tesla) or tesla <= 0:
        return None
    nearest = min(_TESLA, key=lambda known: abs(known - tesla))
    return nearest if abs(nearest - tesla) <= _NEAR * nearest else round(tesla, 2)


def sex(text: object) -> str | None:
    """M, F or O; None where it says neither."""
    return _SEXES.get(str(text or "").strip().lower())


def age(text: object) -> float | int | None:
    """Years: 34, "034Y", "18M" (months), "67 Jahre", "89+", "61,5"; whole ones as whole numbers. None where it is no age."""
    said = str("" if text is None else text).strip().lower().replace(",", ".")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*\+?\s*([a-z]*)\.?", said)
    if not found or found[2] not in _UNITS:
        return None
    years = round(float(found[1]) * _UNITS[found[2]], 2)
    return None if years >= 130 else int(years) if years == int(years) else years


def field_of(column: str) -> str:
    """The manifest's field of a table's column: sex and age whatever its letters, any other as it is."""
    return _COLUMNS.get(column.casefold(), column)


def told(column: str, text: str) -> tuple[str, Any]:
    """A cell as field and value of the manifest: sex and age in our words where they are understood, any other as it is.
    `without_odd_ages` takes those out that are not."""
    field = field_of(column)
    if field == "sex":
        return field, sex(text) or text
    if field == "age":
        years = age(text)
        return field, text if years is None else years
    return field, text


def without_odd_ages(before: Sequence[Study], after: Sequence[Study]) -> tuple[list[Study], list[str]]:
    """Studies without ages that are no number of years (dates of birth among them), and a note with their count. What stands there is not
    told: it may name a person.

    Args:
        before, after: the same studies, before and after tables were joined; an age that was there before holds where a table's is none.
    """
    cleaned, odd = [], 0
    for old, new in zip(before, after, strict=True):
        ages = new.extra.get("age")
        texts = [value for value in (ages if isinstance(ages, list) else [ages]) if isinstance(value, str)]
        odd += sum(text.lower() not in _EMPTY for text in texts)
        if texts:
            extra = {name: value for name, value in new.extra.items() if name != "age"}
            if isinstance(ages, list):  # one a scan
                extra["age"] = ["" if isinstance(value, str) else value for value in ages]
            elif not isinstance(old.extra.get("age", ""), str):
                extra["age"] = old.extra["age"]
            new = replace(new, extra=extra)
        cleaned.append(new)
    if not odd:
        return cleaned, []
    remedy = "correct them, and import again; words are kept in a column of another name"
    return cleaned, [f"cells of age that are not understood, and left out: {odd}; {remedy}"]
