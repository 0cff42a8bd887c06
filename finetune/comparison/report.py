"""From a comparison to files: comparison.json, comparison.md, per_class.csv, figures and one self-contained index.html.

Notable choices:
- Everything on the page comes from the comparison, so a report can be made again from `comparison.json` alone; scores are
  only written beside it as tables.
- The page is one file without a network: styles, script and figures are inside. It is complete without JavaScript.
- The one-sentence answer is computed, never written by hand: better only if the interval of the paired difference says so.
"""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from rich.table import Table

from finetune.comparison import figures
from finetune.comparison.figures import method_label
from hp2l.comparison.compare import Comparison, Scores, jsonable

TEMPLATE = "template.html.j2"
GROUPS = {
    "both": "Right with both",
    "corrected": "Corrected by fine-tuning",
    "lost": "Lost by fine-tuning",
    "neither": "Wrong with both",
}
_MACROS = {"macro_auc": "Macro AUC", "balanced_accuracy": "Balanced accuracy", "macro_average_precision": "Average precision"}


def write_report(
    comparison: Comparison,
    scores: Mapping[str, Scores] | None,
    out: str | Path,
    *,
    title: str,
    simulated: bool | None = None,
    examples: Sequence[Mapping[str, Any]] | None = None,
    curves: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write everything into the folder `out` and return the path of its `index.html`.

    Args:
        comparison: of `hp2l.comparison.compare.compare`, or read back from a `comparison.json`.
        scores: method -> score table, written as `scores_<method>.csv` where class names are set; or None.
        out: folder, made if missing; files of an earlier report are overwritten.
        title: of the page.
        simulated: overrides the comparison's own flag.
        examples: {study_id, group (a key of GROUPS, or any text), truth: [class], sequence, image: PNG bytes,
            <method>: [(class, score), ...]}; image and sequence may be missing.
        curves: training curves, panels {title, x, xlabel, ylabel, series: {name: [y]}}.
    """
    out = Path(out)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    comparison = {**comparison, "title": title}
    comparison["simulated"] = comparison["simulated"] if simulated is None else simulated
    (out / "comparison.json").write_text(compact_json(comparison), encoding="utf-8")
    (out / "comparison.md").write_text(markdown(comparison), encoding="utf-8")
    write_class_table(comparison, out / "per_class.csv")
    for method, table in (scores or {}).items():
        if table.class_names is not None:
            table.to_csv(out / f"scores_{method}.csv")
    drawn = {}
    for name, draw in drawings(comparison, curves).items():
        with figures.style():
            wide, narrow = figures.settled(draw(False)), figures.settled(draw(True))
            figures.save(wide, out / "figures", name)
            both = (figures.inline_svg(wide, f"{name}-w"), figures.inline_svg(narrow, f"{name}-n"))
        drawn[name] = Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(*map(Markup, both))
    page = out / "index.html"
    page.write_text(html(comparison, drawn, examples or []), encoding="utf-8")
    return page


def drawings(comparison: Comparison, curves: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Callable[[bool], Figure]]:
    """Name -> function of `narrow` that draws it, for every figure of the report."""
    found: dict[str, Callable[[bool], Figure]] = {
        "levels": lambda narrow: figures.level_bars(comparison, narrow),
        "classes": lambda narrow: figures.class_forest(comparison, narrow),
        "long_tail": lambda narrow: figures.long_tail(comparison, narrow),
        "roc": lambda narrow: figures.roc_multiples(comparison, narrow),
        "drop": lambda narrow: figures.level_drop(comparison, narrow),
    }
    if curves:
        found["training"] = lambda narrow: figures.training_curves(curves, narrow)
    return found


def compact_json(value: Any) -> str:
    """Indented JSON with lists of plain values on one line, so that a person can read it."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[[^\[\]{}\"]*?\]", lambda found: re.sub(r"\s+", " ", found.group()), text) + "\n"


# --- words and numbers -----------------------------------------------------------------------------------------------


def number(value: float | None, sign: bool = False) -> str:
    """Two digits, a true minus; a dash where there is no number."""
    if value is None:
        return "–"  # noqa: RUF001
    text = f"{value:+.2f}" if sign else f"{value:.2f}"
    return {"+0.00": "0.00", "-0.00": "0.00"}.get(text, text).replace("-", "\N{MINUS SIGN}")


def span(entry: Mapping[str, Any], sign: bool = False) -> str:
    """An interval in words: `0.66 to 0.74`."""
    return f"{number(entry['low'], sign)} to {number(entry['high'], sign)}" if entry["low"] is not None else ""


def p_text(p: float | None, comparison: Comparison, relation: bool = False) -> str:
    """A p-value as in a paper; the smallest that the number of resamples can show is an upper bound, `≤ 0.002`."""
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


