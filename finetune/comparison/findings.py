"""What came out, a plain sentence a section, from the comparison's numbers alone; empty where there is nothing to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.comparison.figures.decision import judged_levels
from finetune.comparison.figures.house import frequencies
from finetune.comparison.labels_needed import efficiency
from finetune.comparison.methods_text import PARENT_WORDS, setting_words
from finetune.comparison.words import (
    joined,
    last_level,
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
from hp2l.comparison.calibrated import STAGES
from hp2l.comparison.compare import Comparison

SCALING = {"temperature": "temperature", "platt": "Platt", "isotonic": "isotonic"}
"""Stage of calibration -> what it is called before `scaling`."""


def sentences(comparison: Comparison) -> dict[str, str]:
    """Section -> its sentence."""
    made = {
        "pairs": pairs(comparison),
        "tail": tail(comparison),
        "drop": drop(comparison),
        "tree": tree(comparison),
        "calibration": calibration(comparison),
        "decision": decision(comparison),
        "prompts": prompts(comparison),
        "groups": groups(comparison),
        "missing": missing(comparison),
        "efficiency": efficiency(comparison),
        "checks": checks(comparison),
    }
    return {name: text for name, text in made.items() if text}


def pairs(comparison: Comparison) -> str:
    """Which of all pairs of methods differ; only where there are more than one."""
    found = comparison.get("pairs") or {}
    key = next((key for key in reversed(list(found)) if comparison["levels"][key]["macro_classes"]), None)
    if key is None or len(found[key]) < 2:
        return ""
    told = []
    for entry in found[key]:
        if shown(entry):
            better, worse = entry["of"] if entry["value"] > 0 else entry["of"][::-1]
            told.append(f"{lower_label(better)} over {lower_label(worse)} ({number(abs(entry['value']), True)})")
    count, start = len(found[key]), f"At level {key}, corrected for {len(found[key])} pairs of methods,"
    if not told:
        return f"{start} no two are shown to differ in macro AUC."
    return f"{start} macro AUC is shown to be higher in {len(told)} of {count}: {joined(told)}."


def tail(comparison: Comparison) -> str:
    """Does the gain depend on how frequent a class is? Spearman's rank correlation of every method."""
    from scipy.stats import spearmanr

    level, (share, source) = last_level(comparison), frequencies(comparison)
    groups: dict[str, list[str]] = {}
    for method in others_of(comparison):
        changes = level["differences"][method]["per_class"]
        pairs = [(share[name], changes[name]["auc"]["value"]) for name in level["macro_classes"]]
        rho, p = spearmanr([pair[0] for pair in pairs], [pair[1] for pair in pairs]) if len(pairs) > 3 else (np.nan, np.nan)
        if not np.isfinite(rho):
            continue
        words = "These data do not show that rarer classes gain more or less"
        if p < 0.05:
            words = f"Rarer classes gain {'more' if rho < 0 else 'less'}"
        with_it = f" with {lower_label(method)}" if len(others_of(comparison)) > 1 else ""
        groups.setdefault(words, []).append(f"{number(rho, True)}{with_it}, p = {p:.2g}")
    count = f"over {len(level['macro_classes'])} classes"
    rank = f"rank correlation of gain and {source} frequency {count}"
    starts = [f"{rank}: ", *[""] * len(groups)]
    return " ".join(
        f"{words} ({start}{'; '.join(told)})." for start, (words, told) in zip(starts, groups.items(), strict=False)
    )


def drop(comparison: Comparison) -> str:
    """What is lost from the coarsest to the finest level."""
    lost = comparison["drop"]
    if len(comparison["levels"]) < 2:
        return ""
    each = joined([f"{number(lost[m]['macro_auc']['value'])} with {lower_label(m)}" for m in comparison["methods"]])
    text = f"From level {lost['levels'][0]} to level {lost['levels'][1]} the drop in macro AUC is {each}."
    for method in others_of(comparison):
        change = lost["differences"][method]["macro_auc"]
        relation = {1: "drops more than", -1: "drops less than", 0: "is not shown to drop more or less than"}[verdict(change)]
        text += f" {method_label(method)} {relation} {lower_label(reference_of(comparison))} ({number(change['value'], True)}, "
        text += f"{span(change, True)}, p {plain_p(change['p'], True)})."
    return text + " Levels have different classes, so a drop mixes finer questions with rarer ones."


