"""`ReportSpec`: how a report becomes the sentences that a model is trained on, from YAML, with a digest.

    language: english                      # configs/language (english, german), or a file like it
    sections: [findings, impression]       # kinds of section that are kept ([both]: these two); default: all
    otherwise: whole                       # a report that has none of them: the whole of it, or nothing
    boilerplate: [signature, dictation]    # groups of the language file whose sentences are left out; default: none
    leave_out: ["^MRI of"]                 # further sentences, as regular expressions
    tokens: keep                           # anonymisation tokens: keep, remove (the token and its preposition) or leave_out (the sentence)
    unescape: false                        # &amp; and the like become characters, tags of HTML and characters lost in decoding (U+FFFD) go

Cleaning is not de-identification: it leaves out lines and sentences that are signatures, greetings and the like, and anonymisation tokens;
names and dates within other sentences stay as they are.
Text before the first header counts as findings where no header says findings; `hlip.reports.text.resume` says where else findings begin without
a header. An addendum counts as findings and as impression, which it may correct. A store says in report_spec.json how its text was made.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hlip.files import resources
from hlip.files.folders import write_atomically
from hlip.reports.language import Language

FILE = "report_spec.json"
_REVISION = 6
"""Part of every digest. Raise it when the same spec begins to give other sentences."""
_TOKENS = ("keep", "remove", "leave_out")


class ReportSpecError(ValueError):
    """A ReportSpec has an impossible or unknown setting; the message names it."""


@dataclass(frozen=True)
class ReportSpec:
    """Which sentences of a report are kept, and what is taken from them. The default keeps all as they are written."""

    language: str = "english"
    """Name or path of a language file."""
    sections: tuple[str, ...] = ()
    """Kinds of section that are kept; empty: all of them."""
    otherwise: str = "whole"
    """A report with none of `sections`: `whole` or `nothing`."""
    boilerplate: tuple[str, ...] = ()
    """Groups of boilerplate that are left out."""
    leave_out: tuple[str, ...] = ()
    """Regular expressions, searched in a sentence in any letters: sentences that are left out as well."""
    tokens: str = "keep"
    """Anonymisation tokens: `keep`, `remove` (the token alone), `leave_out` (its whole sentence)."""
    unescape: bool = False
    """Whether characters that HTML writes as `&amp;` are read as such, and tags and U+FFFD are taken away."""

    def __post_init__(self) -> None:
        for name in ("sections", "boilerplate", "leave_out"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(item, str) for item in value or ()):
                raise ReportSpecError(f"ReportSpec.{name}: {value!r} is not a list of words")
            object.__setattr__(self, name, tuple(value or ()))
        if "both" in self.sections:
            rest = [name for name in self.sections if name != "both"]
            object.__setattr__(self, "sections", tuple(dict.fromkeys(["findings", "impression", *rest])))
        for fault in self._faults():
            raise ReportSpecError(f"ReportSpec.{fault}")

    def _faults(self) -> list[str]:
        patterns = self.patterns
        faults = []
        for name, known in (("sections", patterns.headers), ("boilerplate", patterns.boilerplate)):
            if unknown := sorted(set(getattr(self, name)) - set(known)):
                faults.append(f"{name}: {patterns.name} has no {', '.join(unknown)} (known: {', '.join(known)})")
        for pattern in self.leave_out:
            try:
                re.compile(pattern)
            except re.error as error:
                faults.append(f"leave_out: {pattern!r} is no regular expression ({error})")
        if self.otherwise not in ("whole", "nothing"):
            faults.append(f"otherwise: '{self.otherwise}' is neither whole nor nothing")
        if not isinstance(self.unescape, bool):
            faults.append(f"unescape: '{self.unescape}' is neither true nor false")
        if self.tokens not in _TOKENS:
            faults.append(f"tokens: '{self.tokens}' is none of {', '.join(_TOKENS)}")
        return faults

    @cached_property
    def patterns(self) -> Language:
        """The language's patterns."""
        return Language.load(self.language)

    @classmethod
    def load(cls, name_or_path: str | Path, language: str | None = None) -> ReportSpec:
        """A built-in spec (as_written, clean, impression) or a YAML file of one's own.

        Args:
            language: name or path of a language file that is taken instead of the spec's.

        Raises:
            ResourceError: no such name or file. ReportSpecError, LanguageError: unknown or impossible setting.
        """
        path = resources.find("reports", name_or_path)
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            if language and isinstance(settings, Mapping):
                settings = {**settings, "language": language}
            return cls.from_dict(settings)
        except (ReportSpecError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ReportSpecError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, settings: Any) -> ReportSpec:
        """The spec of a parsed YAML or JSON mapping; unknown keys are errors."""
        if not isinstance(settings, Mapping):
            raise ReportSpecError(f"expected a mapping of settings, got {type(settings).__name__}")
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(map(str, settings)) - known):
            raise ReportSpecError(f"unknown setting(s) {', '.join(unknown)} (known: {', '.join(sorted(known))})")
        return cls(**settings)

    def digest(self) -> str:
        """Same digest = same sentences of the same report. 16 hex digits; the language's patterns count, not its name."""
        content = asdict(self) | {"language": self.patterns.digest(), "revision": _REVISION}
        if not self.unescape:
            del content["unescape"]  # so that specs from before keep their digest
        content |= {name: sorted(content[name]) for name in ("sections", "boilerplate", "leave_out")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_report_spec(store: Path, spec: ReportSpec) -> None:
    """Write STORE/report_spec.json: the spec, its digest and that of the language's patterns."""
    content = {"digest": spec.digest(), "language_digest": spec.patterns.digest(), "spec": asdict(spec)}
    write_atomically(store / FILE, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def stored_digest(store: Path) -> str | None:
    """Digest of the spec that a store's text was made with; `None` where it does not say (made before there were specs)."""
    try:
        return str(json.loads((store / FILE).read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
