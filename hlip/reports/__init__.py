"""A raw radiology report -> sections, sentences, findings."""

from __future__ import annotations

from hlip.reports.language import Language, LanguageError
from hlip.reports.text.sections import sections
from hlip.reports.text.sentences import split_sentences

__all__ = ["Language", "LanguageError", "sections", "split_sentences"]
