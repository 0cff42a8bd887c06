"""Reports that look as if they were in another language than they are read in, by their function words.

Notable choices:
- Words of both languages ("in", "an", "war") count for neither. A report is foreign where another built-in language has more of its own in
  it, or where it is long enough to have some (30 words) and next to none are there (4 %): so French is noticed without a French file.
- It is a note, not a switch: which language is read stays what the user says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from hlip.files.resources import names
from hlip.reports.language import Language
from hlip.study import Study

_WORD = re.compile(r"[^\W\d_]+")
_READ = 3000  # characters of a report that are looked at
_ENOUGH, _FEW = 30, 0.04  # words of a text in which there must be some; the share that is next to none
_LEAST = 2  # function words of another language


@dataclass(frozen=True)
class Foreign:
    """How many reports look as if they were in another language."""

    language: str
    """In which they are read."""
    reports: int
    """Studies with text."""
    foreign: int
    like: dict[str, int]
    """Built-in language -> reports that look like it."""

    @property
    def note(self) -> str:
        """One line for the user; "" where all is well."""
        if not self.foreign:
            return ""
        known = ", ".join(f"{count} like {name}" for name, count in self.like.items())
        remedy = next(iter(self.like), "FILE, one like configs/language/english.yaml,")
        return (
            f"note: {self.foreign} of {self.reports} reports look as if they were not in {self.language} (function words"
            f"{'; ' + known if known else ''}); give --language {remedy} or the spec's `language:`"
        )


def foreign(studies: Iterable[Study], language: Language) -> Foreign:
    """Look at the reports (or the sentences given instead) of studies. A language without function words tells nothing."""
    own, others = _vocabularies(language)
    read = strange = 0
    like: Counter[str] = Counter()
    for study in studies:
        text = study.report or " ".join(study.sentences)
        among = [word.lower() for word in _WORD.findall(text[:_READ])]
        read += bool(among)
        if not among or not own:
            continue
        here = sum(word in own for word in among)
        counts = {
            name: sum(word in known[0] for word in among) - sum(word in known[1] for word in among)
            for name, known in others.items()
        }
        best = max(counts, key=lambda name: counts[name], default="")
        if best and counts[best] > 0 and sum(word in others[best][0] for word in among) >= _LEAST:
            like[best] += 1
            strange += 1
        elif len(among) >= _ENOUGH and here / len(among) < _FEW:
            strange += 1
    return Foreign(language.name, read, strange, dict(like.most_common()))


@lru_cache(maxsize=8)
def _vocabularies(language: Language) -> tuple[frozenset[str], dict[str, tuple[frozenset[str], frozenset[str]]]]:
    """Function words of a language; built-in language -> (those it alone has, those `language` alone has)."""
    own = frozenset(language.function_words)
    others = {}
    for name in names("language"):
        known = frozenset(Language.load(name).function_words)
        if known and Language.load(name).name != language.name:
            others[name] = (known - own, own - known)
    return own, others
