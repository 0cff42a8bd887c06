"""A raw radiology report -> its sentences.

Notable choices:
- Rules with words as data (configs/language), not a segmenter of a library. Paragraphs split without fault, of 71 hard ones | of 30 written
  after the rules: these 71 | 30; syntok 1.4 56 | 27; sentencex 1.0 59 | 23; pysbd 0.3.4 54 | 24, with our abbreviations 61 | 27 (the rules
  before this: 59 | 26). F1 of the boundaries: 1.00 | 1.00; 0.85 | 0.90; 0.89 | 0.88; 0.87 | 0.88, 0.93 | 0.94. All but sentencex split the
  7,613 paragraphs of 2,400 simulated reports as these do.
- A full stop ends a sentence only where the next word begins anew and the word before is no abbreviation, initial or number; which line
  breaks end one `hlip.reports.text.wrapping` says, which numbers are those of a list `hlip.reports.text.lists`.
- A paragraph written without capitals ends its sentences at every other full stop.
- An item of a list knows the sentence that leads the list ("No evidence of:"); of several sentences in an item the first alone does. So does
  a line without a mark under such a sentence, while lines are bare names, each with a capital.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from hlip.reports.language import Language, english
from hlip.reports.text.lists import items
from hlip.reports.text.sections import sections
from hlip.reports.text.wrapping import leads_on, unwrapped

_WORD = "[A-Z\u00c4\u00d6\u00dc][a-z\u00df-\u00ff]{3,}"
# "mass.No shift", "3 cm.Stable", "grade 2.Stable", "(3 mm).Stable"
_GLUED = re.compile(
    rf"(?:(?<=[^\W\d_]{{2}}[.!?])|(?<=[\w ]\d[.!?])|(?<=\w[)\]][.!?]))(?=(?:No|The|There|Normal|Mild|{_WORD})\b(?!\.\w|@))"
)
# "L4-L5.", "C5/6.", "L5."; T1 and T2 alone are sequences
_LEVEL = re.compile(r"\b(?:[CTLS]\d{1,2} ?[-/\u2013] ?[CTLS]?\d{1,2}|[CLS]\d{1,2}|T(?:[3-9]|1[0-2]))\b", re.IGNORECASE)
_NUMBER = re.compile(r"\(?\d{1,3}(?:[.,]\d{1,2})?[.)]*")
_STOP = re.compile(r"(?<![.!?])(?P<stop>[.!?]+)(?P<close>[\"')\]]*) (?=[\"'(\[<_]*[A-Z\u00c0-\u00d6\u00d8-\u00de0-9_])")
_ANY_STOP = re.compile(r"(?<![.!?])(?P<stop>[.!?]+)(?P<close>[\"')\]]*) (?=[\"'(\[<_]*\w)")


@dataclass(frozen=True)
class Sentence:
    """A sentence and what leads to it."""

    text: str
    lead: str = ""
    """The sentence before the list of which it is an item, where that ends with a colon or in the middle."""

    @property
    def has_words(self) -> bool:
        """Whether it says anything: a word of two letters, or a level of the spine."""
        return bool(re.search(r"[^\W\d_]{2}", self.text) or _LEVEL.search(self.text))


def split_sentences(report: str, language: Language | None = None) -> list[str]:
    """The sentences of a report in order, headers and list numbers removed, wrapped lines joined. An empty report has none."""
    language = language or english()
    return [sentence for text in sections(report, language).values() for sentence in sentences_of(text, language)]


def sentences_of(text: str, language: Language) -> list[str]:
    """The sentences of one section's text, without bare numbers and marks."""
    return [sentence.text for sentence in led_sentences(text, language) if sentence.has_words]


def led_sentences(text: str, language: Language) -> list[Sentence]:
    """`sentences_of` with what leads to each, and with bare numbers and letters, which are no sentences.

    A paragraph or a line that is no item ends a list, as does another mark, and the lead's own; blank lines between items do not.
    """
    found: list[Sentence] = []
    lead = leads_mark = list_mark = ""
    for place, block in enumerate(re.split(r"\n[ \t]*\n", text)):
        parts = items(unwrapped(block, language, opens=not place), language)
        for number, (mark, item) in enumerate(parts):
            lines = [line for line in item.split("\n") if line.strip()]
            leads = _unmarked(block, lines, language) if len(parts) == 1 and not mark else [""] * len(lines)
            for below, line in enumerate(lines):
                split = _sentences(re.sub(r"\s+", " ", line).strip(), language)
                told = [Sentence(part) for part in split if re.search(r"\w", part)]
                own = [sentence.text for sentence in told if sentence.has_words]
                list_mark = list_mark or mark
                goes_on = mark.strip() == list_mark.strip() and (mark == list_mark or mark != leads_mark)
                lead = lead if number and not below and goes_on else ""
                first = next((place for place, sentence in enumerate(told) if sentence.has_words), len(told))
                found += told[:first]
                found += [
                    Sentence(each.text, "" if behind else lead or leads[below]) for behind, each in enumerate(told[first:])
                ]
                if own and (own[-1][-1] == ":" or (own[-1][-1] not in ".!?" and leads_on(own[-1], language))):
                    lead, leads_mark, list_mark = own[-1], mark, ""
    return found


