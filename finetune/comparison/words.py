"""Numbers, intervals and names as the report writes them: two digits, a true minus, a dash where there is no number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hp2l.comparison.compare import Comparison


def method_label(name: str) -> str:
    """How a method is called in text: `zero_shot` -> `Zero-shot`."""
    known = {"zero_shot": "Zero-shot", "fine_tuned": "Fine-tuned"}
    return known.get(name, name.replace("_", " ").capitalize())


def lower_label(name: str) -> str:
    """The same within a sentence."""
    return method_label(name).lower()


def number(value: float | None, sign: bool = False, digits: int = 2) -> str:
    """Two digits, a true minus; a dash where there is no number."""
    if value is None:
        return "–"  # noqa: RUF001
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return (text[1:] if text[0] in "+-" and not float(text) else text).replace("-", "\N{MINUS SIGN}")


def span(entry: Mapping[str, Any], sign: bool = False, digits: int = 2) -> str:
    """An interval in words: `0.66 to 0.74`."""
    return f"{number(entry['low'], sign, digits)} to {number(entry['high'], sign, digits)}" if entry["low"] is not None else ""


def with_span(entry: Mapping[str, Any], sign: bool = False) -> str:
    """A value and its interval: `0.70 (0.66, 0.74)`."""
    if entry.get("structural"):
        return f"{number(entry['value'], sign)} ({entry['structural']})"
    if entry["value"] is None or entry["low"] is None:
        return number(entry["value"], sign)
    return f"{number(entry['value'], sign)} ({number(entry['low'], sign)}, {number(entry['high'], sign)})"


def p_text(p: float | None, comparison: Comparison, relation: bool = False) -> str:
    """A p-value that is a share of resamples; the smallest that their number can show is an upper bound, `≤ 0.002`."""
    if p is None:
        return "–"  # noqa: RUF001
    least = 2 / (comparison["settings"]["resamples"] + 1)
    if p <= least * 1.0001:
        return f"≤ {least:.2g}"
    text = f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"
    return f"= {text}" if relation else text


def verdict(entry: Mapping[str, Any]) -> int:
    """1 or -1 if the interval of a difference lies wholly above or below zero, else 0."""
    if entry["low"] is None:
        return 0
    return int(entry["low"] > 0) - int(entry["high"] < 0)


def shown(entry: Mapping[str, Any], below: float = 0.05) -> int:
    """1 or -1 if a difference is shown to be above or below zero, else 0: by Holm's corrected p where the family of its tests is
    corrected for (DeLong's for a class's AUC, which needs no resamples), else by its interval. What should have been tested and could
    not be is not shown. Filled marks and triangles all follow this."""
    family = entry.get("delong") or entry
    if "p_holm" not in family:
        return verdict(entry)
    adjusted = family["p_holm"]
    if adjusted is None or entry["value"] is None or not adjusted < below:
        return 0
    return 1 if entry["value"] > 0 else -1


def plain_p(p: float | None, relation: bool = False) -> str:
    """A p-value that no number of resamples bounds (DeLong's; of a difference over its standard error), in the digits of `p_text`."""
    if p is None:
        return "–"  # noqa: RUF001
    if p < 0.001:
        return "< 0.001"
    text = f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"
    return f"= {text}" if relation else text


def level_words(name: str) -> str:
    """`the subtype level`; `level 3` where levels have no names."""
    return name if name.startswith("level ") else f"the {name} level"


def external_of(comparison: Mapping[str, Any], method: str) -> str | None:
    """Name of the other cohort that a method's test studies are of; None where they are the validation studies' own."""
    entry = (comparison.get("provenance") or {}).get(method)
    return entry.get("external") if isinstance(entry, Mapping) else None


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 class`, `2,000 classes`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def joined(parts: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def last_level(comparison: Mapping[str, Any]) -> Mapping[str, Any]:
    """The finest level."""
    found: Mapping[str, Any] = list(comparison["levels"].values())[-1]
    return found


def reference_of(comparison: Mapping[str, Any]) -> str:
    """The method that the others are held against."""
    name: str = comparison.get("reference") or comparison["methods"][0]
    return name


def others_of(comparison: Mapping[str, Any]) -> list[str]:
    """All methods but the reference."""
    return [method for method in comparison["methods"] if method != reference_of(comparison)]
