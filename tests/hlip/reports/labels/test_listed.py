"""A cue that leads a list reaches all its items, and nothing behind the list."""

from __future__ import annotations

import time

import pytest

from hlip.reports.labels.mining import Miner, states
from hlip.reports.spec import ReportSpec
from hlip.taxonomy import Taxonomy

N, P, U, H = "negated", "present", "uncertain", "history"
CLASSES = ("hemorrhage", "infarct", "mass", "meningioma", "glioma", "edema", "Blutung", "Infarkt", "Meningeom", "Gliom")


@pytest.fixture(scope="module")
def miners() -> dict[str, Miner]:
    tree = Taxonomy.from_dict({"name": "t", "classes": [{"name": each} for each in CLASSES]})
    return {language: Miner(tree, ReportSpec.load("clean", language)) for language in ("english", "german")}


NOTHING = [
    *("No evidence of:\n- hemorrhage\n- mass", "No evidence of:\n1. Hemorrhage.\n2. Mass.", "Negative for: hemorrhage, mass."),
    *(
        "Negative for:\n* hemorrhage\n* mass",
        "The following are absent: hemorrhage, mass.",
        "The following are absent:\na) hemorrhage\nb) mass",
    ),
    *("No evidence of the following: hemorrhage, mass.", "None of the following are seen:\n- hemorrhage\n- mass"),
    *(
        "Not seen: hemorrhage, mass.",
        "Not identified:\n- hemorrhage\n- mass",
        "The following findings were not identified: hemorrhage or mass.",
    ),
    *(
        "No evidence of any of the following:\n(1) hemorrhage\n(2) mass",
        "No:\n- hemorrhage\n- mass",
        "Excluded: hemorrhage, mass.",
    ),
    *(
        "No evidence of: 1) hemorrhage, 2) mass",
        "No evidence of: 1. Hemorrhage. 2. Mass.",
        "No evidence of\n- hemorrhage\n- mass",
    ),
    *(
        "No evidence of\n1. hemorrhage\n2. mass",
        "No evidence of the following\n- hemorrhage\n- mass",
        "We do not see: hemorrhage, mass.",
    ),
    *(
        "No evidence of:\n\n- hemorrhage\n\n- mass",
        "No evidence of:\ni. hemorrhage\nii. mass",
        "FINDINGS: No evidence of:\n- hemorrhage\n- mass",
    ),
]
NOTHING += [
    "No evidence of:\nHemorrhage\nMass",
    "FINDINGS:\nThe following are absent:\nHemorrhage.\nMass.",
    "There is no\nHemorrhage\nMass",
]
NOTHING += ["The following were not seen: hemorrhage; mass; midline shift."]
NICHTS = [
    *(
        "Kein Nachweis von:\n- Blutung\n- Infarkt",
        "Kein Nachweis von: Blutung, Infarkt.",
        "Kein Nachweis folgender Befunde: Blutung, Infarkt",
    ),
    *(
        "Nicht nachweisbar: Blutung, Infarkt.",
        "Folgende Befunde fehlen:\n- Blutung\n- Infarkt",
        "Kein Nachweis von:\nBlutung\nInfarkt",
        "Nicht nachweisbar sind:\n1. Blutung\n2. Infarkt",
    ),
]


@pytest.mark.parametrize("report", NOTHING)
def test_each_item_is_negated(miners: dict[str, Miner], report: str) -> None:
    assert states(miners["english"].mentions(report)) == {"hemorrhage": N, "mass": N}


@pytest.mark.parametrize("report", NICHTS)
def test_each_german_item_is_negated(miners: dict[str, Miner], report: str) -> None:
    assert states(miners["german"].mentions(report)) == {"Blutung": N, "Infarkt": N}


@pytest.mark.parametrize(
    ("language", "report", "expected"),
    [
        ("english", "Findings consistent with:\n1. meningioma\n2. edema", {"meningioma": P, "edema": P}),
        ("english", "The following are present:\n- meningioma\n- edema", {"meningioma": P, "edema": P}),
        ("english", "The differential includes:\n- glioma\n- infarct", {"glioma": U, "infarct": U}),
        ("english", "The following cannot be excluded: glioma, infarct", {"glioma": U, "infarct": U}),
        ("english", "History of:\n- glioma\n- infarct", {"glioma": H, "infarct": H}),
        ("german", "Vereinbar mit:\n1. Meningeom\n2. Infarkt", {"Meningeom": P, "Infarkt": P}),
        ("german", "Differentialdiagnose:\n- Gliom\n- Infarkt", {"Gliom": U, "Infarkt": U}),
    ],
)
def test_other_leads(miners: dict[str, Miner], language: str, report: str, expected: dict[str, str]) -> None:
    assert states(miners[language].mentions(report)) == expected