def headline(comparison: Comparison) -> str:
    """Which is better: one sentence. Better only if the interval of the paired difference says so."""
    last = list(comparison["levels"].values())[-1]
    over = f"over {len(last['macro_classes'])} {last['name']} classes"
    if "difference" not in last:
        entry, method = last[comparison["methods"][0]]["macro_auc"], method_label(comparison["methods"][0])
        return f"{method} reaches a macro AUC of {number(entry['value'])} ({span(entry)}) {over}."
    second, first = (method_label(name) for name in last["difference"]["of"])
    better = {1: f"{second} is better than {first.lower()}", -1: f"{first} is better than {second.lower()}"}
    none = f"No difference between {second.lower()} and {first.lower()} is shown"
    values = [number(last[name]["macro_auc"]["value"]) for name in last["difference"]["of"]]
    if verdict(last["difference"]["macro_auc"]) < 0:
        values.reverse()
    return f"{better.get(verdict(last['difference']['macro_auc']), none)}: macro AUC {values[0]} against {values[1]} {over}."


def details(comparison: Comparison) -> str:
    """How sure, and where."""
    cohort, last = comparison["cohort"], list(comparison["levels"].values())[-1]
    sample = f"{cohort['studies']} held-out studies of {cohort['patients']} patients"
    if "difference" not in last:
        return f"Measured on {sample}."
    change = last["difference"]["macro_auc"]
    size = f"{number(change['value'], True)}, 95 % interval {span(change, True)}, p {p_text(change['p'], comparison, True)}"
    return f"Difference {size}, in {sample}. {_where(comparison)}"


def answer(comparison: Comparison) -> str:
    """Which is better, how sure, and where: the text of the report's first screen."""
    return f"{headline(comparison)} {details(comparison)}"


def _where(comparison: Comparison) -> str:
    """At which levels and in which classes the difference shows; classes after Holm's correction."""
    levels = comparison["levels"]
    last = list(levels.values())[-1]
    shown = [key for key, level in levels.items() if verdict(level["difference"]["macro_auc"])]
    text = f"The interval excludes zero at {_listed('level', shown, len(levels))}. "
    changes = {name: last["difference"]["per_class"][name]["auc"] for name in last["macro_classes"]}
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
    return f"{noun}{'s' if len(found) > 1 else ''} {' and '.join(found)}"


def methods_paragraph(comparison: Comparison) -> str:
    """How the numbers were made, in sentences that can go into a paper."""
    settings, splits = comparison["settings"], comparison["cohort"]["splits"]
    sizes = ", ".join(f"{split} {n['studies']} studies of {n['patients']} patients" for split, n in splits.items())
    names = " and ".join(method_label(method).lower() for method in comparison["methods"])
    normal = settings["normal_class"]
    text = f"Diagnoses by {names} were compared on the same studies ({sizes}). "
    text += "For each class and method the decision threshold is the one of highest balanced accuracy, "
    text += "(sensitivity + specificity) / 2, on the validation split; all numbers come from the test split. "
    text += "AUC is the area under the ROC curve, ties counted as half. Macro values are unweighted means over the classes "
    text += f"of a level{f', without the class {normal!r}' if normal else ''} and without classes that have fewer than "
    text += f"{settings['min_positives']} positive or negative test studies. "
    text += f"95 % intervals are percentile intervals of {settings['resamples']} bootstrap resamples of patients, the same "
    text += "for all methods, with thresholds held fixed; a class without a positive in a resample is left out of the macro "
    text += "mean of that resample. P-values of paired differences are two-sided, from the same resamples, "
    text += "2 min(P(d ≤ 0), P(d ≥ 0)), and Holm-corrected over the classes of a level where marked. "
    text += "Average precision gains from positives that a resample repeats, so its intervals lean upwards."
    return text + chosen_on_validation(comparison.get("provenance") or {})


def chosen_on_validation(provenance: Mapping[str, Any]) -> str:
    """What else the validation split decided, in words; empty where the provenance does not say."""
    text = ""
    if chosen := provenance.get("zero_shot_settings"):
        kind = "held against the phrase of a normal study" if chosen.get("contrast") else "by plain similarity"
        words = "with synonyms" if chosen.get("synonyms") else "with the class's own prompt alone"
        text += f" The zero-shot setting is the best of {chosen['candidates']} by mean validation AUC over the levels: "
        text += f"templates '{chosen['prompts']}', {words}, scored {kind}, inner classes by their {chosen['parents']}"
        text += " prompt." if chosen["parents"] == "own" else "."
    facts = provenance.get("fine_tuned_facts") or {}
    if "step" in facts:
        text += f" The fine-tuned checkpoint is the one of step {facts['step']}, the best on validation."
    return text