def tree(comparison: Comparison) -> str:
    """Hierarchical F1, and what is saved after a wrong first level."""
    if not comparison.get("tree"):
        return ""
    own = comparison["tree"]["methods"]
    if "hierarchical_f1" not in next(iter(own.values())):
        return _recoveries(own) + _most_frequent(comparison["tree"])
    best = max(own, key=lambda method: own[method]["hierarchical_f1"]["value"] or 0)
    parts = [f"{number(own[m]['hierarchical_f1']['value'])} with {lower_label(m)}" for m in own]
    text = f"Hierarchical F1 is {joined(parts)}"
    shown = {m: verdict(e["hierarchical_f1"]) for m, e in comparison["tree"]["differences"].items()}
    if any(shown.values()):
        sure = joined([f"{lower_label(m)} ({'higher' if v > 0 else 'lower'})" for m, v in shown.items() if v])
        text += f"; the interval of the difference to {lower_label(reference_of(comparison))} excludes zero for {sure}"
    return f"{text}. {_recoveries({best: own[best], **own})}{_most_frequent(comparison['tree'])}".strip()


def _most_frequent(tree: Mapping[str, Any]) -> str:
    """What a method must beat that looks at nothing."""
    entry = tree.get("most_frequent") or {}
    if "wrong_last" not in entry:
        return ""
    names = entry["classes"]
    parts = [f"{100 * entry['wrong_last']['value']:.0f} % at the last ('{names[-1]}')"]
    if entry.get("wrong_first", {}).get("value") is not None:
        parts.insert(0, f"{100 * entry['wrong_first']['value']:.0f} % of studies at level 1 ('{names[0]}')")
    return f" Answering every study with the most frequent class would be wrong in {joined(parts)}."


def _recoveries(own: Mapping[str, Mapping[str, Any]]) -> str:
    """What is saved after a wrong first level: of the methods that can, and which cannot by construction."""
    known = {m: e for m, e in own.items() if e.get("recovery", {}).get("value") is not None}
    built = [m for m, e in known.items() if "structural" in e["recovery"]]
    parts = [
        f"{100 * known[m]['wrong_first']['value']:.0f} % with {lower_label(m)} ({100 * known[m]['recovery']['value']:.0f} % of these right "
        "at the last level all the same, but for classes that stand at both)"
        for m in known
        if m not in built
    ]
    text = f"Wrong at level 1: {', '.join(parts)}." if parts else ""
    if built:
        text += f" With {joined([lower_label(m) for m in built])} that {known[built[0]]['recovery']['structural']}."
    return text.strip()


def calibration(comparison: Comparison) -> str:
    """Expected calibration error of the last level before and after."""
    levels = (comparison.get("calibration") or {}).get("levels", {})
    last = levels.get(list(comparison["levels"])[-1], {})
    parts = []
    for method, stages in last.items():
        if "before" not in stages:
            continue
        error = {stage: entry["macro_expected_calibration_error"] for stage, entry in stages.items()}
        after = joined([f"{number(error[stage])} after {SCALING[stage]}" for stage in STAGES[1:] if stage in error])
        parts.append(f"{number(error['before'])} as it comes, {after} scaling with {lower_label(method)}")
    if not parts:
        return ""
    count = len(last_level(comparison)["macro_classes"])
    text = f"Mean calibration error over {count} classes of the last level: {'; '.join(parts)}."
    return text + _skill(comparison, last) + _at_limit(last, "temperature", count) + _at_limit(last, "platt", count)


def _skill(comparison: Comparison, last: Mapping[str, Mapping[str, Any]]) -> str:
    """What is gained over the prevalence alone, which calibration error cannot tell."""
    base = comparison["calibration"].get("prevalence", {}).get(list(comparison["levels"])[-1])
    told = {m: stages["platt"]["brier_skill"] for m, stages in last.items() if "platt" in stages}
    if not base or not told or base["macro_brier"]["value"] is None:
        return ""
    error, brier = number(base["macro_expected_calibration_error"]), number(base["macro_brier"]["value"], digits=3)
    parts = [f"{number(entry['value'], True)} ({span(entry, True)}) with {lower_label(m)}" for m, entry in told.items()]
    return (
        f" Scores that know each class's prevalence and nothing else have a calibration error of {error} too, and a Brier score of {brier}; "
        f"over these, Brier skill after Platt scaling is {joined(parts)}, where 0 is no better and 1 is perfect."
    )


