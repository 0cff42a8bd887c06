"""What is doubtful about a scan's orientation or modality is flagged, counted, told and shown first."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlip.prepare import PrepareSummary, prepare
from hlip.store import Store
from hlip.volume import VolumeSpec

SPEC = VolumeSpec(size=(6, 12, 12), spacing_mm=(10, 8, 8), through_plane="axial")
AFFINE = np.diag([6.0, 6, 6, 1])
MIRROR = np.diag([-1.0, 1, 1, 1])


def write(
    path: Path, seed: int, sform: np.ndarray = AFFINE, qform: np.ndarray = AFFINE, code: int = 1, low: int = 0
) -> dict[str, str]:
    data = np.random.default_rng(seed).integers(low, 900, (16, 14, 10)).astype(np.int16)
    image = nib.Nifti1Image(data, sform)
    image.set_sform(sform, code)
    image.set_qform(qform, code)
    nib.save(image, path)
    return {"path": path.name}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[PrepareSummary, Path]:
    """30 good scans, and one of each doubt."""
    folder = tmp_path_factory.mktemp("doubts")
    moved, turned, leaning = AFFINE.copy(), AFFINE.copy(), AFFINE.copy()
    moved[0, 3], leaning[1, 2] = 40, 2
    turned[:2, :2] *= -1  # half a turn about z: left and right are exchanged, no mirror
    wide = np.diag([9.0, 9, 9, 1])
    scans = {f"good{n}": write(folder / f"good{n}.nii.gz", n) for n in range(30)} | {
        "mirrored": write(folder / "mirrored.nii.gz", 40, qform=AFFINE @ MIRROR),
        "turned": write(folder / "turned.nii.gz", 41, qform=turned),
        "moved": write(folder / "moved.nii.gz", 42, qform=moved),
        "silent": write(folder / "silent.nii.gz", 43, code=0),
        "ct": write(folder / "ct.nii.gz", 44, low=-1000),
        "leaning": write(folder / "leaning.nii.gz", 45, sform=leaning, qform=leaning),
        "called": write(folder / "called.nii.gz", 46) | {"sequence": "CT"},
        "wide": write(folder / "wide.nii.gz", 47, sform=wide, qform=wide),
    }
    rows = [
        {"study_id": name, "patient_id": name, "scans": [scan], "report": name, "split": "train"}
        for name, scan in scans.items()
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare(folder / "manifest.jsonl", folder / "store", SPEC, workers=1, progress=False), folder / "store"


def test_doubts_of_orientation_and_modality_are_flags(done: tuple[PrepareSummary, Path]) -> None:
    rows = {row["study_id"]: row for row in Store(done[1]).quality}
    found = {study: set(row["flags"]) for study, row in rows.items()}
    assert found["mirrored"] == found["turned"] == {"mirrored", "orientation"}
    assert found["moved"] == found["silent"] == {"orientation"}
    assert found["ct"] == found["called"] == {"wrong-spec"}
    assert found["wide"] == {"cut"}
    assert rows["wide"]["cut"] == pytest.approx(1 - 96 * 96 * 60 / (144 * 126 * 90), abs=0.1)
    assert rows["good0"]["cut"] == 0
    assert "sheared" in found["leaning"]
    assert not any(found[f"good{n}"] for n in range(30))


def test_doubts_are_counted_and_explained_in_the_summary(done: tuple[PrepareSummary, Path]) -> None:
    said = str(done[0])
    assert "mirrored 2, orientation" in said
    assert "wrong-spec 2: looks like CT" in said
    assert "mirrored 2: sform and qform" in said


def test_doubts_stand_first_on_the_page(done: tuple[PrepareSummary, Path]) -> None:
    page = (done[1] / "quality.html").read_text()
    cards = [part.split("</b>")[0] for part in page.split("<b>")[1:]]
    assert set(cards[:2]) == {"mirrored", "turned"}
    assert set(cards[:8]) == {"mirrored", "turned", "moved", "silent", "ct", "called", "leaning", "wide"}
    assert page.count(" of the foreground<br>") == len(cards)


def test_what_an_import_mended_is_told_and_flagged(tmp_path: Path) -> None:
    """In words of the import's own; a text too few, or none, says nothing."""
    told = {
        "gap": ["2 missing slices filled in; uneven steps resampled"],
        "cut": ["1 slices lost at the ends"],
        "tilt": ["gantry tilt of 9 degrees corrected"],
        "plain": None,
        "few": [],
        "odd": "2 missing slices filled in",
    }
    rows = []
    for n, (name, notes) in enumerate(told.items()):
        more = {} if notes is None else {"scan_notes": notes}
        scans = [write(tmp_path / f"{name}.nii.gz", n)]
        rows.append({"study_id": name, "patient_id": name, "scans": scans, "report": name, "split": "train"} | more)
    (tmp_path / "gone.nii.gz").write_bytes(b"")
    scans = [{"path": "gone.nii.gz"}]
    rows.append({"study_id": "gone", "patient_id": "gone", "scans": scans, "scan_notes": ["1 slices lost at the ends"]})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(tmp_path / "manifest.jsonl", tmp_path / "store", SPEC, workers=1, progress=False)
    found = {row["study_id"]: row for row in Store(tmp_path / "store").quality}
    assert found["gap"]["notes"] == "import: 2 missing slices filled in; import: uneven steps resampled"
    assert found["tilt"]["notes"] == "import: gantry tilt of 9 degrees corrected"
    assert found["gone"]["notes"] == "import: 1 slices lost at the ends"
    assert not any(found[name]["notes"] for name in ("plain", "few", "odd"))
    assert [name for name, row in found.items() if "incomplete" in row["flags"]] == ["gap", "cut"]
    assert "import: 2 missing slices filled in" in (tmp_path / "store" / "quality.html").read_text()