def tail_sentence(comparison: Comparison) -> str:
    """Does the gain depend on how frequent a class is? Spearman's rank correlation in words."""
    level = list(comparison["levels"].values())[-1]
    if "difference" not in level:
        return ""
    from scipy.stats import spearmanr

    share, source = figures.frequencies(comparison)
    pairs = [(share[n], level["difference"]["per_class"][n]["auc"]["value"]) for n in level["macro_classes"]]
    if len(pairs) < 4:
        return ""
    rho, p = spearmanr([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    if not np.isfinite(rho):
        return ""
    rank = f"rank correlation of gain and {source} frequency {number(rho, True)}, p = {p:.2g}, {len(pairs)} classes"
    if p >= 0.05:
        return f"These data do not show that rarer classes gain more or less ({rank})."
    return f"Rarer classes gain {'more' if rho < 0 else 'less'} ({rank})."


# --- tables ----------------------------------------------------------------------------------------------------------


def format_table(comparison: Comparison) -> Table:
    """The result as a table for the terminal: a row a level and metric, with 95 % intervals."""
    table = Table(title="Held-out studies, 95 % intervals over patients", title_justify="left", pad_edge=False)
    table.add_column("Level")
    table.add_column("Metric")
    for method in comparison["methods"]:
        table.add_column(method_label(method), justify="right")
    if len(comparison["methods"]) > 1:
        table.add_column("Difference", justify="right", style="bold")
        table.add_column("p", justify="right")
    for key, level in comparison["levels"].items():
        for metric in ("macro_auc", "balanced_accuracy"):
            row = [f"{key} {level['name']}" if metric == "macro_auc" else "", "AUC" if metric == "macro_auc" else "bal. acc."]
            row += [_cell(level[method][metric]) for method in comparison["methods"]]
            if "difference" in level:
                change = level["difference"][metric]
                row += [_cell(change, sign=True), p_text(change["p"], comparison)]
            table.add_row(*row, end_section=metric == "balanced_accuracy")
    return table


def _cell(entry: Mapping[str, Any], sign: bool = False) -> str:
    if entry["value"] is None:
        return number(None)
    return f"{number(entry['value'], sign)} ({number(entry['low'], sign)}, {number(entry['high'], sign)})"


def class_rows(comparison: Comparison, key: str) -> list[dict[str, Any]]:
    """One row a class of a level: counts, every method's metrics, the paired difference if there is one."""
    level = comparison["levels"][key]
    rows = []
    for name in level["classes"]:
        entries = {method: level[method]["per_class"][name] for method in comparison["methods"]}
        first = next(iter(entries.values()))
        row: dict[str, Any] = {"name": name, "methods": entries, "left_out": level["left_out"].get(name)}
        row.update(n_positive=first["n_positive"], n_negative=first["n_negative"])
        row["difference"] = level["difference"]["per_class"][name] if "difference" in level else None
        rows.append(row)
    return rows


def write_class_table(comparison: Comparison, path: Path) -> None:
    """A tidy CSV: level, class, method, metric, value, low, high, and p, p_holm for differences."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["level", "class", "method", "metric", "n_positive", "n_negative", "value", "low", "high", "p", "p_holm"]
        )
        for key in comparison["levels"]:
            for row in class_rows(comparison, key):
                groups = {**row["methods"], **({"difference": row["difference"]} if row["difference"] else {})}
                counts = [row["n_positive"], row["n_negative"]]
                for method, entries in groups.items():
                    for metric, entry in entries.items():
                        if isinstance(entry, Mapping):
                            found = [entry.get(field) for field in ("value", "low", "high", "p", "p_holm")]
                            writer.writerow([key, row["name"], method, metric, *counts, *found])
                        elif metric == "threshold":
                            writer.writerow([key, row["name"], method, metric, *counts, entry, "", "", "", ""])


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown: answer, levels, classes, methods, notes."""
    lines = [f"# {comparison['title']}", ""]
    if comparison["simulated"]:
        lines += ["> **Simulated cohort.** These numbers say nothing about real patients.", ""]
    lines += [f"**{headline(comparison)}** {details(comparison)}", "", "## Levels", ""]
    methods = [method_label(method) for method in comparison["methods"]]
    paired = len(methods) > 1
    lines += _row(["Level", "Metric", *methods, *(["Difference", "p"] if paired else [])], header=True)
    for key, level in comparison["levels"].items():
        for metric, label in _MACROS.items():
            cells = [f"{key} {level['name']}", label, *(_cell(level[method][metric]) for method in comparison["methods"])]
            if paired:
                change = level["difference"][metric]
                cells += [_cell(change, sign=True), p_text(change["p"], comparison)]
            lines += _row(cells)
    drop = comparison["drop"]
    lines += ["", f"Drop from level {drop['levels'][0]} to {drop['levels'][1]} in macro AUC: "]
    lines[-1] += "; ".join(f"{method_label(m)} {_cell(drop[m]['macro_auc'], True)}" for m in comparison["methods"]) + "."
    for key, level in comparison["levels"].items():
        lines += ["", f"## Classes of level {key} ({level['name']}): AUC", ""]
        lines += _row(["Class", "Positives", *methods, *(["Difference", "p (Holm)"] if paired else [])], header=True)
        for row in class_rows(comparison, key):
            cells = [row["name"] + (" *" if row["left_out"] else ""), str(row["n_positive"])]
            cells += [_cell(entry["auc"]) for entry in row["methods"].values()]
            if paired:
                cells += [_cell(row["difference"]["auc"], True), p_text(row["difference"]["auc"]["p_holm"], comparison)]
            lines += _row(cells)
    lines += ["", "\\* not part of the macro means.", "", "## Methods", "", methods_paragraph(comparison), ""]
    if comparison["notes"]:
        lines += ["## Notes", "", *(f"- {note}" for note in comparison["notes"]), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str], header: bool = False) -> list[str]:
    line = "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
    return [line, "|" + "---|" * len(cells)] if header else [line]


# --- the page --------------------------------------------------------------------------------------------------------


def html(comparison: Comparison, drawn: Mapping[str, Markup], examples: Sequence[Mapping[str, Any]]) -> str:
    """The page as one string."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(number=number, label=method_label)
    environment.globals.update(span=span, verdict=verdict, colours=figures.COLOURS)
    return environment.get_template(TEMPLATE).render(
        c=comparison,
        head=headline(comparison),
        more=details(comparison),
        p=lambda value, relation=False: p_text(value, comparison, relation),
        drawn=drawn,
        rows={key: class_rows(comparison, key) for key in comparison["levels"]},
        examples=_grouped(examples, comparison),
        methods_paragraph=methods_paragraph(comparison),
        tail=tail_sentence(comparison),
        provenance=provenance_rows(comparison["provenance"]),
        macros=_MACROS,
    )


def _grouped(examples: Sequence[Mapping[str, Any]], comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Heading -> examples, in the order of GROUPS and then of appearance."""
    order = dict.fromkeys([*GROUPS, *(entry.get("group", "") for entry in examples)])
    groups = {name: [_example(e, comparison) for e in examples if e.get("group", "") == name] for name in order}
    return {GROUPS.get(name, name): members for name, members in groups.items() if members}


def _example(entry: Mapping[str, Any], comparison: Comparison) -> dict[str, Any]:
    """One example study ready for the page: image as data URI, top classes with their share of a bar."""
    image = entry.get("image")
    data = f"data:image/png;base64,{base64.b64encode(image).decode()}" if image else None
    tops = {}
    for method in comparison["methods"]:
        pairs = [(pair, None) if isinstance(pair, str) else tuple(pair) for pair in entry.get(method, [])]
        tops[method] = [{"name": name, "score": score, "true": name in entry["truth"]} for name, score in pairs]
    texts = {"study_id": entry["study_id"], "sequence": entry.get("sequence", ""), "truth": list(entry["truth"])}
    return {**texts, "image": data, "tops": tops}


def provenance_rows(provenance: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as (dotted name, text) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            rows += provenance_rows(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            rows.append((f"{prefix}{key}", text))
    return rows


# --- example studies -------------------------------------------------------------------------------------------------


def choose_examples(
    scores: Mapping[str, Scores],
    targets: Sequence[ArrayLike],
    mask: Sequence[ArrayLike],
    class_names: Sequence[Sequence[str]],
    per_group: int = 2,
    top: int = 3,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Test studies of each group of GROUPS, drawn at random; the caller adds `image` and `sequence`.

    A method is right about a study if its highest-scoring class of the last level is truly present. The draw prefers a
    variety of classes: no leaf twice in a group as long as another is left. Rows follow the first method's order.
    """
    names, (first, second) = class_names[-1], list(scores.values())[:2]
    tables = dict(zip(scores, (first, second.reordered(first.study_ids)), strict=False))
    target, known = np.asarray(targets[-1]) > 0.5, np.asarray(mask[-1]).astype(bool)
    candidates = np.flatnonzero((np.asarray(first.split) == "test") & known.all(axis=1) & target.any(axis=1))
    right = [target[candidates, table.levels[-1][candidates].argmax(axis=1)] for table in tables.values()]
    groups = {"both": right[0] & right[1], "corrected": ~right[0] & right[1]}
    groups.update({"lost": right[0] & ~right[1], "neither": ~right[0] & ~right[1]})
    generator, found = np.random.default_rng(seed), []
    for group, members in groups.items():
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
