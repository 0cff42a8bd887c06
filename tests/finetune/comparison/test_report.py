"""The report: the same numbers in every format, an honest headline, one file that needs nothing else."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from finetune.comparison import figures, report
from hp2l.comparison.compare import Scores, compare

NAMES = [["a", "b", "normal"], ["a1", "a2", "b1", "b2 <long & odd>", "normal"]]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def world(gain: float = 1.5, methods: int = 2, studies: int = 160) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Score tables of `methods` methods, the later ones better by `gain`, and the arguments of `compare`."""
    generator = np.random.default_rng(0)
    leaves = (generator.random((studies, 4)) < [0.4, 0.3, 0.2, 0.03]).astype(float)
    normal = (leaves.sum(axis=1, keepdims=True) == 0).astype(float)
    targets = [np.hstack([leaves[:, :2].max(1, keepdims=True), leaves[:, 2:].max(1, keepdims=True), normal])]
    targets.append(np.hstack([leaves, normal]))
    ids = [f"s{i}" for i in range(studies)]
    split = ["val" if i < studies // 3 else "test" for i in range(studies)]
    tables = {}
    for i, name in enumerate(("zero_shot", "fine_tuned", "mean_of_both")[:methods]):
        levels = [1 / (1 + np.exp(-(0.5 + gain * i) * t - generator.normal(size=t.shape) + 1)) for t in targets]
        tables[name] = Scores(name, ids, ids, split, levels, {"checkpoint": f"runs/{name}"})
    arguments = {"targets": targets, "mask": [np.ones(t.shape, bool) for t in targets], "class_names": NAMES}
    return tables, {
        **arguments,
        "normal": "normal",
        "level_names": ["category", "subtype"],
        "edges": [[(0, 0), (0, 1), (1, 2), (1, 3)]],
    }


def compared(**changes: Any) -> tuple[dict[str, Any], dict[str, Scores], dict[str, Any]]:
    tables, arguments = world(**changes)
    return compare(tables, **arguments, resamples=200, simulated=True), tables, arguments


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    comparison, tables, arguments = compared()
    out = tmp_path_factory.mktemp("report") / "new" / "folder"
    examples = report.choose_examples(tables, arguments["targets"], arguments["mask"], NAMES)
    for example in examples:
        example.update(image=PNG, sequence="FLAIR")
    curves = [{"title": "Loss", "x": [0, 10, 20], "xlabel": "step", "ylabel": "loss", "series": {"train": [3.0, None, 1.0]}}]
    full = {name: table.with_truth(NAMES, arguments["targets"], arguments["mask"]) for name, table in tables.items()}
    page = report.write_report(comparison, full, out, title="A & B <title>", examples=examples, curves=curves)
    assert page == out / "index.html"
    return out, comparison


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


def test_every_file_is_there(written: tuple[Path, dict[str, Any]]) -> None:
    out, _ = written
    for name in ("levels", "classes", "long_tail", "roc", "drop", "training"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / "figures" / f"{name}.svg").read_text()
    assert {path.name for path in out.iterdir() if path.is_file()} >= {
        "comparison.json", "comparison.md", "per_class.csv", "index.html", "scores_zero_shot.csv", "scores_fine_tuned.csv",
    }  # fmt: skip


def test_page_is_well_formed_and_needs_nothing_else(written: tuple[Path, dict[str, Any]]) -> None:
    text = (written[0] / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(load.startswith(("#", "data:image/png;base64,")) for load in page.loads)
    assert len(page.ids) == len(set(page.ids))
    assert all(load[1:] in page.ids for load in page.loads if load.startswith("#"))
    assert not re.search(r"@import|url\((?!#)|<link|<iframe|fetch\(", text)
    assert "A &amp; B &lt;title&gt;" in text
    assert "b2 &lt;long &amp; odd&gt;" in text


def test_first_screen_says_simulated_and_answers(written: tuple[Path, dict[str, Any]]) -> None:
    text, comparison = (written[0] / "index.html").read_text(), written[1]
    banner, head, chart = (text.index(part) for part in ("Simulated cohort.", 'class="answer"', "<figure>"))
    assert banner < head < chart
    assert report.headline(comparison).replace("macro AUC", "macro\u00a0AUC") in text
    assert "Simulated cohort" in (written[0] / "comparison.md").read_text()


def test_a_real_cohort_has_no_banner(tmp_path: Path) -> None:
    comparison, _, _ = compared()
    page = report.write_report(comparison, None, tmp_path, title="real", simulated=False)
    assert "Simulated cohort" not in page.read_text() + (tmp_path / "comparison.md").read_text()
    assert json.loads((tmp_path / "comparison.json").read_text())["simulated"] is False


def test_numbers_agree_between_json_csv_markdown_and_page(written: tuple[Path, dict[str, Any]]) -> None:
    out, comparison = written
    assert json.loads((out / "comparison.json").read_text())["levels"] == comparison["levels"]
    rows = list(csv.DictReader((out / "per_class.csv").open()))
    text, plain = (out / "index.html").read_text(), (out / "comparison.md").read_text()
    for key, level in comparison["levels"].items():
        for method in comparison["methods"]:
            entry = level[method]["macro_auc"]
            assert f"<dd>{report.number(entry['value'])}<small>{report.span(entry)}</small></dd>" in text
            assert f"{report.number(entry['value'])} ({report.number(entry['low'])}, " in plain
            for name, found in level[method]["per_class"].items():
                row = next(r for r in rows if (r["level"], r["class"], r["method"], r["metric"]) == (key, name, method, "auc"))
                assert float(row["value"]) == found["auc"]["value"]
                assert f'data-v="{found["auc"]["value"]}"' in text


def test_report_can_be_made_again_from_its_json(written: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    again = json.loads((written[0] / "comparison.json").read_text())
    report.write_report(again, None, tmp_path, title="A & B <title>")
    assert (tmp_path / "comparison.json").read_text() == (written[0] / "comparison.json").read_text()
    assert (tmp_path / "comparison.md").read_text() == (written[0] / "comparison.md").read_text()


def test_headline_claims_only_what_the_interval_shows() -> None:
    better, tables, arguments = compared()
    assert report.headline(better).startswith("Fine-tuned is better than zero-shot: macro AUC ")
    turned = compare(dict(reversed(tables.items())), **arguments, resamples=200)
    assert report.headline(turned).startswith("Fine-tuned is better than zero-shot: macro AUC ")
    same, _, _ = compared(gain=0.0)
    assert report.verdict(same["levels"]["2"]["difference"]["macro_auc"]) == 0
    assert report.headline(same).startswith("No difference between fine-tuned and zero-shot is shown")
    alone, _, _ = compared(methods=1)
    assert report.headline(alone).startswith("Zero-shot reaches a macro AUC of 0.")


@pytest.mark.parametrize("methods", [1, 3])
def test_any_number_of_methods_makes_a_report(methods: int, tmp_path: Path) -> None:
    comparison, _, _ = compared(methods=methods)
    page = report.write_report(comparison, None, tmp_path, title="t")
    assert Page(page.read_text()).open == []
    assert ("Mean of both" in page.read_text()) == (methods == 3)


def test_a_class_without_any_test_positive_is_drawn_as_a_gap(tmp_path: Path) -> None:
    tables, arguments = world()
    arguments["targets"][1][:, 3] = 0
    comparison = compare(tables, **arguments, resamples=50)
    assert comparison["levels"]["2"]["zero_shot"]["per_class"][NAMES[1][3]]["auc"]["value"] is None
    page = report.write_report(comparison, None, tmp_path, title="t")
    assert "nan" not in page.read_text().lower().replace("provenan", "").replace("resonan", "")


def test_words_for_numbers() -> None:
    assert [report.number(v, True) for v in (0.123, -0.123, -0.001, None)] == ["+0.12", "\u22120.12", "0.00", "\u2013"]
    settings = {"settings": {"resamples": 999}}
    assert report.p_text(0.002, settings) == "≤ 0.002"
    assert report.p_text(0.0421, settings, True) == "= 0.042"
    assert report.p_text(0.5, settings) == "0.50"


def test_terminal_table_fits_a_hundred_columns(written: tuple[Path, dict[str, Any]]) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.format_table(written[1]))
    text = console.export_text()
    entry = written[1]["levels"]["2"]["difference"]["macro_auc"]
    assert (
        f"{report.number(entry['value'], True)} ({report.number(entry['low'], True)}, {report.number(entry['high'], True)})"
        in text
    )


def test_examples_are_what_their_group_says() -> None:
    tables, arguments = world()
    target = arguments["targets"][1]
    found = report.choose_examples(tables, arguments["targets"], arguments["mask"], NAMES, per_group=3)
    assert {example["group"] for example in found} <= set(report.GROUPS)
    for example in found:
        row = int(example["study_id"][1:])
        assert tables["zero_shot"].split[row] == "test"
        assert example["truth"] == [name for name, present in zip(NAMES[1], target[row], strict=True) if present]
        right = [example[method][0][0] in example["truth"] for method in ("zero_shot", "fine_tuned")]
        expected = {"both": [True, True], "corrected": [False, True], "lost": [True, False], "neither": [False, False]}
        assert right == expected[example["group"]]


def test_inline_figures_take_their_colours_from_the_page() -> None:
    comparison, _, _ = compared()
    with figures.style():
        svg = figures.inline_svg(figures.settled(figures.class_forest(comparison)), "x")
    assert "var(--m0)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r"#(?!x-)[0-9a-f]{6}", svg)
    assert ">a1 (" in svg  # text, not outlines


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_in_a_browser(written: tuple[Path, dict[str, Any]], width: int, tmp_path: Path) -> None:
    browser = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page = (written[0] / "index.html").as_uri()
    script = "const d = f.contentDocument.documentElement; document.title = [d.scrollWidth, d.clientWidth].join()"
    wrap = tmp_path / "wrap.html"  # a frame, because a headless window is never narrower than 500 px
    wrap.write_text(f'<iframe id=f src="{page}" style="border:0;width:{width}px;height:900px" onload="{script}"></iframe>')
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width + 600},1000",
    ]
    dom = subprocess.run([*command, wrap.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    measured = re.search(r"<title>(\d+),(\d+)</title>", dom)
    assert measured is not None
    assert int(measured[1]) <= int(measured[2]) <= width