def _unmarked(block: str, lines: list[str], language: Language) -> list[str]:
    """What leads each line of a paragraph without marks: "No evidence of:" those below that are no more than a name, "Infarct"."""
    written = [line.strip() for line in block.split("\n")]
    leads = (line for line in written if line[-1:] == ":" or (line and not language.capital_nouns and leads_on(line, language)))
    said = {*language.verbs, *language.reach.get("prepositions", ())}
    lead, wanted, found = "", next(leads, ""), []
    for line in lines:
        named = line[0].isupper() and ":" not in line and said.isdisjoint(re.findall(r"\w+", line.lower()))
        lead = lead if named and line.split(None, 1)[0].lower() not in language.openers else ""
        found.append(lead)
        if wanted and wanted in line:
            lead, wanted = wanted, next(leads, "")
    return found


def _sentences(text: str, language: Language) -> list[str]:
    """One paragraph on one line -> its sentences."""
    text = _GLUED.sub(" ", text)
    small = text[:1].islower() and not re.search(r"[.!?] [A-Z\u00c0-\u00d6\u00d8-\u00de]", text)
    parts, start = [], 0
    for match in (_ANY_STOP if small else _STOP).finditer(text):
        last, word = _words_before(text, start, match.start())
        follows = text[match.end() : match.end() + 40].split(" ")[0]
        if match["stop"] == "." and not match["close"] and _no_end(word, last.lower(), follows, language):
            continue
        parts.append(text[start : match.end()].strip())
        start = match.end()
    return _with_numbers([part for part in [*parts, text[start:].strip()] if part])


def _with_numbers(parts: list[str]) -> list[str]:
    """Parts that are no more than a number go to the one before, behind whose abbreviation they stood: "Nr. 5."."""
    found = parts[:1]
    for part in parts[1:]:
        if _NUMBER.fullmatch(part):
            found[-1] = f"{found[-1]} {part}"
        else:
            found.append(part)
    return found


def _words_before(text: str, start: int, stop: int) -> tuple[str, str]:
    """The last two words of text[start:stop]; found from the end, so that a long text without stops takes no longer."""
    middle = text.rfind(" ", start, stop)
    if middle < 0:
        return "", text[start:stop]
    first = text.rfind(" ", start, middle)
    return text[max(first + 1, start) : middle], text[middle + 1 : stop]


def _no_end(word: str, last: str, follows: str, language: Language) -> bool:
    """Whether a full stop after `word` does not end its sentence; `last` is the word before it, `follows` the one behind the stop."""
    always, numbered, as_written = _abbreviations(language)
    word = word.lstrip("\"'([")
    bare = word.lower()
    if bare in as_written:
        return word in as_written[bare] or (word.islower() and not last[-1:].isdigit())
    if follows[:1].isupper() and follows.rstrip(",;:").lower() in language.openers:
        return False
    if bare in always:
        return True
    if bare in numbered:
        return follows[:1].isdigit()
    if re.fullmatch(r"[A-Z]", word):
        return not (last[-1:].isdigit() or last in language.single_letters_after)
    if re.fullmatch(r"\d{1,2}", word):  # "3. Mai 2020", and the number of a list
        behind = follows.rstrip(".,;:)").lower()
        return not last or follows.lower() in language.months or behind in language.after_ordinals
    return False


@lru_cache(maxsize=16)
def _abbreviations(language: Language) -> tuple[frozenset[str], frozenset[str], dict[str, set[str]]]:
    """Those that end no sentence, those that end none before a number, and lower case -> as they must be written."""
    known = language.abbreviations
    as_written: dict[str, set[str]] = {}
    for word in known.get("as_written", ()):
        as_written.setdefault(word.lower(), set()).add(word)
    numbered = frozenset(known.get("before_number", ()))
    return frozenset(known.get("always", ())) - numbered, numbered, as_written
