"""Questions and labels with their answers: "Hemorrhage? No.", "Mass: none", "Blutung? Ja."."""

from __future__ import annotations

import pytest

from hlip.reports.labels.mining import Miner, states
from hlip.reports.spec import ReportSpec
from hlip.taxonomy import Taxonomy

CLASSES = {
    "english": ("hemorrhage", "infarct", "mass", "meningioma", "hydrocephalus"),
    "german": ("Blutung", "Infarkt", "Meningeom", "Hydrozephalus"),
}


@pytest.fixture(scope="module")
def miners() -> dict[str, Miner]:
    trees = {
        name: Taxonomy.from_dict({"name": name, "classes": [{"name": each} for each in CLASSES[name]]}) for name in CLASSES
    }
    return {name: Miner(tree, ReportSpec.load("clean", name)) for name, tree in trees.items()}


NO = [
    *("Hemorrhage? No.", "Hemorrhage? No", "Hemorrhage? no", "Hemorrhage?No.", "Hemorrhage?\nNo.", "Hemorrhage?\n\nNo."),
    *(
        "Hemorrhage? None.",
        "Hemorrhage? None seen.",
        "Hemorrhage? - No.",
        "Q: Hemorrhage?\nA: No.",
        "Hemorrhage? Absent.",
        "Hemorrhage? Negative.",
    ),
    *(
        "Hemorrhage? Not seen.",
        "Hemorrhage? No evidence.",
        "Hemorrhage? Unlikely.",
        "Is there a hemorrhage? No.",
        "Any hemorrhage? Nil.",
    ),
    *(
        "Is hemorrhage present? No.",
        "Evaluate for hemorrhage? No.",
        "1. Hemorrhage? No.",
        "Hemorrhage: no",
        "Hemorrhage: none.",
    ),
    *("Hemorrhage - absent.", "Hemorrhage: no evidence.", "Hemorrhage: not detected", "Hemorrhage: No (as before)."),
    *(
        "Hemorrhage: No hemorrhage.",
        "Hemorrhage: no evidence of hemorrhage",
        "Hemorrhage? No hemorrhage.",
        "Hemorrhage? no acute hemorrhage",
        "Hemorrhage = no",
    ),
]
YES = [
    *(
        "Hemorrhage? Yes.",
        "Hemorrhage? yes",
        "Hemorrhage?\nYes",
        "Hemorrhage?\nyes",
        "Hemorrhage? Yes, in the left thalamus.",
        "Hemorrhage? Present.",
    ),
    *("Is there a hemorrhage? Yes.", "Possible hemorrhage? Yes.", "Evaluate for hemorrhage? Yes.", "Hemorrhage: present"),
    *(
        "Hemorrhage: yes",
        "Hemorrhage: Yes.",
        "Hemorrhage - present.",
        "Possible hemorrhage: yes",
        "Hemorrhage: Large hemorrhage.",
    ),
]
UNKNOWN = [
    *("Hemorrhage?", "Is there a hemorrhage? The ventricles are normal.", "Hemorrhage? No infarct.", "Hemorrhage? Possible."),
    *(
        "CLINICAL QUESTION: Hemorrhage?",
        "Hemorrhage is present?",
        "Hemorrhage: possible",
        "Hemorrhage: equivocal.",
        "A lesion, ? hemorrhage. No hemorrhage elsewhere.",
    ),
]
NEIN = [
    "Blutung? Nein.",
    "Blutung? Keine.",
    "Blutung?\nNein",
    "Blutung? Kein Nachweis.",
    "Blutung: nein",
    "Blutung: Kein Nachweis",
]
NEIN += [
    "Blutung - keine",
    "Blutung? Nicht nachweisbar.",
    "Blutung: fehlt",
    "Blutung: Keine Blutung.",
    "Zeigt sich eine Blutung? Nein.",
]
JA = [
    "Blutung? Ja.",
    "Blutung? Ja, rechts thalamisch.",
    "Blutung: ja",
    "Blutung: vorhanden",
    "Blutung?\nJa",
    "V.a. Blutung: ja",
]


@pytest.mark.parametrize(
    ("language", "name", "state", "report"),
    [
        *(("english", "hemorrhage", "negated", report) for report in NO),
        *(("english", "hemorrhage", "present", report) for report in YES),
        *(("english", "hemorrhage", "uncertain", report) for report in UNKNOWN),
        *(("german", "Blutung", "negated", report) for report in NEIN),
        *(("german", "Blutung", "present", report) for report in JA),
        ("german", "Blutung", "uncertain", "Blutung?"),
        ("german", "Blutung", "uncertain", "Blutung: fraglich"),
        ("english", "hemorrhage", "open", "Hemorrhage: not assessed"),
        ("german", "Blutung", "uncertain", "FRAGESTELLUNG: Blutung?"),
        ("english", "mass", "negated", "Mass effect: none."),
        ("english", "infarct", "negated", "Acute infarct: No"),
        ("english", "hydrocephalus", "negated", "Hydrocephalus - absent."),
    ],
)
def test_one(miners: dict[str, Miner], language: str, name: str, state: str, report: str) -> None:
    assert states(miners[language].mentions(report))[name] == state


