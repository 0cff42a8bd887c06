"""The manifest: what is read is what was written, and every fault is named by line and field."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from hlip.study import ManifestError, Scan, Study, read_manifest, write_manifest

GOOD = {"study_id": "s1", "patient_id": "p1", "scans": [{"path": "a.nii.gz", "sequence": "T1"}]}


def manifest(folder: Path, *rows: object) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_read_is_the_inverse_of_write(tmp_path):
    studies = [
        Study("s1", "p1", (Scan(tmp_path / "s1" / "t1.nii.gz", "T1"), Scan(Path("/elsewhere/x.nii"))), "A report.", ("A.", "B."),
              ("glioma",), "train", {"age": 61}),
        Study("s2", "p2", (Scan(tmp_path / "s2.nii", "CT"),), labels=(), split=None),
    ]  # fmt: skip
    path = tmp_path / "manifest.jsonl"
    write_manifest(studies, path)
    assert read_manifest(path) == studies
    assert json.loads(path.read_text().splitlines()[0])["scans"][0]["path"] == "s1/t1.nii.gz"


def test_unlabelled_differs_from_labelled_without_finding(tmp_path):
    one, other = read_manifest(manifest(tmp_path, GOOD, GOOD | {"study_id": "s2", "labels": []}))
    assert one.labels is None
    assert other.labels == ()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{not json", "line 2: not JSON"),
        ([1], "JSON object"),
        (GOOD | {"study_id": ""}, "study_id"),
        (GOOD | {"study_id": "../s"}, "path separator"),
        (GOOD | {"study_id": "s1"}, "stands already on line 1"),
        ({"study_id": "s2", "scans": GOOD["scans"]}, "patient_id"),
        (GOOD | {"study_id": "s2", "scans": []}, "scans: missing or empty"),
        (GOOD | {"study_id": "s2", "scans": [{"sequence": "T1"}]}, r"scans\[0\].path"),
        (GOOD | {"study_id": "s2", "report": 3}, "report: not a string"),
        (GOOD | {"study_id": "s2", "labels": "glioma"}, "labels: not a list"),
        (GOOD | {"study_id": "s2", "split": "dev"}, "'dev' is none of train, val, test"),
    ],
)
def test_a_fault_is_named_by_line_and_field(tmp_path, row, words):
    with pytest.raises(ManifestError, match=words) as caught:
        read_manifest(manifest(tmp_path, GOOD, row))
    assert "manifest.jsonl" in str(caught.value)
    assert "line 2" in str(caught.value)


def test_all_faults_are_reported_at_once(tmp_path):
    with pytest.raises(ManifestError, match="3 problem"):
        read_manifest(manifest(tmp_path, {"study_id": "s1", "scans": [{}]}, GOOD | {"split": "dev"}))


def test_a_patient_in_two_splits_is_refused(tmp_path):
    rows = (GOOD | {"split": "train"}, GOOD | {"study_id": "s2", "split": "test"})
    with pytest.raises(ManifestError, match=r"'p1' is in train \(study s1\) and in test \(study s2\)"):
        read_manifest(manifest(tmp_path, *rows))


def test_no_manifest_and_an_empty_one_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="no such manifest"):
        read_manifest(tmp_path / "absent.jsonl")
    (tmp_path / "scan.nii.gz").write_bytes(b"\x1f\x8b\x08\0\0")
    with pytest.raises(ManifestError, match="not a text file"):
        read_manifest(tmp_path / "scan.nii.gz")
    with pytest.raises(ManifestError, match="holds no study"):
        read_manifest(manifest(tmp_path, ""))
    with pytest.raises(ManifestError, match="a folder; `hlip import` makes a manifest of it"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["set.tar", "set.tgz", "set.tar/manifest.jsonl"])
def test_a_tar_in_place_of_a_manifest_is_refused_with_what_to_do(tmp_path, name):
    with tarfile.open(tmp_path / name.split("/")[0], "w:gz" if name.endswith("gz") else "w"):
        pass
    with pytest.raises(ManifestError, match=f"{name}: a tar archive is not read in place; unpack it.*`hlip import dicom`"):
        read_manifest(tmp_path / name)
