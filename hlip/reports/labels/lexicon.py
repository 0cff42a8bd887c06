"""The names by which reports call the classes of a taxonomy: names, synonyms and prompts, found in sentences.

Words may stand between the words of a name ("acute [left middle cerebral artery territory] infarct"), if they are no words of another name
and no word that joins or parts (configs/language: gap, neutral, breaks). Of names that overlap the one with more words counts, of equals
that of the deeper class. A word such as `acute` may stand behind the name as well, after a comma ("hematoma, subacute"; qualifiers).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from hlip.reports.labels.normal import Statements
from hlip.reports.labels.words import Word, words
from hlip.reports.language import Language
from hlip.taxonomy import Taxonomy


@dataclass(frozen=True)
class Found:
    """One name of a class in a sentence."""

    name: str
    """Of the class."""
    term: str
    """As the taxonomy writes it."""
    places: tuple[int, ...]
    """Its words in the sentence."""
    doubt: str = ""
    """Of the normal class: words that leave open whether the whole study is normal."""


class Lexicon:
    """The terms of all classes of a tree.

    Args:
        tree: whose classes are looked for.
        language: how words are compared.
    """

    def __init__(self, tree: Taxonomy, language: Language) -> None:
        self._language = language
        self._normal = tree.normal
        general = {tuple(word.normal for word in words(term, language)) for term in language.too_general}
        self._by_first: dict[str, list[tuple[tuple[str, ...], str, str]]] = {}
        self._level = {item.name: item.level for level in range(1, tree.depth + 1) for item in tree.classes(level)}
        vocabulary: set[str] = set()
        seen: set[tuple[tuple[str, ...], str]] = set()
        for item in [item for level in range(1, tree.depth + 1) for item in tree.classes(level)]:
            for term in (item.name, *item.synonyms, item.prompt):
                key = tuple(w.normal for w in words(term, language) if w.written not in language.articles and not w.is_mark)
                if not key or key in general or (key, item.name) in seen:
                    continue
                seen.add((key, item.name))
                self._by_first.setdefault(key[0], []).append((key, item.name, term))
                vocabulary |= set(key)
        self._statements = Statements(language, vocabulary)
        self._add_same_names()
        qualifiers = {words(word, language)[0].normal for word in language.qualifiers}
        self._behind: dict[str, list[tuple[tuple[str, ...], str, str]]] = {}
        for key, name, term in itertools.chain.from_iterable(self._by_first.values()):
            if len(key) > 1 and key[0] in qualifiers:
                self._behind.setdefault(key[1], []).append((key, name, term))
        self._no_gap = (vocabulary - {words(word, language)[0].normal for word in language.neutral}) | set(language.breaks)

    def _add_same_names(self) -> None:
        """Names that the language knows for what the tree calls otherwise, where no class has them of its own.

        One may be that of another before it: "sdh" is a subdural hematoma, which is an intracranial hemorrhage where no class is more exact.
        """
        known: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for keys in self._by_first.values():
            for key, name, term in keys:
                known.setdefault(key, []).append((name, term))
        for other, meant in self._language.same_names.items():
            key, target = (tuple(w.normal for w in words(text, self._language)) for text in (other, meant))
            if key not in known and target in known:
                known[key] = known[target]
                self._by_first.setdefault(key[0], []).extend((key, name, term) for name, term in known[key])

    def find(self, sentence: str, among: list[Word]) -> list[Found]:
        """The names in a sentence, in order; a statement that all is normal is one of the normal class."""
        candidates = [
            Found(name, term, places)
            for start, word in enumerate(among)
            for key, name, term in self._by_first.get(word.normal, ())
            if (places := self._match(key, among, start))
        ]
        candidates += [
            Found(name, term, places)
            for start, word in enumerate(among)
            for key, name, term in self._behind.get(word.normal, ())
            if (places := self._match_behind(key, among, start))
        ]
        candidates.sort(key=lambda found: (-len(found.places), -self._level[found.name], found.places[-1] - found.places[0]))
        kept: list[Found] = []
        for found in candidates:
            meeting = [other for other in kept if set(found.places) & set(other.places)]
            if all(found.places == other.places and found.name != other.name for other in meeting):
                kept.append(found)
        if self._normal is not None:
            kept = self._with_normal(kept, sentence, among)
        return sorted(kept, key=lambda found: found.places)

    def _with_normal(self, kept: list[Found], sentence: str, among: list[Word]) -> list[Found]:
        """Names found, with at most one of the normal class: one that is beyond doubt, where there is one."""
        named = [found for found in kept if found.name == self._normal and self._statements.is_whole(found.places, among)]
        stated = [Found(self._normal or "", text, places) for text, places in self._statements.find(sentence, among)]
        said = [replace(found, doubt=self._statements.doubt(sentence, among, found.places)) for found in [*named, *stated]]
        said.sort(key=lambda found: bool(found.doubt))
        return [found for found in kept if found.name != self._normal] + said[:1]

    def _match_behind(self, key: tuple[str, ...], among: list[Word], start: int) -> tuple[int, ...]:
        """Places of a term whose first word stands behind it, alone between a comma and the next mark or the end; or nothing."""
        places = self._match(key[1:], among, start)
        comma, first = (places[-1] + 1, places[-1] + 2) if places else (0, len(among))
        if first >= len(among) or among[comma].written != "," or among[first].normal != key[0]:
            return ()
        return (*places, first) if first + 1 == len(among) or among[first + 1].is_mark else ()

    def _match(self, key: tuple[str, ...], among: list[Word], start: int) -> tuple[int, ...]:
        """Places of a term's words from `start` on, or nothing."""
        places, place, gap = [start], start, 0
        for wanted in key[1:]:
            place += 1
            while place < len(among) and among[place].normal != wanted:
                word = among[place]
                gap += 1
                if gap > self._language.gap or word.is_mark or word.normal in self._no_gap or word.written in self._no_gap:
                    return ()
                place += 1
            if place == len(among):
                return ()
            places.append(place)
        return tuple(places)
