"""Whether a sentence says that something is there: negation, uncertainty, history, by cues (NegEx).

The idea is NegEx (Chapman et al., Journal of Biomedical Informatics 34, 2001): a cue before or after a name decides, up to a terminator.
Cues and terminators are data (configs/language). What was added:

- The nearest cue before a name decides; so a new cue ends the scope of the one before, and one negation rules a whole list.
- A cue behind a name goes before one in front of it ("possible meningioma is ruled out"), unless a comma parts them
  ("no infarct, meningioma cannot be excluded"). It does not reach back over a verb ("meningioma is stable and glioma is ruled out").
- A cue of one word behind a name counts right behind it or at the end of the sentence, before any comma ("glioma of the pons possible", not
  "meningioma, possible glioma"), or with its mark as an answer ("glioma no, infarct yes"); one that makes no finding of it right behind it
  alone ("glioma protocol").
- A colon ends no scope of a cue that it stands right behind ("differential diagnosis: glioma"), or behind "the following" and the like
  (list_leads). There a cue that reaches back and has no name before it reaches forward: "Not seen: glioma", "The following are absent: glioma".
  Several semicolons behind such a colon part the items of a list and end no scope.
- An answer is a cue with its mark ("? no", ": yes"); one to a question reaches back over the question's verb.
  One to a question about change ("has the meningioma grown? no") leaves what it is about there.
- A number behind a comma ends a negation: it measures or counts what is there ("no infarct, 2 cm meningioma", "no infarct, three meningiomas"),
  if it numbers no item and the list does not go on ("no infarct, 5 mm midline shift or hemorrhage"; hlip.reports.labels.reach).
- A negation does not reach a name that a phrase takes as there: "no mass effect from the meningioma".
- A cue of contrast ("over") negates only behind one of probability ("favored to be meningioma over metastasis").
- A condition ("if glioma is suspected, ...") says nothing of what it names, up to its comma.
- An exception ("other than") ends a negation before it ("no abnormality other than a cyst") and is one itself elsewhere.
- A cue of doubt or history behind a name does not reach back over a comma, but in a list ("glioma, abscess or cyst cannot be excluded") or
  right behind that comma ("glioma, 3 mm, cannot be excluded"); so not in "microhemorrhages, angiopathy not excluded".
- Two negations side by side are uncertain, not positive: a person should look.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from hlip.reports.labels.reach import Reach
from hlip.reports.labels.words import Phrases, Word
from hlip.reports.language import Language

PRESENT, UNCERTAIN, NEGATED, HISTORY, FAMILY, OPEN = "present", "uncertain", "negated", "history", "family", "open"
STATES = (PRESENT, UNCERTAIN, NEGATED, HISTORY, FAMILY, OPEN)
"""In the order in which a study's state is decided where its sentences differ."""

_STATE = {
    "present": PRESENT, "negated": NEGATED, "uncertain": UNCERTAIN, "history": HISTORY, "family": FAMILY, "open": OPEN,
    "probable": PRESENT,
}  # fmt: skip
_TURNED = {f"{state}_after": f"{state}_before" for state in ("negated", "uncertain", "probable", "history")}
_ENDS = {"negated_until_comma": "comma", "open_until_comma": "comma", "history_before": "history", "family_before": "history"}
_BEFORE = (*_ENDS, "negated_before", "uncertain_before", "open_before")
_FAR = 20  # words between a cue and the colon before a list; none of list_leads is as long


@dataclass(frozen=True)
class Cue:
    """One cue of a sentence: words [start, end)."""

    start: int
    end: int
    kind: str
    text: str

    @property
    def state(self) -> str:
        return _STATE[self.kind.split("_")[0]]


