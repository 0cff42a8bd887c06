"""From a comparison to files: comparison.json, comparison.md, CSV tables, figures, score tables and one self-contained index.html.

Notable choices:
- Everything on the page comes from the comparison, so a report can be made again from `comparison.json` alone; scores are
  only written beside it as tables.
- The page is one file without a network: styles, script and figures are inside. It is complete without JavaScript.
- The one-sentence answer is computed, never written by hand: better only if the interval of the paired difference says so.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from finetune.comparison.answer import answer
from finetune.comparison.examples import choose_examples
from finetune.comparison.figures.catalogue import drawings
from finetune.comparison.figures.house import style
from finetune.comparison.figures.svg import inline_svg, save, settled
from finetune.comparison.page import html
from finetune.comparison.tables import format_table, markdown
from finetune.comparison.tidy import TABLES, write_tables
from hp2l.comparison.compare import Comparison, Scores, jsonable

__all__ = ["answer", "choose_examples", "compact_json", "format_table", "write_report"]


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
    """Write everything into the folder `out` and return the path of its `index.html`, which comes last.

    All of it is made in a folder beside and moved when it is whole: a fault leaves an earlier report, or nothing, as it was.

    Args:
        comparison: of `hp2l.comparison.compare.compare`, or read back from a `comparison.json`.
        scores: method -> score table, written as `scores_<method>.parquet` where class names are set; or None.
        out: folder, made if missing; files of an earlier report are overwritten.
        title: of the page.
        simulated: overrides the comparison's own flag.
        examples: {study_id, group (a key of `examples.GROUPS`, or any text), truth: [class], sequence, scans: number of scans,
            image: PNG bytes, <method>: [(class, score), ...]}; image, sequence and scans may be missing. In place of `image` what
            `finetune.comparison.pictures.pictured` gives: `rows`, `columns` and `maps`.
        curves: training curves, panels {title, x, xlabel, ylabel, series: {name: [y]}}.
    """
    target = Path(out)
    out = target.resolve().with_name(f".{target.resolve().name}.unfinished")
    shutil.rmtree(out, ignore_errors=True)
    (out / "figures").mkdir(parents=True)
    try:
        _make(comparison, scores, out, title, simulated, examples or [], curves)
        _publish(out, target)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return target / "index.html"


def _make(
    comparison: Comparison,
    scores: Mapping[str, Scores] | None,
    out: Path,
    title: str,
    simulated: bool | None,
    examples: Sequence[Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]] | None,
) -> None:
    """All files of a report, into an empty folder."""
    comparison = {**comparison, "title": title}
    comparison["simulated"] = comparison["simulated"] if simulated is None else simulated
    (out / "comparison.json").write_text(compact_json(comparison), encoding="utf-8")
    (out / "comparison.md").write_text(markdown(comparison), encoding="utf-8")
    write_tables(comparison, out)
    for method, table in (scores or {}).items():
        if table.class_names is not None:
            table.save(out / f"scores_{method}.parquet")
    drawn = {}
    for name, draw in drawings(comparison, curves).items():
        with style():
            wide, narrow = settled(draw(False)), settled(draw(True))
            save(wide, out / "figures", name)
            both = (inline_svg(wide, f"{name}-w"), inline_svg(narrow, f"{name}-n"))
        drawn[name] = Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(*map(Markup, both))
    (out / "index.html").write_text(html(comparison, drawn, examples), encoding="utf-8")


def _publish(made: Path, target: Path) -> None:
    """Move a whole report to its place, over an earlier one; tables that only the earlier one has go, the page comes last."""
    (target / "figures").mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        if not (made / name).exists():
            (target / name).unlink(missing_ok=True)
    files = sorted((path for path in made.rglob("*") if path.is_file()), key=lambda path: path.name == "index.html")
    for path in files:
        path.replace(target / path.relative_to(made))


def compact_json(value: Any) -> str:
    """Indented JSON with lists of plain values on one line, so that a person can read it."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[[^\[\]{}\"]*?\]", lambda found: re.sub(r"\s+", " ", found.group()), text) + "\n"
