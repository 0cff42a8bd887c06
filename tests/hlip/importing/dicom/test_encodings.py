"""Transfer syntaxes, multi-frame objects and mosaics, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from hlip.dicom import convert, making
from hlip.importing.outcome import ImportingError

from ...dicom import phantom
from .made import assert_marks, one_scan, real_slices, reasons, rows, run, value_at


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm",
     "MR_small_jpeg_ls_lossless.dcm"],
)  # fmt: skip
def test_transfer_syntaxes(tmp_path: Path, name: str) -> None:
    pixels = real_slices(tmp_path / "in", name)
    run(tmp_path / "in", tmp_path / "out")
    image = one_scan(tmp_path / "out")
    np.testing.assert_array_equal(image.get_fdata()[..., 2], pixels.T)
    np.testing.assert_allclose(image.affine[:3, 3], [50, 50, 0])


def test_what_the_converter_cannot_decode_pydicom_does(tmp_path: Path) -> None:
    """Deflated files; and files without the mark and the group that says how they are encoded."""
    phantom.series(tmp_path / "in", number=1)
    for file in (tmp_path / "in").iterdir():
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        data.save_as(file)
    for n, file in enumerate(phantom.series(tmp_path / "bare", number=2, description="T2", **phantom.T2)):
        data = pydicom.dcmread(file)
        bare = pydicom.Dataset(data)
        bare.save_as(tmp_path / "in" / f"bare{n}", implicit_vr=True, little_endian=True)
    run(tmp_path / "in", tmp_path / "out")
    assert [row["sequence"] for row in rows(tmp_path / "out")] == ["T1", "T2"]
    for row in rows(tmp_path / "out"):
        assert_marks(nib.load(tmp_path / "out" / row["path"]))


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_a_damaged_compressed_file_costs_one_slice(tmp_path: Path, name: str) -> None:
    real_slices(tmp_path / "in", name, count=12)
    broken = tmp_path / "in" / "IM5"
    broken.write_bytes(broken.read_bytes()[:-4500] + bytes(4500))
    run(tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert "1 missing slices filled in" in row["notes"]
    assert one_scan(tmp_path / "out").shape == (64, 64, 12)


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    phantom.enhanced(tmp_path / "in", [0.0])
    run(tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["sequence"], row["echo_time_ms"]) == ("T2", "95.0")
    assert_marks(one_scan(tmp_path / "out"))


def test_enhanced_diffusion(tmp_path: Path) -> None:
    phantom.enhanced(tmp_path / "in", [0.0, 1000.0])
    run(tmp_path / "in", tmp_path / "out")
    found = {row["sequence"]: nib.load(tmp_path / "out" / row["path"]) for row in rows(tmp_path / "out")}
    assert list(found) == ["DWI b0", "DWI", "ADC"]
    assert value_at(found["DWI b0"], (30, 0, 0)) == pytest.approx(9000, rel=1e-3)
    assert value_at(found["ADC"], (30, 0, 0)) == pytest.approx(1000, rel=2e-2)


def test_a_converter_that_makes_other_volumes_than_mosaics_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phantom.series(tmp_path / "in", slices=2, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    volume = convert.Converted(np.zeros((8, 8, 8), np.int16), np.eye(4), 1.0, 0.0)
    monkeypatch.setattr(making, "convert_files", lambda _: [volume])
    with pytest.raises(ImportingError):
        run(tmp_path / "in", tmp_path / "out")
    assert reasons(tmp_path / "out") == ["geometry_mismatch"]
