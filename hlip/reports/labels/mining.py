"""Labels of a study from its report, by rule: names of the classes, and cues that say whether they are there.

A starting point for a cohort without labels, not a reference: look at the evidence. What a report does not name it is taken not to have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hlip.reports.cleaning import lines
from hlip.reports.labels.cues import OPEN, PRESENT, STATES, UNCERTAIN, Reading, reader
from hlip.reports.labels.lexicon import Found, Lexicon
from hlip.reports.labels.words import Word, words
from hlip.reports.spec import ReportSpec
from hlip.taxonomy import Taxonomy

_LONGEST = 5000  # characters of a sentence that are read: what is longer is none
COUNT_AS = ("negative", "positive", "unlabelled")


@dataclass(frozen=True)
class Mention:
    """One name of a class in one sentence: the evidence of a label."""

    name: str
    """Of the class."""
    state: str
    """`present`, `uncertain`, `negated`, `history` (of the past), `family`, `open` (asked for, nothing said)."""
    term: str
    """What of the taxonomy was found."""
    cue: str
    """What decided the state; "" where nothing but the name is said."""
    section: str
    sentence: str


class Miner:
    """Finds the classes of a tree in reports.

    Args:
        tree: the classes.
        spec: which sentences are read; findings, impression and addenda without boilerplate by default.
    """

    def __init__(self, tree: Taxonomy, spec: ReportSpec | None = None) -> None:
        self.tree = tree
        self.spec = spec or ReportSpec.load("clean")
        self._language = self.spec.patterns
        self._lexicon = Lexicon(tree, self._language)
        self._reader = reader(self._language)

    def mentions(self, report: str, sentences: Sequence[str] = ()) -> list[Mention]:
        """Every name of a class in a report (or in the sentences given instead), in order."""
        found: list[Mention] = []
        for line in lines(report, sentences, self.spec):
            if line.text:
                found += self._of_sentence(line.section, line.sentence)
        return found

    def _of_sentence(self, section: str, sentence: str) -> list[Mention]:
        among = words(sentence[:_LONGEST], self._language)
        names = self._lexicon.find(sentence, among)
        if not names:
            return []
        reading = self._reader.read(among)
        made = []
        for found in names:
            state, cue = (OPEN, found.doubt) if found.doubt else self._judge(found, among, reading)
            made.append(Mention(found.name, state, found.term, cue, section, sentence))
        return made

    def _judge(self, found: Found, among: list[Word], reading: Reading) -> tuple[str, str]:
        """State and cue of a name; of a normal study by the cues behind the last comma: "no acute infarct, normal study"."""
        first, last = found.places[0], found.places[-1] + 1
        if found.name != self.tree.normal:
            return reading.judge(first, last)
        start = max((place + 1 for place in range(first) if among[place].written == ","), default=0)
        return self._reader.read(among[start:]).judge(first - start, last - start)


def states(mentions: Iterable[Mention]) -> dict[str, str]:
    """Class -> its state in the study: present once is present, else uncertain once is uncertain, and so on."""
    found: dict[str, str] = {}
    for mention in mentions:
        known = found.get(mention.name)
        if known is None or STATES.index(mention.state) < STATES.index(known):
            found[mention.name] = mention.state
    return found


def labels_of(found: dict[str, str], tree: Taxonomy, uncertain: str = "negative") -> tuple[str, ...] | None:
    """The labels of a study: the deepest classes that are there, in tree order; `None`: it stays unlabelled.

    Args:
        found: class -> state, of `states`.
        uncertain: what an uncertain class counts as: `negative`, `positive`, or `unlabelled`, which leaves the whole study unlabelled,
            since a manifest knows no half-labelled one. An uncertain class above or below one that is there changes nothing.

    A study without any finding is normal where it says so, unlabelled where the tree has a normal class and nothing says so, and has no
    label where the tree has none.
    """
    there = {name for name, state in found.items() if state == PRESENT and name != tree.normal}
    doubtful = {name for name, state in found.items() if state == UNCERTAIN and name != tree.normal}
    if uncertain == "positive":
        there |= doubtful
    above = {name: _ancestors(name, tree) for name in there | doubtful}
    covered = there.union(*(above[name] for name in there))
    open_questions = {name for name in doubtful if name not in covered and not above[name] & there}
    if uncertain == "unlabelled" and open_questions:
        return None
    deepest = there - set().union(*(above[name] for name in there))
    if deepest:
        order = [item.name for level in range(tree.depth, 0, -1) for item in tree.classes(level)]
        return tuple(sorted(deepest, key=order.index))
    if tree.normal is None:
        return ()
    return (tree.normal,) if found.get(tree.normal) == PRESENT else None


def _ancestors(name: str, tree: Taxonomy) -> set[str]:
    found: set[str] = set()
    parent = tree.find(name).parent
    while parent is not None and parent not in found and parent != name:
        found.add(parent)
        parent = tree.find(parent).parent
    return found