@pytest.mark.parametrize(
    ("language", "report", "expected"),
    [
        (
            "english",
            "Hemorrhage? No. Infarct? Yes. Mass?",
            {"hemorrhage": "negated", "infarct": "present", "mass": "uncertain"},
        ),
        ("english", "Hemorrhage? No\nInfarct? Yes", {"hemorrhage": "negated", "infarct": "present"}),
        ("english", "hemorrhage? no\ninfarct? yes", {"hemorrhage": "negated", "infarct": "present"}),
        (
            "english",
            "Hemorrhage?\nNo\nInfarct?\nYes\nMass?\nNo",
            {"hemorrhage": "negated", "infarct": "present", "mass": "negated"},
        ),
        (
            "english",
            "hemorrhage? no, infarct? yes, mass? no",
            {"hemorrhage": "negated", "infarct": "present", "mass": "negated"},
        ),
        (
            "english",
            "Hemorrhage: no, infarct: yes, mass: no",
            {"hemorrhage": "negated", "infarct": "present", "mass": "negated"},
        ),
        ("english", "Hemorrhage no, infarct yes.", {"hemorrhage": "negated", "infarct": "present"}),
        ("english", "Infarct yes, hemorrhage no", {"hemorrhage": "negated", "infarct": "present"}),
        ("english", "Hemorrhage: no. Infarct: yes.", {"hemorrhage": "negated", "infarct": "present"}),
        ("english", "No hemorrhage, infarct of the pons yes.", {"hemorrhage": "negated", "infarct": "present"}),
        ("english", "Infarct, hemorrhage no.", {"hemorrhage": "negated", "infarct": "present"}),
        ("english", "Infarct on series no. 5.", {"infarct": "present"}),
        ("german", "Keine Blutung, Infarkt ja.", {"Blutung": "negated", "Infarkt": "present"}),
        ("german", "Blutung der Stammganglien nein, Infarkt ja.", {"Blutung": "negated", "Infarkt": "present"}),
        ("english", "Hemorrhage or infarct? Neither.", {"hemorrhage": "negated", "infarct": "negated"}),
        ("english", "Hemorrhage or infarct? Both.", {"hemorrhage": "present", "infarct": "present"}),
        ("english", "Hemorrhage? No, but a meningioma.", {"hemorrhage": "negated", "meningioma": "present"}),
        ("english", "Hemorrhage? No. Meningioma of the falx.", {"hemorrhage": "negated", "meningioma": "present"}),
        ("english", "Meningioma is stable, hemorrhage? No.", {"meningioma": "present", "hemorrhage": "negated"}),
        ("english", "CLINICAL QUESTION: Hemorrhage?\nFINDINGS: No infarct.", {"infarct": "negated"}),
        ("english", "CLINICAL QUESTION: Hemorrhage?\nFINDINGS: No.", {}),
        ("english", "Has the meningioma grown? No.", {"meningioma": "present"}),
        ("english", "Growth of the meningioma? No. Hemorrhage? No.", {"meningioma": "present", "hemorrhage": "negated"}),
        ("english", "is the mass larger? no; hemorrhage? no", {"mass": "present", "hemorrhage": "negated"}),
        ("german", "Ist das Meningeom größer? Nein.", {"Meningeom": "present"}),
        ("german", "Blutung? Antwort: Nein.", {"Blutung": "negated"}),
        ("german", "Blutung? Nein\nInfarkt? Ja", {"Blutung": "negated", "Infarkt": "present"}),
        ("german", "Blutung: nein, Infarkt: ja", {"Blutung": "negated", "Infarkt": "present"}),
        ("german", "Blutung? Nein, aber ein Infarkt.", {"Blutung": "negated", "Infarkt": "present"}),
        ("german", "FRAGESTELLUNG: Blutung?\nBEFUND: Kein Infarkt.", {"Infarkt": "negated"}),
    ],
)
def test_several(miners: dict[str, Miner], language: str, report: str, expected: dict[str, str]) -> None:
    assert states(miners[language].mentions(report)) == expected


def test_sentences_that_are_given_answer_as_well(miners: dict[str, Miner]) -> None:
    assert states(miners["english"].mentions("", ["Hemorrhage?", "No."])) == {"hemorrhage": "negated"}


def test_a_label_says_no_more_than_what_stands_behind_it() -> None:
    miner = Miner(Taxonomy.load("brain_mri"), ReportSpec())
    assert states(miner.mentions("Hemorrhage: No acute hemorrhage.")) == {"hemorrhage": "open", "acute hemorrhage": "negated"}
    assert states(miner.mentions("Hemorrhage: Acute hemorrhage.")) == {"hemorrhage": "present", "acute hemorrhage": "present"}


def test_the_answer_is_the_cue(miners: dict[str, Miner]) -> None:
    (mention,) = miners["english"].mentions("Hemorrhage? None.")
    assert (mention.cue, mention.sentence) == ("? none", "Hemorrhage?")
