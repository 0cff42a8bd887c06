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
from finetune.comparison.tidy import write_tables
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
    """Write everything into the folder `out` and return the path of its `index.html`, which is written last.

    Args:
        comparison: of `hp2l.comparison.compare.compare`, or read back from a `comparison.json`.
        scores: method -> score table, written as `scores_<method>.parquet` where class names are set; or None.
        out: folder, made if missing; files of an earlier report are overwritten.
        title: of the page.
        simulated: overrides the comparison's own flag.
        examples: {study_id, group (a key of `examples.GROUPS`, or any text), truth: [class], sequence, scans: number of scans,
            image: PNG bytes, <method>: [(class, score), ...]}; image, sequence and scans may be missing.
        curves: training curves, panels {title, x, xlabel, ylabel, series: {name: [y]}}.
    """
    out = Path(out)
    (out / "figures").mkdir(parents=True, exist_ok=True)
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
    page = out / "index.html"
    page.write_text(html(comparison, drawn, examples or []), encoding="utf-8")
    return page


def compact_json(value: Any) -> str:
    """Indented JSON with lists of plain values on one line, so that a person can read it."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[[^\[\]{}\"]*?\]", lambda found: re.sub(r"\s+", " ", found.group()), text) + "\n"
