"""The numbers and bullets of lists in a paragraph: 1. 2), (3) 4- i. ii. a) - * and what only looks like one.

Notable choices:
- At the beginning of a line any number is one of a list; behind a sentence only one that follows the last, or 1: "Fazekas gr. 2. Stable."
- No number that an abbreviation leads to ("ser. 5. The ..."), and none of an ordinal ("3. Ventrikel", "3. Mai").
- Roman numbers are some only where the first stands at the beginning of a line and the second follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hlip.reports.language import Language

_CAPITAL = r"[A-Z\u00c0-\u00d6\u00d8-\u00de]"
_BEHIND = rf"(?:[ \t]+|(?={_CAPITAL}[a-z\u00df-\u00ff]))"  # "2. Mild" or "2.Mild"
_START = re.compile(
    rf"^[ \t]*(?:\(?(?P<number>\d{{1,2}})(?:[.)]{_BEHIND}|-[ \t]+)|[-*\u2022\u2013][ \t]+|[a-z]\)[ \t]+)", re.MULTILINE
)
_WITHIN = re.compile(
    rf"(?:(?<=[.;:!?])[ \t]+|(?<=[^\W\d_][.;:!?]))\(?(?P<number>\d{{1,2}})(?:[.)]{_BEHIND}|-[ \t]+)(?={_CAPITAL})"
)
_FIRST_ROMAN = re.compile(r"^[ \t]*\(?(?P<one>[iI])[.)][ \t]+", re.MULTILINE)
_ROMAN_LINE = re.compile(r"\(?(?:[ivx]{1,4}|[IVX]{1,4})[.)][ \t]+[^\W\d_]{3}")  # not "V. a. Meningeom"
_ROMAN = ("ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x")


def items(block: str, language: Language) -> list[tuple[str, str]]:
    """(mark, text) of a paragraph's items, and before them, without a mark, what stands before the first ("" where that is nothing).

    Marks of one list are equal: "1." of every number with a stop, "a)", "A.", the bullet itself; a space before them is kept.
    """
    found, mark, end = [], "", 0
    for start, after in sorted({*_numbers(block, language), *_romans(block, language)}):
        if start >= end:
            found.append((mark, block[end:start]))
            mark, end = _mark(block[start:after]), after
    return [*found, (mark, block[end:])]


def _mark(written: str) -> str:
    for letters, one in ((r"\d+", "1"), (r"[a-z]+", "a"), (r"[A-Z]+", "A")):
        written = re.sub(letters, one, written)
    return written.rstrip()


def starts_item(line: str, language: Language) -> bool:
    """Whether a line begins with the number or bullet of a list; roman numbers are taken for such."""
    if _ROMAN_LINE.match(line):
        return True
    match = _START.match(line)
    return match is not None and not _is_ordinal(match, language)


def _numbers(block: str, language: Language) -> Iterator[tuple[int, int]]:
    """[start, end) of numbers and bullets, in order."""
    last = 0
    marks = [*_START.finditer(block), *_WITHIN.finditer(block)]
    for mark in sorted(marks, key=re.Match.start):
        number = int(mark["number"] or 0)
        if _is_ordinal(mark, language):
            continue
        if mark.re is _WITHIN and (number not in (1, last + 1) or _is_led_to(mark, language)):
            continue
        last = number
        yield mark.span()


def _is_ordinal(mark: re.Match[str], language: Language) -> bool:
    behind = re.match(r"\w*", mark.string[mark.end() : mark.end() + 40])
    word = behind[0].lower() if behind and mark["number"] else ""
    return word in language.months or word in language.after_ordinals


def _is_led_to(mark: re.Match[str], language: Language) -> bool:
    """Whether an abbreviation stands before a number: "ser. 5. The ..."."""
    word = mark.string[max(0, mark.start() - 40) : mark.start()].rsplit(None, 1)[-1].lower().rstrip(".")
    known = language.abbreviations
    abbreviations = (*known.get("always", ()), *known.get("before_number", ()))
    return mark.string[mark.start() - 1] == "." and mark[0][0].isspace() and word in abbreviations


def _romans(block: str, language: Language) -> list[tuple[int, int]]:
    """[start, end) of roman numbers in order, from the first on; none where no second follows."""
    first = _FIRST_ROMAN.search(block)
    spans = [first.span()] if first else []
    for numeral in _ROMAN if first else ():
        written = numeral.upper() if first and first["one"] == "I" else numeral
        before = r"(?:(?<=[.;:!?])[ \t]+|^[ \t]*)" if written.isupper() else r"(?:[ \t]+|^[ \t]*)"
        following = re.compile(rf"{before}\(?{written}[.)][ \t]+", re.MULTILINE).search(block, spans[-1][1])
        led = block[: following.start()].rsplit(None, 1)[-1:] if following else []
        if not following or (led and led[0].lower() in language.single_letters_after):
            break
        spans.append(following.span())
    return spans if len(spans) > 1 else []
