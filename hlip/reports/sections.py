"""A raw radiology report -> its sections.

A header stands at the beginning of a line, up to its colon or the end of the line, in any letters, bold, underlined or numbered; or,
with a colon, behind a sentence. Which words are headers is data (configs/language).
"""

from __future__ import annotations

import re
from functools import lru_cache

from hlip.reports.language import Language, english

_TAG = re.compile(r"</?(?:b|strong|i|em|u|p|h[1-6]|div|span|li|ul|ol)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_BREAK = re.compile(r"<br\s*/?>|</(?:p|div|h[1-6]|li)>", re.IGNORECASE)


def sections(report: str, language: Language | None = None) -> dict[str, str]:
    """Section name (lower case, "" before the first header) -> text, in order; a repeated header continues its section."""
    own_line, inline = _patterns(language or english())
    text = inline.sub(lambda match: f"\n{match['name']}: ", _normal(report))
    found: dict[str, str] = {}
    name, start = "", 0
    for match in [*own_line.finditer(text), None]:
        part = text[start : match.start() if match else len(text)].strip()
        if part:
            found[name] = f"{found[name]}\n{part}" if name in found else part
        if match:
            name, start = re.sub(r"\s+", " ", match["name"] or match["bare"]).lower(), match.end()
    return found


@lru_cache(maxsize=16)
def _patterns(language: Language) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Headers at the beginning of a line, and those behind a sentence."""
    names = sorted((name for kind in language.headers.values() for name in kind), key=len, reverse=True)
    spelled = _escaped(names)
    capitals = "|".join(map(str.upper, spelled))
    lead = r"^(?:[*#_=>\[ ]|\(?\d{1,2}[.)]|[IVX]{1,4}\.){0,12}"
    mark = r" ?[\])]? ?[*_=]{0,6} ?"
    remark = r"(?: ?\([^()\n]{1,60}\)(?=[*_ ]{0,6}:))?"  # FINDINGS (MRI of the brain):
    ends = r"(?::[ *_]*|$)| [-\u2013\u2014] "
    own = rf"{lead}(?P<name>(?:{'|'.join(spelled)})s?)(?![^\W_]){remark}{mark}(?:{ends})"
    # in capitals, with neither colon nor line of its own: FINDINGS There is ...
    bare = rf"^ ?(?P<bare>(?-i:(?:{capitals})S?)) (?=(?-i:[A-Z][a-z]+[ ,]))"
    titles = "|".join([capitals, *spelled, *map(_title, spelled)])
    behind = rf"(?<=[.!?])(?<!^\d\.)(?<!^\d\d\.) [*_]{{0,6}}(?P<name>(?:{titles})[sS]?) ?[*_]{{0,6}}:[ *_]*"
    return re.compile(f"{own}|{bare}", re.IGNORECASE | re.MULTILINE), re.compile(behind, re.MULTILINE)


def _escaped(names: list[str]) -> list[str]:
    return [re.escape(name).replace("\\ ", " ") for name in names]


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _normal(report: str) -> str:
    """Line ends of one kind, single spaces (patterns that meet long runs of them would take long), no marks of HTML."""
    text = re.sub(r"[ \t\u00a0]+", " ", report).replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    return _TAG.sub("", _BREAK.sub("\n", text)) if "<" in text else text