@dataclass(frozen=True)
class Reading:
    """The cues of a sentence, found once for all its names."""

    words: tuple[Word, ...]
    cues: tuple[Cue, ...]
    stops: tuple[tuple[int, str], ...]
    """(word, kind): terminators, verbs, words of change, ends of history, and those of `reach`."""

    def judge(self, start: int, end: int) -> tuple[str, str]:
        """(state, cue) of a name at words [start, end). The cue is "" where nothing but the name was said."""
        before = self._before(start)
        after = self._after(start, end, before)
        if after is not None and after.kind != "probable_after":
            return after.state, after.text
        if before is not None and before.state != UNCERTAIN:
            doubled = before.state == NEGATED and self._doubled(before)
            return (UNCERTAIN, f"{doubled} {before.text}") if doubled else (before.state, before.text)
        around = next((cue for cue in self._of("uncertain_around") if self._side_by_side(cue, start, end)), None)
        if decisive := before or around:
            return decisive.state, decisive.text
        likely = self._nearest_probable(start) or after
        return PRESENT, likely.text if likely else ""

    def _of(self, *kinds: str) -> list[Cue]:
        return [cue for cue in self.cues if cue.kind in kinds]

    def _stopped(self, first: int, last: int, *kinds: str) -> bool:
        """Whether a stop of these kinds stands at one of the words [first, last)."""
        return any(first <= place < last and kind in kinds for place, kind in self.stops)

    def _before(self, start: int) -> Cue | None:
        """The nearest cue in front of a name that reaches it."""
        for cue in sorted(self._of(*_BEFORE), key=lambda cue: -cue.end):
            if cue.end > start:
                continue
            opened = ("comma",) if self._stopped(0, cue.start, "opener") else ()
            numbered = ("number",) if cue.state == NEGATED else ()
            if cue.state == NEGATED and self._presumed(cue.end, start):
                return None
            if not self._stopped(cue.end, start, "terminator", *numbered, _ENDS.get(cue.kind, ""), *opened):
                return cue
        return None

    def _presumed(self, first: int, name: int) -> bool:
        """Whether words from `first` on take a name at a word as there: "no [mass effect from the left] meningioma"."""
        found = [stop for stop in self.stops if first <= stop[0] < name and stop[1] in ("presuming", "phrase", "comma")]
        return max(found, default=(0, ""))[1] == "presuming"

    def _nearest_probable(self, start: int) -> Cue | None:
        fitting = [
            cue for cue in self._of("probable_before") if cue.end <= start and not self._stopped(cue.end, start, "terminator")
        ]
        return max(fitting, key=lambda cue: cue.end, default=None)

    def _after(self, start: int, end: int, before: Cue | None) -> Cue | None:
        """The nearest cue behind a name that reaches back to it."""
        for cue in self._of(
            "present_after", "negated_after", "uncertain_after", "probable_after", "history_after", "open_after"
        ):
            if cue.start < end:
                continue
            if cue.start > end and not self._reaches_back(cue, end):
                continue
            if cue.text.startswith("? ") and self._stopped(self._asked_from(start), cue.start, "change"):
                return None
            asked = cue.text.startswith("?") and not self._stopped(end, cue.start, "comma")
            if self._stopped(end, cue.start, "terminator", *(() if asked else ("verb",))):
                return None
            if self._looks_ahead(cue) and self._stopped(end, cue.start, "comma"):
                continue
            if self._parted(cue, end):
                return None
            if not (before is not None and self._stopped(end, cue.start, "comma")):
                return cue
        return None

    def _parted(self, cue: Cue, end: int) -> bool:
        """Whether a cue of doubt or history is of what stands behind the last comma, in no list with the name before."""
        commas = [place for place, kind in self.stops if kind == "comma" and end <= place < cue.start]
        if not commas or cue.kind not in ("uncertain_after", "history_after") or not cue.text[0].isalnum():
            return False
        return commas[-1] + 1 < cue.start and not self._stopped(commas[-1], cue.start, "join")

    def _asked_from(self, name: int) -> int:
        """The first word of the question in which a name stands at a word."""
        ends = [cue.end for cue in self.cues if cue.text.startswith("?")]
        ends += [place + 1 for place, kind in self.stops if kind in ("terminator", "comma")]
        return max((end for end in ends if end <= name), default=0)

    def _reaches_back(self, cue: Cue, end: int) -> bool:
        """Whether a cue that stands not right behind a name at words [.., end) can mean it."""
        if cue.kind == "open_after" or (cue.kind == "history_after" and cue.end - cue.start == 1):
            return False
        # "no," as of "glioma no, infarct yes"
        answers = cue.text[0].isalnum() and len(cue.text.split()) == 2 and cue.text[-1] in ".,;"
        ends = answers or cue.end == len(self.words) or (cue.end == len(self.words) - 1 and self.words[cue.end].is_mark)
        return cue.end - cue.start > 1 + answers or (ends and not self._stopped(end, cue.start, "comma"))

    def _looks_ahead(self, cue: Cue) -> bool:
        """Whether the same words are a cue for what follows as well: "metastasis, less likely glioma"."""
        both = ("negated_before", "negated_until_comma", "uncertain_before")
        return cue.end < len(self.words) and any((other.start, other.end) == (cue.start, cue.end) for other in self._of(*both))

    def _side_by_side(self, cue: Cue, start: int, end: int) -> bool:
        first, last = (cue.end, start) if cue.end <= start else (end, cue.start)
        return first <= last and not self._stopped(first, last, "terminator", "comma")

    def _doubled(self, cue: Cue) -> str:
        """Text of the negation that stands right before this one."""
        return next((other.text for other in self._of("negated_before") if other.end == cue.start), "")


