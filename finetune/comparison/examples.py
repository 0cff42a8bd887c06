"""Example studies: right with both methods, with one of them, with none; and how a page shows them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.comparison.words import lower_label
from hp2l.comparison.compare import Comparison, Scores

GROUPS = ("both", "corrected", "lost", "neither", "right", "wrong")
"""The first four for two methods and more, the last two for one."""


def group_title(group: str, methods: Sequence[str]) -> str:
    """A group as a heading; a group that is none of `GROUPS` as it is."""
    first, second = (lower_label(method) for method in (*methods, *methods)[:2])
    tuned = len(methods) > 1 and methods[1] == "fine_tuned"
    titles = {
        "both": f"Right with both {first} and {second}" if len(methods) > 2 else "Right with both",
        "corrected": "Corrected by fine-tuning" if tuned else f"Right with {second}, wrong with {first}",
        "lost": "Lost by fine-tuning" if tuned else f"Wrong with {second}, right with {first}",
        "neither": f"Wrong with both {first} and {second}" if len(methods) > 2 else "Wrong with both",
        "right": "Right",
        "wrong": "Wrong",
    }
    return titles.get(group, group)


def choose_examples(
    scores: Mapping[str, Scores],
    targets: Sequence[ArrayLike],
    mask: Sequence[ArrayLike],
    class_names: Sequence[Sequence[str]],
    per_group: int = 2,
    top: int = 3,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Test studies of each group of GROUPS, drawn at random; the caller adds pictures (`finetune.comparison.pictures`).

    A method is right about a study if its highest-scoring class of the last level is truly present (give scores that can be held against
    those of other classes: `hp2l.comparison.alignment.likeliest`); with several methods the first two
    decide the group, and all are shown. The draw prefers a variety of classes: no leaf twice in a group as long as another is left. Rows
    follow the first method's order.
    """
    names, first = class_names[-1], next(iter(scores.values()))
    tables = {method: table.reordered(first.study_ids) for method, table in scores.items()}
    target, known = np.asarray(targets[-1]) > 0.5, np.asarray(mask[-1]).astype(bool)
    candidates = np.flatnonzero((np.asarray(first.split) == "test") & known.all(axis=1) & target.any(axis=1))
    right = [target[candidates, table.levels[-1][candidates].argmax(axis=1)] for table in tables.values()]
    generator, found = np.random.default_rng(seed), []
    for group, members in _members(right).items():
        shown: set[int] = set()
        pool = generator.permutation(candidates[members]).tolist()
        for _ in range(min(per_group, len(pool))):
            row = next((r for r in pool if not shown & set(np.flatnonzero(target[r]))), pool[0])
            pool.remove(row)
            shown |= set(np.flatnonzero(target[row]))
            entry: dict[str, Any] = {"study_id": first.study_ids[row], "group": group}
            entry["truth"] = [names[int(k)] for k in np.flatnonzero(target[row])]
            for method, table in tables.items():
                score = table.levels[-1][row]
                entry[method] = [(names[int(k)], float(score[k])) for k in np.argsort(-score, kind="stable")[:top]]
            found.append(entry)
    return found


def _members(right: Sequence[NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    if len(right) == 1:
        return {"right": right[0], "wrong": ~right[0]}
    first, second = right[:2]
    return {"both": first & second, "corrected": ~first & second, "lost": first & ~second, "neither": ~first & ~second}


def grouped(examples: Sequence[Mapping[str, Any]], comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Heading -> examples, in the order of GROUPS and then of appearance."""
    order = dict.fromkeys([*GROUPS, *(entry.get("group", "") for entry in examples)])
    groups = {name: [_example(e, comparison) for e in examples if e.get("group", "") == name] for name in order}
    return {group_title(name, comparison["methods"]): members for name, members in groups.items() if members}


def _example(entry: Mapping[str, Any], comparison: Comparison) -> dict[str, Any]:
    """One example study ready for the page: images as data URIs, top classes with their score, whether it is a single scan."""
    image, sequence = entry.get("image"), entry.get("sequence", "")
    rows = [(name, _embedded(png)) for name, png in entry.get("rows") or []]
    pictures = {"image": _embedded(image) if image else None, "rows": rows, "columns": list(entry.get("columns") or [])}
    tops = {}
    for method in comparison["methods"]:
        pairs = [(pair, None) if isinstance(pair, str) else tuple(pair) for pair in entry.get(method, [])]
        if pairs:
            tops[method] = [{"name": name, "score": score, "true": name in entry["truth"]} for name, score in pairs]
    scans = entry.get("scans") or (len(sequence.split(", ")) if sequence else None)
    texts = {"study_id": entry["study_id"], "sequence": sequence, "truth": list(entry["truth"]), "single": scans == 1}
    return {**texts, **pictures, "maps": dict(entry.get("maps") or {}), "tops": tops}


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
