"""Which is better, where, and how sure: the text of the report's first screen.

The answer is computed, never written by hand: better only if the interval of the paired difference says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.comparison.words import (
    counted,
    external_of,
    joined,
    last_level,
    level_words,
    lower_label,
    method_label,
    number,
    others_of,
    plain_p,
    reference_of,
    shown,
    span,
    verdict,
)
from hp2l.comparison.compare import Comparison
from hp2l.comparison.notes import FEW_PATIENTS

SURE = 0.05
"""Corrected p below which a class is counted."""
MOST_NAMED = 5
"""Classes that are named on the first screen."""


def headline(comparison: Comparison) -> str:
    """Which is better: one sentence. Better only if the interval of the paired difference says so; of the finest level that has a class
    to measure. The word is about the method that a difference is of, so that it agrees with the sign."""
    last, reference, others = judged_level(comparison), reference_of(comparison), others_of(comparison)
    least = comparison["settings"]["min_positives"]
    if last is None:
        return f"Nothing to compare: at no level has a class {least} positive and {least} negative test studies."
    over = f"over {counted(len(last['macro_classes']), 'class', 'classes')} at {level_words(last['name'])}"
    if last is not last_level(comparison):
        finest = level_words(last_level(comparison)["name"])
        over += f" (at {finest} none has {least} positive and {least} negative test studies)"
    if not others:
        entry = last[reference]["macro_auc"]
        return f"{method_label(reference)} reaches a macro AUC of {number(entry['value'])} ({span(entry)}) {over}."
    if len(others) > 1:
        return _of_many(comparison, last, over)
    first, second = reference, others[0]
    words = {
        1: f"{method_label(second)} is better than {lower_label(first)}",
        -1: f"{method_label(second)} is worse than {lower_label(first)}",
        0: f"No difference between {lower_label(second)} and {lower_label(first)} is shown",
    }
    values = [number(last[name]["macro_auc"]["value"]) for name in (second, first)]
    found = verdict(last["differences"][second]["macro_auc"])
    return f"{words[found]}: macro AUC {values[0]} against {values[1]} {over}."


def judged_level(comparison: Comparison) -> Mapping[str, Any] | None:
    """The finest level with a class in its macro means; None where there is none."""
    found = [level for level in comparison["levels"].values() if level["macro_classes"]]
    return found[-1] if found else None


def _of_many(comparison: Comparison, last: Mapping[str, Any], over: str) -> str:
    """Three or more methods: the highest, and from which others it is shown to differ (Holm over all pairs)."""
    methods = sorted(comparison["methods"], key=lambda name: -(last[name]["macro_auc"]["value"] or 0.0))
    best, rest = methods[0], methods[1:]
    key = next(key for key, level in comparison["levels"].items() if level is last)
    pairs = {frozenset(pair["of"]): pair for pair in comparison["pairs"][key]}
    apart = [name for name in rest if shown(pairs[frozenset((best, name))])]
    alike = [name for name in rest if name not in apart]
    parts = []
    if apart:
        parts.append(f"better than {_names(apart)} ({_values(last, apart)})")
    if alike:
        parts.append(f"{'but ' if apart else ''}not shown to differ from {_names(alike)} ({_values(last, alike)})")
    value = number(last[best]["macro_auc"]["value"])
    return f"{method_label(best)} has the highest macro AUC, {value} {over}: {', '.join(parts)}."


def _names(methods: Sequence[str]) -> str:
    return joined([lower_label(method) for method in methods])


def _values(level: Mapping[str, Any], methods: Sequence[str]) -> str:
    return joined([number(level[method]["macro_auc"]["value"]) for method in methods])


def statements(comparison: Comparison) -> list[str]:
    """How sure, and where: one text for one or two methods, a line a method for more."""
    cohort, last, others = comparison["cohort"], judged_level(comparison), others_of(comparison)
    studies, patients = counted(cohort["studies"], "held-out study", "held-out studies"), counted(cohort["patients"], "patient")
    sample = f"{studies} of {patients}"
    if any(external_of(comparison, method) for method in comparison["methods"]):
        sample += " of an external cohort"
    if cohort["patients"] < FEW_PATIENTS:
        sample += ", too few for intervals to be trusted"
    if not others or last is None:
        return [f"Measured on {sample}."]
    lines = []
    for method in others:
        change = last["differences"][method]["macro_auc"]
        size = f"{number(change['value'], True)}, 95 % interval {span(change, True)}, p {plain_p(change['p'], True)}"
        minus = f"{lower_label(method)} minus {lower_label(reference_of(comparison))}"
        start = (
            f"Difference ({minus}) {size}, in {sample}." if len(others) == 1 else f"{method_label(method)}: difference {size}."
        )
        lines.append(f"{start} {_levels(comparison, method)} {_classes(comparison, last, method)}")
    if len(others) > 1:
        lines.insert(0, f"Each is held against {lower_label(reference_of(comparison))}, on {sample}; differences are to it.")
    return lines


def details(comparison: Comparison) -> str:
    """How sure, and where, as one text."""
    return " ".join(statements(comparison))


def answer(comparison: Comparison) -> str:
    """Which is better, how sure, and where."""
    return f"{headline(comparison)} {details(comparison)}"


def _levels(comparison: Comparison, method: str) -> str:
    """At which levels the difference shows, and in whose favour."""
    levels = comparison["levels"]
    found = {key: verdict(level["differences"][method]["macro_auc"]) for key, level in levels.items()}
    if not any(found.values()):
        return "The interval excludes zero at no level."
    parts = []
    for way, name in ((1, method), (-1, reference_of(comparison))):
        if keys := [key for key in found if found[key] == way]:
            parts.append(f"at {_listed('level', keys, len(levels))} in favour of {lower_label(name)}")
    return f"The interval excludes zero {joined(parts)}."


def _classes(comparison: Comparison, last: Mapping[str, Any], method: str) -> str:
    """How many classes differ, by DeLong's test with Holm's correction: it has no resamples, so that no number of them bounds it."""
    changes = {name: last["differences"][method]["per_class"][name]["auc"] for name in last["macro_classes"]}
    tested = {name: e for name, e in changes.items() if (e.get("delong") or {}).get("p_holm") is not None}
    if not tested:
        return "No single class could be tested."
    sure = {name: e["value"] for name, e in tested.items() if e["delong"]["p_holm"] < SURE}
    gain, loss = sorted((n for n in sure if sure[n] > 0), key=lambda n: -sure[n]), sorted(n for n in sure if sure[n] < 0)
    named = [f"{name} {number(sure[name], True)}" for name in gain[:MOST_NAMED]]
    named += [f"{len(gain) - MOST_NAMED} more"] if len(gain) > MOST_NAMED else []
    most = f" ({', '.join(named)})" if gain else ""
    lost = (
        f"loses in {len(loss)} ({', '.join(loss[:3])}{', ...' if len(loss) > 3 else ''})"
        if loss
        else "is shown to lose in none"
    )
    gains = f"gains in {len(gain)} of {len(tested)}{most}" if gain else f"is shown to gain in none of {len(tested)}"
    text = f"Class by class (DeLong's test, corrected for their number), {lower_label(method)} {gains}, and {lost}."
    if lacking := len(changes) - len(tested):
        text += f" {counted(lacking, 'class', 'classes')} could not be tested."
    return text


def _listed(noun: str, found: Sequence[str], total: int) -> str:
    if len(found) == total and total > 1:
        return f"all {total} {noun}s"
    if not found:
        return f"no {noun}"
    return f"{noun}{'s' if len(found) > 1 else ''} {joined(found)}"