class CueReader:
    """Reads sentences by a language's cues."""

    def __init__(self, language: Language) -> None:
        self._phrases = Phrases(dict(language.cues) | {"terminator": language.terminators}, language)
        others = {"verb": language.verbs, "history": language.history_ends, "opener": language.clause_openers}
        self._stops = Phrases(others | {"change": language.changes}, language)
        self._leads = Phrases({"lead": language.list_leads}, language)
        self._reach = Reach(language)

    def read(self, among: list[Word]) -> Reading:
        """The cues of a sentence's words."""
        cues: list[Cue] = []
        stops: list[tuple[int, str]] = []
        used: set[int] = set()
        ended = among if not among or among[-1].is_mark else [*among, Word(".", ".", among[-1].end, among[-1].end)]
        colon = len(ended)  # before a list
        several = sum(word.written == ";" for word in ended) > 1
        leads = {(start, end) for start, end, _ in self._leads.find(ended)}
        for start, end, kinds in self._phrases.find(ended):
            text = " ".join(word.written for word in ended[start:end])
            if text.endswith(" .") and end < len(ended) and not ended[start].is_mark and ended[end].written.isdigit():
                continue  # an abbreviation: "series no. 5"
            for kind in kinds:
                if kind == "terminator":
                    if text == ":" and _lists(cues, start, leads):
                        colon = start
                    elif not (text == ";" and several and start > colon):
                        stops.append((start, kind))
                elif kind == "negated_by_contrast":
                    if any(cue.kind.startswith("probable") for cue in cues):
                        cues.append(Cue(start, end, "negated_until_comma", text))
                elif kind == "negated_by_exception":
                    if _denied(cues, stops):
                        stops.append((start, "terminator"))
                    else:
                        cues.append(Cue(start, end, "negated_until_comma", text))
                elif kind != "none":
                    cues.append(Cue(start, end, kind, text))
                    if text.endswith(" :") and kind.endswith("_before"):  # "less likely:" leads a list
                        colon = end - 1
            if kinds != ("terminator",):
                used |= set(range(start, end))
        stops += [(start, kind) for start, _, kinds in self._stops.find(among) for kind in kinds if start not in used]
        stops += self._reach.stops(among, used)
        return Reading(tuple(among), tuple(cues), tuple(stops))


def _denied(cues: list[Cue], stops: list[tuple[int, str]]) -> bool:
    """Whether a negation reaches the word that is read."""
    last = max((cue.end for cue in cues if cue.kind in ("negated_before", "open_before")), default=None)
    return last is not None and all(place < last for place, _ in stops)


def _lists(cues: list[Cue], colon: int, leads: set[tuple[int, int]]) -> bool:
    """Whether a colon stands behind a cue that leads a list. One that reaches back comes to reach forward, where nothing else is before it."""
    for place in reversed(range(len(cues))):
        cue = cues[place]
        if colon - cue.end > _FAR:
            return False
        if cue.end != colon and (cue.end, colon) not in leads:
            continue
        if cue.kind.endswith("_before"):
            return True
        if cue.kind in _TURNED and (cue.start == 0 or (0, cue.start) in leads):
            cues[place] = replace(cue, kind=_TURNED[cue.kind])
            return True
    return False


@lru_cache(maxsize=8)
def reader(language: Language) -> CueReader:
    """The reader of a language, made once."""
    return CueReader(language)
