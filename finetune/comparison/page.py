"""The report as one self-contained page: a comparison and its drawn figures in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from finetune.comparison import words
from finetune.comparison.answer import headline, statements
from finetune.comparison.examples import grouped
from finetune.comparison.figures.calibration import WORDS as STAGES
from finetune.comparison.figures.calibration import calibrated_methods
from finetune.comparison.figures.house import COLOURS
from finetune.comparison.figures.tree import LESS_IS_BETTER, measures
from finetune.comparison.findings import sentences
from finetune.comparison.methods_text import methods_paragraph
from finetune.comparison.tables import CHECKS, HEADINGS, alarms, class_rows
from hp2l.comparison.compare import Comparison
from hp2l.comparison.slices import LEAST_STUDIES

TEMPLATE = "template.html.j2"
SYMBOLS = {"ok": "✓", "warning": "!", "leak": "✕", "not checked": "–"}  # noqa: RUF001
"""State of a check -> its sign, so that colour is not all."""
SHORT = ("spread", "texts", "mean_of", "tree")
"""Parts of the provenance that are too long to read; comparison.json has them."""


def html(comparison: Comparison, drawn: Mapping[str, Markup], examples: Sequence[Mapping[str, Any]]) -> str:
    """The page as one string."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(number=words.number, label=words.method_label, lower_label=words.lower_label)
    environment.globals.update(span=words.span, verdict=words.verdict, colours=COLOURS, symbols=SYMBOLS, headings=HEADINGS)
    environment.globals.update(check_names=CHECKS, stages=STAGES, less_is_better=LESS_IS_BETTER, least_studies=LEAST_STUDIES)
    return environment.get_template(TEMPLATE).render(
        c=comparison,
        head=headline(comparison),
        more=statements(comparison),
        said=sentences(comparison),
        checks=comparison.get("checks") or [],
        alarms=alarms(comparison),
        reference=words.reference_of(comparison),
        others=words.others_of(comparison),
        p=lambda value, relation=False: words.p_text(value, comparison, relation),
        drawn=drawn,
        rows={key: class_rows(comparison, key) for key in comparison["levels"]},
        measures=measures(comparison) if comparison.get("tree") else {},
        calibrated=calibrated_methods(comparison),
        examples=grouped(examples, comparison),
        methods_paragraph=methods_paragraph(comparison),
        provenance=provenance_rows(comparison["provenance"]),
    )


def provenance_rows(provenance: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as (dotted name, text) rows; what is too long is told by its size."""
    rows: list[tuple[str, str]] = []
    for key, value in provenance.items():
        if key in SHORT:
            rows.append(
                (
                    f"{prefix}{key}",
                    f"{', '.join(value) if isinstance(value, Mapping) else f'{len(value)} entries'}: see comparison.json",
                )
            )
        elif isinstance(value, Mapping):
            rows += provenance_rows(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            rows.append((f"{prefix}{key}", text))
    return rows
