"""The report: the same numbers in every format, an honest headline, one file that needs nothing else."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from finetune.comparison import answer, report, words
from finetune.comparison.examples import GROUPS, choose_examples
from finetune.comparison.figures import house, svg
from finetune.comparison.figures.classes import class_forest
from finetune.comparison.methods_text import methods_paragraphs
from hp2l.comparison.compare import Scores, compare

from .conftest import leave_blank

Written = Callable[..., tuple[Path, dict[str, Any]]]
NAMES = ["a1", "a2", "b1", "b2 <long & odd>", "normal"]
FIGURES = {
    "levels", "classes", "long_tail", "roc", "drop", "tree", "calibration", "calibration_classes", "decision", "decision_classes",
    "prompts", "groups", "missing", "efficiency", "training",
}  # fmt: skip


class Page(HTMLParser):
    """What a page loads, which ids it has, and whether its tags close."""

    VOID = frozenset({"meta", "img", "br", "link", "path", "use", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loads += [found[key] or "" for key in ("src", "href", "xlink:href") if key in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()


def test_every_file_is_there(written: Written) -> None:
    out, _ = written(2)
    assert {path.stem for path in (out / "figures").glob("*.svg")} == FIGURES
    for name in FIGURES:
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / "figures" / f"{name}.svg").read_text()
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "comparison.json", "comparison.md", "index.html", "levels.csv", "per_class.csv", "tree.csv", "calibration.csv", "slices.csv",
        "robustness.csv", "efficiency.csv", "pairs.csv", "decision.csv", "scores_zero_shot.parquet", "scores_fine_tuned.parquet",
    }  # fmt: skip


def test_score_tables_are_kept_exactly(written: Written, full: Callable[..., Any]) -> None:
    table = Scores.load(written(2)[0] / "scores_fine_tuned.parquet")
    _, tables, _ = full(2)
    for kept, own in zip(table.levels, tables["fine_tuned"].levels, strict=True):
        np.testing.assert_array_equal(kept, own)


@pytest.mark.parametrize("methods", [1, 2, 5])
def test_page_is_well_formed_and_needs_nothing_else(written: Written, methods: int) -> None:
    text = (written(methods)[0] / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(load.startswith(("#", "data:image/png;base64,")) for load in page.loads)
    assert len(page.ids) == len(set(page.ids))
    assert all(load[1:] in page.ids for load in page.loads if load.startswith("#"))
    assert not re.search(r"@import|url\((?!#)|<link|<iframe|fetch\(", text)
    assert "A &amp; B &lt;title&gt;" in text
    assert "b2 &lt;long &amp; odd&gt;" in text


def test_first_screen_says_simulated_and_answers(written: Written) -> None:
    out, comparison = written(2)
    text = (out / "index.html").read_text()
    banner, head, chart = (text.index(part) for part in ("Simulated cohort.", 'class="answer"', "<figure>"))
    assert banner < head < chart
    assert answer.headline(comparison).replace("macro AUC", "macro\u00a0AUC").replace("-", "\u2011") in text
    assert "Simulated cohort" in (out / "comparison.md").read_text()


@pytest.mark.usefixtures("blank_figures")
def test_a_real_cohort_has_no_banner(compared: Callable[..., Any], tmp_path: Path) -> None:
    page = report.write_report(compared()[0], None, tmp_path, title="real", simulated=False)
    assert "Simulated cohort" not in page.read_text() + (tmp_path / "comparison.md").read_text()
    assert json.loads((tmp_path / "comparison.json").read_text())["simulated"] is False


@pytest.mark.parametrize("methods", [2, 5])
def test_numbers_agree_between_json_csv_markdown_and_page(written: Written, methods: int) -> None:
    out, comparison = written(methods)
    assert json.loads((out / "comparison.json").read_text())["levels"] == comparison["levels"]
    rows = list(csv.DictReader((out / "per_class.csv").open()))
    table = {(r["level"], r["class"], r["method"], r["metric"]): r for r in rows}
    levels = {(r["level"], r["method"], r["metric"]): r for r in csv.DictReader((out / "levels.csv").open())}
    text, plain = (out / "index.html").read_text(), (out / "comparison.md").read_text()
    for key, level in comparison["levels"].items():
        for method in comparison["methods"]:
            entry = level[method]["macro_auc"]
            assert f"<dd>{words.number(entry['value'])}<small>{words.span(entry)}</small></dd>" in text
            assert words.with_span(entry) in plain
            assert float(levels[key, method, "macro_auc"]["high"]) == entry["high"]
            for name, found in level[method]["per_class"].items():
                assert float(table[key, name, method, "auc"]["value"]) == found["auc"]["value"]
                assert f'data-v="{found["auc"]["value"]}"' in text
        for method in comparison["methods"][1:]:
            for name, found in level["differences"][method]["per_class"].items():
                row, entry = table[key, name, f"{method} - zero_shot", "auc"], found["auc"]
                assert [float(row["value"]), float(row["delong_p"])] == [entry["value"], entry["delong"]["p"]]
                assert f'data-v="{entry["value"]}"' in text


def test_numbers_of_sections_agree_between_csv_and_page(written: Written) -> None:
    out, comparison = written(2)
    text = (out / "index.html").read_text()
    for row, own in zip(_rows(out / "slices.csv", "fine_tuned"), comparison["slices"], strict=True):
        assert (row["group"], row["group_value"], int(row["studies"])) == (own["group"], own["value"], own["studies"])
        assert row["low"] == str(own["methods"]["fine_tuned"]["low"])
        assert f'data-v="{own["methods"]["fine_tuned"]["value"]}"' in text
    for row in csv.DictReader((out / "tree.csv").open()):
        if row["method"] == "zero_shot":
            entry = comparison["tree"]["methods"]["zero_shot"][row["metric"]]
            assert row["value"] == ("" if entry["value"] is None else str(entry["value"]))
            assert f'data-v="{-9 if entry["value"] is None else entry["value"]}"' in text
    for row in csv.DictReader((out / "robustness.csv").open()):
        assert f'data-v="{row["value"]}"' in text
    for row in _rows(out / "efficiency.csv", "fine_tuned"):
        assert f'data-v="{row["value"]}"' in text
    macro = [row for row in csv.DictReader((out / "calibration.csv").open()) if row["class"] == "macro"]
    assert len(macro) == 2 * (2 * 4 + 1) * 4  # levels, stages of both methods and the prevalence, metrics
    macro = [
        row for row in macro if row["method"] != "prevalence alone" or row["metric"] != "brier_skill"
    ]  # 0, without an interval
    assert all(f'data-v="{row["value"]}"' in text for row in macro)


def _rows(path: Path, method: str) -> list[dict[str, str]]:
    return [row for row in csv.DictReader(path.open()) if row["method"] == method]


@pytest.mark.usefixtures("blank_figures")
def test_report_can_be_made_again_from_its_json(written: Written, tmp_path: Path) -> None:
    out, _ = written(2)
    again = json.loads((out / "comparison.json").read_text())
    report.write_report(again, None, tmp_path, title="A & B <title>")
    for name in ("comparison.json", "comparison.md", "per_class.csv", "slices.csv"):
        assert (tmp_path / name).read_text() == (out / name).read_text()


def test_headline_claims_only_what_the_interval_shows(compared: Callable[..., Any]) -> None:
    better, tables, arguments = compared()
    assert answer.headline(better).startswith("Fine-tuned is better than zero-shot: macro AUC ")
    turned = compare(dict(reversed(tables.items())), **arguments, resamples=200)
    assert answer.headline(turned).startswith("Zero-shot is worse than fine-tuned: macro AUC ")
    same, _, _ = compared(gain=0.0)
    assert words.verdict(same["levels"]["2"]["difference"]["macro_auc"]) == 0
    assert answer.headline(same).startswith("No difference between fine-tuned and zero-shot is shown")
    alone, _, _ = compared(methods=1)
    assert answer.headline(alone).startswith("Zero-shot reaches a macro AUC of 0.")


def test_more_methods_are_each_held_against_the_reference(compared: Callable[..., Any]) -> None:
    three, tables, arguments = compared(methods=3)
    text = answer.headline(three)
    assert text.startswith("Mean of both has the highest macro AUC, ")
    assert "better than fine-tuned and zero-shot (" in text
    assert [line.split(":")[0] for line in answer.statements(three)[1:]] == ["Fine-tuned", "Mean of both"]
    middle = compare(tables, **arguments, reference="fine_tuned", resamples=200)
    assert answer.headline(middle) == text, "the highest is the highest, whatever the others are held against"
    same, _, _ = compared(methods=3, gain=0.0)
    assert "not shown to differ from" in answer.headline(same)
    assert "better" not in answer.headline(same)


def test_a_class_without_any_test_positive_is_drawn_as_a_gap(
    compared: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_blank(monkeypatch, but={"classes", "long_tail", "roc", "calibration_classes", "decision_classes"})
    _, tables, arguments = compared()
    targets = [level.copy() for level in arguments["targets"]]
    targets[1][:, 3] = 0
    comparison = compare(tables, **{**arguments, "targets": targets}, resamples=50)
    assert comparison["levels"]["2"]["zero_shot"]["per_class"][NAMES[3]]["auc"]["value"] is None
    page = report.write_report(comparison, None, tmp_path, title="t")
    assert "nan" not in page.read_text().lower().replace("provenan", "").replace("resonan", "")


def test_words_for_numbers() -> None:
    assert [words.number(v, True) for v in (0.123, -0.123, -0.001, None)] == ["+0.12", "\u22120.12", "0.00", "\u2013"]
    settings = {"settings": {"resamples": 999}}
    assert words.p_text(0.002, settings) == "≤ 0.002"
    assert words.p_text(0.0421, settings, True) == "= 0.042"
    assert words.p_text(0.5, settings) == "0.50"
    assert [words.joined(list(text)) for text in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize("methods", [1, 2, 5])
def test_terminal_table_fits_eighty_columns(written: Written, methods: int) -> None:
    _, comparison = written(methods)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.format_table(comparison))
    lines = console.export_text().splitlines()
    entry = comparison["levels"]["2"][comparison["methods"][-1]]["macro_auc"]
    assert any(f"{words.number(entry['low'])}, {words.number(entry['high'])}" in line for line in lines)
    names = [words.method_label(method) for method in comparison["methods"]]
    assert all(sum(line.startswith(f" {name} ") for line in lines) == 2 for name in names)


def test_methods_paragraph_covers_what_was_done(written: Written) -> None:
    text = " ".join(methods_paragraphs(written(5)[1]).values())
    parts = [
        "200 bootstrap resamples of patients",
        "DeLong's method",
        "Obuchowski",
        "Holm",
        "isotonic regression",
        "net benefit is",
    ]
    parts += [
        "moved until their mean",
        "not corrected for the number of methods",
        "the best of 4 by mean validation AUC",
        "95 % specificity",
    ]
    for part in parts:
        assert part in text, part
    alone = " ".join(methods_paragraphs({**written(1)[1], "slices": [], "robustness": []}).values())
    assert "DeLong" not in alone
    assert "Groups of patients" not in alone


@pytest.mark.parametrize("methods", [1, 2, 3])
def test_examples_are_what_their_group_says(compared: Callable[..., Any], methods: int) -> None:
    _, tables, arguments = compared(methods=methods)
    target = arguments["targets"][1]
    found = choose_examples(tables, arguments["targets"], arguments["mask"], [["a", "b", "normal"], NAMES], per_group=3)
    assert found
    assert {example["group"] for example in found} <= set(GROUPS)
    for example in found:
        row = int(example["study_id"][1:])
        assert tables["zero_shot"].split[row] == "test"
        assert example["truth"] == [name for name, present in zip(NAMES, target[row], strict=True) if present]
        right = [example[method][0][0] in example["truth"] for method in tables][:2]
        expected = {"both": [True, True], "corrected": [False, True], "lost": [True, False], "neither": [False, False]}
        assert right == {**expected, "right": [True], "wrong": [False]}[example["group"]]


def test_single_scan_studies_are_marked(written: Written) -> None:
    text = (written(2)[0] / "index.html").read_text()
    marked = re.findall(r"<h4>.*?</h4>", text, re.DOTALL)
    assert [heading.count("single scan") for heading in marked] == [1] + [0] * (len(marked) - 1)


def test_inline_figures_take_their_colours_from_the_page(compared: Callable[..., Any]) -> None:
    with house.style():
        drawn = svg.inline_svg(svg.settled(class_forest(compared()[0])), "x")
    assert "var(--m0)" in drawn
    assert "var(--ink)" in drawn
    assert not re.search(r"#(?!x-)[0-9a-f]{6}", drawn)
    assert ">a1 (" in drawn  # text, not outlines


def test_methods_differ_without_colour() -> None:
    def lightness(shade: str) -> float:
        """CIE L* of an sRGB colour."""
        red, green, blue = (int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        return 116 * (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) ** (1 / 3) - 16

    grey = [lightness(shade) for shade in house.COLOURS]
    assert all(abs(a - b) > 9 for a, b in itertools.pairwise(grey[:3]))
    for looks in (house.MARKERS, house.HATCHES, house.DASHES):
        assert len(set(map(str, looks))) == len(house.COLOURS)
