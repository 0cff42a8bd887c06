"""Line breaks: lists of findings, one a line, are parted; text that was wrapped is joined."""

from __future__ import annotations

import textwrap

import pytest

from hlip.reports import split_sentences
from hlip.reports.language import Language

ENGLISH, GERMAN = Language.load("english"), Language.load("german")


@pytest.mark.parametrize(
    "lines",
    [
        ["No acute infarct", "Meningioma left frontal, 2 cm", "No hemorrhage"],
        ["No midline shift", "Glioma left temporal"],
        ["Hemorrhage: none", "Mass: meningioma left", "Infarct: no"],
        ["No hemorrhage", "Glioma right"],
        ["No hemorrhage", "3 mm microbleed left", "Glioma"],
        ["No infarct,", "Meningioma left,", "Glioma right"],
        ["NO ACUTE INFARCT", "MENINGIOMA LEFT FRONTAL", "NO SHIFT"],
        ["no acute infarct", "meningioma left frontal, 2 cm", "no hemorrhage"],
        ["Infarct | no", "Meningioma | yes"],
        ["Infarct?", "No", "Meningioma?", "Yes"],
        ["hemorrhage: none", "mass: meningioma left"],
        ["No acute infarct, no hemorrhage, no mass and no midline shift are seen", "Meningioma left frontal, 2 cm"],
        ["Ventricles: normal in size and configuration for age, no hydrocephalus", "Brain: meningioma left", "Bones: normal"],
    ],
)
@pytest.mark.parametrize("header", ["", "FINDINGS:\n", "IMPRESSION: "])
def test_a_finding_a_line(lines: list[str], header: str) -> None:
    assert split_sentences(header + "\n".join(lines)) == lines


@pytest.mark.parametrize(
    "lines",
    [
        ["Keine Blutung", "Meningeom links frontal", "Kein Infarkt"],
        ["Keine Blutung re.", "Gliom li.", "Metastase re. frontal"],  # a full stop behind an abbreviation ends it as well
        ["Blutung: keine", "Infarkt: alt, rechts okzipital"],
    ],
)
def test_a_german_finding_a_line(lines: list[str]) -> None:
    assert split_sentences("\n".join(lines), GERMAN) == lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Lesion larger than\n3 cm in the pons", ["Lesion larger than 3 cm in the pons"]),
        ("Atrophy of Fazekas grade\n2. No shift", ["Atrophy of Fazekas grade 2.", "No shift"]),
        ("Meningioma left frontal\n2 cm\nNo shift", ["Meningioma left frontal 2 cm", "No shift"]),
        ("Consistent with\nMeningioma", ["Consistent with Meningioma"]),
        ("Mass (left,\nMeningioma)\nNo shift", ["Mass (left, Meningioma)", "No shift"]),
        ("No infarct\nwith edema\nGlioma right", ["No infarct with edema", "Glioma right"]),
        ("Brain:\nNo infarct\nGlioma", ["Brain: No infarct", "Glioma"]),
        ("Infarct: no\nGlioma left", ["Infarct: no", "Glioma left"]),
        ("1. Glioma\nwith edema\n2. No infarct\nMeningioma left", ["Glioma with edema", "No infarct", "Meningioma left"]),
    ],
)
def test_what_goes_on_in_the_next_line(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


PROSE = (
    "There is a 1.5 cm mass in the left frontal lobe, e.g. a meningioma, with mild surrounding edema. No infarct is seen in the "
    "territory of the left MCA. Signal on T2 and FLAIR is high. Mild dilatation of perivascular Virchow-Robin spaces of the basal "
    "ganglia, Fazekas 2. No shift."
)
PROSA = (
    "Zum Vergleich liegt die MRT-Voruntersuchung vom 12.03.2021 vor. Unverändert zeigt sich eine extraaxiale Raumforderung links "
    "frontal mit breitbasigem Kontakt zur Dura und homogener Kontrastmittelaufnahme. Das angrenzende Hirnparenchym zeigt kein Ödem. "
    "Kein Nachweis einer akuten Ischämie in der Diffusionswichtung. Keine Blutung in der suszeptibilitätsgewichteten Sequenz. "
    "Regelrechte Weite der inneren und äußeren Liquorräume. Der 3. Ventrikel ist mittelständig."
)


@pytest.mark.parametrize("width", [50, 60, 66, 72, 80, 100, 132])
@pytest.mark.parametrize(("header", "prose", "language"), [("FINDINGS", PROSE, ENGLISH), ("BEFUND", PROSA, GERMAN)])
def test_wrapped_text_is_joined(header: str, prose: str, language: Language, width: int) -> None:
    whole = split_sentences(prose, language)
    assert len(whole) > 4
    for text in (f"{header}: {prose}", f"1. {prose}"):
        lines = textwrap.wrap(text, width, break_on_hyphens=False)
        assert len(lines) > 2
        assert split_sentences("\n".join(lines), language) == whole


def test_lines_of_unlike_length_that_go_on_are_no_list() -> None:
    text = (
        "Es findet sich eine Raumforderung mit perifokalem Ödem und leichter\nVerlagerung der Mittellinie sowie eine zweite\nkleinere Läsion. "
        "Sonst zeigt sich im Bereich der hinteren\nSchädelgrube kein Befund."
    )
    assert split_sentences(text, GERMAN) == [
        "Es findet sich eine Raumforderung mit perifokalem Ödem und leichter Verlagerung der Mittellinie sowie eine zweite kleinere Läsion.",
        "Sonst zeigt sich im Bereich der hinteren Schädelgrube kein Befund.",
    ]


@pytest.mark.parametrize(
    "lines", [["Infarct? No", "Glioma? Yes"], ["infarct? no", "glioma? yes"], ["Infarct?", "No", "Glioma?", "Yes"]]
)
def test_an_answer_ends_its_line(lines: list[str]) -> None:
    assert split_sentences("\n".join(lines)) == split_sentences("\n\n".join(lines))
