"""The name of a sequence, guessed from a file name or a series description."""

from __future__ import annotations

import re

_CONTRAST = r"(contrast\w*|gado?\w*|gd|km|mdc|kontrast\w*|c(?![a-z]))"
_SEQUENCES = (  # first match wins; the order matters (a FLAIR is also a T2 but for a T1 FLAIR, a DWI may say "b0 t2")
    ("", r"(phase|pha|mip|minip)(?![a-z])"),  # a part or a projection of another scan
    ("T1", rf"(t1|mp ?rage).*(?<![a-z])(pre|non|no|without|wo|w/o|ohne|vor|sans|sin|senza)[ _-]*{_CONTRAST}"),
    (
        "T1 contrast",
        r"t1w?[ _-]*(ce|c|gd|gad|km)(?![a-z])|(t1|mp ?rage).*([+](c|gd|gad|km)|gado?|gd|km|contrast|post(?![a-z])(?![ _-]*(op|foss|surg)))",
    ),
    ("T1", r"t1w?[ _-]*(flair|tirm)"),
    ("FLAIR", r"flair|tirm|t2f(?![a-z])"),
    ("SWI", r"swi|swan|susc|t2[ _-]?\*|t2[ _-]?star|gre|hemo"),
    ("ADC", r"adc|apparent"),
    ("DWI b0", r"(dwi|diff|dti)[a-z]*[ _-]*b0+(?![0-9])"),
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