@pytest.mark.parametrize(
    "end",
    [
        *(
            "\nMeningioma of the falx.",
            "\n\nMeningioma of the falx.",
            "\nIMPRESSION:\n- Meningioma of the falx.",
            ". Meningioma of the falx.",
        ),
        *("\n\nMeningioma.", "\nIMPRESSION: Meningioma."),
        *("\n- There is a meningioma.", "\nFindings consistent with:\n- meningioma", "\nIncidental finding:\n- meningioma"),
    ],
)
def test_a_list_ends(miners: dict[str, Miner], end: str) -> None:
    report = f"FINDINGS:\nNo evidence of:\n- hemorrhage\n- mass{end}"
    assert states(miners["english"].mentions(report)) == {"hemorrhage": N, "mass": N, "meningioma": P}


@pytest.mark.parametrize(
    "report",
    [
        *(
            "1. No evidence of:\n- hemorrhage\n- mass\n2. Meningioma",
            "1) No evidence of:\na) hemorrhage\nb) mass\n2) Meningioma",
        ),
        *("1. No evidence of:\n1) hemorrhage\n2) mass\n2. Meningioma", "No evidence of:\n- hemorrhage\n- mass\n1. Meningioma"),
        *(
            "- No evidence of:\n  - hemorrhage\n  - mass\n- Meningioma",
            "1. No evidence of:\n\n- hemorrhage\n- mass\n\n2. Meningioma",
        ),
    ],
)
def test_a_list_within_a_list_ends(miners: dict[str, Miner], report: str) -> None:
    for header in ("", "IMPRESSION:\n"):
        assert states(miners["english"].mentions(f"{header}{report}")) == {"hemorrhage": N, "mass": N, "meningioma": P}
    german = "1. Kein Nachweis von:\n- Blutung\n- Infarkt\n2. Meningeom der Falx"
    assert states(miners["german"].mentions(german)) == {"Blutung": N, "Infarkt": N, "Meningeom": P}


def test_items_that_stand_unevenly_are_of_one_list(miners: dict[str, Miner]) -> None:
    assert states(miners["english"].mentions("No evidence of:\n- hemorrhage\n  - mass\n- infarct")) == {
        "hemorrhage": N,
        "mass": N,
        "infarct": N,
    }


def test_bare_lines_end_where_a_line_says_more(miners: dict[str, Miner]) -> None:
    report = "Ventricles are normal.\nNo evidence of:\nHemorrhage\nInfarct\nMeningioma of the left convexity\nGlioma"
    assert states(miners["english"].mentions(report)) == {"hemorrhage": N, "infarct": N, "meningioma": P, "glioma": P}
    assert states(miners["english"].mentions("Differential diagnosis:\nGlioma\nInfarct")) == {"glioma": U, "infarct": U}
    assert states(miners["english"].mentions("No acute infarct:\nMeningioma\nGlioma"))["glioma"] == P


@pytest.mark.parametrize(
    "report",
    [
        *("IMPRESSION:\nNo acute infarct:\n- Meningioma", "No acute infarct\n- Meningioma", "No acute infarct.\n- Meningioma"),
        *(
            "Infarct: no\n- Meningioma",
            "No infarct. As follows:\n1. Meningioma",
            "No infarct. No findings other than:\n- meningioma",
        ),
    ],
)
def test_what_leads_no_list(miners: dict[str, Miner], report: str) -> None:
    assert states(miners["english"].mentions(report))["meningioma"] == P


def test_an_item_has_its_own_cues_and_its_own_sentence(miners: dict[str, Miner]) -> None:
    found = miners["english"].mentions("No evidence of:\n- hemorrhage\n- possible glioma\n- mass: yes")
    told = [(mention.name, mention.state, mention.cue, mention.sentence) for mention in found]
    assert told == [
        ("hemorrhage", N, "no evidence of", "hemorrhage"),
        ("glioma", U, "possible", "possible glioma"),
        ("mass", P, ": yes .", "mass: yes"),
    ]


def test_a_number_that_measures_ends_a_negation(miners: dict[str, Miner]) -> None:
    assert states(miners["english"].mentions("No infarct, 2 cm meningioma.")) == {"infarct": N, "meningioma": P}


@pytest.mark.parametrize(
    "piece",
    [
        "hemorrhage? no ",
        "Hemorrhage?\nNo\n",
        "No evidence of:\n- hemorrhage\n",
        "not seen: ",
        "- mass; ",
        "no: ",
        "no mass from the mass ",
    ],
)
def test_no_report_takes_long(miners: dict[str, Miner], piece: str) -> None:
    """What is looked up in a sentence's words, and each item with its lead, stays in proportion to the report."""
    started = time.process_time()
    miners["english"].mentions(f"No evidence of{' the lesion' * 500}:\n- mass\n" + piece * (20_000 // len(piece)))
    assert time.process_time() - started < 3
