"""What an import leaves behind: manifest and list, whole or not at all, and never over somebody else's file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hlip.importing.outcome import Imported, ImportingError, LeftOut, left_out_file, manifest_file, some, write_import
from hlip.study import Scan, Study, read_manifest


def studies(count: int = 2) -> list[Study]:
    return [Study(f"s{n}", "p", (Scan(Path(f"/d/{n}.nii.gz"), "T1"),), "Text.", (), ("a",), "train") for n in range(count)]


def test_places() -> None:
    assert manifest_file("out") == Path("out/manifest.jsonl")
    assert manifest_file("a/mine.jsonl") == Path("a/mine.jsonl")
    assert left_out_file(Path("out/manifest.jsonl")) == Path("out/left_out.csv")
    assert left_out_file(Path("a/mine.jsonl")) == Path("a/mine.left_out.csv")


def test_manifest_and_list(tmp_path: Path) -> None:
    lost = [LeftOut("a, b.nii", "mask", 'called "mask"'), LeftOut("c.nii", "missing"), LeftOut("d.nii", "mask")]
    made = write_import("here", studies(), tmp_path / "manifest.jsonl", lost, ["look twice"])
    assert [study.extra for study in read_manifest(tmp_path / "manifest.jsonl")] == [{"imported": "here"}] * 2
    with (tmp_path / "left_out.csv").open(newline="") as lines:
        assert [*csv.reader(lines)] == [
            ["path", "reason", "message"],
            ["a, b.nii", "mask", 'called "mask"'],
            ["c.nii", "missing", ""],
            ["d.nii", "mask", ""],
        ]
    assert str(made).splitlines() == [
        f"2 studies of 1 patients, 2 scans, 2 with a report, 2 with labels: {tmp_path / 'manifest.jsonl'}",
        "scans: T1 2",
        "splits: train 2",
        f"left out: mask 2, missing 1; see {tmp_path / 'left_out.csv'}",
        "note: look twice",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["left_out.csv", "manifest.jsonl"]
    write_import("here", studies(1), tmp_path / "manifest.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"], "an old list would be a lie"


def test_without_a_study_only_the_list_is_written(tmp_path: Path) -> None:
    lost = [LeftOut("a", "dicom"), LeftOut("b", "dicom")]
    with pytest.raises(ImportingError, match=r"no usable study \(left out: dicom 2; see .*left_out\.csv\)"):
        write_import("here", [], tmp_path / "new" / "out" / "manifest.jsonl", lost)
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["left_out.csv"]
    with pytest.raises(ImportingError, match=r"no usable study$"):
        write_import("here", [], tmp_path / "manifest.jsonl")


@pytest.mark.parametrize("content", ["", "not json\n", "[1]\n", '{"study_id": "mine"}\n', '{"imported": "elsewhere"}\n'])
def test_only_its_own_manifest_is_written_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(content)
    with pytest.raises(ImportingError, match="not written by this command"):
        write_import("here", studies(), tmp_path / "manifest.jsonl", [LeftOut("a", "b")])
    assert (tmp_path / "manifest.jsonl").read_text() == content
    assert not (tmp_path / "left_out.csv").exists()
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"imported": "here"}) + "\n")
    write_import("here", studies(), tmp_path / "manifest.jsonl")


def test_the_first_faults_are_enough() -> None:
    assert some(["one"]) == "\n  one"
    assert some([str(n) for n in range(25)]).splitlines()[-2:] == ["  9", "  and 15 more"]


def test_unnamed_scans_and_no_splits() -> None:
    said = str(Imported(Path("m.jsonl"), (Study("s", "p", (Scan(Path("a")),)),)))
    assert said.splitlines() == [
        "1 studies of 1 patients, 1 scans, 0 with a report, 0 with labels: m.jsonl",
        "scans: (unnamed) 1",
    ]
