"""Which is better, where, and how sure: the text of the report's first screen.

The answer is computed, never written by hand: better only if the interval of the paired difference says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from finetune.comparison.words import (
    joined,
    last_level,
    lower_label,
    method_label,
    number,
    others_of,
    p_text,
    reference_of,
    span,
    verdict,
)
from hp2l.comparison.compare import Comparison


def headline(comparison: Comparison) -> str:
    """Which is better: one sentence. Better only if the interval of the paired difference says so."""
    last, reference, others = last_level(comparison), reference_of(comparison), others_of(comparison)
    over = f"over {len(last['macro_classes'])} {last['name']} classes"
    if not others:
        entry = last[reference]["macro_auc"]
        return f"{method_label(reference)} reaches a macro AUC of {number(entry['value'])} ({span(entry)}) {over}."
    if len(others) > 1:
        return _of_many(comparison, over)
    first, second = reference, others[0]
    found = verdict(last["differences"][second]["macro_auc"])
    better = {
        1: f"{method_label(second)} is better than {lower_label(first)}",
        -1: f"{method_label(first)} is better than {lower_label(second)}",
    }
    none = f"No difference between {lower_label(second)} and {lower_label(first)} is shown"
    values = [number(last[name]["macro_auc"]["value"]) for name in ((first, second) if found < 0 else (second, first))]
    return f"{better.get(found, none)}: macro AUC {values[0]} against {values[1]} {over}."


def _of_many(comparison: Comparison, over: str) -> str:
    """Three or more methods: each against the reference."""
    last, reference = last_level(comparison), reference_of(comparison)
    base = f"{number(last[reference]['macro_auc']['value'])} with {lower_label(reference)}"
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for method in others_of(comparison):
        groups[verdict(last["differences"][method]["macro_auc"])].append(method)
    parts = []
    for found, words in ((1, "better"), (-1, "worse")):
        if groups[found]:
            verb = "is" if len(groups[found]) == 1 else "are"
            parts.append(
                f"{_names(groups[found])} {verb} {words} than {lower_label(reference)}: {_values(comparison, groups[found])}"
            )
    if groups[0]:
        parts.append(
            f"no difference to {lower_label(reference)} is shown for {_names(groups[0])} ({_values(comparison, groups[0])})"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}, against {base}, {over}."


def _names(methods: Sequence[str]) -> str:
    return joined([lower_label(method) for method in methods])


def _values(comparison: Comparison, methods: Sequence[str]) -> str:
    return "macro AUC " + joined([number(last_level(comparison)[method]["macro_auc"]["value"]) for method in methods])


def statements(comparison: Comparison) -> list[str]:
    """How sure, and where: one text for one or two methods, a line a method for more."""
    cohort, last, others = comparison["cohort"], last_level(comparison), others_of(comparison)
    sample = f"{cohort['studies']} held-out studies of {cohort['patients']} patients"
    if not others:
        return [f"Measured on {sample}."]
    lines = []
    for method in others:
        change = last["differences"][method]["macro_auc"]
        size = f"{number(change['value'], True)}, 95 % interval {span(change, True)}, p {p_text(change['p'], comparison, True)}"
        start = f"Difference {size}, in {sample}." if len(others) == 1 else f"{method_label(method)}: difference {size}."
        lines.append(f"{start} {_where(comparison, method)}")
    if len(others) > 1:
        lines.insert(0, f"Each is held against {lower_label(reference_of(comparison))}, on {sample}.")
    return lines


def details(comparison: Comparison) -> str:
    """How sure, and where, as one text."""
    return " ".join(statements(comparison))


def answer(comparison: Comparison) -> str:
    """Which is better, how sure, and where."""
    return f"{headline(comparison)} {details(comparison)}"


def _where(comparison: Comparison, method: str) -> str:
    """At which levels and in which classes the difference shows; classes after Holm's correction."""
    levels, last = comparison["levels"], last_level(comparison)
    shown = [key for key, level in levels.items() if verdict(level["differences"][method]["macro_auc"])]
    text = f"The interval excludes zero at {_listed('level', shown, len(levels))}. "
    changes = {name: last["differences"][method]["per_class"][name]["auc"] for name in last["macro_classes"]}
    sure = {name: e["value"] for name, e in changes.items() if e["p_holm"] is not None and e["p_holm"] < 0.05}
    gain, loss = sorted((n for n in sure if sure[n] > 0), key=lambda n: -sure[n]), [n for n in sure if sure[n] < 0]
    most = f"{', most of all' if len(gain) > 1 else ','} {gain[0]} ({number(sure[gain[0]], True)})" if gain else ""
    lost = f"{len(loss)} {'loses' if len(loss) == 1 else 'lose'} ({', '.join(loss[:3])})" if loss else "none is shown to lose"
    verb = "gains" if len(gain) == 1 else "gain"
    return f"{text}Taken singly and corrected for their number, {len(gain)} of {len(changes)} classes {verb}{most}; {lost}."


def _listed(noun: str, found: Sequence[str], total: int) -> str:
    if len(found) == total and total > 1:
        return f"all {total} {noun}s"
    if not found:
        return f"no {noun}"
    return f"{noun}{'s' if len(found) > 1 else ''} {joined(found)}"
