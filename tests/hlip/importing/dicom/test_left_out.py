"""What is no scan to keep, and why."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from hlip.importing.outcome import ImportingError

from . import phantom
from .made import PLANES, reasons, rows, run


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
        ],
        1,
    ):
        phantom.series(
            tmp_path / "in", study=uid, patient=uid, number=number, modality="CT", description="HEAD", slices=8, **tags
        )
    run(tmp_path / "in", tmp_path / "out", keep_ids=True)
    assert [(row["study_id"], row["reason"]) for row in rows(tmp_path / "out")] == [
        ("1.1", ""), ("1.1", "sharp_kernel"), ("1.1", "reformat"), ("1.2", ""), ("1.3", ""),
    ]  # fmt: skip


def test_a_study_of_two_patients_is_left_out(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    phantom.series(tmp_path / "in", slices=6, number=2, patient="P2")
    phantom.series(tmp_path / "in", slices=6, number=3, study="1.2.9")
    done = run(tmp_path / "in", tmp_path / "out")
    assert sorted(reasons(tmp_path / "out")) == ["", "several_patients", "several_patients"]
    assert len(done.studies) == 1


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
