"""`hlip reports`: what a `ReportSpec` keeps of the reports of a cohort and what it leaves out, before anything is prepared."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hlip.reports.cleaning import lines
from hlip.reports.foreign import foreign
from hlip.reports.spec import ReportSpec
from hlip.study import read_manifest

COLUMNS = ("study_id", "section", "kept", "reason", "sentence", "text")


@dataclass(frozen=True)
class Preview:
    """Counts over a cohort."""

    studies: int
    without_report: int
    emptied: int
    """Studies with a report of which nothing is kept."""
    kept: int
    changed: int
    """Sentences kept in part."""
    left_out: dict[str, int]
    """Reason -> sentences."""
    sections: dict[str, int]
    """Header -> studies that have it."""
    examples: dict[str, tuple[str, ...]]
    """Reason -> the most frequent sentences, with their counts."""
    note: str = ""
    """Of reports that look as if they were in another language."""

    def __str__(self) -> str:
        headers = ", ".join(f"{name or '(before the first header)'} {count}" for name, count in self.sections.items()) or "none"
        text = [
            f"{self.studies} studies, {self.without_report} without a report, {self.emptied} of whose report nothing is kept",
            f"sections: {headers}",
            f"sentences kept: {self.kept} ({self.changed} of them changed)",
        ]
        for reason, count in self.left_out.items():
            text += [f"left out, {reason}: {count}", *(f"    {example}" for example in self.examples[reason])]
        return "\n".join([*text, *filter(None, [self.note])])


def preview(manifest: str | Path, spec: ReportSpec, table: str | Path | None = None, examples: int = 5) -> Preview:
    """Read all reports of a manifest by a spec.

    Args:
        table: a CSV to write, one row a sentence.
        examples: most frequent sentences shown for each reason.

    Raises:
        ManifestError: of the manifest.
    """
    studies = read_manifest(manifest)
    rows: list[dict[str, str]] = []
    headers: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    without = emptied = 0
    for study in studies:
        found = lines(study.report, study.sentences, spec)
        headers.update({line.section for line in found})
        without += not found
        emptied += bool(found) and not any(line.text for line in found)
        for line in found:
            if line.reason:
                reasons.setdefault(line.reason, Counter())[line.sentence] += 1
            rows.append({
                "study_id": study.study_id, "section": line.section, "kept": "yes" if line.text else "no", "reason": line.reason,
                "sentence": line.sentence, "text": line.text,
            })  # fmt: skip
    if table:
        with Path(table).open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    kept = [row for row in rows if row["text"]]
    return Preview(
        len(studies), without, emptied, len(kept), sum(row["text"] != row["sentence"] for row in kept),
        {reason: count.total() for reason, count in sorted(reasons.items())},
        dict(headers.most_common()),
        {reason: tuple(f"{n} x {text}" for text, n in count.most_common(examples)) for reason, count in reasons.items()},
        foreign(studies, spec.patterns).note,
    )  # fmt: skip