def _at_limit(last: Mapping[str, Mapping[str, Any]], stage: str, count: int) -> str:
    """Methods whose scaling ran into the end of its range, in how many classes."""
    hot = {m: len(stages[stage].get("at_limit", [])) for m, stages in last.items() if stage in stages}
    told = [f"{n} of {count} classes of {lower_label(m)}" for m, n in hot.items() if n]
    if not told:
        return ""
    if stage == "platt":
        return f" Platt scaling stood at its limit in {joined(told)}: on validation those scores are flat, or rank the wrong way round."
    return (
        f" The temperature stood at its limit in {joined(told)}: it cannot move a score across 0.5, so that what follows it there means "
        "nothing; Platt scaling has a bias besides."
    )


def decision(comparison: Comparison) -> str:
    """At which thresholds a method is worth more than treating all, none, or by prevalence."""
    levels = judged_levels(comparison)
    if not levels:
        return ""
    key, steps = list(levels)[-1], comparison["net_benefit"]["thresholds"]
    level, parts = levels[key], []
    for method, curves in level["methods"].items():
        curve = curves.get("platt") or curves.get("temperature") or curves.get("before")
        if not curve:
            continue
        above = [place for place, low in enumerate(curve["beyond"]["low"]) if low is not None and low > 1e-6]
        if not above:
            parts.append(f"{lower_label(method)} nowhere")
            continue
        gaps = "" if above[-1] - above[0] == len(above) - 1 else ", with gaps,"
        first, final = 100 * steps[above[0]], 100 * steps[above[-1]]
        parts.append(
            f"{lower_label(method)}{gaps} from {first:.0f} to {final:.0f} %"
            if first < final
            else f"{lower_label(method)} at {first:.0f} %"
        )
    if not parts:
        return ""
    rivals = "treating all and treating none"
    if "treat_by_prevalence" in level:
        rivals = "treating all, treating none, and treating all for the classes frequent enough"
    return (
        f"At level {key} net benefit is above that of {rivals} (the whole band of the gain over the best of these) at these thresholds: "
        f"{'; '.join(parts)}."
    )


