"""Labels of a study from its report, by rule: names of the classes, and cues that say whether they are there.

A starting point for a cohort without labels, not a reference: look at the evidence. What a report does not name it is taken not to have.

Sentences are read one by one, but an item of a list with the sentence that leads it ("No evidence of:"), and a question with the sentence
behind it in its section, where that answers it ("Hemorrhage? No."). A name with a colon or a question mark behind it that is named again is
a label: what it says is said there ("Infarct: no acute infarct").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hlip.reports.cleaning import Line, lines
from hlip.reports.labels.cues import OPEN, PRESENT, STATES, UNCERTAIN, Reading, reader
from hlip.reports.labels.lexicon import Found, Lexicon
from hlip.reports.labels.words import Word, words
from hlip.reports.spec import ReportSpec
from hlip.taxonomy import Taxonomy

_LONGEST = 5000  # characters of a sentence that are read: what is longer is none
_LEAD = 300  # characters of the end of a sentence that leads a list
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
        told = [line for line in lines(report, sentences, self.spec) if line.reason not in ("section", "empty")]
        found = [self._of_line(line, below) for line, below in itertools.pairwise([*told, None]) if line]
        return [mention for own, following in itertools.pairwise([*found, []]) for mention in _answered(own, following)]

    def _of_line(self, line: Line, below: Line | None) -> list[Mention]:
        among = words(line.sentence[:_LONGEST], self._language)
        names = self._lexicon.find(line.sentence, among) if line.text else []
        if not names:
            return []
        lead = words(line.lead[-_LEAD:], self._language)
        if lead and lead[-1].written != ":":
            lead += words(":", self._language)
        reading = self._read([*lead, *among], below.sentence if below and below.section == line.section else "")
        made: list[Mention] = []
        for found in reversed(names):
            state, cue = (OPEN, found.doubt) if found.doubt else self._judge(found, among, reading, len(lead))
            if found.places[-1] + 1 < len(among) and among[found.places[-1] + 1].written in ":?":
                state, cue = self._labelled(found.name, made) or (state, cue)
            made.append(Mention(found.name, state, found.term, cue, line.section, line.sentence))
        return made[::-1]

    def _read(self, among: list[Word], below: str) -> Reading:
        """The cues of a sentence; if it is a question, those of the answer as well, where the sentence behind it is one."""
        if among[-1].written == "?" and below:
            answered = self._reader.read([*among, *words(below[:_LONGEST], self._language)])
            if any(cue.start < len(among) < cue.end for cue in answered.cues):
                return answered
        return self._reader.read(among)

    def _judge(self, found: Found, among: list[Word], reading: Reading, behind: int) -> tuple[str, str]:
        """State and cue of a name; of a normal study by the cues behind the last comma: "no acute infarct, normal study".

        Args:
            behind: words of the reading before the sentence.
        """
        first, last = found.places[0], found.places[-1] + 1
        if found.name != self.tree.normal:
            return reading.judge(first + behind, last + behind)
        start = max((place + 1 for place in range(first) if among[place].written == ","), default=0)
        return self._reader.read(among[start:]).judge(first - start, last - start)

    def _labelled(self, name: str, behind: Sequence[Mention]) -> tuple[str, str] | None:
        """State and cue of a label, by the names behind it, the last first; `None` where neither it nor a class below it is there."""
        same = [mention for mention in behind if mention.name == name]
        if same:
            return same[-1].state, same[-1].cue
        if name == self.tree.normal:
            return None
        near = [mention for mention in behind if name in _ancestors(mention.name, self.tree)]
        there = [mention for mention in near if mention.state == PRESENT]
        return (PRESENT, there[-1].cue) if there else (OPEN, near[-1].cue) if near else None


def _answered(own: list[Mention], following: Sequence[Mention]) -> list[Mention]:
    """Names of a sentence; one that is only asked for is open where the next sentence in its section names it: that is the answer."""
    if not own or not own[0].sentence.endswith("?"):
        return own
    named = {(mention.name, mention.section) for mention in following}
    return [replace(each, state=OPEN) if each.cue == "?" and (each.name, each.section) in named else each for each in own]


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
