"""Which sequence a stack is: what its tags say, what its description says, and how sure both together are.

    tags            confidence   rule
    modality        0.95         CT
    b-value         0.95         DWI from 50 s/mm^2 on, DWI b0 below it where the scan is echo planar or called diffusion
    image type      0.95         ADC; 0.9 DWI (DIFFUSION, TRACEW), SWI
    angio           0.9          MRA: AngioFlag, or a time-of-flight contrast
    inversion       0.85         FLAIR: inversion after 1400 ms or later, echo at 60 ms or later, no gradient echo
    short inversion 0.75         T2: inversion before 300 ms, repetition from 1500 ms on (STIR, which is read as a T2 without fat)
                    0.8          T1: inversion before 1400 ms, echo before 60 ms (MPRAGE; T1 FLAIR)
    spin echo       0.85         T1: TR up to 1200 ms, TE up to 35 ms; T2: TR from 1500 ms, TE from 60 ms on
                    0.7          PD: TR from 1500 ms, TE up to 45 ms
    gradient echo   0.6          SWI: TE from 12 ms on (what is called T2* is counted with it); T1: TE below 12 ms
    frame type      0.75         T1, T2, T2_STAR (SWI), STIR (T2), PROTON_DENSITY (PD), FLUID_ATTENUATED (FLAIR), TOF (MRA) among the words of
                                 the image type of what is not derived, where no timing tells
    none            0            nothing is known

A description is worth 0.8. Where both name one sequence the doubt of each is multiplied (0.85 and 0.8: 0.97). Where they differ, a tag of
0.9 and more wins, else the description does; either way the confidence is 0.5, so that such scans can be looked at. A contrast agent
makes a T1 to T1 contrast: by description (0.8, as is its denial), else by ContrastBolusAgent (0.75).

MPR alone, which is an MPRAGE or a reformat of anything, says T1 only where no tag says otherwise.

A description that names two sequences, PD and T2, is a double echo and decides nothing: its echo and repetition time do, as of a spin echo
(which it is, where ScanningSequence lacks). Where they tell neither, it is PD at 0.5.

Some names are no dispute, since one sequence is a kind of the other: a T2 with the inversion of a FLAIR is a FLAIR; a FLAIR (TIRM) with that
of a STIR is a T2; what is called MRA and has the timing of a gradient echo is one, at the confidence of the description.

Notable choices:
- CT angiography is told by words alone: an agent in the tag may mean any CT with contrast.
- MRA and T1 of short gradient echoes are told apart by the description, since their timing is the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from hlip.dicom.kinds import is_adc
from hlip.dicom.tags import Stack
from hlip.scans.diffusion import LOW_B
from hlip.scans.sequence import BOTH, DENIED, GIVEN, LONGEST, NONE

WORDS = 0.8
"""Confidence of a description."""
DISPUTED = 0.5
_STRONG = 0.9
_AGENT = 0.75
BOTH_ECHOES = "PD and T2"
"""What a description calls a double echo; no sequence of a scan."""
_NAMES_BOTH = "description of a double echo"
_LONG = 1500  # ms, a repetition time of a PD or a T2
_MPR = "MPRAGE or a reformat"
"""What a description means by MPR alone; no sequence of a scan."""
_DESCRIPTIONS = (  # first match wins
    ("CT angiography", "CT", r"cta|angio\w*|carotid\w*|circle of willis"),
    ("CT", "CT", r"ct|head|brain|sinus\w*|orbit\w*"),
    ("ADC", "MR", r"d?adc|apparent diffusion\w*|average dc"),
    ("DWI b0", "MR", r"b ?= ?0|b0|b0000?|b 0(?! ?[0-9])"),
    (
        "DWI",
        "MR",
        r"dwi\w*|(?:iso|ss|[cemrs])dwi\d*|dw|diff\w*|difus\w*|isotropic image|trace\w*|dti|resolve|b ?=? ?[1-9]\d{2,3}",
    ),
    ("SWI", "MR", r"swi\w*|swan|susc\w*|ven ?bold|t2 ?(\*|star|gre|fl2d|ffe|fe)|hemo\w*|haemo\w*|t2w? ?(gre|ffe)|swip"),
    ("MRA", "MR", r"mra|tof|angio\w*|mrv|venogra\w*|pca|inhance"),
    ("T1", "MR", r"t1 ?w?( \w+)* ?(flair|tirm)|(flair|tirm) ?t1"),
    ("FLAIR", "MR", r"flair\w*|tirm|dark ?fluid|t2 ?dark|da ?fl|spc\w* ?ir"),
    (BOTH_ECHOES, "MR", r"pdw?t2w?|t2w?pdw?|pdw?[^a-z0-9](.*[^a-z0-9])?t2w?|t2w?[^a-z0-9](.*[^a-z0-9])?pdw?"),
    ("PD", "MR", r"pdw?|proton( density)?"),
    ("T1", "MR", r"(3d|[esdv])?t1\w*|mp ?rage\w*|mp2rage|spgr|f?spgr|bravo|3d ?tfe|vibe|thrive|lava"),
    ("T2", "MR", r"(3d|[esdv])?t2\w*|t?stir\w*|ciss|fiesta\w*|drive|haste|ssfse|blade|propeller"),
    (_MPR, "MR", r"mpr"),
)
_KINDS_OF = {
    ("inversion", "FLAIR", "T2"),
    ("short inversion", "T2", "FLAIR"),
    ("image type", "ADC", "DWI"),
    ("image type", "ADC", "DWI b0"),
}
_FRAME_TYPES = {
    "T1": "T1", "T2": "T2", "T2_STAR": "SWI", "STIR": "T2", "PROTON_DENSITY": "PD", "FLUID_ATTENUATED": "FLAIR", "TOF": "MRA",
}  # fmt: skip
_FRAME_TYPE = 0.75
_DENIED = (
    rf"(?<![a-z])(?:(?:{NONE})(?![a-z])(?! ?op)|nativ\w*|plain|unenhanced|non ?con\w*)|{DENIED}"
    r"|(?<= )-(?:km|gd|gad|c)(?![a-z])|(?<![a-z])(?:km|gd|gad|c)-(?![a-z0-9])"  # T1 -KM, T1 C-
)


@dataclass(frozen=True)
class Guess:
    """A sequence, how sure that is (0 to 1), and by which rule."""

    sequence: str
    confidence: float
    rule: str


def guess(stack: Stack) -> Guess:
    """The sequence of a stack by the rules at the head of this file."""
    if stack.modality not in ("CT", "MR"):
        return Guess("", 0.0, "none")
    by_tags, by_words = _by_tags(stack), _by_words(stack)
    if by_words.sequence == BOTH_ECHOES:
        by_tags, by_words = _of_double_echo(by_tags, stack)
    found = _together(by_tags, by_words)
    if found.sequence == "CT angiography" or found.sequence == "CT":
        return found
    return _with_contrast(found, stack) if found.sequence == "T1" else found


def _of_double_echo(tags: Guess, stack: Stack) -> tuple[Guess, Guess]:
    """What tags and words say of an image whose description names PD and T2: the tags, or the times alone, know which of the two it is."""
    silent = Guess("", 0, "none")
    if not tags.sequence and stack.echo_time is not None:
        tags = _of_spin_echo(stack.echo_time, stack.repetition_time or _LONG, "echo time")
    if tags.sequence in ("PD", "T2"):
        return Guess(tags.sequence, tags.confidence, f"{tags.rule}, of a double echo"), silent
    return (tags, Guess("PD", WORDS, _NAMES_BOTH)) if tags.sequence else (silent, Guess("PD", DISPUTED, _NAMES_BOTH))


def _together(tags: Guess, words: Guess) -> Guess:
    if words.sequence == _MPR:  # it contradicts no tag
        words = replace(words, sequence="T1" if tags.sequence in ("", "T1") else "")
    if not words.sequence or not tags.sequence:
        return tags if tags.sequence else words
    rule = f"{tags.rule} + {words.rule}"
    if (tags.rule, tags.sequence, words.sequence) in _KINDS_OF:
        return Guess(tags.sequence, tags.confidence, f"{tags.rule}, of what is called {words.sequence}")
    if (tags.rule, words.sequence) == ("gradient echo", "MRA"):
        return Guess("MRA", words.confidence, rule)
    if tags.sequence == words.sequence or (tags.sequence, words.sequence) == ("CT", "CT angiography"):
        doubt = (1 - tags.confidence) * (1 - words.confidence)
        return Guess(words.sequence, round(1 - doubt, 2), rule)
    if {tags.sequence, words.sequence} == {"DWI", "DWI b0"}:  # its b-value knows which; the words meant the family
        return Guess(tags.sequence, tags.confidence, tags.rule)
    winner = tags if tags.confidence >= _STRONG else words
    return Guess(winner.sequence, DISPUTED, f"{tags.rule} ({tags.sequence}) against {words.rule} ({words.sequence})")


def _by_tags(stack: Stack) -> Guess:
    found = _by_rules(stack)
    if found.sequence or found.rule != "none" or "DERIVED" in stack.image_type or is_adc(stack):
        return found
    word = next((word for word in stack.image_type if word in _FRAME_TYPES), None)
    return Guess(_FRAME_TYPES[word], _FRAME_TYPE, "frame type") if word else found


def _by_rules(stack: Stack) -> Guess:
    if stack.modality == "CT":
        return Guess("CT", 0.95, "modality")
    types, scanning = set(stack.image_type), set(stack.scanning)
    echo, repetition, inversion = stack.echo_time, stack.repetition_time, stack.inversion_time
    if is_adc(stack):
        return Guess("ADC", 0.95, "image type") if types & {"ADC", "ADC_UNSPECIFIED"} else Guess("", 0, "none")
    if stack.b_value is not None and stack.b_value >= LOW_B:
        return Guess("DWI", 0.95, "b-value")
    if types & {"DIFFUSION", "TRACEW", "DIFFUSION_ANISO"}:
        return Guess("DWI" if stack.b_value is None else "DWI b0", 0.9, "image type")
    if stack.b_value is not None and ("EP" in scanning or _by_words(stack).sequence.startswith("DWI")):
        return Guess("DWI b0", 0.95, "b-value")
    if types & {"SWI", "SUSCEPTIBILITY"}:
        return Guess("SWI", 0.9, "image type")
    if stack.angio or types & {"TOF", "ANGIO"}:
        return Guess("MRA", 0.9, "angio")
    if echo is None or repetition is None:
        return Guess("", 0, "none")
    if inversion and inversion >= 1400 and echo >= 60 and "GR" not in scanning:
        return Guess("FLAIR", 0.85, "inversion")
    if inversion and ("IR" in scanning or "MP" in stack.variant or not scanning):
        if 80 <= inversion < 300 and repetition >= 1500 and "GR" not in scanning:
            return Guess("T2", 0.75, "short inversion")
        if 300 <= inversion < 1400 and echo < 60:
            return Guess("T1", 0.8, "inversion")
    if "EP" in scanning:
        return Guess("", 0, "none")
    if "SE" in scanning:
        return _of_spin_echo(echo, repetition)
    if "GR" in scanning:
        return Guess("SWI" if echo >= 12 else "T1", 0.6, "gradient echo")
    return Guess("", 0, "none")


def _of_spin_echo(echo: float, repetition: float, rule: str = "spin echo") -> Guess:
    if repetition <= 1200 and echo <= 35:
        return Guess("T1", 0.85, rule)
    if repetition >= _LONG and echo >= 60:
        return Guess("T2", 0.85, rule)
    if repetition >= _LONG and echo <= 45:
        return Guess("PD", 0.7, rule)
    return Guess("", 0, "none")


def _by_words(stack: Stack) -> Guess:
    """By the description, else by the protocol's name."""
    for text, rule in ((stack.description, "description"), (stack.protocol, "protocol name")):
        words = re.sub(r"[_\-,;:()\[\]]+", " ", text[:LONGEST].lower())
        for name, modality, pattern in _DESCRIPTIONS:
            if modality == stack.modality and re.search(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])", words):
                return Guess(name, WORDS, rule)
    return Guess("", 0, "none")


def _with_contrast(found: Guess, stack: Stack) -> Guess:
    text = f"{stack.description} {'' if stack.description else stack.protocol}"[:LONGEST].lower().replace("_", " ")
    if re.search(_DENIED, text) and not re.search(BOTH, text):
        return Guess("T1", min(found.confidence, WORDS), f"{found.rule}; no contrast by description")
    if re.search(GIVEN, text):
        return Guess("T1 contrast", min(found.confidence, WORDS), f"{found.rule}; contrast by description")
    agent = stack.contrast[:LONGEST].lower()
    if agent and not re.fullmatch(r"(no|none|n/?a|0|without.*|nil|no contrast)", agent):
        return Guess("T1 contrast", min(found.confidence, _AGENT), f"{found.rule}; contrast agent")
    return found
