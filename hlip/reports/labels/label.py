"""`hlip label`: labels of a cohort from its reports, by rule, with the evidence of each for a person to audit.

Agreement with the labels of 2,400 simulated reports (`hlip simulate --studies 2400 --seed 1`, tree brain_mri; the command prints it wherever
labels are given), means of the classes of levels 1 / 2 / 3: precision 1.000 / 1.000 / 1.000, recall 0.989 / 0.982 / 0.981, F1
0.994 / 0.991 / 0.990, Cohen's kappa 0.991 / 0.989 / 0.989; with every name taken as there, whatever the cues say, F1 is
0.688 / 0.801 / 0.777. Lowest recall: mild cognitive
impairment 0.82 ("findings may reflect ..." is uncertain), acute hemorrhage 0.93. That is a ceiling: simulated reports name nearly every
finding in the taxonomy's words and negate in few ways.

Nearer to real text, on which rules do worse: of 50 hard sentences written after the rules 36 were judged right before any cue was added for
them. Of the 36 that are plainly there or not 27 were right; negspaCy 1.1 (clinical terms) had 28, has no uncertainty or history, and brings 360
MB of libraries: it is not used. Of 30 more (third_held_out_cues.txt in the tests), written before cues were mended for others, 18 are
judged right. Of 24 made-up reports in English and German (held_out_reports.yaml) 18 were read right in every class when first mined,
59 of 66 classes; two cues were added for two of the others.

What comes of it is a starting point: a report names what its author looked for, and rules read it no better than that.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from hlip.files.folders import write_atomically
from hlip.reports.foreign import foreign
from hlip.reports.labels.agreement import Agreement, agreement, mean
from hlip.reports.labels.cues import NEGATED, PRESENT
from hlip.reports.labels.mining import COUNT_AS, Mention, Miner, labels_of, states
from hlip.reports.spec import ReportSpec
from hlip.study import Study, read_manifest, write_manifest
from hlip.taxonomy import Taxonomy

SOURCE = "labels_from"
"""Field of a manifest line that says that its labels were mined."""
EVIDENCE = ("study_id", "class", "state", "study_state", "label", "differs", "term", "cue", "section", "sentence")
_MEASURES = ("precision", "recall", "f1", "kappa")


class LabelError(ValueError):
    """Labels cannot be mined as asked; the message says why."""


@dataclass(frozen=True)
class Labelled:
    """What mining did."""

    manifest: Path
    evidence: Path
    agreement_file: Path | None
    """Where given labels were there to compare with."""
    kept: int
    """Studies that keep the labels they had."""
    mined: int
    unlabelled: int
    without_report: int
    """Of those unlabelled."""
    mentions: dict[str, int]
    """State -> names found."""
    compared: int
    """Studies with given labels and a report."""
    agreement: tuple[Agreement, ...] = ()
    note: str = ""
    """Of reports that look as if they were in another language."""

    def __str__(self) -> str:
        found = ", ".join(f"{state} {count}" for state, count in self.mentions.items()) or "none"
        lines = [
            f"{self.manifest}: labels mined for {self.mined} studies, kept as given for {self.kept}, none for {self.unlabelled} "
            f"({self.without_report} without a report)",
            f"{self.evidence}: names of classes found: {found}",
        ]
        if self.agreement:
            lines += [
                f"agreement with the given labels of {self.compared} studies ({self.agreement_file}):",
                *_table(self.agreement),
            ]
        lines += [self.note] if self.note else []
        lines.append("mined labels are a starting point: read some of the evidence before you train on them")
        return "\n".join(lines)


def label(
    manifest: str | Path,
    taxonomy: Taxonomy,
    out: str | Path,
    *,
    spec: ReportSpec | None = None,
    uncertain: str = "negative",
    overwrite: bool = False,
    progress: bool = True,
) -> Labelled:
    """Write OUT, the manifest with mined labels where it had none, OUT's .evidence.csv, and .agreement.csv if labels were given.

    Args:
        spec: which sentences are read; by default findings, impression and addenda without boilerplate.
        uncertain: an uncertain class counts as `negative`, `positive`, or leaves its study `unlabelled`.
        overwrite: mined labels replace given ones; a study about which mining says nothing keeps its own all the same.
        progress: show a bar.

    Raises:
        LabelError: OUT is the manifest itself, or `uncertain` is none of the three.
        ManifestError, TaxonomyError: of the manifest and of labels given in it.
    """
    manifest, out = Path(manifest), Path(out)
    if uncertain not in COUNT_AS:
        raise LabelError(f"uncertain: '{uncertain}' is none of {', '.join(COUNT_AS)}")
    if os.path.abspath(manifest) == os.path.abspath(out):
        raise LabelError(f"{out}: is the manifest itself; name another file, so that what was given stays")
    studies = read_manifest(manifest)
    miner = Miner(taxonomy, spec)
    shown = tqdm(studies, unit="study", disable=not progress)
    found = [miner.mentions(study.report, study.sentences) for study in shown]
    mined = [labels_of(states(mentions), taxonomy, uncertain) for mentions in found]
    compared = [place for place, study in enumerate(studies) if _is_given(study) and _has_report(study)]
    rows = _compare(studies, mined, compared, taxonomy)

    new = [_relabelled(study, labels, overwrite) for study, labels in zip(studies, mined, strict=True)]
    write_manifest(new, out)
    evidence = out.with_suffix(".evidence.csv")
    _write_csv(evidence, EVIDENCE, _evidence(new, found))
    table = out.with_suffix(".agreement.csv") if rows else None
    if table:
        columns = ("level", "class", "both", "mined_only", "given_only", "neither", *_MEASURES)
        _write_csv(table, columns, (_agreement_row(row) for row in rows))
    return Labelled(
        out, evidence, table,
        kept=sum(_is_given(study) for study in new),
        mined=sum(study.labels is not None and SOURCE in study.extra for study in new),
        unlabelled=sum(study.labels is None for study in new),
        without_report=sum(study.labels is None and not _has_report(study) for study in new),
        mentions=dict(Counter(mention.state for mentions in found for mention in mentions).most_common()),
        compared=len(compared),
        agreement=tuple(rows),
        note=foreign(studies, miner.spec.patterns).note,
    )  # fmt: skip


def _is_given(study: Study) -> bool:
    """Whether a study has labels that were not mined by an earlier run."""
    return study.labels is not None and SOURCE not in study.extra


def _has_report(study: Study) -> bool:
    return bool(study.report.strip() or study.sentences)


def _compare(
    studies: Sequence[Study], mined: Sequence[tuple[str, ...] | None], compared: Sequence[int], tree: Taxonomy
) -> list[Agreement]:
    if not compared:
        return []
    given = [studies[place].labels or () for place in compared]
    names = [studies[place].study_id for place in compared]
    return agreement(given, [mined[place] for place in compared], tree, names=names)


def _relabelled(study: Study, labels: tuple[str, ...] | None, overwrite: bool) -> Study:
    """The study with mined labels, if it may have them; labels mined by an earlier run are mined again."""
    if _is_given(study) and not (overwrite and labels is not None):
        return study
    extra = {key: value for key, value in study.extra.items() if key != SOURCE}
    return replace(study, labels=labels, extra=extra if labels is None else extra | {SOURCE: "report"})


def _evidence(studies: Sequence[Study], found: Sequence[Sequence[Mention]]) -> Iterator[dict[str, str]]:
    """One row a name found: `label` says whether the study now has that very label, `differs` whether sentences disagree on it."""
    for study, mentions in zip(studies, found, strict=True):
        overall = states(mentions)
        said: dict[str, set[str]] = {}
        for mention in mentions:
            said.setdefault(mention.name, set()).add(mention.state)
        for mention in mentions:
            yield {
                "study_id": study.study_id,
                "class": mention.name,
                "state": mention.state,
                "study_state": overall[mention.name],
                "label": "" if study.labels is None else "yes" if mention.name in study.labels else "no",
                "differs": "yes" if {PRESENT, NEGATED} <= said[mention.name] else "",
                "term": mention.term,
                "cue": mention.cue,
                "section": mention.section,
                "sentence": mention.sentence,
            }


def _agreement_row(row: Agreement) -> dict[str, object]:
    counts = {name: getattr(row, name) for name in ("both", "mined_only", "given_only", "neither")}
    return {"level": row.level, "class": row.name} | counts | {name: f"{getattr(row, name):.4f}" for name in _MEASURES}


def _write_csv(file: Path, columns: Sequence[str], rows: Iterator[dict[str, str]] | Iterator[dict[str, object]]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(file, text.getvalue().encode())


def _table(rows: Sequence[Agreement]) -> list[str]:
    """The agreement as lines of text; - where a measure is not defined."""
    width = max(len(row.name) for row in rows)
    lines = [f"  {'level':5}  {'class':{width}}  {'given':>6}  {'mined':>6}  " + "  ".join(f"{name:>9}" for name in _MEASURES)]
    for level in sorted({row.level for row in rows}):
        own = [row for row in rows if row.level == level]
        for row in own:
            counts = f"{row.both + row.given_only:6}  {row.both + row.mined_only:6}"
            lines.append(f"  {level:<5}  {row.name:{width}}  {counts}  " + _numbers([getattr(row, name) for name in _MEASURES]))
        lines.append(f"  {level:<5}  {'mean':{width}}  {'':6}  {'':6}  " + _numbers([mean(own, name) for name in _MEASURES]))
    return lines


def _numbers(values: Sequence[float]) -> str:
    return "  ".join(f"{value:9.3f}" if value == value else f"{'-':>9}" for value in values)
