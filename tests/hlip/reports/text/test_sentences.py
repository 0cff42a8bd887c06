"""Sentences: the hard cases, one paragraph each, and the simulated reports, whose sentences are known."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from hlip.reports.cleaning import clean
from hlip.reports.language import english
from hlip.reports.spec import ReportSpec
from hlip.reports.text.sections import sections
from hlip.reports.text.sentences import sentences_of, split_sentences


def cases(name: str) -> list[tuple[str, list[str]]]:
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line and not line.startswith("#")]
    return [(line.replace(" | ", " ").replace("|", ""), [part.strip() for part in line.split("|")]) for line in told]


def bare(sentence: str) -> str:
    """Without the number of a list, which is no part of a sentence."""
    return re.sub(r"^\(?\d{1,2}[.)] (?=[A-Z])", "", sentence)


@pytest.mark.parametrize(("text", "expected"), cases("hard_sentences.txt") + cases("held_out_sentences.txt"))
def test_hard_cases(text: str, expected: list[str]) -> None:
    assert sentences_of(text, english()) == [bare(sentence) for sentence in expected if re.search(r"[A-Za-z]{2}", sentence)]


def test_simulated_reports_are_split_at_every_phrase() -> None:
    from hlip.simulate.reports import write_report

    rng = np.random.default_rng(3)
    for _ in range(50):
        report = write_report(rng, [], ["T1", "T2"], scale=1.0, field_strength=1.5, visit=1, evolved=False)
        findings = re.search(r"FINDINGS: (.*)\n", report)
        assert findings is not None
        found = sentences_of(sections(report)["findings"], english())
        assert " ".join(found) == findings[1]
        assert all(sentence.endswith(".") and ". " not in sentence for sentence in found)


def test_a_word_that_is_an_abbreviation_as_written_alone() -> None:
    assert split_sentences("Known MS. Ms. Jones was told. TE 90 ms. Then Dr. No left.") == [
        "Known MS.",
        "Ms. Jones was told.",
        "TE 90 ms.",
        "Then Dr. No left.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: 1- First thing. 2- Second thing.", ["First thing.", "Second thing."]),
        ("IMPRESSION:\n1- First thing.\n2- Second thing.", ["First thing.", "Second thing."]),
        ("Nodules of 5 - 7 mm. Stable.", ["Nodules of 5 - 7 mm.", "Stable."]),
        ("Seen on ser. 5. The rest is normal.", ["Seen on ser. 5.", "The rest is normal."]),
    ],
)
def test_lists(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_a_level_of_the_spine_is_a_sentence() -> None:
    text = "Disc bulge. L4-L5. C5/6. S1. T2. Normal."
    assert split_sentences(text) == ["Disc bulge.", "L4-L5.", "C5/6.", "S1.", "Normal."]


@pytest.mark.parametrize(
    "piece",
    [
        *("a", ".", "_", "[**", "from ", "1. ", " ", "\n", "#", "FINDINGS (", "A. ", ".) ", "no prior ", "A"),
        *("Findings-", "\nfindings", "- \n", "\u2022 ", "\nImpression --- ", "No:\n- a\n"),
        *("Dr. ", "Dr. A", "Prof. Dr. med. ", "Ab \n", "&", "\ufffd "),
    ],
)
@pytest.mark.parametrize("language", ["english", "german"])
def test_no_text_takes_long(piece: str, language: str) -> None:
    """Long runs are what patterns go back over; each took minutes or is like one that did."""
    spec = ReportSpec.load("clean", language)
    started = time.process_time()
    clean(piece * (60_000 // len(piece)), (), spec)
    clean("\n".join([(piece * 150)[:149]] * 20), (), spec)  # lines short enough to be a signature
    clean("\n".join(["Dr. " + (piece * 150)[:140]] * 20), (), spec)
    assert time.process_time() - started < 3
