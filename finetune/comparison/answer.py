"""Which is better, where, and how sure: the text of the report's first screen.

The answer is computed, never written by hand: better only if the interval of the paired difference says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.comparison.words import (
    counted,
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

SURE = 0.05
"""Corrected p below which a class is counted."""


def headline(comparison: Comparison) -> str:
    """Which is better: one sentence. Better only if the interval of the paired difference says so; of the finest level that has a class
    to measure. The word is about the method that a difference is of, so that it agrees with the sign."""
    last, reference, others = judged_level(comparison), reference_of(comparison), others_of(comparison)
    least = comparison["settings"]["min_positives"]
    if last is None:
        return f"Nothing to compare: at no level has a class {least} positive and {least} negative test studies."
    over = f"over {counted(len(last['macro_classes']), 'class', 'classes')} of level {last['name']}"
    if last is not last_level(comparison):
        finest = last_level(comparison)["name"]
        over += f" (of level {finest} none has {least} positive and {least} negative test studies)"
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
    """Three or more methods: each against the reference."""
    reference = reference_of(comparison)
    base = f"{number(last[reference]['macro_auc']['value'])} with {lower_label(reference)}"
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for method in others_of(comparison):
        groups[verdict(last["differences"][method]["macro_auc"])].append(method)
    parts = []
    for found, words in ((1, "better"), (-1, "worse")):
        if groups[found]:
            verb = "is" if len(groups[found]) == 1 else "are"
            parts.append(
                f"{_names(groups[found])} {verb} {words} than {lower_label(reference)}: {_values(last, groups[found])}"
            )
    if groups[0]:
        parts.append(f"no difference to {lower_label(reference)} is shown for {_names(groups[0])} ({_values(last, groups[0])})")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}, against {base}, {over}."


def _names(methods: Sequence[str]) -> str:
    return joined([lower_label(method) for method in methods])


def _values(level: Mapping[str, Any], methods: Sequence[str]) -> str:
    return "macro AUC " + joined([number(level[method]["macro_auc"]["value"]) for method in methods])


def statements(comparison: Comparison) -> list[str]:
    """How sure, and where: one text for one or two methods, a line a method for more."""
    cohort, last, others = comparison["cohort"], judged_level(comparison), others_of(comparison)
    studies, patients = counted(cohort["studies"], "held-out study", "held-out studies"), counted(cohort["patients"], "patient")
    sample = f"{studies} of {patients}"
    if not others or last is None:
        return [f"Measured on {sample}."]
    lines = []
    for method in others:
        change = last["differences"][method]["macro_auc"]
        size = f"{number(change['value'], True)}, 95 % interval {span(change, True)}, p {p_text(change['p'], comparison, True)}"
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
    most = f", {'most of all ' if len(gain) > 1 else ''}{gain[0]} ({number(sure[gain[0]], True)})" if gain else ""
    lost = (
        f"loses in {len(loss)} ({', '.join(loss[:3])}{', ...' if len(loss) > 3 else ''})"
        if loss
        else "is shown to lose in none"
    )
    gains = f"gains in {len(gain)} of {len(tested)}{most}" if gain else f"is shown to gain in none of {len(tested)}"
    text = f"Class by class (DeLong's test, corrected for their number), {lower_label(method)} {gains}, and {lost}."
    if lacking := len(changes) - len(tested):
        text += f" {counted(lacking, 'class', 'classes')} could not be tested."
    return text + _bootstrap_differs(comparison, last, tested, set(sure))


def _bootstrap_differs(
    comparison: Comparison, last: Mapping[str, Any], tested: Mapping[str, Mapping[str, Any]], sure: set[str]
) -> str:
    """Where the bootstrap's corrected p says otherwise than DeLong's; that it cannot say anything where resamples are too few."""
    resamples = comparison["settings"]["resamples"]
    if 2 * len(last["classes"]) / (resamples + 1) > SURE:
        return f" The bootstrap's p cannot tell for so many classes with {resamples:,} resamples."
    drawn = {name for name, entry in tested.items() if entry["p_holm"] is not None and entry["p_holm"] < SURE}
    parts = []
    for names, words in ((drawn - sure, "among them too"), (sure - drawn, "not among them")):
        if names:
            parts.append(f"{joined(_few(sorted(names)))} {'are' if len(names) > 1 else 'is'} {words}")
    return f" By the bootstrap's p, {' and '.join(parts)}." if parts else ""


def _few(names: Sequence[str], most: int = 3) -> list[str]:
    return [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)


def _listed(noun: str, found: Sequence[str], total: int) -> str:
    if len(found) == total and total > 1:
        return f"all {total} {noun}s"
    if not found:
        return f"no {noun}"
    return f"{noun}{'s' if len(found) > 1 else ''} {joined(found)}"
