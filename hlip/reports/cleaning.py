"""A report and a `ReportSpec` -> the sentences that are kept, and why the others are not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hlip.reports.language import Language
from hlip.reports.sections import sections
from hlip.reports.sentences import sentences_of
from hlip.reports.spec import ReportSpec

_LONGEST = 500  # characters of a sentence in which boilerplate is looked for


@dataclass(frozen=True)
class Line:
    """One sentence of a report and what became of it."""

    section: str
    """Its header, lower case; "" before the first, and where sentences were given."""
    sentence: str
    """As it is written."""
    text: str
    """As it is kept; "" where it is left out."""
    reason: str = ""
    """Why it is left out: `section`, `boilerplate GROUP`, `leave_out`, `token`, `empty` (nothing was left of it)."""


def clean(report: str, sentences: Sequence[str], spec: ReportSpec) -> tuple[str, tuple[str, ...]]:
    """(text, sentences) of a study as a store keeps them. The default spec keeps the report as it is written.

    Args:
        report: raw; headers and line breaks are read.
        sentences: of the manifest, instead of the report's, where it gives them; they belong to no section, so all are candidates.
    """
    kept = tuple(line.text for line in lines(report, sentences, spec) if line.text)
    if keeps_all(spec):
        return report.strip() or " ".join(kept), kept
    return " ".join(kept), kept


def keeps_all(spec: ReportSpec) -> bool:
    """Whether a spec changes nothing of a report."""
    return not (spec.sections or spec.boilerplate or spec.leave_out) and spec.tokens == "keep"


def lines(report: str, sentences: Sequence[str], spec: ReportSpec) -> list[Line]:
    """Every sentence of a study, in order, with what became of it."""
    language = spec.patterns
    if sentences:
        return [_line("", sentence, spec) for sentence in sentences]
    found = sections(report, language)
    kinds = {name: language.kind_of(name) for name in found}
    if "" in kinds and not any("findings" in kind for kind in kinds.values()):
        kinds[""] = ("findings",)  # IMPRESSION often stands alone below findings without a header
    chosen = {name for name, kind in kinds.items() if not spec.sections or set(kind) & set(spec.sections)}
    if not chosen and spec.otherwise == "whole":
        chosen = {name for name, kind in kinds.items() if not kind} or set(found)
    return [
        _line(name, sentence, spec) if name in chosen else Line(name, sentence, "", "section")
        for name, text in found.items()
        for sentence in sentences_of(text, language)
    ]


def _line(section: str, sentence: str, spec: ReportSpec) -> Line:
    for group, pattern in _left_out(spec):
        if pattern.search(sentence[:_LONGEST]):
            return Line(section, sentence, "", group)
    text = sentence
    if spec.tokens != "keep" and spec.patterns.tokens:
        token, led = _tokens(spec.patterns)
        if token.search(sentence):
            if spec.tokens == "leave_out":
                return Line(section, sentence, "", "token")
            text = _tidy(token.sub(" ", led.sub(" ", sentence)))
    return Line(section, sentence, text, "" if text else "empty")


def _tidy(text: str) -> str:
    """What is left of a sentence, with no space before its stop; nothing where no two words are left."""
    text = re.sub(r"\(\s*\)|\[\s*\]", " ", text)
    text = re.sub(r"\s+([.,;:!?)])", r"\1", re.sub(r"\s+", " ", text)).strip(" ,;:-")
    text = re.sub(r"([,;:])[,;:.]+", r"\1", text)
    return text[:1].upper() + text[1:] if len(re.findall(r"[^\W\d_]{2,}", text)) >= 2 else ""


@lru_cache(maxsize=64)
def _left_out(spec: ReportSpec) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(_compiled(spec))


def _compiled(spec: ReportSpec) -> Iterator[tuple[str, re.Pattern[str]]]:
    for group in spec.boilerplate:
        yield (
            f"boilerplate {group}",
            re.compile("|".join(f"(?:{each})" for each in spec.patterns.boilerplate[group]), re.IGNORECASE),
        )
    for each in spec.leave_out:
        yield "leave_out", re.compile(each, re.IGNORECASE)


@lru_cache(maxsize=16)
def _tokens(language: Language) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A token, and a token with the words that lead to it."""
    token = "|".join(f"(?:{each})" for each in language.tokens)
    leads = "|".join(re.escape(word) for word in sorted(language.token_leads, key=len, reverse=True)) or "(?!)"
    return (
        re.compile(token, re.IGNORECASE),
        re.compile(rf"(?:(?<!\w)(?:{leads})\s){{0,4}}(?:{token})", re.IGNORECASE),
    )
