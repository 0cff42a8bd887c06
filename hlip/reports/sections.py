"""A raw English radiology report -> sections and sentences.

Rules, not a model: a line break ends a sentence only before a list item, a header or a blank line, since reports are often
wrapped; a full stop ends one only where the next word begins anew and the word before is no abbreviation, initial or number.
"""

from __future__ import annotations

import re

HEADERS = (
    "examination", "exam", "study", "procedure", "indication", "clinical indication", "clinical information",
    "clinical history", "history", "reason for exam", "reason for examination", "technique", "protocol", "comparison",
    "contrast", "findings", "result", "observations", "impression", "conclusion", "summary", "opinion", "interpretation",
    "recommendation", "addendum",
)  # fmt: skip
ABBREVIATIONS = (
    "dr", "mr", "mrs", "ms", "prof", "st", "vs", "cf", "ca", "approx", "resp", "fig", "no", "nos", "incl", "excl", "max", "min",
    "e.g", "i.e", "a.m", "p.m", "etc", "ser", "im", "img", "seq", "lt", "rt", "bilat", "diam", "temp",
)  # fmt: skip

_NAMES = "|".join(sorted(HEADERS, key=len, reverse=True))
_HEADER = re.compile(  # a header's own line, or the beginning of one up to its colon; marks of bold text are passed over
    rf"^[ \t]*(?:[*#_]+[ \t]*)?(?P<name>(?:{_NAMES})s?)[ \t]*[*_]*[ \t]*(?::[ \t*_]*|$)", re.IGNORECASE | re.MULTILINE
)
_INLINE = re.compile(rf"(?<=[.!?])[ \t]+(?P<name>(?:{_NAMES.upper()})S?)[ \t]*:[ \t]*")  # in capitals, behind a sentence
_ITEM = re.compile(r"^[ \t]*(?:\(?\d{1,2}[.)][ \t]+|[-*\u2022\u2013][ \t]+|[a-z]\)[ \t]+)", re.MULTILINE)
_INLINE_ITEM = re.compile(r"(?<=[.;:!?])[ \t]+\(?\d{1,2}[.)][ \t]+(?=[A-Z])")
_STOP = re.compile(r"(?P<word>\S*?)(?P<stop>[.!?]+)(?P<close>[\"')\]]*)[ \t]+(?=[\"'(\[]?[A-Z0-9])")


def sections(report: str) -> dict[str, str]:
    """Section name (lower case, "" before the first header) -> text, in order; a repeated header continues its section."""
    text = _INLINE.sub(lambda match: f"\n{match['name']}: ", _normal(report))
    found: dict[str, str] = {}
    name, start = "", 0
    for match in [*_HEADER.finditer(text), None]:
        part = text[start : match.start() if match else len(text)].strip()
        if part:
            found[name] = f"{found[name]}\n{part}" if name in found else part
        if match:
            name, start = match["name"].lower(), match.end()
    return found


def split_sentences(report: str) -> list[str]:
    """The sentences of a report in order, headers and list numbers removed, wrapped lines joined. An empty report has none."""
    sentences: list[str] = []
    for text in sections(report).values():
        for block in re.split(r"\n[ \t]*\n", text):
            items = _ITEM.sub("\0", _INLINE_ITEM.sub("\0", block)).split("\0")
            for item in items:
                sentences += _sentences(re.sub(r"\s+", " ", item).strip())
    return [sentence for sentence in sentences if re.search(r"[A-Za-z]{2}", sentence)]


def _normal(report: str) -> str:
    return report.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ")


def _sentences(text: str) -> list[str]:
    """One paragraph on one line -> its sentences."""
    parts, start = [], 0
    for match in _STOP.finditer(text):
        if match["stop"] == "." and _no_end(match["word"], text[match.end() :]):
            continue
        parts.append(text[start : match.end()].strip())
        start = match.end()
    return [part for part in [*parts, text[start:].strip()] if part]


def _no_end(word: str, rest: str) -> bool:
    """Whether a full stop after `word` does not end its sentence."""
    bare = word.lower().lstrip("\"'([")
    if bare in ("no", "min", "max", "im", "ser", "st", "fig", "nos"):  # words of their own unless a number follows
        return rest[:1].isdigit() if bare != "st" else True
    return bare in ABBREVIATIONS or re.fullmatch(r"[A-Z]", word) is not None
