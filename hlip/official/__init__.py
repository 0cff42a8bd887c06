"""Checkpoints of the official HLIP code: the way in (`load_with_report`) and out (`export`)."""

from hlip.official.checkpoint import KeyReport, Official, export, is_official, load_with_report, official_names, read

__all__ = ["KeyReport", "Official", "export", "is_official", "load_with_report", "official_names", "read"]
