"""What came out of an experiment, and whether it is in the published order: numbers first, then sentences made of them.

A difference is shown where p is below 0.05 after Holm's correction for the variants, or the published pairs, that an experiment compares in
one measure; that is said first. The order of point estimates, shown or not, comes after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from finetune.comparison.words import shown
from finetune.experiments.measures import MINIMUM, Measured, level_numbers
from finetune.experiments.plan import Experiment, Variant
from hlip.metrics import holm


def main_measures(last: int) -> tuple[str, str]:
    """What an experiment is judged by; `last` is the number of the last level."""
    return f"bacc_{last}", f"auc_{last}"


def called(metric: str, last: int) -> str:
    """A measure that is put in an order, in words."""
    if metric == "drop_bacc":
        return f"how little balanced accuracy is lost from level 1 to level {last}"
    return f"{'AUC' if metric.startswith('auc') else 'balanced accuracy'} at level {last}"


def summarise(
    experiment: Experiment,
    places: Mapping[tuple[str, str], str],
    measured: Mapping[str, Measured],
    facts: Mapping[str, Sequence[Mapping[str, Any]]],
    last: int,
    failed: Mapping[str, str],
    without: Mapping[str, str],
) -> dict[str, Any]:
    """One experiment as plain values for JSON and the page.

    Args:
        places: (experiment, variant) -> key of its run.
        measured: key -> its measures; a key that is lacking failed.
        facts: key -> what each seed's run says of itself.
        last: number of the last level.
        failed: key -> what went wrong.
        without: key -> which labelled studies its runs lack, in words; nothing of those that have all.
    """
    keys = {variant.name: places[experiment.name, variant.name] for variant in experiment.variants}
    there = [variant for variant in experiment.variants if keys[variant.name] in measured]
    reference = measured.get(keys[experiment.reference])
    rows = []
    for variant in there:
        own = measured[keys[variant.name]]
        row: dict[str, Any] = {"name": variant.name, "label": variant.label, "note": variant.note, "run": keys[variant.name]}
        row |= {"measures": own.summary(), "published": dict(variant.published), "classes": own.classes}
        row |= {"levels": list(own.tree.counts), "recovered": own.recovered, "counted": counted(own), "usual": own.usual}
        row["unlike"] = [level for level in ("1", str(last)) if own.tree.depth > 1 and _few(row["counted"].get(level, (1, 1)))]
        compared = reference is not None and variant.name != experiment.reference
        row["difference"] = own.difference(reference) if compared and reference is not None else {}
        row |= {"training": training(facts[keys[variant.name]]), "left_out": own.left_out, "notes": own.notes}
        rows.append(row)
    correct([row["difference"] for row in rows])
    found: dict[str, Any] = {
        name: getattr(experiment, name) for name in ("name", "title", "question", "source", "note", "reference")
    }
    missing = [variant for variant in experiment.variants if variant not in there]
    found |= {"variants": rows, "last": last, "missing": {v.label: failed.get(keys[v.name], "") for v in missing}}
    lacking = {variant.label: without[keys[variant.name]] for variant in there if keys[variant.name] in without}
    found["basis"] = [*means(found), *(f"{label}: {text}." for label, text in lacking.items())]
    own_rows = {variant.name: measured[keys[variant.name]] for variant in there}
    found["order"] = {metric: order(there, own_rows, metric) for metric in (*main_measures(last), "drop_bacc")}
    found["answers"] = [*answers(found), *recovered(found), *hints(found)]
    return found


def correct(differences: Sequence[dict[str, Any]]) -> None:
    """Add `p_holm` to each measure's entries, in place: corrected for as many as have a p."""
    for name in {name for found in differences for name in found}:
        entries = [found[name] for found in differences if name in found and np.isfinite(found[name]["p"])]
        for entry, p in zip(entries, holm([entry["p"] for entry in entries]), strict=True):
            entry["p_holm"] = float(p)


