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
from finetune.comparison.figures.calibration import calibrated_methods, class_stages, drawn_classes, stages_shown
from finetune.comparison.figures.decision import SCALED, judged_classes, judged_levels, judged_stage
from finetune.comparison.figures.house import COLOURS
from finetune.comparison.figures.tree import LESS_IS_BETTER, measures
from finetune.comparison.findings import sentences
from finetune.comparison.methods_text import methods_paragraphs, setting_words
from finetune.comparison.tables import CHECKS, HEADINGS, alarms, class_rows
from hp2l.comparison.compare import Comparison
from hp2l.comparison.slices import LEAST_STUDIES

TEMPLATE = "template.html.j2"
SYMBOLS = {"ok": "✓", "warning": "!", "leak": "✕", "not checked": "–"}  # noqa: RUF001
"""State of a check -> its sign, so that colour is not all."""
SHORT = ("mean_of", "tree")
"""Parts of the provenance that are too long to read; comparison.json has them."""
FOLDED = {"texts": "prompts", "spread": "settings tried"}
"""Parts that are lists, folded away: name -> what they count."""


def html(comparison: Comparison, drawn: Mapping[str, Markup], examples: Sequence[Mapping[str, Any]]) -> str:
    """The page as one string."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(number=words.number, label=words.method_label, lower_label=words.lower_label)
    environment.globals.update(span=words.span, shown=words.shown, plain_p=words.plain_p)
    environment.globals.update(colours=COLOURS, symbols=SYMBOLS, headings=HEADINGS)
    environment.globals.update(check_names=CHECKS, less_is_better=LESS_IS_BETTER, least_studies=LEAST_STUDIES)
    calibrated, judged, grouped_examples = (
        calibrated_methods(comparison),
        judged_levels(comparison),
        grouped(examples, comparison),
    )
    told = [study for members in grouped_examples.values() for study in members]
    rows = {key: class_rows(comparison, key) for key in comparison["levels"]}
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
        rows=rows,
        daggers={
            key: any(e["threshold_rule"] != "validation" for row in own for e in row["methods"].values())
            for key, own in rows.items()
        },
        measures=measures(comparison) if comparison.get("tree") else {},
        calibrated=calibrated,
        stages=stages_shown(comparison),
        class_stages=class_stages(comparison) if calibrated else [],
        class_counts={"calibration": len(drawn_classes(comparison)), "decision": len(judged_classes(comparison))},
        scaled=SCALED[judged_stage(list(judged.values())[-1])] if judged else "",
        examples=grouped_examples,
        mapped=any(study["maps"] for study in told),
        pictured=any(study["rows"] or study["image"] for study in told),
        methods_paragraphs=methods_paragraphs(comparison),
        provenance=provenance_rows(comparison["provenance"]),
    )


def provenance_rows(provenance: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str, list[str]]]:
    """Nested provenance as (dotted name, text, lines folded away behind it) rows."""
    rows: list[tuple[str, str, list[str]]] = []
    for key, value in provenance.items():
        name = f"{prefix}{key}"
        if key in SHORT:
            parts = ", ".join(value) if isinstance(value, Mapping) else f"{len(value)} entries"
            rows.append((name, f"{parts}: see comparison.json", []))
        elif key in FOLDED and isinstance(value, (list, tuple)):
            lines = [setting_line(entry) if isinstance(entry, Mapping) else str(entry) for entry in value]
            rows.append((name, f"{len(value)} {FOLDED[key]}", lines))
        elif isinstance(value, Mapping):
            rows += provenance_rows(value, f"{name}.")
        else:
            text = ", ".join(map(_plain, value)) if isinstance(value, (list, tuple)) else _plain(value)
            rows.append((name, text, []))
    return rows


def setting_line(setting: Mapping[str, Any]) -> str:
    """A prompt setting that was tried, with its macro AUC of each level on validation and on test."""
    areas = {split: " / ".join(map(words.number, setting[split])) for split in ("val", "test") if split in setting}
    return f"{setting_words(setting)}: " + ", ".join(f"{split} {text}" for split, text in areas.items())


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
