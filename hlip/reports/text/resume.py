"""Where a section that stands before the findings ends, though no known header follows.

Notable choices:
- A label (a word with a colon at a line's start) of an organ begins findings. Which words are such, or belong to the section all the same
  ("Symptoms:"), is data (configs/language: labels).
- An unknown label in capitals or of one word, or a paragraph behind a blank line, ends the section; it is findings where the report has none
  elsewhere. A line that asks ("Evaluate for glioma") is none, nor is one that begins in lower case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hlip.reports.language import Language

BEFORE = frozenset({"examination", "history", "technique", "comparison"})
"""Kinds of section that stand before the findings."""
_LABEL = re.compile(r"^[ *_#>-]{0,6}(?P<label>[^\W\d_][^\n:.,;*]{1,40}?)[ *_]{0,4}:")
_WORDS = 4  # of an unknown label


@dataclass
class Part:
    """Lines of a section that belong together."""

    kind: str
    """`section` (what it was), `findings` or `unknown`."""
    label: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines).strip()


def resumed(text: str, language: Language) -> list[Part]:
    """The parts of a section of a kind in `BEFORE`, in order; labels stay in the text."""
    parts = [Part("section")]
    blank = False
    for line in text.split("\n"):
        if not line.strip():
            blank = True
        elif begun := _begins(line, blank, parts[-1], language):
            parts.append(begun)
        parts[-1].lines.append(line)
        blank = blank and not line.strip()
    return [part for part in parts if part.text]


def _begins(line: str, blank: bool, last: Part, language: Language) -> Part | None:
    """The part that a line begins, if it begins one."""
    match = _LABEL.match(line)
    label = match["label"].strip() if match else ""
    for kind, name in (("findings", "findings"), ("section", "other")):
        if _bare(label) in language.labels.get(name, ()):
            return Part(kind, label.lower())
    if last.kind != "section" or _asks(line, language):
        return None
    if label and (label.isupper() or (label.istitle() and " " not in label)) and len(label.split()) <= _WORDS:
        return Part("unknown", label.lower())
    first = re.search(r"[^\W_]", line)
    return Part("unknown") if blank and last.text and first and not first[0].islower() else None


def _asks(line: str, language: Language) -> bool:
    opening = re.sub(r"^\d{1,3}[ -]", "", line.strip(" *_#>-\u2022").lower())
    return opening.startswith(language.labels.get("asking", ()))


def _bare(label: str) -> str:
    return re.sub(r"\s+", " ", label.lower()).removeprefix("the ")