def counted(own: Measured) -> dict[str, tuple[int, int]]:
    """Level -> how many of its classes are in the means, and how many it has."""
    numbers = level_numbers(own.tree, own.deepest)
    of = {str(number): count for number, count in zip(numbers, own.tree.counts, strict=True)}
    return {level: (count - len(own.left_out.get(level, {})), count) for level, count in of.items()}


def _few(pair: tuple[int, int]) -> bool:
    return 2 * pair[0] < pair[1]


def means(found: Mapping[str, Any]) -> list[str]:
    """Over which classes each level's means are, a line a level, and a tree of its own again; and which drops compare unlike sets."""
    rows = sorted(found["variants"], key=lambda row: row["name"] != found["reference"])
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for level, (count, of) in row["counted"].items():
            out = row["left_out"].get(level, {})
            few = [name for name, why in out.items() if why != "the normal class"]
            parts = [f"{', '.join(few)}: fewer than {MINIMUM} positive or negative test studies"] if few else []
            parts += ["the normal class"] if len(few) < len(out) else []
            text = f"mean of {count} of {of} classes" + (f" (left out: {'; '.join(parts)})" if out else "")
            lines.setdefault((level, text), []).append(row["label"])
    usual = dict(reversed(lines))  # level -> its first line, the reference's
    sentences = [
        f"Level {level}: {text}" + ("." if usual[level] == text else f", for {', '.join(labels)}.")
        for (level, text), labels in sorted(lines.items(), key=lambda line: line[0][0])
    ]
    unlike = {
        f"level {level}: {row['counted'][level][0]} of {row['counted'][level][1]}" for row in rows for level in row["unlike"]
    }
    if unlike:
        sentences.append(
            f"{UNLIKE} The drop compares unlike sets of classes: fewer than half of a level's classes count ({', '.join(sorted(unlike))})."
        )
    return sentences


UNLIKE = "\N{DAGGER}"
"""Marks such a drop."""


