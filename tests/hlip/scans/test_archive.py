"""Scans within zips: read as their unpacked copies, and every fault named by the path that the manifest has."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlip.prepare import prepare
from hlip.scans import archive
from hlip.scans.reading import read_scan
from hlip.scans.scan import VolumeError
from hlip.study import Scan, Study, read_manifest, write_manifest
from hlip.volume import VolumeSpec


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A zip with a scan, a mask and a file that is no scan."""
    data = np.random.default_rng(0).integers(0, 900, (12, 10, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2, 5, 1])), tmp_path / "flair.nii.gz")
    nib.save(nib.Nifti1Image((data > 400).astype(np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as members:
        for name in ("flair", "mask"):
            members.write(tmp_path / f"{name}.nii.gz", f"s/img/{name}.nii.gz")
        members.writestr("s/img/text.nii.gz", "no scan")
    return tmp_path / "s.zip"


def refused(path: Path) -> str:
    with pytest.raises(VolumeError) as error:
        read_scan(path)
    assert str(path) in str(error.value)  # not the temporary copy, which is gone
    return error.value.reason


def test_a_scan_in_a_zip(packed: Path) -> None:
    scan, alone = read_scan(packed / "s/img/flair.nii.gz"), read_scan(packed.with_name("flair.nii.gz"))
    np.testing.assert_array_equal(scan.data, alone.data)
    assert (scan.path, scan.sequence, scan.spacing) == (packed / "s/img/flair.nii.gz", "FLAIR", alone.spacing)


def test_faults_are_named_by_their_place_in_the_zip(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(packed / "s/img/mask.nii.gz") == "label_map"
    assert refused(packed / "s/img/text.nii.gz") == "not_an_image"
    with pytest.raises(VolumeError, match=r"holds no s/img/gone\.nii\.gz") as error:
        read_scan(packed / "s/img/gone.nii.gz")
    assert error.value.reason == "missing"
    assert refused(packed.with_name("other.zip") / "s/a.nii.gz") == "missing"
    monkeypatch.setattr(archive, "_MAX_BYTES", 100)
    assert refused(packed / "s/img/flair.nii.gz") == "too_large"


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_cut_zip(packed: Path, keep: float) -> None:
    content = packed.read_bytes()
    packed.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(VolumeError, match="copy it again") as error:
        read_scan(packed / "s/img/flair.nii.gz")
    assert error.value.reason == "truncated"


def test_a_flipped_byte_in_a_zip(packed: Path) -> None:
    with zipfile.ZipFile(packed) as members:
        start = members.getinfo("s/img/flair.nii.gz").header_offset
    content = bytearray(packed.read_bytes())
    content[start + 400] ^= 0xFF
    packed.write_bytes(content)
    with pytest.raises(VolumeError) as error:
        read_scan(packed / "s/img/flair.nii.gz")
    assert error.value.reason == "truncated"


def test_a_changed_zip_is_prepared_again(packed: Path, tmp_path: Path) -> None:
    spec = VolumeSpec.from_dict(VolumeSpec.load("mri").as_dict() | {"size": [4, 8, 8], "resize": [8, 8]})
    write_manifest([Study("a", "p", (Scan(packed / "s/img/flair.nii.gz"),))], tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl")[0].scans[0].path == packed / "s/img/flair.nii.gz"
    reused = []
    for change in (False, False, True):
        if change:
            with zipfile.ZipFile(packed, "a") as members:
                members.writestr("s/more.txt", "changed")
        reused.append(prepare(tmp_path / "m.jsonl", tmp_path / "store", spec, workers=1, progress=False).studies_reused)
    assert reused == [0, 1, 0]
