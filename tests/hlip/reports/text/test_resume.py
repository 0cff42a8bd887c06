"""Findings below a section that is left out, where no known header stands between; and what stays left out."""

from __future__ import annotations

import pytest

from hlip.reports.cleaning import clean, lines
from hlip.reports.spec import ReportSpec

CLEAN, GERMAN = ReportSpec.load("clean"), ReportSpec.load("clean", "german")
FOUND = "There is a left frontal meningioma"


def kept(report: str, spec: ReportSpec = CLEAN) -> list[str]:
    return list(clean(report, (), spec)[1])


@pytest.mark.parametrize("header", ["Report", "REPORT", "Discussion", "COMMENT", "Key findings"])
@pytest.mark.parametrize("before", ["Comparison: CT head 2021.\n\n", "TECHNIQUE: T1 and T2.\n", "INDICATION: Headache\n"])
def test_headers_of_findings(before: str, header: str) -> None:
    assert kept(f"{before}{header}:\n{FOUND}.\nOld lacunar infarct.\n\nOpinion: Meningioma.") == [
        f"{FOUND}.",
        "Old lacunar infarct.",
        "Meningioma.",
    ]


def test_labels_of_organs_begin_findings_and_stay() -> None:
    report = "TECHNIQUE:\nT1 and T2.\n\nBRAIN:\nAcute infarct.\n\nORBITS: Normal.\n\nIMPRESSION:\nInfarct."
    assert kept(report) == ["BRAIN: Acute infarct.", "ORBITS: Normal.", "Infarct."]
    assert kept("FINDINGS: Brain: normal.\nSella: normal.") == ["Brain: normal.", "Sella: normal."]  # as ever within findings


@pytest.mark.parametrize(
    "report",
    [
        f"TECHNIQUE: T1.\nSPECIAL REMARKS: {FOUND}.\nIMPRESSION: Meningioma.",
        f"INDICATION: Headache.\n\n{FOUND}.\n\nIMPRESSION: Meningioma.",
        f"EXAM: MRI brain\n\n3 cm mass. {FOUND}.\nIMPRESSION: Meningioma.",
    ],
)
def test_findings_without_a_known_header(report: str) -> None:
    assert kept(report)[-1] == "Meningioma."
    assert any(FOUND in sentence for sentence in kept(report))


@pytest.mark.parametrize(
    "indication",
    [
        "INDICATION: 45 y/o.\nEvaluate for glioma",
        "INDICATION: 45 y/o.\n\nEvaluate for glioma",
        "INDICATION: Fall.\nSYMPTOMS: suspected glioma",
        "INDICATION: Patient with\n\nglioma in 2012",
        "HISTORY: Headache.\n\n45-year-old with glioma",
    ],
)
def test_an_indication_never_becomes_findings(indication: str) -> None:
    assert kept(f"{indication}\nIMPRESSION: Normal brain.") == ["Normal brain."]


def test_unknown_parts_are_no_findings_where_the_report_has_some() -> None:
    report = "CLINICAL HISTORY: Headache.\n\nGlioma resected in 2012.\n\nOPERATION: Glioma in 2012.\nFINDINGS: A cavity."
    assert kept(report) == ["A cavity."]
    assert {line.reason for line in lines(report, (), CLEAN) if not line.text} == {"section"}


def test_line_breaks_that_are_lost() -> None:
    report = "EXAM: MRI BRAIN CLINICAL HISTORY: fall COMPARISON: None FINDINGS: Acute infarct IMPRESSION: As seen"
    assert [line.section for line in lines(report, (), CLEAN)] == [
        "exam",
        "clinical history",
        "comparison",
        "findings",
        "impression",
    ]
    assert kept(report) == ["Acute infarct", "As seen"]


@pytest.mark.parametrize(
    "report",
    [
        "A mass, DIFFERENTIAL DIAGNOSIS: glioma.",
        "A mass, OTHER FINDINGS: none here.",
        "NO ACUTE FINDINGS: none here.",
        "See the Findings: none here.",
    ],
)
def test_words_that_end_like_a_header(report: str) -> None:
    assert {line.section for line in lines(report, (), CLEAN)} == {""}


def test_two_headers_joined_count_as_both() -> None:
    kinds = CLEAN.patterns.kind_of
    assert kinds("CONCLUSIONS/RECOMMENDATIONS") == kinds("conclusion / recommendation") == ("impression", "recommendation")
    assert kept("FINDINGS: A mass.\nCONCLUSIONS/RECOMMENDATIONS: A glioma.") == ["A mass.", "A glioma."]


def test_the_impression_alone_takes_no_findings() -> None:
    report = f"TECHNIQUE: T1.\n\n{FOUND}.\n\nIMPRESSION: Meningioma.\nADDENDUM: Also an infarct."
    assert kept(f"INDICATION: Fall.\nADDENDUM: {FOUND}.", ReportSpec(sections=("findings",))) == [f"{FOUND}."]
    assert kept(report, ReportSpec.load("impression")) == ["Meningioma.", "Also an infarct."]


@pytest.mark.parametrize("header", ["Befundbericht", "Bericht", "Hirnparenchym"])
def test_german(header: str) -> None:
    report = f"TECHNIK: Nativ.\n{header}:\nInfarkt links.\n\nFrage: Blutung oder Gliom?\nBEURTEILUNG: Infarkt."
    assert "Infarkt links." in " ".join(kept(report, GERMAN))
    assert kept(report, GERMAN)[-1] == "Infarkt."
