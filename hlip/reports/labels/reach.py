"""How far a negation reaches: up to a comma before a number that measures or counts, or before what is said to stay, and
round what a phrase takes as there.

The words are data (configs/language: reach).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hlip.reports.labels.words import Phrases, Word
from hlip.reports.language import Language


class Reach:
    """Stops of a sentence, by a language's words."""

    def __init__(self, language: Language) -> None:
        self._phrases = Phrases(language.reach, language)
        self._stays = set(language.reach.get("stays", ()))
        self._breaks = set(language.breaks)
        self._articles = set(language.articles)

    def stops(self, among: list[Word], cued: set[int]) -> Iterator[tuple[int, str]]:
        """(word, kind) of commas, of those before a number ("number") or something that stays ("terminator"), of what
        joins a list ("join"), of "presuming" words and of what ends their "phrase".

        Args:
            cued: places of words that belong to cues.
        """
        kinds: dict[int, str] = {}
        inner: set[int] = set()
        for start, end, found in self._phrases.find(among):
            if start not in cued or (found[0] == "joins" and end not in cued):  # "nor", but not "or possibly"
                kinds[start] = found[0]
                inner |= set(range(start, end)) if found[0] == "presuming" else set()
        for place, word in enumerate(among):
            if kinds.get(place) in ("joins", "adds"):
                yield place, "join"
            if word.written == ",":
                yield place, "comma"
                if self._counts(among, place + 1, kinds) and not self._goes_on(among, place + 1, kinds, cued):
                    yield place, "number"
                if self._remains(among, place + 1, kinds, cued):
                    yield place, "terminator"
            elif place in inner:
                if place in kinds:
                    yield place, "presuming"
            elif inner and (place in cued or word.written in self._breaks or kinds.get(place) in ("prepositions", "joins")):
                yield place, "phrase"

    def _counts(self, among: list[Word], first: int, kinds: dict[int, str]) -> bool:
        """Whether words from `first` on measure or count: not one of a list, "2)" or "2.", an ordinal, 0, or "2 days after"."""
        first += first < len(among) and among[first].written in self._articles
        if first >= len(among) or kinds.get(first + 1) == "times":
            return False
        if kinds.get(first) == "counts":
            return True
        digits = re.fullmatch(r"\d+(?:[.,]\d+)?", among[first].written) and float(among[first].written.replace(",", ".")) > 0
        return bool(digits) and [word.written for word in among[first + 1 : first + 2]] not in ([")"], ["."])

    def _remains(self, among: list[Word], first: int, kinds: dict[int, str], cued: set[int]) -> bool:
        """Whether words from `first` on say that something is as it was, or has changed: "no infarct, [glioma stable since 2019]"."""
        for place in range(first, len(among)):
            if among[place].written in self._stays:
                ends = place + 1 == len(among) or among[place + 1].is_mark or kinds.get(place + 1) == "prepositions"
                return ends and place > first
            if among[place].is_mark or place in cued or kinds.get(place) == "joins":
                return False
        return False

    def _goes_on(self, among: list[Word], first: int, kinds: dict[int, str], cued: set[int]) -> bool:
        """Whether a list goes on behind a number, "5 mm midline shift or infarct": up to a preposition, cue or comma, or right behind that."""
        for place in range(first, len(among)):
            if among[place].written == ",":
                return self._joins(among, place + 1, kinds)
            if self._joins(among, place, kinds):
                return True
            if place in cued or kinds.get(place) == "prepositions":
                return False
        return False

    def _joins(self, among: list[Word], place: int, kinds: dict[int, str]) -> bool:
        """Whether a word joins two findings, not two numbers: "2 or more"."""
        counts = place + 1 < len(among) and (among[place + 1].written.isdigit() or kinds.get(place + 1) == "counts")
        return kinds.get(place) == "joins" and not counts