def spreads(comparison: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """Zero-shot method -> its chosen setting and all settings tried; of its own provenance, not of a mean's."""
    found = {}
    for method in comparison["methods"]:
        entry = (comparison.get("provenance") or {}).get(method)
        chosen = entry.get("prompts") if isinstance(entry, Mapping) else None
        if isinstance(chosen, Mapping) and len(chosen.get("spread") or []) > 1:
            found[method] = (chosen, list(chosen["spread"]))
    return found


def is_chosen(setting: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    """Whether this is the setting that the validation split chose."""
    return all(setting.get(key) == chosen.get(key) for key in ("prompts", "synonyms", "contrast", "parents"))


def prompts(comparison: Comparison) -> str:
    """How much hangs on the prompts, and how parents are better scored."""
    text = []
    for method, (chosen, settings) in spreads(comparison).items():
        own = next((s["test"] for s in settings if is_chosen(s, chosen)), None)
        parts = []
        for place, key in enumerate(comparison["levels"]):
            tests = {(s["val"][place], s["test"][place]) for s in settings if s["test"][place] is not None}
            if not tests:
                continue
            found = sorted(test for _, test in tests)
            part = f"from {number(found[0])} to {number(found[-1])} at level {key} ({len(tests)} different"
            parts.append(part + (f"; chosen {number(own[place])})" if own is not None else ")"))
        if not parts:
            continue
        line = f"Over {len(settings)} settings of {lower_label(method)} the test macro AUC runs {joined(parts)}"
        text.append(line + f". Validation chose {setting_words(chosen)}.")
        if told := parents(settings):
            text.append(told)
    return " ".join(text)


def parents(settings: Sequence[Mapping[str, Any]]) -> str:
    """How are inner classes better answered, by their own prompts or by their children's scores? On validation, over all other choices."""
    found: dict[str, list[float]] = {}
    for setting in settings:
        found.setdefault(setting["parents"], []).extend(area for area in setting["val"][:-1] if area is not None)
    means = {way: float(np.mean(areas)) for way, areas in found.items() if areas}
    if len(means) < 2 or "own" not in means:
        return ""
    top = number(max(means.values()))
    best = [PARENT_WORDS[way] for way in means if number(means[way]) == top]
    told = [f"{number(means[way])} by {PARENT_WORDS[way]}" for way in means if number(means[way]) != top]
    against = f" against {joined(told)}" if told else ""
    return (
        f"On validation, inner classes are told best by {joined(best, 'or')}{' alike' if len(best) > 1 else ''}: macro AUC {top}, mean over "
        f"prompts and inner levels,{against}; the highest of several validation values is on the high side."
    )


def group_words(row: Mapping[str, Any]) -> str:
    """A group of patients in a sentence: `sex F`, `studies without T2`, `studies with 4 to 6 scans`."""
    if row["group"].endswith(" scanned"):
        return f"studies {'with' if row['value'] == 'yes' else 'without'} {row['group'].removesuffix(' scanned')}"
    if row["group"] == "scans":
        return f"studies with {row['value']} scan{'' if row['value'] == '1' else 's'}".replace(
            " and more scans", " scans and more"
        )
    return f"{row['group']} {row['value']}"


def groups(comparison: Comparison) -> str:
    """In how many groups the difference shows, and where it is largest and smallest."""
    rows, others = comparison.get("slices") or [], others_of(comparison)
    if not rows:
        return ""
    first = comparison["methods"][0]
    if not others or others[0] not in rows[0]["difference"]:
        values = {group_words(row): row["methods"][first]["value"] for row in rows}
        low, high = min(values, key=lambda k: values[k]), max(values, key=lambda k: values[k])
        return f"Macro AUC runs from {number(values[low])} ({low}) to {number(values[high])} ({high}) over {len(rows)} groups."
    second = others[0]
    changes = {group_words(row): row["difference"][second] for row in rows}
    up, down = (sum(shown(entry) == way for entry in changes.values()) for way in (1, -1))
    most, least = (way(changes, key=lambda k: changes[k]["value"]) for way in (max, min))
    return (
        f"{method_label(second)} is better than {lower_label(first)} in {up} of {len(rows)} groups, worse in {down} (p below 0.05, "
        f"corrected for their number); the difference is largest for {most} ({number(changes[most]['value'], True)}) and smallest for "
        f"{least} ({number(changes[least]['value'], True)})."
    )


def missing(comparison: Comparison) -> str:
    """Which sequence is missed."""
    rows = comparison.get("robustness") or []
    parts = []
    for method in rows[0]["methods"] if rows else ():
        changes = {row["sequence"]: row["methods"][method]["difference"] for row in rows}
        sure = [name for name, entry in changes.items() if entry["p_holm"] < 0.05 and entry["value"] < 0]
        worst = min(changes, key=lambda name: changes[name]["value"])
        if sure:
            lost = joined(
                [f"{name} ({number(changes[name]['value'], True)})" for name in sorted(sure, key=lambda n: changes[n]["value"])]
            )
            parts.append(f"{method_label(method)} is shown to lose without {lost}.")
        else:
            told = f"{worst}, {number(changes[worst]['value'], True)}, {span(changes[worst], True)}"
            parts.append(f"{method_label(method)} is not shown to lose by any one missing sequence (most without {told}).")
    return " ".join(parts)


def checks(comparison: Comparison) -> str:
    """How many checks found something."""
    found = comparison.get("checks") or []
    if not found:
        return ""
    looked = [one["looked"] for one in found if one.get("looked")]
    extent = f" They looked at {joined(looked)}." if looked else ""
    if all(one["state"] == "ok" for one in found):
        return f"All {len(found)} checks passed.{extent}"
    count = {state: sum(one["state"] == state for one in found) for state in ("ok", "warning", "leak", "not checked")}
    words = {"ok": "passed", "warning": "asks for a look", "leak": "found a leak", "not checked": "could not be made"}
    plural = {**words, "warning": "ask for a look"}
    told = [f"{n} {(words if n == 1 else plural)[state]}" for state, n in count.items() if n]
    return f"Of {len(found)} checks, {joined(told)}.{extent}"
