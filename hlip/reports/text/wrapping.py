"""Which line breaks of a paragraph end a sentence, and which are there because the text was wrapped.

Notable choices:
- A break ends a sentence before a list item, before a label where several lines have one, and before a word that begins sentences (No, The).
- Before another capital it does so unless the paragraph looks wrapped: long lines that the next line's first word would not have fitted on,
  and lines that go on in lower case, or a full stop at the end. English writes few words within a sentence with a capital and wants both
  signs, and a full stop within the text or more lines that go on than lines that begin so; German writes its nouns so and is content with
  one. Without a sign it is a list of findings, one a line.
- A line does not end its sentence where it stops within a bracket or at a word that leads on (configs/language: unfinished), nor at a comma,
  but for a comma before a capital that English would not write within a sentence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hlip.reports.language import Language
from hlip.reports.text.lists import starts_item

_NARROW = 50  # characters; text is hardly ever wrapped to less
_HEADER = 20  # characters that may have stood before the first line of a section
# of tables and questions as well: "Infarct | none", "Infarct? No"
_LABEL = re.compile(r"[^\W\d_][^\n:.,;?]{0,40}(?::| \||\?)(?: |$)")
_CAPITAL = re.compile(r"[A-Z\u00c0-\u00d6\u00d8-\u00de][a-z\u00df-\u00ff]")
_STOPPED = re.compile(r"[.!?][\"')\]]*$")
_ANSWER = re.compile(r"(?:[:=|?\u2013-] ?|^)\w+\.?$")  # "Infarct: no", "Infarct? No"; one word alone is no line of wrapped text


@dataclass(frozen=True)
class Layout:
    """How the lines of a paragraph are broken."""

    width: int
    """Characters that a line may have, as far as the lines show."""
    signs: int
    """Of wrapping: a line that goes on in lower case; a stop at the end of the last."""
    table: bool
    """Several lines begin with a label."""
    small: bool
    """No line begins with a capital."""
    stops: bool
    """There is a full stop at the end of a line or within one."""
    numbered: bool
    """A line is numbered 1 and one 2."""

    def fits(self, above: str, below: str) -> bool:
        """Whether the first word below would have had room above: the break was meant."""
        return len(above) + 1 + len(_first(below)) <= self.width


def unwrapped(block: str, language: Language, *, opens: bool = False) -> str:
    """A paragraph with those line breaks alone that end a sentence.

    Args:
        block: without blank lines.
        opens: its first line stood behind a header, which is gone.
    """
    written = [line for line in block.split("\n") if line.strip()]
    lines = [line.strip() for line in written]
    if len(lines) < 2:
        return block.strip()
    layout = _layout(lines, opens, language)
    found = lines[:1]
    for place, below in enumerate(lines[1:]):
        above = lines[place]
        room = " " * _HEADER if opens and not place else ""
        within = " " if written[place + 1][0].isspace() and starts_item(below, language) else ""  # a list within a list
        found.append((f"\n{within}" if _ends(above, below, room, layout, language) else " ") + below)
    return "".join(found)


def _layout(lines: Sequence[str], opens: bool, language: Language) -> Layout:
    pairs = [(above, below) for above, below in itertools.pairwise(lines) if not starts_item(below, language)]
    going_on = [(above, below) for above, below in pairs if below[0].islower() and not _STOPPED.search(above)]
    widest = max(map(len, lines))
    long = [len(above) + len(_first(below)) for above, below in going_on if len(above) > 0.6 * widest]
    stopped = bool(_STOPPED.search(lines[-1]))
    plain = Layout(
        width=min([widest, *long]),
        signs=bool(going_on) + stopped,
        table=sum(_is_label(line) for line in lines) > 1,
        small=all(line[0].islower() for line in lines),
        stops=stopped or any(re.search(r"[.!?] ", f"{line} ") for line in lines),
        numbered=all(any(re.match(rf"\(?{number}[.)-]", line) for line in lines) for number in (1, 2)),
    )
    anew = [below for above, below in pairs if _CAPITAL.match(below) and not _STOPPED.search(above)]
    if len(anew) >= len(going_on) and not language.capital_nouns and not re.search(r"[.!?] ", " ".join(lines)):
        plain = replace(plain, signs=min(plain.signs, 1))
    if widest >= _NARROW or (plain.signs == 2 and not any(plain.fits(*pair) for pair in pairs[opens:])):
        return plain
    return replace(plain, signs=0)


def _ends(above: str, below: str, room: str, layout: Layout, language: Language) -> bool:
    """Whether the break between two lines ends a sentence; `room` is what may have stood above as well."""
    if starts_item(below, language):
        number = below[0].isalnum() and not (layout.numbered and re.match(r"1[.)-]", below))  # perhaps of "grade / 2. No shift"
        return not (number and leads_on(above, language))
    if layout.table and _is_label(below):
        return True
    within = language.capital_nouns or not re.match(r"[^\W\d_][a-z\u00df-\u00ff]", below)  # a capital that a sentence may have
    if above[-1] in ":-/(&+" or (above[-1] == "," and within):
        return False
    first = _first(below)
    begins = first.lower().rstrip(",;:") in language.openers
    if begins and first.istitle():
        return True
    if above.count("(") > above.count(")") or leads_on(above, language):
        return False
    if layout.small:
        return not layout.stops and (begins or layout.fits(above, below))
    if below[0].isdigit() and not re.search(r"[^\W\d_]{4}", below):
        return False
    if not (below[0].isupper() or below[0].isdigit()):
        return False
    return layout.signs < (1 if within else 2) or layout.fits(above + room, below)


def leads_on(line: str, language: Language) -> bool:
    """Whether a line's last word wants another: "with", "grade"; not as an answer, "Infarct: no"."""
    return line.rsplit(None, 1)[-1].lower().rstrip(".") in language.unfinished and not _ANSWER.search(line)


def _is_label(line: str) -> bool:
    match = _LABEL.match(line)
    return match is not None and len(match[0].split()) <= 4


def _first(line: str) -> str:
    return line.split(None, 1)[0]
