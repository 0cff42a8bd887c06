"""The name of a sequence, guessed from a file name or a series description."""

from __future__ import annotations

import re

_CONTRAST = r"(contrast|gado?|gd|c(?![a-z]))"
_SEQUENCES = (  # first match wins; the order matters (a FLAIR is also a T2 but for a T1 FLAIR, a DWI may say "b0 t2")
    ("T1", rf"t1.*(?<![a-z])(pre|non|no|without|wo|w/o)[ _-]*{_CONTRAST}"),
    ("T1 contrast", r"t1(ce|c|gd|gad|post)|t1.*(\+c|gado|contrast|post)"),
    ("T1", r"t1w?[ _-]*(flair|tirm)"),
    ("FLAIR", r"flair|tirm"),
    ("SWI", r"swi|swan|susc|t2\*|t2star|gre|hemo"),
    ("ADC", r"adc|apparent"),
    ("DWI", r"dwi|diff|trace|dti"),
    ("CT angiography", r"cta|ct.*angio"),
    ("MRA", r"mra|tof|angio"),
    ("PD", r"pd|proton"),
    ("T1", r"t1|mprage|mpr|spgr|bravo"),
    ("T2", r"t2"),
    ("CT", r"ct"),
)


def guess_sequence(text: str) -> str:
    """A sequence name from a file name or a series description; empty when nothing is recognised."""
    words = re.sub(r"\.nii(\.gz)?$|\.mg[hz]$|\.dcm$", "", text.lower())
    for name, pattern in _SEQUENCES:
        if re.search(rf"(?<![a-z])(?:{pattern})", words):
            return name
    return ""
