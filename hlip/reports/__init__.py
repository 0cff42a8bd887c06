"""A raw radiology report -> sections, sentences, findings."""

from __future__ import annotations

from hlip.reports.sections import sections, split_sentences

__all__ = ["sections", "split_sentences"]
