"""What is no scan to keep, and why."""

from __future__ import annotations

import ast
import csv
import re
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from hlip.dicom import kinds
from hlip.dicom import reasons as reasons_module
from hlip.importing.dicom import study
from hlip.importing.outcome import ImportingError
from hlip.scans import unwanted

from ...dicom import phantom
from .made import PLANES, reasons, rows, run

TELLING = {"reason_against", "lay_out", "lay_out_whole"}  # functions that return a reason


def test_what_is_no_scan_is_left_out_with_its_reason(tmp_path: Path) -> None:
    original = ["ORIGINAL", "PRIMARY"]
    cases: list[tuple[str, dict]] = [
        ("", {}),
        ("localizer", {"ImageType": [*original, "LOCALIZER"]}),
        ("localizer", {"description": "3-plane scout"}),
        ("derived_map", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "FA"]}),
        ("derived_map", {"description": "rCBF"}),
        ("projection", {"ImageType": ["DERIVED", "SECONDARY", "MIP"], "description": "TOF"}),
        ("subtraction", {"description": "T1 SUB"}),
        ("phase", {"ImageType": [*original, "P"]}),
        ("calibration", {"description": "Calibration"}),
        ("time_series", {"description": "ep2d_bold"}),
        ("screenshot", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
        ("burned_in_text", {"BurnedInAnnotation": "YES"}),
        ("colour", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("secondary_capture", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        ("other_modality", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "Modality": "US"}),
        ("dose_report", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Modality": "SR"}),
        ("structured_report", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33", "Modality": "SR"}),
        ("presentation_state", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1", "Modality": "PR"}),
        ("key_objects", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.59", "Modality": "KO"}),
        ("segmentation", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}),
        ("", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "description": "ADC map"}),
    ]
    for number, (_, tags) in enumerate(cases, 1):
        phantom.series(tmp_path / "in" / str(number), number=number, slices=6, size=16, spacing=10, step=20, **tags)
    done = run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == [reason for reason, _ in cases]
    assert [scan.sequence for scan in done.studies[0].scans] == ["T1", "ADC"]
    with (tmp_path / "out" / "left_out.csv").open(newline="") as lines:
        listed = [(row["path"].split("/")[1], row["reason"]) for row in csv.DictReader(lines)]
    assert listed == [(f"{number:03d}", reason) for number, (reason, _) in enumerate(cases, 1) if reason]


def test_three_planes_of_few_slices_are_a_localizer_whatever_they_are_called(tmp_path: Path) -> None:
    uid = generate_uid()
    for place, name in enumerate(("axial", "sagittal", "coronal")):
        phantom.series(tmp_path / "in", uid=uid, plane=PLANES[name], slices=3, first=10 * place, description="T1")
    phantom.series(tmp_path / "in", number=2)
    run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == ["localizer"] * 3 + [""]


def test_kernels_and_reformats(tmp_path: Path) -> None:
    """The soft kernel and the original are taken; where they are all there is, the others are."""
    derived = {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    for number, (uid, tags) in enumerate(
        [
            ("1.1", {"ConvolutionKernel": "H30s"}),
            ("1.1", {"ConvolutionKernel": "H70h"}),
            ("1.1", {"ConvolutionKernel": "H30s", "plane": phantom.CORONAL, **derived}),
            ("1.2", {"ConvolutionKernel": "BONE"}),
            ("1.3", {"ConvolutionKernel": "H30s", **derived}),
            ("1.4", {"ConvolutionKernel": ["Br40f", "3"]}),  # the converter's sidecar is no JSON then
        ],
        1,
    ):
        phantom.series(
            tmp_path / "in", study=uid, patient=uid, number=number, modality="CT", description="HEAD", slices=8, **tags
        )
    run(tmp_path / "in", tmp_path / "out", keep_ids=True)
    assert [(row["study_id"], row["reason"]) for row in rows(tmp_path / "out")] == [
        ("1.1", ""), ("1.1", "sharp_kernel"), ("1.1", "reformat"), ("1.2", ""), ("1.3", ""), ("1.4", ""),
    ]  # fmt: skip


def test_an_opposed_phase_is_kept_where_it_is_all_there_is_of_its_acquisition(tmp_path: Path) -> None:
    """Told by the image type alone. Its own acquisition is of the same place, size, timing and contrast."""
    cases: list[tuple[str, list[tuple[str, dict]], list[str]]] = [
        ("alone", [("OPP_PHASE", {})], [""]),
        ("in-phase alone", [("IN_PHASE", {})], [""]),
        ("fat alone", [("FAT", {})], ["dixon_part"]),
        ("with its in-phase", [("OP", {"EchoTime": 2}), ("IP", {"EchoTime": 4})], ["dixon_part", ""]),
        ("with its fat", [("OUT_PHASE", {}), ("FAT", {})], ["", "dixon_part"]),
        ("twice", [("OP", {}), ("OP", {"EchoTime": 2})], ["", ""]),
        ("with a scan of another timing", [("OP", {}), ("M", {"RepetitionTime": 600})], ["", ""]),
        ("after contrast", [("OP", {"ContrastBolusAgent": "GD"}), ("W", {})], ["", ""]),
        ("of another range", [("OP", {"slices": 20}), ("W", {"slices": 6})], ["", ""]),
        ("of too few slices", [("OP", {"slices": 2})], ["too_few_slices"]),
    ]  # fmt: skip
    for place, (_, found, _) in enumerate(cases):
        for number, (word, tags) in enumerate(found, 1):
            kind = {"study": f"1.{place}", "patient": f"P{place}", "number": number, "size": 16, "spacing": 10} | tags
            phantom.series(tmp_path / "in" / str(place), **({"slices": 6} | kind), ImageType=["DERIVED", "PRIMARY", word])
    run(tmp_path / "in", tmp_path / "out", keep_ids=True)
    got: dict[str, list[str]] = {}
    for row in rows(tmp_path / "out"):
        got.setdefault(row["study_id"], []).append(row["reason"])
    told = {name: got[f"1.{place}"] for place, (name, _, _) in enumerate(cases)}
    assert told == {name: expected for name, _, expected in cases}
    notes = [row["notes"] for row in rows(tmp_path / "out") if row["study_id"] == "1.0"]
    assert notes == ["opposed-phase images, no others of this acquisition at hand"]


def test_parts_of_a_dixon_scan_in_one_series(tmp_path: Path) -> None:
    """Fraction map and opposed phase lie at the same places, and are two stacks."""
    uid = generate_uid()
    for place, word in enumerate(("OPP_PHASE", "FAT_FRACTION")):
        phantom.series(
            tmp_path / "in", uid=uid, first=10 * place, slices=6, size=16, spacing=10, ImageType=["DERIVED", "PRIMARY", word]
        )
    run(tmp_path / "in", tmp_path / "out")
    assert sorted(reasons(tmp_path / "out")) == ["", "dixon_part"]


def test_a_study_of_two_patients_is_left_out(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    phantom.series(tmp_path / "in", slices=6, number=2, patient="P2")
    phantom.series(tmp_path / "in", slices=6, number=3, study="1.2.9")
    done = run(tmp_path / "in", tmp_path / "out")
    assert sorted(reasons(tmp_path / "out")) == ["", "several_patients", "several_patients"]
    assert len(done.studies) == 1


def test_only_images_tell_that_there_are_several_patients(tmp_path: Path) -> None:
    """An image without PatientID, a report without one, and a report of another patient."""
    phantom.series(tmp_path / "in", slices=6)
    phantom.series(tmp_path / "in", slices=6, number=2, patient="")
    for number, patient in ((3, ""), (4, "P2")):
        phantom.series(
            tmp_path / "in",
            slices=1,
            number=number,
            patient=patient,
            SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33",
            Modality="SR",
        )
    run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == ["", "", "structured_report", "structured_report"]


@pytest.mark.parametrize(
    ("soft", "sharp", "reason"),
    [
        ((10, 0), (60, -100), ""),  # a neck, and the lungs
        ((60, 0), (60, 0), "sharp_kernel"),
        ((60, 0), (40, 4), "sharp_kernel"),  # a part of it
        ((60, 0), (60, 40), ""),
        ((60, 0), (60, 6), "sharp_kernel"),
    ],
)
def test_a_sharp_kernel_is_left_out_only_where_a_soft_one_covers_it(
    tmp_path: Path, soft: tuple[int, int], sharp: tuple[int, int], reason: str
) -> None:
    for number, (kernel, (slices, height)) in enumerate((("Br40", soft), ("Br64", sharp)), 1):

        def move(n: int, data: pydicom.Dataset, height: int = height) -> None:
            data.ImagePositionPatient = [*data.ImagePositionPatient[:2], float(height + n)]

        tags = {"ConvolutionKernel": kernel, "description": "CT", "size": 16, "spacing": 10}
        phantom.series(tmp_path / "in", number=number, modality="CT", slices=slices, step=1, each=move, **tags)
    run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == ["", reason]


def given_by(node: ast.AST) -> list[ast.AST]:
    """The expressions of a piece of source that hold reasons."""
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id == "ConversionError"
        above = isinstance(node.func, ast.Attribute) and node.func.attr == "__init__"
        return [item.value for item in node.keywords if item.arg == "reason"] + (node.args[:1] if named or above else [])
    if isinstance(node, ast.Dict):
        return [value for key, value in zip(node.keys, node.values, strict=True) if getattr(key, "value", "") == "reason"]
    if isinstance(node, ast.FunctionDef) and node.name in TELLING:
        return [item.value for item in ast.walk(node) if isinstance(item, ast.Return) and item.value is not None]
    return []


def test_every_reason_has_its_words_with_what_to_do() -> None:
    """Every code that the sources of the import give, and no other."""
    files = [file for module in (reasons_module, study) for file in Path(module.__file__).parent.glob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    held = [
        part.value for node in nodes for found in given_by(node) for part in ast.walk(found) if isinstance(part, ast.Constant)
    ]
    given = {code for code in held if isinstance(code, str) and re.fullmatch("[a-z]+(_[a-z]+)*", code)}
    given |= {reason for _, reason in (*kinds._OBJECTS, *kinds._TYPES)} | {reason for reason, _ in unwanted._WORDS}
    assert {"uneven_slices", "sharp_kernel", "converter_killed", "unexpected", "damaged", "other_modality"} <= given
    assert given | {"no_usable_series"} == set(reasons_module.WORDS)
    assert all(len(words.split()) >= 4 for words in reasons_module.WORDS.values())


def test_left_out_says_why_and_what_to_do(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", drop=(5, 6, 7, 8, 9))
    for file in phantom.series(tmp_path / "in", number=2)[:12]:
        file.write_bytes(file.read_bytes()[:-500])
    phantom.series(tmp_path / "in", number=3)
    run(tmp_path / "in", tmp_path / "out")
    with (tmp_path / "out" / "left_out.csv").open(newline="") as lines:
        told = {row["reason"]: row["message"] for row in csv.DictReader(lines)}
    assert told == {
        "missing_slices": "slices are missing, too many to fill in, or stacks of several spacings lie in one series; export the whole series "
        "again, each stack as a series of its own",
        "damaged": "too many of its files are damaged or cut short; copy them again. 12 of 24 files damaged",
    }


@pytest.mark.parametrize("case", ["missing", "empty", "foreign"])
def test_nothing_to_import(tmp_path: Path, case: str) -> None:
    if case != "missing":
        (tmp_path / "in").mkdir()
    if case == "foreign":
        phantom.series(tmp_path / "in", slices=6)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "manifest.jsonl").write_text('{"study_id": "mine"}\n')
    text = {"missing": "no such folder", "empty": "no DICOM series among 0 files", "foreign": "not written by this command"}[
        case
    ]
    with pytest.raises(ImportingError, match=text):
        run(tmp_path / "in", tmp_path / "out")
