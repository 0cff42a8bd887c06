"""A hospital delivers month by month: the second delivery is added, or put in the first one's place, never silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from hlip.importing.dicom import importer
from hlip.importing.outcome import ImportingError
from hlip.study import read_manifest

from ...dicom import phantom
from .made import rows, run


def test_two_deliveries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    for number, folder in enumerate(("january", "january", "february"), start=1):
        phantom.series(tmp_path / folder / str(number), slices=8, study=f"1.{number}", patient=f"P{number}")
    first = run(tmp_path / "january", out)
    homes = {study.patient_id: study.split for study in first.studies}
    table = rows(out)
    with monkeypatch.context() as patch:
        patch.setattr(importer, "_convert", lambda *_: pytest.fail("hours of conversion before the refusal"))
        with pytest.raises(ImportingError, match=r"holds 2 studies that are not among the 1 found now .*--add keeps them"):
            run(tmp_path / "february", out)
    both = run(tmp_path / "february", out, how="add")
    assert len(both.studies) == 3
    assert {study.patient_id: study.split for study in both.studies}.items() >= homes.items()
    assert all(scan.path.is_file() for study in read_manifest(both.manifest) for scan in study.scans)
    assert rows(out)[:2] == table
    assert len(rows(out)) == 3
    assert not any("not in this manifest" in note for note in both.notes)
    one = run(tmp_path / "february", out, how="replace")
    assert len(one.studies) == len(rows(out)) == 1
    assert any(note.startswith("2 studies in") and note.endswith("not in this manifest") for note in one.notes)
