"""What scanners and people are called in a manifest: one word a thing, however the source writes it; and what a table's columns mean.

The fields are those by which methods are compared within groups: sex (M, F, O), age (years), vendor, field_strength (tesla).
"""

from __future__ import annotations

import math
import re
from typing import Any

_VENDORS = (  # found anywhere in a name; the first match wins
    ("Siemens", r"siemens"),
    ("GE", r"\bge\b|general electric|gehc"),
    ("Philips", r"philips"),
    ("Canon", r"canon|toshiba"),
    ("Hitachi", r"hitachi|fujifilm"),
    ("United Imaging", r"united imaging|\buih\b"),
)
_TESLA = (0.055, 0.064, 0.2, 0.3, 0.35, 0.5, 0.55, 1.0, 1.5, 3.0, 4.7, 7.0, 9.4)
_NEAR = 0.05  # of a nominal field; magnets run at 2.89 T and are sold as 3 T
_SEXES = {
    **dict.fromkeys(("m", "male", "man", "männlich", "maennlich", "mann"), "M"),
    **dict.fromkeys(("f", "female", "woman", "w", "weiblich", "frau"), "F"),
    **dict.fromkeys(("o", "other", "d", "divers"), "O"),
}
_COLUMNS = {"sex": "sex", "gender": "sex", "patientsex": "sex", "age": "age", "patientage": "age"}
_UNITS = {"": 1.0, "y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}


def vendor(text: object) -> str:
    """Who built the scanner: Siemens, GE, Philips, ...; an unknown name as it is written."""
    name = str(text or "").strip()
    return next((known for known, pattern in _VENDORS if re.search(pattern, name.lower().replace("_", " "))), name)


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
    """Years: 34, "034Y", "18M" (months), "89+", "61,5"; whole ones as whole numbers. None where it is no age."""
    found = re.fullmatch(
        r"(\d+(?:\.\d+)?)\s*\+?\s*([ymwd]?)", str("" if text is None else text).strip().lower().replace(",", ".")
    )
    if not found:
        return None
    years = round(float(found[1]) * _UNITS[found[2]], 2)
    return None if years >= 130 else int(years) if years == int(years) else years


def field_of(column: str) -> str:
    """The manifest's field of a table's column: sex and age whatever its letters, any other as it is."""
    return _COLUMNS.get(column.casefold(), column)


def told(column: str, text: str) -> tuple[str, Any]:
    """A cell as field and value of the manifest: sex and age in our words where they are understood, any other as it is."""
    field = field_of(column)
    if field == "sex":
        return field, sex(text) or text
    if field == "age":
        years = age(text)
        return field, text if years is None else years
    return field, text
