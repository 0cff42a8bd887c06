"""Working in pieces, counting and remembering are faster, and give the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.sparse import csr_array

from hlip.prepare.one_study import prepare_study
from hlip.quality import measures
from hlip.scans import nifti
from hlip.scans.scan import LoadedScan, io_orientation
from hlip.study import Scan, Study
from hlip.volume import VolumeSpec, fitting, prepare_volume, resample
from hlip.volume.counting import Counts


def whole(shape: tuple[int, ...] = (40, 30, 20), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.float32)


@pytest.mark.parametrize("piece", [1, 700, 5000, 10**9])
@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_pieces_of_any_size_give_the_product_of_the_whole(
    piece: int, turn: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resample, "_PIECE", piece)
    data = whole().transpose(turn)
    matrices = [resample.linear_matrix(n, out, n / out, 0.3, n / out) for n, out in zip(data.shape, (9, 25, 14), strict=True)]
    expected = np.clip(data, 100, 700)
    for axis in sorted(range(3), key=lambda axis: len(matrices[axis]) / matrices[axis].shape[1]):
        turned = np.ascontiguousarray(np.moveaxis(expected, axis, 0))
        rows = csr_array(matrices[axis]) @ turned.reshape(len(turned), -1)
        expected = np.moveaxis(rows.reshape(len(rows), *turned.shape[1:]), 0, axis)
    before = data.copy()
    found = resample.apply(data, matrices, lambda part: np.clip(part, 100, 700, out=np.empty(part.shape, np.float32)))
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()
    np.testing.assert_array_equal(data, before, "the scan itself is left alone")


@pytest.mark.parametrize("shape", [(600, 5, 4), (4, 5, 600), (256, 7, 3)])
@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_planes_of_a_mask_are_counted_beyond_a_byte(shape: tuple[int, ...], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    for view in (mask, mask.T, mask[::-1]):
        for axis, counts in enumerate(fitting.along_each_axis(view)):
            others = tuple(other for other in range(3) if other != axis)
            np.testing.assert_array_equal(counts, np.count_nonzero(view, axis=others))


def test_counts_say_what_masks_say() -> None:
    data = whole() - 300
    counts = Counts.of(data)
    assert counts is not None
    for value in (-301.0, -300.0, 0.0, 7.5, 599.0, 600.0):
        assert counts.count(value) == np.count_nonzero(data == value)
        assert counts.above(value) == np.count_nonzero(data > value)
    assert measures._floor(data, counts) == measures._floor(data, None)
    mask = data > 100
    assert measures._saturated(data, mask, counts) == measures._saturated(data, mask, None)
    flat = np.full((4, 4, 4), 5, np.float32)
    assert measures._floor(flat, Counts.of(flat)) == 5


@pytest.mark.parametrize("centre", ["fov", "foreground"])
def test_the_foreground_is_the_same_counted_or_masked(centre: str) -> None:
    spec = VolumeSpec(size=(6, 12, 12), spacing_mm=(10, 8, 8), through_plane="axial", centre=centre)
    data = whole()
    [volume] = prepare_volume(LoadedScan(data, np.diag([3.0, 3, 3, 1]), Path("a.nii")), spec)
    bright = data[data > data.mean()].mean(dtype=np.float64)
    assert volume.foreground == np.mean(data > np.float32(0.3 * bright + 0.7 * data.min()))


def test_slices_shown_twice_are_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = fitting.square_slices
    monkeypatch.setattr(fitting, "square_slices", lambda slices, *more: seen.append(len(slices)) or real(slices, *more))
    spec = VolumeSpec(size=(48, 12, 12), fit="square", resize=(16, 16))
    [volume] = prepare_volume(LoadedScan(whole((20, 20, 7)), np.diag([1.0, 1, 5, 1]), Path("a.nii")), spec)
    assert seen == [7]
    assert len({plane.tobytes() for plane in volume.voxels}) == 7


def test_a_scan_is_measured_counted_and_turned_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nib.save(nib.Nifti1Image(whole().astype(np.int16), np.diag([3.1, 3, 4, 1])), tmp_path / "a.nii.gz")
    asked, counted, read = [], [], []
    real, of = nib.orientations.io_orientation, Counts.of.__func__
    more = nifti._Eager.read
    monkeypatch.setattr(nib.orientations, "io_orientation", lambda *given: asked.append(given) or real(*given))
    monkeypatch.setattr(Counts, "of", classmethod(lambda cls, *given: counted.append(given) or of(cls, *given)))
    monkeypatch.setattr(nifti._Eager, "read", lambda self, size=-1: read.append(size) or more(self, size))
    spec = VolumeSpec(size=(6, 12, 12), spacing_mm=(10, 8, 8), through_plane="axial")
    (tmp_path / "studies").mkdir()
    prepare_study(tmp_path, Study("a", "a", (Scan(tmp_path / "a.nii.gz"),)), spec, tmp_path)
    assert (tmp_path / "studies" / "a.safetensors").is_file()
    assert len(asked) <= 2, "of the scan and of the prepared volume"
    assert len(counted) == 1
    assert len(read) < 12


def test_a_remembered_orientation_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        io_orientation(np.eye(4))[0, 0] = 7
