"""How many labels fine-tuning needs, in words: a bracket of numbers tried, with the differences there, and the crossing with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.comparison.words import counted, lower_label, number, span
from hp2l.comparison.compare import Comparison


def efficiency(comparison: Comparison) -> str:
    """From how many labels on fine-tuning is shown to be above zero-shot: by the interval of each point's paired difference."""
    levels = comparison.get("efficiency") or {}
    parts = [f"level {key}: {_overtaking(entry, method)}" for key, entry in levels.items() for method in entry["crossing"]]
    text = "; ".join(parts)
    if not text:
        return ""
    labelled = max(entry.get("validation_studies", 0) for entry in levels.values())
    besides = counted(labelled, "labelled validation study", "labelled validation studies")
    also = (
        f" Both sides also use {besides}: zero-shot to choose its setting, fine-tuning its checkpoint, both their thresholds."
    )
    return f"{text[0].upper()}{text[1:]}.{also if labelled else ''}"


def _overtaking(entry: Mapping[str, Any], method: str) -> str:
    crossing, points = entry["crossing"][method], {point["studies"]: point for point in entry["points"]}

    def there(studies: int) -> str:
        change = points[studies]["differences"][method]
        return f"{number(change['value'], True)}, {span(change, True)}"

    first, until, line = crossing["above_from"], crossing["below_to"], lower_label(method)
    if first is None:
        return f"fine-tuning is not shown to be above {line}, up to {until:,} labelled studies ({there(until)})"
    if until is None:
        return f"fine-tuning is above {line} at every number tried, from {first:,} labelled studies on ({there(first)} there)"
    text = f"fine-tuning is shown to be above {line} from {first:,} labelled studies on ({there(first)}), "
    return f"{text}not at {until:,} ({there(until)}){_crossing_words(crossing)}"


def _crossing_words(crossing: Mapping[str, Any]) -> str:
    """The interpolated crossing and its interval, which may leave the numbers tried."""
    if crossing["value"] is None:
        return ""
    ends = []
    for end, side in zip((crossing["low"], crossing["high"]), crossing["sides"][1:], strict=True):
        beyond = "fewer than tried" if side == "before" else "more than tried"
        ends.append(beyond if end is None else f"{end:,.0f}")
    return f"; the curves cross at about {crossing['value']:,.0f} (95 % interval from {ends[0]} to {ends[1]})"
