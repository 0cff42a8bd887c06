"""What a user is told: of studies that name no patient, of series that may be a part, of what killed runs left."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from hlip.dicom import temporary

from ...dicom import phantom
from ...dicom.test_temporary import ended
from .made import REAL, reasons, rows, run


def notes(out: Path) -> list[str]:
    return [row["notes"] for row in rows(out)]


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({"drop": tuple(range(10))}, "instance numbers begin at 11"),
        (
            {"drop": tuple(range(10)), "ImagesInAcquisition": 24},
            "instance numbers begin at 11; 14 of the 24 images of its acquisition",
        ),
        ({"drop": tuple(range(14, 24)), "ImagesInAcquisition": 24}, "14 of the 24 images of its acquisition"),
        ({"ImagesInAcquisition": 24}, ""),
        ({"ImagesInAcquisition": 12}, ""),
        ({}, ""),
    ],
)
def test_half_a_series_is_noted(tmp_path: Path, tags: dict, note: str) -> None:
    phantom.series(tmp_path / "in", **tags)
    run(tmp_path / "in", tmp_path / "out")
    assert notes(tmp_path / "out") == [note]


def test_the_second_stack_of_a_series_begins_late_without_a_note(tmp_path: Path) -> None:
    uid = generate_uid()
    for first in (0, 24):
        phantom.series(tmp_path / "in", uid=uid, first=first, TemporalPositionIdentifier=first, ImagesInAcquisition=48)
    run(tmp_path / "in", tmp_path / "out")
    assert (reasons(tmp_path / "out"), notes(tmp_path / "out")) == (["", ""], ["", ""])


def test_frames_have_numbers_of_their_own(tmp_path: Path) -> None:
    phantom.enhanced(tmp_path / "in", [0.0])
    run(tmp_path / "in", tmp_path / "out")
    assert notes(tmp_path / "out") == [""]


def test_a_real_series_may_begin_late(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("no real files here")
    run(REAL / "dicom_t1gd", tmp_path / "out")
    assert (reasons(tmp_path / "out"), notes(tmp_path / "out")) == ([""], ["instance numbers begin at 40"])


def test_unreadable_files_beside_a_series_are_noted(tmp_path: Path) -> None:
    """Where it is alone in its folder; elsewhere nothing tells whose they are."""
    for folder, numbers in (("alone", (1,)), ("two", (2, 3))):
        for number in numbers:
            files = phantom.series(tmp_path / "in" / folder, number=number)
            for file in files[20:]:
                file.write_bytes(file.read_bytes()[:300])
    done = run(tmp_path / "in", tmp_path / "out")
    assert notes(tmp_path / "out") == ["4 files beside it cannot be read", "", ""]
    assert [(item.reason, item.message.split()[0]) for item in done.left_out] == [("no_uid", "12")]
    assert any(note.startswith("unreadable: ") and note.endswith(" and 9 more") for note in done.notes)


def test_an_unreadable_file_that_comes_later_is_noted_too(tmp_path: Path) -> None:
    files = phantom.series(tmp_path / "in", slices=6)
    run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "broken").write_bytes(files[0].read_bytes()[:300])
    run(tmp_path / "in", tmp_path / "out")
    assert notes(tmp_path / "out") == ["1 files beside it cannot be read"]


def test_studies_without_a_patient_are_counted(tmp_path: Path) -> None:
    for number, patient in enumerate(("", "", "P1")):
        phantom.series(tmp_path / "in" / str(number), slices=6, study=f"1.{number}", patient=patient)
    done = run(tmp_path / "in", tmp_path / "out")
    told = [note for note in done.notes if note.startswith("2 of 3 studies name no patient")]
    assert len(told) == 1
    assert "one may be in train and in test" in told[0]
    done = run(tmp_path / "in" / "2", tmp_path / "other")
    assert not any("name no patient" in note for note in done.notes)


def test_what_a_killed_run_left_is_removed_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "room"))
    for name in ("abc", "def"):
        (tmp_path / "room" / f"hlip-dicom-{temporary._machine()}-{ended()}-{name}" / "in").mkdir(parents=True)
    phantom.series(tmp_path / "in", slices=6)
    done = run(tmp_path / "in", tmp_path / "out")
    assert [note for note in done.notes if note.startswith("removed from")] == [
        f"removed from {tmp_path / 'room'}: 2 folders of killed runs, which held names and images"
    ]
    assert not list((tmp_path / "room").iterdir())
    assert not any(note.startswith("removed from") for note in run(tmp_path / "in", tmp_path / "out").notes)


def test_stacks_of_two_thicknesses_in_one_series_are_parted(tmp_path: Path) -> None:
    uid = generate_uid()
    tags = {"modality": "CT", "uid": uid, "description": "CT"}
    phantom.series(tmp_path / "in", step=2.0, slices=60, **tags)
    phantom.series(tmp_path / "in", step=6.0, first=100, slices=20, **tags)
    run(tmp_path / "in", tmp_path / "out")
    note = "its series mixes slices of 2 and 6 mm: parted"
    assert [(row["shape"], row["notes"]) for row in rows(tmp_path / "out")] == [("40x40x60", note), ("40x40x20", note)]


@pytest.mark.parametrize("apart", [True, False])
def test_thick_slices_that_follow_thin_ones_are_one_scan_or_none(tmp_path: Path, apart: bool) -> None:
    """Never two halves of a head: what is too uneven stays left out."""
    uid, thick = generate_uid(), 10.0 if apart else 4.0

    def place(start: float, step: float):
        def move(n: int, data: pydicom.Dataset) -> None:
            data.ImagePositionPatient = [*data.ImagePositionPatient[:2], start + n * step]

        return move

    for first, start, step in ((0, 0.0, 2.0), (20, 38.0 + thick, thick)):
        phantom.series(
            tmp_path / "in",
            uid=uid,
            first=first,
            slices=20,
            step=step,
            each=place(start, step),
            modality="CT",
            description="CT",
        )
    if apart:
        with pytest.raises(Exception, match="uneven_slices 1"):
            run(tmp_path / "in", tmp_path / "out")
    else:
        run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == (["uneven_slices"] if apart else [""])