def training(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the runs went: means over seeds, the best step of each; of seconds the median, as a machine may have stood still in one."""
    # an AUC that is not defined is null, and NaN here
    means = {name: float(np.mean(np.array([run[name] for run in runs], float))) for name in ("val_auc", "loss")}
    evenness = [run["prompt_evenness"] for run in runs if run.get("prompt_evenness") is not None]
    return {
        **means,
        "seconds": float(np.median([run["seconds"] for run in runs])),
        "prompt_evenness": float(np.mean(evenness)) if len(evenness) == len(runs) else None,
        "best_steps": [run["step"] for run in runs],
        "steps": runs[0]["steps"],
        "parameters": runs[0]["parameters"],
    }


def order(variants: Sequence[Variant], measured: Mapping[str, Measured], metric: str) -> dict[str, Any] | None:
    """The published order beside ours, pair by pair; None where fewer than two have a published number.

    Returns:
        published, ours: labels, best first. pairs: {better, worse (as published), published, difference (ours), agrees, shown, seeds_apart}.
    """
    given = [v for v in variants if metric in v.published and not v.reading and np.isfinite(_value(measured[v.name], metric))]
    if len(given) < 2:
        return None
    sign = -1 if metric.startswith("drop") else 1  # the less is lost, the better
    ours = sorted(given, key=lambda v: -sign * _value(measured[v.name], metric))
    theirs = sorted(given, key=lambda v: -sign * v.published[metric])
    pairs = []
    for better, worse in combinations(theirs, 2):
        change = measured[better.name].difference(measured[worse.name]).get(metric)
        if change is None or better.published[metric] == worse.published[metric]:
            continue
        gap = better.published[metric] - worse.published[metric]
        entry = {"better": better.label, "worse": worse.label, "published": gap, "difference": change}
        entry |= {"agrees": bool(sign * change["value"] > 0)}
        pairs.append(entry | {"seeds_apart": _seeds_apart(measured[better.name], measured[worse.name], metric)})
    correct([{metric: pair["difference"]} for pair in pairs])
    for pair in pairs:
        pair["shown"] = bool(shown(pair["difference"]))
    return {"published": [v.label for v in theirs], "ours": [v.label for v in ours], "pairs": pairs}


def _value(measured: Measured, metric: str) -> float:
    return float(measured.rows[metric][0]) if metric in measured.rows else float("nan")


def _seeds_apart(one: Measured, other: Measured, metric: str) -> bool:
    """Whether every seed of one variant is on the same side of every seed of the other."""
    ours, theirs = one.seeds[metric], other.seeds[metric]
    return bool(max(ours) < min(theirs) or min(ours) > max(theirs))


def answers(found: Mapping[str, Any]) -> list[str]:
    """The experiment's result in sentences: the order against the published one, else who leads and what is shown."""
    ordered = {called(metric, found["last"]): entry for metric, entry in found["order"].items() if entry}
    sentences = [text for name, entry in ordered.items() for text in _order_sentences(name, entry)]
    sentences += [f"Failed: {label}{f' ({why})' if why else ''}." for label, why in found["missing"].items()]
    return sentences + _against_reference(found)


def _order_sentences(name: str, entry: Mapping[str, Any]) -> list[str]:
    pairs = entry["pairs"]
    if not pairs:
        return []
    firm = [pair for pair in pairs if pair["shown"]]
    against = [pair for pair in firm if not pair["agrees"]]
    text = f"{name[0].upper()}{name[1:]}: of {_count(len(pairs), 'published pair')}, {len(firm) - len(against)} shown in the published "
    text += f"direction, {len(against)} shown against it, {len(pairs) - len(firm)} undecided. "
    ours = " > ".join(entry["ours"])
    if entry["published"] == entry["ours"]:
        text += f"Point estimates, shown or not, are in the published order: {ours}."
    else:
        text += f"Point estimates, shown or not: {ours}; published: {' > '.join(entry['published'])}."
    reverse = [
        f"{pair['worse']} before {pair['better']} by {points(abs(pair['difference']['value']))}"
        + ("" if pair["seeds_apart"] else " (their seeds overlap)")
        for pair in against
    ]
    return [text, *([f"Shown against the paper: {'; '.join(reverse)}."] if reverse else [])]


def _against_reference(found: Mapping[str, Any]) -> list[str]:
    """Which variants differ from the reference, as far as shown."""
    others = [row for row in found["variants"] if row["name"] != found["reference"] and row["difference"]]
    reference = next((row["label"] for row in found["variants"] if row["name"] == found["reference"]), "")
    sentences = []
    for metric in main_measures(found["last"]):
        known = [row for row in others if metric in row["difference"]]
        above = [row["label"] for row in known if shown(row["difference"][metric]) > 0]
        below = [row["label"] for row in known if shown(row["difference"][metric]) < 0]
        if known:
            parts = [f"{', '.join(names)} {word}" for names, word in ((above, "above it"), (below, "below it")) if names]
            rest = len(known) - len(above) - len(below)
            parts += (
                [f"no difference shown for {rest} of {len(known)}" if rest < len(known) else "no difference shown"]
                if rest
                else []
            )
            sentences.append(f"Beside {reference}, {called(metric, found['last'])}: {'; '.join(parts)}.")
    return sentences


def recovered(found: Mapping[str, Any]) -> list[str]:
    """Whether an error at level 1 is undone further down: the reference, and the range of the others."""
    rows = {row["name"]: row for row in found["variants"] if "recovery" in row["measures"]}
    rows = {name: row for name, row in rows.items() if np.isfinite(row["measures"]["recovery"]["value"])}
    reference = rows.pop(found["reference"], None)
    if reference is None:
        return []
    entry = reference["measures"]["recovery"]
    text = f"Wrong at level 1 and right at level {found['last']}: {reference['label']} {_share(entry)} "
    text += f"({entry['counts'][0]} of {entry['counts'][1]})"
    if reference["recovered"]:
        text += f", as {most_recovered(reference)}"
    if rows:
        ordered = sorted(rows.values(), key=lambda row: row["measures"]["recovery"]["value"])
        ends = [f"{row['label']} {_share(row['measures']['recovery'])}" for row in (ordered[0], ordered[-1])[: len(ordered)]]
        differ = [row["label"] for row in ordered if "recovery" in row["difference"] and shown(row["difference"]["recovery"])]
        text += f"; {'from ' if len(ends) > 1 else ''}{' to '.join(ends)}. "
        text += f"A difference to {reference['label']} is shown for {', '.join(differ) if differ else 'none'}"
    blind = [
        f"{row['label']}: {row['usual'][0]} in {100 * row['usual'][1]:.0f} %"
        for row in [reference, *rows.values()]
        if row["usual"][1] > BLIND
    ]
    if blind:
        text += f". Of a level 1 that hardly looks this tells nothing (its highest class is, {'; '.join(blind)})"
    return [text + ".", *_called_below(found, reference, list(rows.values()))]


def _called_below(found: Mapping[str, Any], reference: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same asked of calls, class by class: of the reference, and by how much true ones are called more often than false ones."""
    true, false = (reference["measures"].get(f"{kind}_below_miss") for kind in ("true", "false"))
    gap = _called_more(reference)
    if not true or not false or not np.isfinite(gap):
        return []
    text = f"By calls, class by class: where its level-1 class is not called, {reference['label']} calls {_share(true)} of the true classes of "
    text += f"level {found['last']} ({true['counts'][0]} of {true['counts'][1]}), and {_share(false)} of the false ones below a class that is "
    text += f"not there, {points(gap)} apart"
    known = sorted((row for row in others if np.isfinite(_called_more(row))), key=_called_more)
    if known:
        ends = [f"{row['label']} {points(_called_more(row))}" for row in (known[0], known[-1])[: len(known)]]
        text += f"; {'from ' if len(ends) > 1 else ''}{' to '.join(ends)}, not tested"
    return [text + "."]


def _called_more(row: Mapping[str, Any]) -> float:
    """Share of true classes called below a miss minus that of false ones; NaN where either is not defined."""
    true, false = (row["measures"].get(f"{kind}_below_miss", {}).get("value", np.nan) for kind in ("true", "false"))
    return float(true - false)


BLIND = 0.9
"""Share of one answer at level 1 from which its errors are those of not looking."""


def most_recovered(row: Mapping[str, Any], most: int = 3) -> str:
    """The classes as which a variant's studies were recovered, the most frequent ones: `glioma 4, meningioma 2`."""
    named = [f"{name} {count}" for name, count in list(row["recovered"].items())[:most]]
    return ", ".join([*named, *(["..."] if len(row["recovered"]) > most else [])])


def _share(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['value']:.1f} %"


def hints(found: Mapping[str, Any]) -> list[str]:
    """Where to look for a reason, if the numbers themselves say so: runs that were still rising, seeds that differ more than variants."""
    rows, sentences = found["variants"], []
    late = [row["label"] for row in rows if all(step == row["training"]["steps"] for step in row["training"]["best_steps"])]
    if late:
        all_of_them = len(late) == len(rows)
        who = "Every variant was" if all_of_them else f"{', '.join(late)} {'was' if len(late) == 1 else 'were'}"
        sentences.append(
            f"{who} best at the last step with all seeds: longer training may move {'all numbers' if all_of_them else 'these'}."
        )
    main = main_measures(found["last"])[0]
    values = [row["measures"][main] for row in rows if main in row["measures"]]
    if len(values) > 1 and len(values[0]["seeds"]) > 1:
        between = max(entry["value"] for entry in values) - min(entry["value"] for entry in values)
        within = max(max(entry["seeds"]) - min(entry["seeds"]) for entry in values)
        if within > between:
            sentences.append(
                f"Seeds of one variant differ by up to {points(within)}, the variants' means by {points(between)} "
                f"({called(main, found['last'])}): the order is not settled by this many seeds."
            )
    return sentences


def points(value: float) -> str:
    """A difference in percentage points."""
    return f"{100 * value:.1f} points".replace("-", "\N{MINUS SIGN}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
