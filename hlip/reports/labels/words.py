"""A sentence as words: what cues and names of diseases are looked up in."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache

from hlip.reports.language import Language

_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+(?:['\u2019]\w+)?|[^\w\s]")
_CHOICE = re.compile(r"\(([^()]*)\)")
_INSIDE = re.compile(r"(?<=\w)[-/](?=\w)")  # "extra-axial" and "extra axial" are the same words, h/o is h and o


@dataclass(frozen=True)
class Word:
    """One word or mark of a sentence."""

    written: str
    """Lower case, as cues are compared."""
    normal: str
    """One spelling, singular, synonyms joined: as names are compared."""
    start: int
    """Characters of the sentence, [start, end)."""
    end: int

    @property
    def is_mark(self) -> bool:
        return not self.written[0].isalnum()


def words(text: str, language: Language) -> list[Word]:
    """The words and marks of a text in order; hyphens and slashes inside a word part it, but not from a negating prefix."""
    if language.negating_prefixes:
        text = _prefixed(language).sub(lambda match: f"{match[0][:-1]}_", text)
    text = _INSIDE.sub(" ", text).replace("|", ":")  # of a table: "Infarct | none"
    return [
        Word(match[0].lower().replace("\u2019", "'"), normal(match[0], language), match.start(), match.end())
        for match in _WORD.finditer(text)
    ]


@lru_cache(maxsize=16)
def _prefixed(language: Language) -> re.Pattern[str]:
    """A negating prefix, which ends with the mark that parts it: a "non-hemorrhagic" infarct names no hemorrhage."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, language.negating_prefixes))})(?=\w)", re.IGNORECASE)


def normal(word: str, language: Language) -> str:
    """A word as names are compared."""
    return _normal(word.lower(), language)


@lru_cache(maxsize=100_000)
def _normal(word: str, language: Language) -> str:
    word = re.sub(r"['\u2019]s?$", "", word)
    for old, new in language.spellings.items():
        word = word.replace(old, new)
    word = language.same.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-2] if word.endswith(("sses", "xes", "ches", "shes")) else word[:-1]
    return language.same.get(word, word)


def expanded(phrase: str) -> list[str]:
    """The phrases that one with choices stands for: "no (new |)mass" is "no new mass" and "no mass"."""
    parts = [part.split("|") if place % 2 else [part] for place, part in enumerate(_CHOICE.split(phrase))]
    return [" ".join("".join(chosen).split()) for chosen in itertools.product(*parts)]


class Phrases:
    """Phrases found in words from left to right, the longest first; a word belongs to one phrase."""

    def __init__(self, phrases: dict[str, tuple[str, ...]], language: Language) -> None:
        """
        Args:
            phrases: kind -> phrases, which may have choices. One phrase may be of several kinds.
        """
        self._kinds: dict[tuple[str, ...], list[str]] = {}
        for kind, items in phrases.items():
            for item in itertools.chain.from_iterable(map(expanded, items)):
                kinds = self._kinds.setdefault(tuple(word.written for word in words(item, language)), [])
                kinds += [kind] if kind not in kinds else []
        self._longest: dict[str, int] = {}
        for key in self._kinds:
            self._longest[key[0]] = max(self._longest.get(key[0], 0), len(key))

    def find(self, among: list[Word]) -> list[tuple[int, int, tuple[str, ...]]]:
        """(first word, word after the last, kinds) of each phrase."""
        found = []
        place = 0
        while place < len(among):
            longest = min(self._longest.get(among[place].written, 0), len(among) - place)
            for length in range(longest, 0, -1):
                kinds = self._kinds.get(tuple(word.written for word in among[place : place + length]))
                if kinds:
                    found.append((place, place + length, tuple(kinds)))
                    place += length
                    break
            else:
                place += 1
        return found
