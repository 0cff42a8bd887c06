"""The patterns of one language, read from configs/language: headers, abbreviations, tokens, boilerplate, cues.

Every part of the reading of reports takes a `Language`; none of them holds a word of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from hlip.files import resources

CUES = (
    "none", "present_after", "negated_before", "negated_until_comma", "negated_by_contrast", "negated_by_exception", "negated_after",
    "uncertain_before", "uncertain_after", "uncertain_around",
    "probable_before", "probable_after", "history_before", "history_after", "family_before", "open_before", "open_until_comma", "open_after",
)  # fmt: skip
REACH = ("joins", "adds", "prepositions", "counts", "times", "presuming", "stays")
_TEXT = (
    "headers", "labels", "abbreviations", "months", "after_ordinals", "openers", "unfinished", "capital_nouns", "single_letters_after",
    "tokens", "token_leads", "token_heads", "boilerplate", "boilerplate_lines",
)  # fmt: skip
_WORDS = (
    "spellings", "same", "same_names", "articles", "gap", "neutral", "breaks", "qualifiers", "negating_prefixes",
    "too_general", "normal", "not_normal", "normal_but", "regions", "cues", "list_leads", "terminators", "clause_openers", "changes",
    "history_ends", "verbs", "reach",
)  # fmt: skip


class LanguageError(ValueError):
    """A language file cannot be used; the message names the file and the entry."""


@dataclass(frozen=True, eq=False)
class Language:
    """Patterns as the file has them, words in lower case. Equal patterns have an equal `digest`."""

    name: str
    headers: dict[str, tuple[str, ...]]
    """Kind of section -> the headers that open it."""
    abbreviations: dict[str, tuple[str, ...]]
    """`always`, `before_number`, `as_written`."""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Words at a line's start that are no headers: `findings`, `other`, `asking` (see `hlip.reports.text.resume`); `longer` end in a header;
    behind `sentence` a header is a word of a sentence."""
    function_words: tuple[str, ...] = ()
    """By which reports in another language are told; see `hlip.reports.foreign`."""
    months: tuple[str, ...] = ()
    after_ordinals: tuple[str, ...] = ()
    """Words before which a number with a full stop is an ordinal, as before months: "3. Ventrikel"."""
    openers: tuple[str, ...] = ()
    """Words that begin a sentence even behind an abbreviation or a line break, where they begin with a capital."""
    unfinished: tuple[str, ...] = ()
    """Words at a line's end behind which its sentence goes on in the next."""
    capital_nouns: bool = False
    """Whether nouns are written with a capital: then one at a line's start says little."""
    single_letters_after: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    """Regular expressions of anonymisation tokens."""
    token_leads: tuple[str, ...] = ()
    token_heads: tuple[str, ...] = ()
    """Regular expressions of what stands behind a token whose words in front then stay: "compared to the [date] MRI"."""
    boilerplate: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Group -> regular expressions, found anywhere in a sentence, in any letters."""
    boilerplate_lines: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Group -> regular expressions of whole lines, in letters as they are written: names have capitals."""
    spellings: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    same_names: dict[str, str] = field(default_factory=dict)
    """A name of a disease -> the name, as a taxonomy may have it, that means the same, or what it is a kind of; that may stand above it."""
    articles: tuple[str, ...] = ()
    gap: int = 0
    neutral: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    qualifiers: tuple[str, ...] = ()
    """First words of a name that may stand behind it, after a comma."""
    negating_prefixes: tuple[str, ...] = ()
    """They make one word of themselves and the next, which then is no name: "non-hemorrhagic"."""
    too_general: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()
    """Regular expressions: statements that the whole study is normal; `not_normal`, `normal_but`: what leaves it open, in them or beside."""
    not_normal: tuple[str, ...] = ()
    normal_but: tuple[str, ...] = ()
    regions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Part of the body -> words that name it."""
    cues: dict[str, tuple[str, ...]] = field(default_factory=dict)
    list_leads: tuple[str, ...] = ()
    """What may stand between a cue and the colon before a list: "no evidence of [the following]:"."""
    terminators: tuple[str, ...] = ()
    clause_openers: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    """Words of a question that asks for more than whether something is there: "grown"."""
    history_ends: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    reach: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Words that say how far a negation reaches: `joins` of a list (`adds`: more of them, for cues behind it), `prepositions`, words that count
    (`counts`) or tell a time (`times`), what takes the next name as there (`presuming`), and the one before it, behind a comma (`stays`)."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> Language:
        """A built-in language (`english`, `german`) or a YAML file like it.

        Raises:
            ResourceError: no such name or file.
            LanguageError: no YAML, an unknown or missing entry, a wrong kind of value, or a faulty regular expression.
        """
        path = resources.find("language", name_or_path)
        return _load(str(path), path.stat().st_mtime_ns)

    @classmethod
    def from_dict(cls, content: Any, source: str = "language") -> Language:
        """The language of a parsed file; `source` is what errors name."""
        if not isinstance(content, Mapping):
            raise LanguageError(f"{source}: expected a mapping, not {type(content).__name__}")
        known = {"name", "function_words", *_TEXT, *_WORDS}
        if unknown := sorted(map(str, set(content) - known)):
            raise LanguageError(f"{source}: unknown entry {', '.join(unknown)} (known: {', '.join(sorted(known))})")
        if missing := [key for key in ("name", "headers", "abbreviations") if key not in content]:
            raise LanguageError(f"{source}: no entry {', '.join(missing)}")
        try:
            found = {key: _plain(key, value) for key, value in content.items()}
        except LanguageError as error:
            raise LanguageError(f"{source}: {error}") from error
        for entry, kinds in (("cues", CUES), ("reach", REACH)):
            if unknown := sorted(set(found.get(entry, ())) - set(kinds)):
                raise LanguageError(f"{source}: {entry}: unknown kind {', '.join(unknown)} (known: {', '.join(kinds)})")
        return cls(**found)

    def digest(self, *, words: bool = False) -> str:
        """16 hex digits over what makes sentences of a report, or with `words` over what mines labels as well."""
        content = {key: getattr(self, key) for key in (*_TEXT, *(_WORDS if words else ()))}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def kind_of(self, header: str) -> tuple[str, ...]:
        """The kinds of section that a header opens; none for text before the first header, or an unknown one."""
        header = re.sub(r"\s+", " ", header.strip().lower())
        found = [kind for kind, names in self.headers.items() if header in names or header.removesuffix("s") in names]
        if not found and len(joined := re.split(r" ?[/&+] ?", header)) > 1:
            found = list(dict.fromkeys(kind for part in joined for kind in self.kind_of(part)))
        return ("findings", "impression") if "both" in found else tuple(found)


@lru_cache(maxsize=16)
def _load(path: str, changed: int) -> Language:
    try:
        return Language.from_dict(yaml.safe_load(Path(path).read_text(encoding="utf-8")), path)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise LanguageError(f"{path}: no YAML in UTF-8 ({error})") from error


@lru_cache(maxsize=1)
def english() -> Language:
    """The built-in default."""
    return Language.load("english")


def _plain(key: str, value: Any) -> Any:
    """A checked value: words in lower case, lists as tuples, regular expressions tried."""
    if key == "name":
        return str(value)
    if key == "capital_nouns":
        if not isinstance(value, bool):
            raise LanguageError(f"capital_nouns: {value!r} is neither true nor false")
        return value
    if key == "gap":
        if type(value) is not int or value < 0:
            raise LanguageError(f"gap: {value!r} is no count of words")
        return value
    if key in ("spellings", "same", "same_names"):
        if not isinstance(value, Mapping):
            raise LanguageError(f"{key}: expected word: word")
        return {str(old).lower(): str(new).lower() for old, new in value.items()}
    if key in ("headers", "labels", "abbreviations", "boilerplate", "boilerplate_lines", "regions", "cues", "reach"):
        if not isinstance(value, Mapping):
            raise LanguageError(f"{key}: expected a mapping of lists")
        return {str(kind): _list(f"{key}.{kind}", items, _is_regex(key), kind == "as_written") for kind, items in value.items()}
    return _list(key, value, _is_regex(key))


def _is_regex(key: str) -> bool:
    return key in ("tokens", "token_heads", "boilerplate", "boilerplate_lines", "normal", "not_normal", "normal_but")


def _list(key: str, items: Any, regex: bool, as_written: bool = False) -> tuple[str, ...]:
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise LanguageError(f"{key}: expected a list of words (quote YAML words such as no and on)")
    for item in items if regex else ():
        try:
            re.compile(item)
        except re.error as error:
            raise LanguageError(f"{key}: {item!r} is no regular expression ({error})") from error
    return tuple(items) if regex or as_written else tuple(item.lower() for item in items)
