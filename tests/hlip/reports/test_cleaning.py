"""What a report spec keeps of a report; that the default keeps all; that a store says which it was."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from hlip.prepare import prepare
from hlip.reports import split_sentences
from hlip.reports.cleaning import clean, lines
from hlip.reports.preview import preview
from hlip.reports.spec import FILE, ReportSpec, ReportSpecError, stored_digest
from hlip.store import Store
from hlip.volume import VolumeSpec

REPORT = """EXAM: MRI BRAIN [date_1]
HISTORY: Headache, seen by Dr. [NAME].
FINDINGS:
1. There is a 1.5 cm mass, unchanged since [date_1].
2. No acute infarct.
IMPRESSION: Stable meningioma. Findings were discussed with Dr. [**Name2**] at 3 p.m. Clinical correlation is recommended.
RECOMMENDATION: MRI in ___ months.
Electronically signed by: [NAME], M.D.
"""


def kept(spec: ReportSpec, report: str = REPORT) -> list[str]:
    return list(clean(report, (), spec)[1])


def test_the_default_changes_nothing() -> None:
    assert clean(REPORT, (), ReportSpec()) == (REPORT.strip(), tuple(split_sentences(REPORT)))
    assert clean("", ("Given.", "As is [x]."), ReportSpec()) == ("Given. As is [x].", ("Given.", "As is [x]."))
    assert ReportSpec.load("as_written").digest() == ReportSpec().digest()


def test_clean_and_impression() -> None:
    assert kept(ReportSpec.load("clean")) == [
        "There is a 1.5 cm mass, unchanged.", "No acute infarct.", "Stable meningioma.",
    ]  # fmt: skip
    assert kept(ReportSpec.load("impression")) == ["Stable meningioma."]
    text, sentences = clean(REPORT, (), ReportSpec.load("clean"))
    assert text == " ".join(sentences)  # nothing that was left out comes back by the whole report


def test_sections() -> None:
    assert kept(ReportSpec(sections=("findings",)))[1:] == ["No acute infarct."]
    assert ReportSpec(sections=("both",)).sections == ("findings", "impression")
    assert kept(ReportSpec(sections=("findings",)), "No header. At all.") == ["No header.", "At all."]
    assert kept(ReportSpec(sections=("findings",), otherwise="nothing"), "HISTORY: Headache.") == []
    assert kept(ReportSpec(sections=("findings",)), "HISTORY: Headache.") == ["Headache."]
    assert kept(ReportSpec(sections=("findings",)), "A mass.\nIMPRESSION: Glioma.") == ["A mass."]
    assert kept(ReportSpec(sections=("findings",)), "MRI brain\nFINDINGS: A mass.") == ["A mass."]
    assert kept(ReportSpec(sections=("findings",)), "FINDINGS AND IMPRESSION: No mass.") == ["No mass."]


@pytest.mark.parametrize(
    ("sentence", "removed"),
    [
        ("No change since [date_2].", "No change."),
        ("Compared with [date_1] and [date_2] the mass is larger.", "The mass is larger."),
        ("The mass ([DATE_12]) is larger.", "The mass is larger."),
        ("Prior MRI from <DATE> shows a mass.", "Prior MRI shows a mass."),
        ("Read by [**First Name 12**] of ___.", ""),  # two words must be left
        ("No change since **DATE[Jan 1 2019].", "No change."),
        ("**Findings** [as before] of a mass.", "**Findings** [as before] of a mass."),  # no token
        ("Lesion at L4_L5 is larger.", "Lesion at L4_L5 is larger."),  # no token
        ("Dr. [NAME]", ""),
        ("As compared to [date_1] no change.", "No change."),
        ("In comparison with the prior from [date_1], no change.", "No change."),
        ("The mass is larger as compared with [date_1].", "The mass is larger."),
        ("Compared to the [date_1] MRI no change.", "Compared to the MRI no change."),
        ("In comparison to the study of [date_1] no change.", "In comparison to the study no change."),
        ("On [date_1] MRI was normal.", "MRI was normal."),
    ],
)
def test_tokens(sentence: str, removed: str) -> None:
    is_token = removed != sentence
    for tokens, expected in (("keep", sentence), ("remove", removed), ("leave_out", "" if is_token else sentence)):
        (line,) = lines("", [sentence], ReportSpec(tokens=tokens))
        assert line.text == expected
        assert bool(line.reason) == (not expected)


def test_what_has_no_word_is_listed() -> None:
    found = lines("FINDINGS: Disc bulge. L4-L5. T2. A mass.\n\n----\nIMPRESSION: Glioma.", (), ReportSpec.load("clean"))
    assert [(line.sentence, line.text, line.reason) for line in found] == [
        ("Disc bulge.", "Disc bulge.", ""), ("L4-L5.", "L4-L5.", ""), ("T2.", "", "empty"), ("A mass.", "A mass.", ""),
        ("Glioma.", "Glioma.", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ("signature", "Electronically signed by A. B., M.D."),
        ("signature", "I have personally reviewed the images and agree."),
        ("dictation", "This report was generated using voice recognition software."),
        ("communication", "Dr. Lee was notified at 5 p.m."),
        ("advice", "Please correlate clinically."),
        ("empty", "None."),
    ],
)
def test_boilerplate(group: str, sentence: str) -> None:
    (line,) = lines("", [sentence], ReportSpec(boilerplate=(group,)))
    assert (line.text, line.reason) == ("", f"boilerplate {group}")
    assert lines("", [sentence], ReportSpec())[0].text == sentence


@pytest.mark.parametrize(
    "under",
    [
        "John Smith MD\nRadiologist",
        "Jane A. Doe, M.D., Ph.D.",
        "Dr. John Smith, Consultant Neuroradiologist",
        "Dictated but not read.",
        "Dictated by Jane Doe",
        "Resident: John Smith, MD\nAttending Radiologist: Jane Doe",
        "Electronically signed 3/4/2020 10:22",
        "Patient: John Smith  DOB: 03/04/1950",
        "Consultant Radiologist GMC 1234567\nReported: 14/03/2021 10:22",
        "Consultant Radiologist GMC 1234567 Reported: 14/03/2021 10:22",
        "NPI 123456\nJob 12345\nWorkstation: RAD-12",
        "I, Dr. John Smith, have reviewed the images.",
        "END IMPRESSION",
    ],
)
@pytest.mark.parametrize("stop", [".", ""])
def test_names_under_a_report_go(under: str, stop: str) -> None:
    found = clean(f"IMPRESSION\nNormal brain{stop}\n{under}", (), ReportSpec.load("clean"))
    assert found == (f"Normal brain{stop}", (f"Normal brain{stop}",))


@pytest.mark.parametrize(
    "sentence",
    ["Attending: Jane Doe.", "Jane Doe, MD.", "Seen by Dr. Smith at St. Mary's on Jan. 5, 2021.", "NPI 123456", "Job 12345"],
)
def test_names_behind_a_sentence_go(sentence: str) -> None:
    assert kept(ReportSpec.load("clean"), f"IMPRESSION: Glioma. {sentence}") == ["Glioma."]
    assert kept(ReportSpec(), f"IMPRESSION: Glioma. {sentence}") == ["Glioma.", sentence]


@pytest.mark.parametrize(
    "line",
    [
        "Radiologist review is advised.",
        "MASS IN THE LEFT LOBE.",
        "Dandy Walker",
        "Attending to the left lobe, a mass.",
        "T1 dark MS plaques",
    ],
)
def test_lines_that_only_look_like_names(line: str) -> None:
    assert kept(ReportSpec.load("clean"), f"IMPRESSION\nA mass.\n\n{line}") == ["A mass.", line]


def test_characters_of_html_and_lost_ones() -> None:
    report = "FINDINGS:&nbsp;Meningioma &amp; edema &lt;5 mm.\nThe patient\ufffds mass \ufffd 3&#160;cm. R&D; T1&not known."
    told = ["Meningioma & edema <5 mm.", "The patients mass 3 cm.", "R&D; T1&not known."]
    assert kept(ReportSpec.load("clean"), report) == told
    assert kept(ReportSpec.load("clean"), "FINDINGS: Name &foo; mass.") == ["Name &foo; mass."]
    assert "&amp;" in clean(report, (), ReportSpec())[0]
    assert clean("", ("A &amp; b mass.",), ReportSpec.load("clean"))[1] == ("A & b mass.",)


def test_tags_of_html() -> None:
    report = "<html><body><p>FINDINGS: A mass.</p><p>IMPRESSION: A glioma.<br>Stable, ADC <700.</p></body></html>"
    assert kept(ReportSpec.load("clean"), report) == ["A mass.", "A glioma.", "Stable, ADC <700."]
    assert kept(ReportSpec.load("clean"), report.replace("<", "&lt;").replace(">", "&gt;")) == [
        "A mass.",
        "A glioma.",
        "Stable, ADC <700.",
    ]
    assert clean("", ("<body>A <b>large</b> mass.</body>",), ReportSpec.load("clean"))[1] == ("A large mass.",)
    assert clean("", ("<body>A mass.</body>",), ReportSpec())[1] == ("<body>A mass.</body>",)


def test_line_breaks_of_hl7() -> None:
    report = r"EXAM: MRI.\.br\FINDINGS: A mass.\.br\\.br\IMPRESSION: Glioma\.BR\No infarct, ~3 mm shift."
    assert kept(ReportSpec.load("clean"), report) == ["A mass.", "Glioma", "No infarct, ~3 mm shift."]
    assert kept(ReportSpec.load("impression"), report) == ["Glioma", "No infarct, ~3 mm shift."]


@pytest.mark.parametrize(
    "sentence",
    [
        "No mass.",
        "The mass is signed by restricted diffusion.",
        "Normal study.",
        "None of the lesions enhances.",
        "Reported: a mass.",
    ],
)
def test_findings_are_no_boilerplate(sentence: str) -> None:
    assert lines("", [sentence], ReportSpec.load("clean"))[0].text == sentence


def test_sentences_of_ones_own_are_left_out() -> None:
    assert kept(ReportSpec(leave_out=("mass|infarct",), sections=("both",)))[0].startswith("Stable")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"section": ["findings"]}, "section"),
        ({"sections": ["finding"]}, "finding"),
        ({"sections": "findings"}, "list"),
        ({"boilerplate": ["all"]}, "signature"),
        ({"tokens": "drop"}, "remove"),
        ({"otherwise": "all"}, "whole"),
        ({"leave_out": ["("]}, "regular expression"),
        ({"unescape": "yes please"}, "unescape"),
    ],
)
def test_faulty_specs(tmp_path: Path, settings: dict, named: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ReportSpecError, match=named) as error:
        ReportSpec.load(file)
    assert str(file) in str(error.value)


def test_digest_knows_what_changes_sentences() -> None:
    specs = [ReportSpec(), ReportSpec(tokens="remove"), ReportSpec(sections=("findings",)), ReportSpec(boilerplate=("advice",))]
    assert len({spec.digest() for spec in specs}) == len(specs)
    assert ReportSpec(sections=("findings", "impression")).digest() == ReportSpec(sections=("impression", "findings")).digest()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    data = np.random.default_rng(0).integers(0, 900, (12, 12, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([6.0, 6, 6, 1])), tmp_path / "a.nii.gz")
    reports = {"s1": REPORT, "s2": "HISTORY: [date_1]."}
    scan = {"scans": [{"path": "a.nii.gz"}], "split": "train"}
    rows = [{"study_id": name, "patient_id": name, "report": report} | scan for name, report in reports.items()]
    file = tmp_path / "manifest.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_store_says_how_its_text_was_made(manifest: Path, tmp_path: Path) -> None:
    volume = VolumeSpec(size=(4, 8, 8), spacing_mm=(10, 8, 8), through_plane="axial")
    store = tmp_path / "store"
    prepare(manifest, store, volume, workers=1, progress=False)
    assert stored_digest(store) == ReportSpec().digest()
    assert Store(store).record("s1").sentences == tuple(split_sentences(REPORT))

    summary = prepare(manifest, store, volume, reports=ReportSpec.load("clean"), workers=1, progress=False)
    assert summary.studies_reused == 2  # no scan is prepared again
    assert summary.studies_without_report == 1
    assert json.loads((store / FILE).read_text())["spec"]["tokens"] == "remove"
    records = Store(store).records
    assert records[0].report == "There is a 1.5 cm mass, unchanged. No acute infarct. Stable meningioma."
    assert (records[1].report, records[1].sentences) == ("", ())  # so that nothing reads its raw text instead


def test_a_preview_counts_and_lists(manifest: Path, tmp_path: Path) -> None:
    shown = preview(manifest, ReportSpec.load("clean"), tmp_path / "lines.csv")
    assert (shown.studies, shown.emptied, shown.kept, shown.changed) == (2, 1, 3, 1)
    assert shown.left_out["boilerplate communication"] == 1
    assert shown.sections["impression"] == 1
    assert "1 x Clinical correlation is recommended." in str(shown)
    assert (tmp_path / "lines.csv").read_text().count("\n") == 1 + len(split_sentences(REPORT)) + shown.left_out.get("empty", 0)
