"""Statements that a whole study is normal, and what takes their meaning from them.

Notable choices:
- A statement counts for the study alone, not for another part of the body: a sentence that names regions (configs/language) and none of
  those that the tree's names speak of says nothing of a tree for the brain.
- Words in the statement itself (not_normal: "no acute abnormality") or beside it (normal_but: "otherwise normal") leave open whether the study
  is normal: a disease may stand before them that the tree does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hlip.reports.labels.words import Word, normal
from hlip.reports.language import Language

_LONGEST = 500  # characters of a sentence in which a statement is looked for


class Statements:
    """What a language says of normal studies.

    Args:
        language: whose patterns.
        vocabulary: words of the tree's names, as names are compared.
    """

    def __init__(self, language: Language, vocabulary: Iterable[str]) -> None:
        self._statements, self._inside, self._beside = (
            [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
            for patterns in (language.normal, language.not_normal, language.normal_but)
        )
        self._neutral = {normal(word, language) for word in language.neutral}
        self._region = {normal(word, language): region for region, named in language.regions.items() for word in named}
        self._own = {self._region[word] for word in vocabulary if word in self._region}

    def find(self, sentence: str, among: list[Word]) -> list[tuple[str, tuple[int, ...]]]:
        """(text, places of its words) of the statements in a sentence."""
        found = []
        for statement in self._statements:
            if match := statement.search(sentence[:_LONGEST]):
                places = [place for place, word in enumerate(among) if match.start() <= word.start and word.end <= match.end()]
                found.append((match[0].strip(" ,;:"), tuple(place for place in places if not among[place].is_mark)))
        return [(text, places) for text, places in found if places]

    def is_whole(self, places: tuple[int, ...], among: list[Word]) -> bool:
        """Whether only neutral words stand within a name: "no significant [diffusion] abnormality" is of less than the study."""
        within = set(range(places[0], places[-1])) - set(places)
        return all(among[place].normal in self._neutral for place in within)

    def doubt(self, sentence: str, among: list[Word], places: tuple[int, ...]) -> str:
        """The words that leave open whether the study is normal, or "".

        Args:
            places: of the statement's words.
        """
        stated = sentence[among[places[0]].start : among[places[-1]].end]
        for patterns, text in ((self._inside, stated), (self._beside, sentence[:_LONGEST])):
            if match := next(filter(None, (pattern.search(text) for pattern in patterns)), None):
                return match[0].strip().lower()
        named = [word for word in among if word.normal in self._region]
        elsewhere = self._own and named and not any(self._region[word.normal] in self._own for word in named)
        return named[0].written if elsewhere else ""
