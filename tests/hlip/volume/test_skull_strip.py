"""Brain extraction by a program: it is run, trusted only where it keeps the grid, and every failure is one named scan."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlip.prepare import prepare
from hlip.scans.scan import LoadedScan, VolumeError
from hlip.study import Scan, Study, write_manifest
from hlip.volume import SpecError, VolumeSpec, prepare_volume
from hlip.volume.skull_strip import VARIABLE

SPEC = VolumeSpec(size=(10, 20, 20), fit="square", resize=(20, 20), percentiles=(0, 100), skull_strip="custom", crop_mm=0)
KEEP = "import nibabel as n,sys;i=n.load(sys.argv[1]);d=i.get_fdata();d[:10]=0;n.save(n.Nifti1Image(d,i.affine),sys.argv[2])"
CROP = "import nibabel as n,sys;i=n.load(sys.argv[1]);n.save(i.slicer[:5],sys.argv[2])"
EMPTY = "import nibabel as n,sys;i=n.load(sys.argv[1]);n.save(n.Nifti1Image(i.get_fdata()*0,i.affine),sys.argv[2])"


def scan() -> LoadedScan:
    data = np.random.default_rng(0).uniform(50, 100, (20, 20, 10)).astype(np.float32)
    return LoadedScan(data, np.eye(4), Path("t1.nii.gz"))


def program(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setenv(VARIABLE, f'{sys.executable} -c "{code}" {{input}} {{output}}')


def test_only_the_brain_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, KEEP)
    [volume] = prepare_volume(scan(), SPEC)
    places = np.argwhere(volume.voxels > 0) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert places[:, 0].min() == pytest.approx(10, abs=0.6)
    assert any("brain extracted by custom: 50.0%" in note for note in volume.notes)


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [
        (CROP, "voxels for", "skull_strip"),
        (EMPTY, "no brain", "skull_strip"),
        ("import sys;sys.exit('no licence')", "no licence", "skull_strip_program"),
        ("pass", "wrote no", "skull_strip_program"),
    ],
)
def test_failures_name_program_and_scan(monkeypatch: pytest.MonkeyPatch, code: str, said: str, reason: str) -> None:
    program(monkeypatch, code)
    with pytest.raises(VolumeError, match=said) as error:
        prepare_volume(scan(), SPEC)
    assert error.value.reason == reason
    assert "t1.nii.gz" in str(error.value)


def test_nothing_set_or_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(VolumeError, match=f"set {VARIABLE}"):
        prepare_volume(scan(), SPEC)
    monkeypatch.setenv(VARIABLE, "no-such-program {input} {output}")
    with pytest.raises(VolumeError, match="no program 'no-such-program'"):
        prepare_volume(scan(), SPEC)


def test_preparing_begins_only_with_the_program_and_tries_again_where_it_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a missing licence cost is made up for by the next run."""
    loaded = scan()
    nib.Nifti1Image(loaded.data, loaded.affine).to_filename(tmp_path / "t1.nii.gz")
    write_manifest([Study("s", "p", (Scan(tmp_path / "t1.nii.gz"),))], tmp_path / "m.jsonl")
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match=f"set {VARIABLE}"):
        prepare(tmp_path / "m.jsonl", tmp_path / "store", SPEC, workers=1, progress=False)
    assert not (tmp_path / "store").exists()
    program(monkeypatch, "import sys;sys.exit('no licence')")
    lost = prepare(tmp_path / "m.jsonl", tmp_path / "store", SPEC, workers=1, progress=False)
    assert (lost.studies_ready, lost.reasons) == (0, {"skull_strip_program": 1})
    program(monkeypatch, KEEP)
    assert prepare(tmp_path / "m.jsonl", tmp_path / "store", SPEC, workers=1, progress=False).studies_ready == 1


def test_a_spec_cannot_carry_a_command() -> None:
    with pytest.raises(SpecError, match="skull_strip"):
        VolumeSpec.from_dict(SPEC.as_dict() | {"skull_strip": "rm -rf {input}"})
