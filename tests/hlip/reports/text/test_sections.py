"""Sections in the layouts that reports come in."""

from __future__ import annotations

import pytest

from hlip.reports import sections
from hlip.reports.cleaning import clean
from hlip.reports.language import Language, english
from hlip.reports.spec import ReportSpec

BOTH = {"findings": "No mass.", "impression": "Normal."}


@pytest.mark.parametrize(
    "report",
    [
        "FINDINGS: No mass.\nIMPRESSION: Normal.",
        "Findings:\nNo mass.\n\nImpression:\nNormal.",
        "FINDINGS\nNo mass.\nIMPRESSION\nNormal.",
        "findings: No mass.\nimpression: Normal.",
        "**FINDINGS:** No mass.\n**IMPRESSION:** Normal.",
        "**Findings**: No mass.\n__Impression__: Normal.",
        "## Findings\nNo mass.\n## Impression\nNormal.",
        "<b>FINDINGS:</b> No mass.<br><b>IMPRESSION:</b> Normal.",
        "[FINDINGS]\nNo mass.\n[IMPRESSION]\nNormal.",
        "1. FINDINGS: No mass.\n2. IMPRESSION: Normal.",
        "FINDINGS - No mass.\nIMPRESSION - Normal.",
        "FINDINGS (MRI of the brain): No mass.\nIMPRESSION (final): Normal.",
        "=== FINDINGS ===\nNo mass.\n=== IMPRESSION ===\nNormal.",
        "FINDINGS: No mass. IMPRESSION: Normal.",
        "Findings - No mass. Impression - Normal.",
        "Findings \u2013 No mass. Impression \u2013 Normal.",
        "FINDINGS No mass. IMPRESSION Normal.",
        "FINDINGS: No mass. Impression: Normal.",
        "findings: No mass. impression: Normal.",
        "\ufeffFINDINGS:\r\nNo mass.\r\nIMPRESSION:\r\nNormal.",
    ],
)
def test_layouts(report: str) -> None:
    assert sections(report) == BOTH


def test_a_header_in_capitals_without_a_colon() -> None:
    assert sections("FINDINGS There is a mass.\nCONCLUSION Normal study.") == {
        "findings": "There is a mass.",
        "conclusion": "Normal study.",
    }


@pytest.mark.parametrize(
    "report",
    [
        "FINDINGS CONSISTENT WITH GLIOMA.",  # capitals all through: no header
        "Findings are normal.",
        "The findings are normal. Clinical impression of stroke.",
        "No change. Findings of glioma - as before.",
        "A mass. Study - limited by motion.",
        "T1 post CONTRAST Axial images show a mass.",
        "No ACUTE FINDINGS Were seen.",
        "Ventricles: normal. Sulci: normal.",  # organs are no sections
        "The findings: no mass.",
        "Study limited by motion.",
    ],
)
def test_what_only_looks_like_a_header(report: str) -> None:
    assert sections(report) == {"": report}


def test_headers_without_a_mark_and_without_sentences() -> None:
    report = "EXAM MRI brain HISTORY Fall FINDINGS The brain is normal IMPRESSION Normal brain MRI"
    assert sections(report) == {
        "": "EXAM MRI brain",
        "history": "Fall",
        "findings": "The brain is normal",
        "impression": "Normal brain MRI",
    }
    spec = ReportSpec.load("impression")
    assert clean("FINDINGS The brain is normal. IMPRESSION Normal brain MRI.", (), spec)[1] == ("Normal brain MRI.",)
    assert clean("Findings - No mass. Conclusion - Normal study.", (), spec)[1] == ("Normal study.",)


@pytest.mark.parametrize("mark", [" -", " \u2013", ":"])
def test_german_headers_in_one_line(mark: str) -> None:
    german = Language.load("german")
    assert sections(f"Befund{mark} Kein Infarkt. Beurteilung{mark} Normal.", german) == {
        "befund": "Kein Infarkt.",
        "beurteilung": "Normal.",
    }
    assert list(sections("BEFUND Kein Infarkt. BEURTEILUNG Ödem links.", german)) == ["befund", "beurteilung"]


def test_kinds() -> None:
    kinds = english().kind_of
    assert kinds("Findings") == ("findings",)
    assert kinds("conclusions") == ("impression",)
    assert kinds("Findings  and impression") == ("findings", "impression")
    assert kinds("clinical history") == ("history",)
    assert kinds("") == kinds("ventricles") == ()


@pytest.mark.parametrize(
    "report",
    [
        "Findings\nNo mass.\nImpression\nNormal.",
        "Findings -\nNo mass.\nImpression -\nNormal.",
        "Findings-\nNo mass.\nImpression-\nNormal.",
        "Findings- No mass.\nImpression- Normal.",
        "Findings \u2013\nNo mass.\nImpression\u2014Normal.",
        "Findings -- No mass.\nImpression --\nNormal.",
        "Findings :\nNo mass.\nImpression :\nNormal.",
        "Findings:-\nNo mass.\nImpression :- Normal.",
        "findings\nNo mass.\nimpression\nNormal.",
        "Findings (MRI)\nNo mass.\nImpression (final)\nNormal.",
        "\u2022 Findings:\nNo mass.\n\u2022 Impression\nNormal.",
        "findings -\nNo mass.\n\nimpression\n\nNormal.",
    ],
)
def test_headers_in_ordinary_letters(report: str) -> None:
    assert sections(report) == BOTH


def test_headers_of_all_kinds_on_their_own_line() -> None:
    report = "Clinical History\nFall.\nTechnique: T1.\nComparison\nNone.\nfindings\nno mass\nConclusion -\nNormal"
    assert sections(report) == {
        "clinical history": "Fall.",
        "technique": "T1.",
        "comparison": "None.",
        "findings": "no mass",
        "conclusion": "Normal",
    }


@pytest.mark.parametrize(
    "report",
    [
        "findings are consistent with stroke",
        "Impression of a small lesion",
        "Impression of a small lesion\nNo mass.",
        "Findings\nare consistent with stroke.",
        "impression\nof a small lesion",
        "There are no acute\nfindings",
        "Stable since the prior\nstudy\n\nNo mass.",
        "Mass, unchanged in\ncomparison\nwith 2019.",
        "The study is without\ncontrast\nand limited.",
        "Limited by the\nprotocol: no mass.",
        "Enhanced by\ncontrast - a mass.",
        "Contrast-\nenhanced images show a mass.",
        "A summary- like text. Follow-up- as before.",
        "Report-\ning of a mass.",
    ],
)
def test_words_of_a_sentence_are_no_headers(report: str) -> None:
    assert sections(report) == {"": report}


def test_german_words_of_a_sentence_are_no_headers() -> None:
    german = Language.load("german")
    for report in ("Unver\u00e4ndert zum\nBefund\nvon 2019.", "Unauff\u00e4lliger\nBefund", "Befund\nist unauff\u00e4llig."):
        assert sections(report, german) == {"": report}
    for mark in ("", ":", " -", "-"):
        report = f"Befund{mark}\nKein Infarkt\nBeurteilung{mark}\nNormal"
        assert sections(report, german) == {"befund": "Kein Infarkt", "beurteilung": "Normal"}
