"""Values of tags as text and numbers, whatever a scanner wrote there: what is none is nothing."""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataset import Dataset


def first_of(groups: list[Dataset], macro: str, name: str) -> Any:
    for group in groups:
        items = group.get(macro)
        if items and items[0].get(name) is not None:
            return items[0].get(name)
    return None


def text_of(data: Dataset, name: str) -> str:
    value = data.get(name)
    return "" if value is None else str(value).strip(" \0")


def texts_of(data: Dataset, name: str) -> tuple[str, ...]:
    value = data.get(name)
    if value is None or value == "":
        return ()
    return tuple(str(item).strip() for item in ([value] if isinstance(value, str) else value))


def numbers_of(value: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(item) for item in value)
    except (TypeError, ValueError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def one_of(value: Any) -> float | None:
    """A number, or the first of several."""
    if value is not None and not isinstance(value, (str, int, float)):
        value = next(iter(value), None)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def number_of(data: Dataset, name: str) -> float | None:
    return one_of(data.get(name))


def rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)


def whole_of(number: float | None) -> int | None:
    return None if number is None else int(number)


def tesla_of(number: float | None) -> float | None:
    """Some scanners write gauss."""
    if number is None or number <= 0:
        return None
    return round(number / 10_000 if number > 100 else number, 1)
