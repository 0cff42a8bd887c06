"""The result as tables: rows of classes for the page, a table for the terminal, the whole comparison as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from finetune.comparison.answer import details, headline
from finetune.comparison.findings import sentences
from finetune.comparison.methods_text import methods_paragraphs
from finetune.comparison.words import method_label, number, others_of, p_text, plain_p, reference_of, with_span
from hp2l.comparison.compare import Comparison

MACROS = {"macro_auc": "Macro AUC", "balanced_accuracy": "Balanced accuracy", "macro_average_precision": "Average precision"}
FURTHER = {
    "macro_sensitivity_at_specificity": "Sensitivity at 95 % specificity",
    "macro_achieved_specificity": "Test specificity at that threshold",
    "macro_f1": "F1",
}
HEADINGS = {
    "pairs": "All pairs of methods",
    "tail": "Frequent and rare classes",
    "drop": "From coarse to fine",
    "tree": "Errors in the tree",
    "calibration": "Calibration",
    "decision": "Net benefit",
    "prompts": "Prompts",
    "groups": "Groups of patients",
    "missing": "Missing sequences",
    "efficiency": "Labels needed",
    "checks": "Leak and sanity checks",
}
CHECKS = {
    "patients": "Patients in several splits",
    "validation": "Validation split",
    "images": "Identical images in several splits",
    "metadata": "Classes told by metadata alone",
    "prompts": "Prompts that stand in test reports",
}


def class_rows(comparison: Comparison, key: str) -> list[dict[str, Any]]:
    """One row a class of a level: counts, every method's metrics, the paired differences to the reference."""
    level, rows = comparison["levels"][key], []
    for name in level["classes"]:
        entries = {method: level[method]["per_class"][name] for method in comparison["methods"]}
        first = next(iter(entries.values()))
        row: dict[str, Any] = {"name": name, "methods": entries, "left_out": level["left_out"].get(name)}
        row.update(n_positive=first["n_positive"], n_negative=first["n_negative"])
        row["differences"] = {m: level["differences"][m]["per_class"][name] for m in others_of(comparison)}
        rows.append(row)
    return rows


# --- the terminal ----------------------------------------------------------------------------------------------------


def format_table(comparison: Comparison) -> Table:
    """The result for a terminal of 80 columns: a row a level and method, each interval below its value."""
    others = others_of(comparison)
    title = "Held-out studies, 95 % intervals over patients below the values"
    if others:
        title += f"; differences to {method_label(reference_of(comparison)).lower()}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Level, method", overflow="fold", max_width=20)
    for heading in ("Macro AUC", *(["Difference", "p"] if others else []), "Bal. acc.", *(["Difference"] if others else [])):
        table.add_column(heading, justify="right", no_wrap=True, style="bold" if heading == "Difference" else None)
    for key, level in comparison["levels"].items():
        table.add_row(f"[bold]{key} {level['name']}[/bold]")
        for place, method in enumerate(comparison["methods"]):
            row = [method_label(method)]
            change = (level.get("differences") or {}).get(method)
            for metric in ("macro_auc", "balanced_accuracy"):
                row.append(_two_lines(level[method][metric]))
                if others:
                    row.append(_two_lines(change[metric], True) if change else "")
                if others and metric == "macro_auc":
                    row.append(plain_p(change[metric]["p"]) if change else "")
            table.add_row(*row, end_section=place == len(comparison["methods"]) - 1)
    return table


