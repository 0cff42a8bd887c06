"""Sections and sentences of radiology reports."""

from __future__ import annotations

import pytest

from hlip.reports import sections, split_sentences

REPORT = """EXAMINATION: MRI brain without contrast, dated 12.03.2021.
CLINICAL HISTORY: 63-year-old, seen by Dr. Smith and A. Jones.

FINDINGS:
There is a 1.5 cm mass in the left frontal lobe, e.g. a meningioma, with
mild surrounding edema. Disc bulge at L4-L5. No midline shift.
Lesions measure approx. 3 x 2.4 x 1.1 cm (ser. 5, im. 23). Compared with 01/02/2020 no change.
IMPRESSION: 1. Left frontal mass. 2. No acute infarct.
- Mild atrophy
"""


def test_a_whole_report() -> None:
    assert list(sections(REPORT)) == ["examination", "clinical history", "findings", "impression"]
    assert split_sentences(REPORT) == [
        "MRI brain without contrast, dated 12.03.2021.",
        "63-year-old, seen by Dr. Smith and A. Jones.",
        "There is a 1.5 cm mass in the left frontal lobe, e.g. a meningioma, with mild surrounding edema.",
        "Disc bulge at L4-L5.",
        "No midline shift.",
        "Lesions measure approx. 3 x 2.4 x 1.1 cm (ser. 5, im. 23).",
        "Compared with 01/02/2020 no change.",
        "Left frontal mass.",
        "No acute infarct.",
        "Mild atrophy",
    ]


@pytest.mark.parametrize("text", ["", "  \n\n ", "FINDINGS:", "1.\n2.\n"])
def test_nothing_has_no_sentence(text: str) -> None:
    assert split_sentences(text) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Seen by Dr. Meyer in clinic.",
        "A lesion of 1.5 cm in the left lobe.",
        "Narrowing at L4-L5, C2/C3 and Th12.",
        "Compared with the study of 12.03.2021 there is no change.",
        "Signal loss, e.g. T2 shine-through, i.e. no restriction.",
        "Mass vs. abscess, approx. 3.2 x 1 cm.",
        "Best seen on im. 23 of ser. 5.",
        "The St. Jude device is in place.",
    ],
)
def test_one_sentence_stays_one(sentence: str) -> None:
    assert split_sentences(sentence) == [sentence]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("No mass. No shift.", ["No mass.", "No shift."]),
        ("The answer is no. Next one.", ["The answer is no.", "Next one."]),
        ("Degeneration of L4-L5. Normal cord.", ["Degeneration of L4-L5.", "Normal cord."]),
        ("Lesion of 3 cm. 2 mm shift.", ["Lesion of 3 cm.", "2 mm shift."]),
        ("Is it acute? Yes! Done.", ["Is it acute?", "Yes!", "Done."]),
        ("Wrapped\nline here. Next\none.", ["Wrapped line here.", "Next one."]),
        ("Findings:\r\n1) First thing\r\n2) Second thing\r\n", ["First thing", "Second thing"]),
        ("Findings are normal. No mass.", ["Findings are normal.", "No mass."]),
        ("First paragraph\n\nSecond paragraph", ["First paragraph", "Second paragraph"]),
        ("No bleed. IMPRESSION: Normal.", ["No bleed.", "Normal."]),
        ("Impression\nNormal study.", ["Normal study."]),
    ],
)
def test_ends(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_sections_keep_what_stands_before_and_join_repeats() -> None:
    assert sections("Preamble.\nFindings: A.\nImpression: B.\nFindings: C.") == {
        "": "Preamble.",
        "findings": "A.\nC.",
        "impression": "B.",
    }
