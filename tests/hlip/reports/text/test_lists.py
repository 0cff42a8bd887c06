"""Numbers and bullets of lists go; numbers that are none stay."""

from __future__ import annotations

import pytest

from hlip.reports import split_sentences
from hlip.reports.language import Language

ENGLISH, GERMAN = Language.load("english"), Language.load("german")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.Mild atrophy. 3.Small cyst", ["Mild atrophy.", "Small cyst"]),
        ("1.Glioma of the insula.2.No bleed.3.Old infarct.", ["Glioma of the insula.", "No bleed.", "Old infarct."]),
        ("i. infarct ii. bleed", ["infarct", "bleed"]),
        ("As follows:\nI. Glioma.\nII. Infarct.\nIII. Cyst.", ["As follows:", "Glioma.", "Infarct.", "Cyst."]),
        ("- Glioma\n* Infarct\na) Cyst", ["Glioma", "Infarct", "Cyst"]),
    ],
)
def test_items(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@pytest.mark.parametrize("language", [ENGLISH, GERMAN])
def test_no_number_is_lost(language: Language) -> None:
    assert split_sentences("Fazekas Gr. 2. Ca. 3 mm. Nr. 5.", language) == ["Fazekas Gr. 2.", "Ca. 3 mm.", "Nr. 5."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Score of Foo. 4. Stable.", ["Score of Foo.", "4. Stable."]),  # an abbreviation that no file knows
        ("Seen on ser. 1. The rest is normal.", ["Seen on ser. 1.", "The rest is normal."]),
        ("Lesion of WHO grade II. Edema.", ["Lesion of WHO grade II.", "Edema."]),
        ("I. Smith read it. Chiari type II. Syrinx.", ["I. Smith read it.", "Chiari type II.", "Syrinx."]),
    ],
)
def test_numbers_that_are_no_items(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@pytest.mark.parametrize("text", ["3. Ventrikel normal weit.", "3.Ventrikel normal weit.", "V. a. Meningeom der Falx."])
def test_ordinals_stay(text: str) -> None:
    assert split_sentences(text, GERMAN) == [text]


@pytest.mark.parametrize("glued", ["2 cm.Stable", "grade 2.Stable", "mass.Stable", "(3 mm).Stable", "MRI.Stable"])
def test_sentences_without_a_space_between(glued: str) -> None:
    assert split_sentences(f"Lesion: {glued} edema.") == [f"Lesion: {glued.removesuffix('Stable')}", "Stable edema."]