def _two_lines(entry: Mapping[str, Any], sign: bool = False) -> str:
    if entry["value"] is None or entry["low"] is None:
        return number(entry["value"], sign)
    return f"{number(entry['value'], sign)}\n[dim]{number(entry['low'], sign)}, {number(entry['high'], sign)}[/dim]"


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown: answer, levels, what each section found, classes, methods, notes."""
    lines = [f"# {comparison['title']}", ""]
    if comparison["simulated"]:
        lines += ["> **Simulated cohort.** These numbers say nothing about real patients.", ""]
    for found in alarms(comparison):
        lines += [f"> **{found['state'].capitalize()}, {found['check']}:** {found['text']}", ""]
    lines += [f"**{headline(comparison)}** {details(comparison)}", "", "## Levels", "", *_levels(comparison)]
    for section, text in sentences(comparison).items():
        lines += ["", f"## {HEADINGS[section]}", "", text, *_section_table(section, comparison)]
    for key in comparison["levels"]:
        lines += ["", *_classes(comparison, key)]
    lines += ["", "\\* not part of the macro means.", "", "## Methods", ""]
    for heading, text in methods_paragraphs(comparison).items():
        lines += [f"**{heading}.** {text}", ""]
    if comparison["notes"]:
        lines += ["## Notes", "", *(f"- {note}" for note in comparison["notes"]), ""]
    return "\n".join(lines)


def alarms(comparison: Comparison) -> list[Mapping[str, Any]]:
    """Checks whose result a reader must know before any number, leaks first."""
    found = [one for one in comparison.get("checks") or [] if one["state"] in ("leak", "warning")]
    return sorted(found, key=lambda one: one["state"] != "leak")


def _levels(comparison: Comparison) -> list[str]:
    methods, others = comparison["methods"], others_of(comparison)
    lines = _row(["Level", "Metric", *map(method_label, methods), *_difference_heads(comparison, "p")], header=True)
    for key, level in comparison["levels"].items():
        for metric, label in {**MACROS, **FURTHER}.items():
            if metric not in level[methods[0]]:
                continue
            cells = [f"{key} {level['name']}", label, *(with_span(level[method][metric]) for method in methods)]
            for method in others:
                change = level["differences"][method][metric]
                cells += [with_span(change, True), plain_p(change["p"])]
            lines += _row(cells)
    return lines


def _classes(comparison: Comparison, key: str) -> list[str]:
    methods = comparison["methods"]
    lines = [f"## Classes of level {key} ({comparison['levels'][key]['name']}): AUC", ""]
    heads = _difference_heads(comparison, "p (Holm)", "DeLong (Holm)")
    lines += _row(["Class", "Positives", *map(method_label, methods), *heads], header=True)
    for row in class_rows(comparison, key):
        cells = [row["name"] + (" *" if row["left_out"] else ""), str(row["n_positive"])]
        cells += [with_span(entry["auc"]) for entry in row["methods"].values()]
        for entry in row["differences"].values():
            cells += [with_span(entry["auc"], True), p_text(entry["auc"]["p_holm"], comparison)]
            cells.append(plain_p((entry["auc"].get("delong") or {}).get("p_holm")))
        lines += _row(cells)
    return lines


def _difference_heads(comparison: Comparison, *p: str) -> list[str]:
    others = others_of(comparison)
    if len(others) == 1:
        return ["Difference", *p]
    return [text for method in others for text in (f"{method_label(method)}, difference", *p)]


def _section_table(section: str, comparison: Comparison) -> list[str]:
    """The rows behind a section's sentence, where they are few enough to read."""
    methods = comparison["methods"]
    lines: list[str] = []
    if section == "pairs":
        lines += _row(["Level", "Difference", "Macro AUC", "p", "p (Holm)"], header=True)
        for key, pairs in comparison["pairs"].items():
            for entry in pairs:
                of, p = " minus ".join(map(method_label, entry["of"])), (plain_p(entry[k]) for k in ("p", "p_holm"))
                lines += _row([key, of, with_span(entry, True), *p])
    if section == "tree":
        constant = comparison["tree"].get("most_frequent") or {}
        more = ["Always the most frequent class"] if constant else []
        lines += _row(["Measure", *map(method_label, methods), *more], header=True)
        for name, words in comparison["tree"]["definitions"].items():
            cells = [with_span(comparison["tree"]["methods"][method][name]) for method in methods]
            cells += [with_span(constant[name]) if name in constant else ""] if constant else []
            lines += _row([f"{name.replace('_', ' ')} ({words})", *cells])
    if section == "groups":
        lines += _row(["Group", "Studies", *map(method_label, methods)], header=True)
        for row in comparison["slices"]:
            cells = [with_span(row["methods"][method]) for method in methods]
            lines += _row([f"{row['group']}: {row['value']}", str(row["studies"]), *cells])
    if section == "missing":
        asked = list(comparison["robustness"][0]["methods"])
        lines += _row(["Without", "Studies", *(f"{method_label(method)}, difference" for method in asked)], header=True)
        for row in comparison["robustness"]:
            cells = [with_span(row["methods"][method]["difference"], True) for method in asked]
            lines += _row([row["sequence"], str(row["studies"]), *cells])
    if section == "efficiency":
        levels = comparison["efficiency"]
        lines += _row(
            [
                "Labelled studies",
                "Level",
                "Macro AUC",
                *(f"minus {method_label(m).lower()}" for m in next(iter(levels.values()))["flat"]),
            ],
            header=True,
        )
        for key, entry in levels.items():
            for point in entry["points"]:
                changes = [with_span(change, True) for change in point["differences"].values()]
                lines += _row([f"{point['studies']:,}", key, with_span(point), *changes])
    if section == "checks":
        lines += _row(["Check", "State", "Finding"], header=True)
        for one in comparison["checks"]:
            lines += _row([CHECKS.get(one["check"], one["check"]), one["state"], one["text"]])
    return ["", *lines] if lines else []


def _row(cells: Sequence[str], header: bool = False) -> list[str]:
    line = "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
    return [line, "|" + "---|" * len(cells)] if header else [line]
