"""Reports: free text from what was drawn, with findings in random order among negations and routine sentences.

About half of the sentences of an abnormal study say something about a positive finding; the rest is what reports are
full of. Side words are the patient's (x < 0 is left).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hlip.simulate import phrases
from hlip.simulate.contrast import SEQUENCES
from hlip.simulate.shapes import Lesion

_PLURAL = re.compile(r"\{count\}|multiple|metastases|lesions|deposits", re.IGNORECASE)
_NAMED = re.compile(rf"\b(?:{'|'.join(SEQUENCES)})\b")
_GRADES = ("mild", "moderate", "severe")


def write_report(
    rng: np.random.Generator,
    lesions: Sequence[Lesion],
    sequences: Sequence[str],
    *,
    scale: float,
    field_strength: float,
    visit: int,
    evolved: bool,
) -> str:
    """TECHNIQUE, COMPARISON, FINDINGS and IMPRESSION of one study.

    Args:
        lesions: as drawn; empty for a normal study.
        sequences: names of the study's scans.
        scale: head size relative to the template; sizes are reported in real mm.
        visit: 0 for a patient's first study.
        evolved: whether the finding has changed since the first visit.
    """
    labels = [lesion.signature.name for lesion in lesions]
    slots = {lesion.signature.name: _slots(lesion, scale, rng) for lesion in lesions}
    findings: list[str] = []
    for name in labels:
        findings.append(_sentence(rng, _sayable(phrases.FINDINGS[name], sequences), slots[name]))
        if rng.random() < 0.35:
            findings.append(_sentence(rng, _sayable(phrases.DETAILS[name], sequences), slots[name]))
    if not labels:
        findings += _some(rng, phrases.NORMAL_BRAIN, 1, 2)
    findings += _some(rng, _compatible(phrases.NEGATIONS, labels), *((1, 3) if labels else (2, 4)))
    findings += _some(rng, _compatible(phrases.NORMAL_STATEMENTS, labels), 0, 2)
    if rng.random() < 0.2:
        findings += _some(rng, phrases.HEDGES, 1, 1)
    rng.shuffle(findings)
    impression = [_impression(rng, name, slots[name]) for name in labels]
    impression = impression or _some(rng, phrases.IMPRESSIONS["normal"], 1, 1)
    if visit:
        impression += _some(rng, phrases.EVOLVED if evolved else phrases.STABLE, 0, 1)
    if rng.random() < 0.15:
        impression += _some(rng, phrases.HEDGES[:2], 1, 1)
    parts = {"FINDINGS": " ".join(findings), "IMPRESSION": _listed(rng, impression)}
    head = {}
    if rng.random() < 0.75:
        named = _enumerate([name for name in SEQUENCES if name in sequences])
        head["TECHNIQUE"] = _sentence(rng, phrases.TECHNIQUE, {"sequences": named, "field": f"{field_strength:g}"})
    if rng.random() < 0.6:
        head["COMPARISON"] = _some(rng, phrases.AGAIN if visit else phrases.FIRST, 1, 1)[0]
    return "\n\n".join(f"{title}: {text}".replace(": \n", ":\n") for title, text in (head | parts).items())


def _slots(lesion: Lesion, scale: float, rng: np.random.Generator) -> dict[str, str]:
    """What the phrases may say about a lesion."""
    slots = {"grade": _GRADES[lesion.grade - 1], "number": str(lesion.grade)}
    if lesion.signature.kind == "atrophy":
        high = lesion.signature.name == "Alzheimer's disease"
        slots["grade"] = str((3 if high else 1) + int(max(lesion.loss) > np.mean(lesion.signature.loss)))
        return slots
    if not lesion.foci:
        return slots
    largest = max(lesion.foci, key=lambda focus: focus.size_mm)
    side = {-1: "left", 1: "right", 0: ""}[largest.side]
    slots |= {"side": side, "lobe": largest.place, "where": f"{side} {largest.place}".strip()}
    slots |= {"count": _count(len(lesion.foci)), "size": _size(largest.size_mm * scale, rng)}
    slots |= {"territory": lesion.pattern, "pattern": lesion.pattern}
    slots["etiology"] = "hypertensive" if lesion.pattern == "deep" else "amyloid angiopathy"
    return slots


def _size(mm: float, rng: np.random.Generator) -> str:
    return f"{round(mm)} mm" if mm < 10 or rng.random() < 0.4 else f"{mm / 10:.1f} cm"


def _count(number: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[number] if number < len(words) else str(number)


def _sentence(rng: np.random.Generator, choices: Sequence[str], slots: dict[str, str]) -> str:
    if slots.get("count") == "one":
        choices = [choice for choice in choices if not _PLURAL.search(choice)] or choices
    text = str(rng.choice(choices)).format(**slots)
    text = " ".join(text.split())
    return text[0].upper() + text[1:]


def _sayable(choices: Sequence[str], sequences: Sequence[str]) -> list[str]:
    """Phrases that name no sequence the study lacks, if there are any."""
    return [text for text in choices if set(_NAMED.findall(text)) <= set(sequences)] or list(choices)


def _impression(rng: np.random.Generator, name: str, slots: dict[str, str]) -> str:
    """The finding's name, now and then hedged."""
    text = _sentence(rng, phrases.IMPRESSIONS[name], slots)
    hedged = re.search("likely|probable|findings|suspected|may|favor|multiple", text, re.IGNORECASE)
    if rng.random() < 0.2 and not hedged:
        first, rest = text[0], text[1:]
        text = str(rng.choice(phrases.HEDGED)).format(first.lower() + rest)
    return text


def _some(rng: np.random.Generator, choices: Sequence[str], low: int, high: int) -> list[str]:
    wanted = min(int(rng.integers(low, high + 1)), len(choices))
    return [choices[place] for place in rng.permutation(len(choices))[:wanted]]


def _compatible(statements: Sequence[tuple[str, tuple[str, ...]]], labels: Sequence[str]) -> list[str]:
    """Statements that exclude none of the study's findings."""
    return [text for text, excluded in statements if not set(excluded) & set(labels)]


def _enumerate(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _listed(rng: np.random.Generator, sentences: list[str]) -> str:
    """The impression as running text or, with several sentences, sometimes numbered."""
    rng.shuffle(sentences)
    if len(sentences) > 1 and rng.random() < 0.3:
        return "\n" + "\n".join(f"{number}. {text}" for number, text in enumerate(sentences, start=1))
    return " ".join(sentences)
