"""The name of a sequence, guessed from a file name or a series description; and the words by which people say that an agent was given, or
which phase they mean, which names and descriptions share (`hlip.dicom`).

Notable choices:
- A T1 is one with contrast where a word says so, unless another one right before it denies it: of file names "native" may mean the space.
- Parts and projections of another scan (SWI_phase, SWI_mIP) have no name: they are no plain scan of that sequence.
- What is called T2* counts with SWI, a STIR with T2.
- MPR is an MPRAGE, or a reformat of anything: it says T1 only where no other word says more.
"""

from __future__ import annotations

import re

NONE = r"pre|non?|not|without|w/?o|vor|ohne|sans|avant|sin|senza|sem|zonder|bez|utan|uten|uden"
"""Words before an agent's that deny it."""
_BEFORE = r"before|antes|prima|avant|voor"
AGENTS = r"contr\w*|gad\w*|gd|km|mdc|kontrast\w*|inj(?:e[ck]\w*)?"
GIVEN = (
    rf"(?<![a-z])(?:(?:{AGENTS}|ce|enhanced|postcontr\w*|t1w?ce?)(?![a-z])|post(?![a-z])(?![ _-]*(?:op(?![a-z])|foss|surg|interv)))"
    r"|\+ ?(?:c|gd|gad|km)(?![a-z])|(?<![a-z])m\.? ?km(?![a-z])|(?<![a-z])c ?\+|contrast|(?<=t1)w?(?:ce?|gd|gad|km|post)(?![a-z])"
)
"""An agent was given, in lower case."""
BOTH = (
    r"(?<![a-z0-9])w/?[ _]?(?:and[ _])?w/?o|with (?:and )?without|mit (?:und )?ohne|ohne (?:und )?mit"
    r"|pre[ _]?(?:and|und|et|&|/|\+)[ _]?post(?![a-z])"
)
"""Two series under one name: the agent was given."""
DENIED = (
    rf"(?<![a-z])(?:(?:{NONE}|{_BEFORE})[ _-]*(?:d[ei'](?![a-z])[ _-]*)?|un)(?:{AGENTS}|ce|c|enhanced)(?![a-z])"
    r"|(?<![a-z])(?:[ck]ontrast(?:siz|frei|los|free)|o\.? ?(?:km|gd))(?![a-z])"
)
"""None was: precontrast, without gd, uncontrasted."""
_ECHO_PHASES = r"(?:in|out|opp[a-z]*|of)"
_AGENT_PHASES = (
    r"(?:[^\W\d_]{0,12}(?:arter|ven[oöe]|portal)[^\W\d_]{0,12}|art|ven|late|delay[a-z]*|early|equilibrium|hepatobiliary|nephro[a-z]*|"
    r"excret[a-z]*|multi|\d)"
)
LONGEST = 200
"""Letters of a name or description that are looked at: a hostile header's may be endless."""
_PART = r"(phase|pha)(?![a-z])"
_HAS_PARTS = r"(swi|swan|susc[a-z]*|gre|star)(?![a-z])"
_SEQUENCES = (  # first match wins; the order matters (a FLAIR is also a T2 but for a T1 FLAIR, a DWI may say "b0 t2")
    ("", rf"(mip|minip)(?![a-z])|{_HAS_PARTS}.*(?<![a-z]){_PART}|{_PART}.*(?<![a-z]){_HAS_PARTS}"),
    ("T1", r"t1w?[ _-]*(flair|tirm)|(flair|tirm)[ _-]*t1w?(?![a-z0-9])"),
    ("FLAIR", r"flair|tirm|t2f(?![a-z])|dark[ _-]?fluid|da[ _-]?fl(?![a-z])"),
    ("SWI", r"swi|swan|susc|ven[ _-]?bold|t2w?[ _-]?(\*|star|fl2d|ffe)"),
    ("ADC", r"adc|apparent|average[ _-]*dc(?![a-z])"),
    ("DWI b0", r"(dwi|diff|dti)[a-z]*[ _-]*b0+(?![0-9])(?!.*(?<![a-z])b[1-9])"),
    ("DWI", r"dwi|(?:iso|ss|[cemrs])dwi(?![a-z])|diff|difus|trace|dti|b[ _=]?[1-9][0-9]{2,3}(?![0-9])"),
    ("CT angiography", r"cta|ct.*angio"),
    ("CT", r"ct(?![a-z]).*venogra"),
    ("MRA", r"mra|mrv|tof|angio|venogra"),
    ("PD", r"pd|proton"),
    ("T1", r"t1|[desv]t1w|mp ?rage|f?spgr|bravo|(vibe|thrive|lava)(?![a-z])"),
    ("SWI", r"gre(?![a-z])|hemo"),
    ("T2", r"t2|[desv]t2w|(t?stir|ciss|fiesta|haste|ssfse|blade|propeller)(?![a-z])"),
    ("CT", r"ct"),
    ("T1", r"mpr"),
)


def without_other_phases(text: str) -> str:
    """A name or description in lower case without the phases of an agent or of an echo, whose images are plain ones: "arterial phase", "in
    phase"; and without the phase contrast by which vessels are shown. Where a scan has phase images of its own (SWI), only an echo's are
    meant otherwise."""
    text = text.lower()[:LONGEST]
    if re.search(r"mr[av](?![a-z])|angio|venogra", text):
        text = re.sub(r"phase[ _-]*contrast", " ", text)
    kinds = _ECHO_PHASES if re.search(rf"(?<![a-z]){_HAS_PARTS}", text) else f"(?:{_ECHO_PHASES}|{_AGENT_PHASES})"
    return re.sub(rf"(?<![a-z0-9]){kinds}[ _-]?phase", " ", text)


_SPELLINGS = {
    "T1": r"t1(w|weighted|mprage)?|mprage",
    "T1 contrast": r"t1w?(ce|c|gd|gad|km|post|contrast|postcontrast|postgd)",
    "T2": r"t2(w|weighted)?",
    "FLAIR": r"(t2w?)?flair|flairt2",
    "PD": r"pdw?|protondensity",
    "DWI b0": r"(dwi)?b0",
    "DWI": r"dwi|diffusion|(dwi)?b1000",
    "ADC": r"adc",
    "SWI": r"swi|swan|t2star",
    "MRA": r"mra|tof|tofmra|mratof",
    "CT": r"ct",
    "CT angiography": r"cta|ctangio(graphy)?",
}


def spelled(name: str) -> str:
    """A sequence's name as it is spelled here, where it is nothing but another spelling (t1w, T1ce, T2-FLAIR); else as it is."""
    letters = re.sub(r"[\W_]+", "", name.lower().replace("*", "star"))
    return next((ours for ours, pattern in _SPELLINGS.items() if re.fullmatch(pattern, letters)), name)


def guess_sequence(text: str) -> str:
    """A sequence name from a file name or a series description; empty when nothing is recognised."""
    words = without_other_phases(re.sub(r"\.nii(\.gz)?$|\.mg[hz]$|\.dcm$", " ", text.lower()))
    for name, pattern in _SEQUENCES:
        if re.search(rf"(?<![a-z])(?:{pattern})", words):
            return "T1 contrast" if name == "T1" and _has_contrast(words) else name
    return ""


def _has_contrast(words: str) -> bool:
    denied = re.search(DENIED, words) and not re.search(BOTH, words)
    return not denied and bool(re.search(GIVEN, words) or re.search(r"(?<![a-z])t1w?[_-]c(?![a-z]|[ _-]*sp)", words))
