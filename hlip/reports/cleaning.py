"""A report and a `ReportSpec` -> the sentences that are kept, and why the others are not."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hlip.reports.language import Language
from hlip.reports.spec import ReportSpec
from hlip.reports.text.resume import BEFORE, resumed
from hlip.reports.text.sections import sections, without_tags
from hlip.reports.text.sentences import Sentence, led_sentences

_LONGEST = 500  # characters of a sentence in which boilerplate is looked for
_LONGEST_LINE = 150  # characters of a line that may be boilerplate as a whole
_ESCAPED = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")


@dataclass(frozen=True)
class Line:
    """One sentence of a report and what became of it."""

    section: str
    """Its header, lower case; "" before the first, and where sentences were given."""
    sentence: str
    """As it is written, or as unescaped."""
    text: str
    """As it is kept; "" where it is left out."""
    reason: str = ""
    """Why it is left out: `section`, `boilerplate GROUP`, `leave_out`, `token`, `empty` (nothing was left of it, or it has no word)."""
    lead: str = ""
    """The sentence that leads the list of which this one is an item."""


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
    return not (spec.sections or spec.boilerplate or spec.leave_out or spec.unescape) and spec.tokens == "keep"


def lines(report: str, sentences: Sequence[str], spec: ReportSpec) -> list[Line]:
    """Every sentence of a study, in order, with what became of it."""
    language = spec.patterns
    if spec.unescape:
        report, sentences = unescaped(report), [unescaped(sentence).strip() for sentence in sentences]
    if sentences:
        return [_line("", Sentence(sentence), spec) for sentence in sentences]
    found = list(_blocks(report, spec))
    chosen = {kind for _, kind, _ in found if not spec.sections or set(kind) & set(spec.sections)}
    if not chosen and spec.otherwise == "whole":
        kinds = {kind for _, kind, _ in found}
        chosen = {()} if () in kinds else kinds
    told: list[Line] = []
    for name, kind, text in found:
        if kind not in chosen:
            told += [Line(name, sentence.text, "", "section", sentence.lead) for sentence in led_sentences(text, language)]
            continue
        for part, reason in _parts(text, spec):
            if reason:
                told.append(Line(name, part, "", reason))
            else:
                told += [
                    _line(name, sentence, spec) if sentence.has_words else Line(name, sentence.text, "", "empty")
                    for sentence in led_sentences(part, language)
                ]
    return told


def _blocks(report: str, spec: ReportSpec) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(header, kinds, text) of what stands together in a report.

    Text before the first header counts as findings where no header says findings: IMPRESSION often stands alone below it. An addendum may
    correct findings and impression, and counts as both.
    """
    language = spec.patterns
    found = [(name, language.kind_of(name), text) for name, text in sections(report, language).items()]
    has_findings = any("findings" in kind for _, kind, _ in found)
    parts = {name: resumed(text, language) for name, kind, text in found if spec.sections and kind and set(kind) <= BEFORE}
    has_parts = has_findings or any(part.kind == "findings" for own in parts.values() for part in own)
    for name, kind, text in found:
        if "addendum" in kind:
            yield name, ("findings", "impression", *kind), text
        elif name not in parts:
            yield name, ("findings",) if not name and not has_findings else kind, text
        for part in parts.get(name, ()):
            if part.kind == "section":
                yield name, kind, part.text
            else:
                is_findings = part.kind == "findings" or not has_parts
                yield part.label, ("findings",) if is_findings else kind, part.text


def unescaped(text: str) -> str:
    """A text without tags and marks of HTML for characters, with line breaks for those of HL7, and without U+FFFD: what stood there is lost."""
    text = without_tags(_ESCAPED.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text)
    if "\ufffd" not in text:
        return text
    return re.sub(r"\ufffd+", " ", re.sub(r"(?<=\w)\ufffd+(?=\w)", "", text))


def _parts(text: str, spec: ReportSpec) -> Iterator[tuple[str, str]]:
    """(text, why it is left out) of a section: lines that are boilerplate as a whole, and what stands between them.

    A name under a report has no full stop before it; as a sentence it would be one with the last of the report.
    """
    groups = _whole_lines(spec)
    between: list[str] = []
    for line in text.split("\n") if groups else [text]:
        short = len(line) <= _LONGEST_LINE
        reason = next((group for group, pattern in groups if short and pattern.search(line.strip())), "")
        if reason:
            yield "\n".join(between), ""
            yield line.strip(), reason
            between = []
        else:
            between.append(line)
    yield "\n".join(between), ""


def _line(section: str, sentence: Sentence, spec: ReportSpec) -> Line:
    text, reason = _kept(sentence.text, spec)
    return Line(section, sentence.text, text, reason, sentence.lead)


def _kept(sentence: str, spec: ReportSpec) -> tuple[str, str]:
    """(a sentence as it is kept, why it is left out)."""
    for group, pattern in _left_out(spec):
        if pattern.search(sentence[:_LONGEST]):
            return "", group
    text = sentence
    if spec.tokens != "keep" and spec.patterns.tokens:
        token, led = _tokens(spec.patterns)
        if token.search(sentence):
            if spec.tokens == "leave_out":
                return "", "token"
            text = _tidy(token.sub(" ", led.sub(" ", sentence)))
    return text, "" if text else "empty"


def _tidy(text: str) -> str:
    """What is left of a sentence, with no space before its stop; nothing where no two words are left."""
    text = re.sub(r"\(\s*\)|\[\s*\]", " ", text)
    text = re.sub(r"\s+([.,;:!?)])", r"\1", re.sub(r"\s+", " ", text)).strip(" ,;:-")
    text = re.sub(r"([,;:])[,;:.]+", r"\1", text)
    return text[:1].upper() + text[1:] if len(re.findall(r"[^\W\d_]{2,}", text)) >= 2 else ""


@lru_cache(maxsize=64)
def _left_out(spec: ReportSpec) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(_compiled(spec))


@lru_cache(maxsize=64)
def _whole_lines(spec: ReportSpec) -> tuple[tuple[str, re.Pattern[str]], ...]:
    known = spec.patterns.boilerplate_lines
    return tuple(
        (f"boilerplate {group}", re.compile("|".join(f"(?:{each})" for each in known[group])))
        for group in spec.boilerplate
        if group in known
    )


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
    heads = "|".join(language.token_heads) or "(?!)"
    leads = "|".join(re.escape(word) for word in sorted(language.token_leads, key=len, reverse=True)) or "(?!)"
    return (
        re.compile(token, re.IGNORECASE),
        re.compile(rf"(?:(?<!\w)(?:{leads})\s){{0,4}}(?:{token})(?!\s+(?:{heads}))", re.IGNORECASE),
    )
