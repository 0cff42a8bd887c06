"""The same patient in another voxel grid prepares to the same volume; all scans of a study on one grid; cropping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hlip.scans.scan import LoadedScan, VolumeError
from hlip.volume import SpecError, VolumeSpec, prepare_volume

BLOBS = ((0, 0, 0, 28, 100), (-18, 8, 4, 9, 90), (10, 20, -12, 8, 60), (5, -15, 18, 7, 70))  # x, y, z, sigma in mm, height
SHARED = VolumeSpec(size=(24, 26, 22), spacing_mm=(4, 4, 4), through_plane="axial", percentiles=(0, 100), grid="study")


def head(affine: np.ndarray, shape: tuple[int, int, int], scale: float = 1.0) -> LoadedScan:
    """Smooth blobs at fixed places of the patient, whatever the voxel grid."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    data = sum(high * np.exp(-((place - (x, y, z)) ** 2).sum(-1) / (2 * sigma**2)) for x, y, z, sigma, high in BLOBS)
    return LoadedScan((scale * np.asarray(data)).astype(np.float32), affine, Path("scan.nii.gz"))


def grid(spacing: tuple[float, float, float], degrees: tuple[float, float, float], shape: tuple[int, int, int]) -> np.ndarray:
    """Voxels around the patient's origin, turned."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


STRAIGHT = head(grid((2, 2, 2), (0, 0, 0), (70, 70, 70)), (70, 70, 70))


@pytest.mark.parametrize("degrees", [(10, 0, 0), (0, -20, 0), (0, 0, 33), (12, -9, 25), (80, 5, -5), (-25, 30, 170)])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.5, 1.5, 3.0)])
def test_an_oblique_acquisition_prepares_to_the_same_volume(degrees: tuple[float, float, float], spacing: tuple) -> None:
    spec = VolumeSpec(size=(16, 18, 18), spacing_mm=(4, 4, 4), through_plane="axial", percentiles=(0, 100))
    shape = tuple(int(150 / step) // 2 * 2 for step in spacing)
    scan = head(grid(spacing, degrees, shape), shape)
    [wanted], [volume] = prepare_volume(STRAIGHT, spec), prepare_volume(scan, spec)
    np.testing.assert_allclose(volume.affine[:3, :3], wanted.affine[:3, :3], atol=1e-9)
    shift = np.abs(volume.affine[:3, 3] - wanted.affine[:3, 3]).max()
    assert shift < 1e-6  # both fields are centred at the origin
    assert np.abs(volume.voxels.astype(int) - wanted.voxels.astype(int)).max() <= 8  # of 255; blobs of 7 mm on 4 mm voxels


@pytest.mark.parametrize("degrees", [20.0, -15.0])
def test_a_leaning_stack_is_straightened_in_millimetres_and_said_to_lean_otherwise(degrees: float) -> None:
    affine = grid((1.5, 1.5, 3.0), (0, 0, 0), (100, 100, 50))
    affine[1, 2] = 3.0 * np.tan(np.radians(degrees))  # each slice lies further to the front than the one below
    affine[:3, 3] = -affine[:3, :3] @ (49.5, 49.5, 24.5)
    scan = head(affine, (100, 100, 50))
    assert scan.shear == pytest.approx(abs(degrees), abs=1e-6)
    [wanted] = prepare_volume(STRAIGHT, SHARED)
    [volume] = prepare_volume(scan, SHARED, wanted.affine)
    away = np.abs(volume.voxels.astype(int) - wanted.voxels.astype(int))
    assert away[3:-3, 3:-3, 3:-3].max() <= 4  # of 255
    assert [note for note in volume.notes if "resampled upright" in note]
    square = VolumeSpec(size=(16, 30, 30), fit="square", resize=(30, 30), through_plane="axial", percentiles=(0, 100))
    [kept] = prepare_volume(scan, square)
    assert [note for note in kept.notes if f"sheared by {abs(degrees):.1f} degrees" in note and "leans" in note]
    assert not any("sheared" in note for note in wanted.notes)


def test_scans_of_a_study_lie_on_the_first_one_s_grid() -> None:
    other = grid((1.0, 1.0, 5.0), (15, -8, 4), (150, 150, 30))
    other[:3, 3] += (9, -6, 12)  # another field of view
    [first] = prepare_volume(STRAIGHT, SHARED)
    [second] = prepare_volume(head(other, (150, 150, 30), scale=3.0), SHARED, first.affine)
    [alone] = prepare_volume(head(other, (150, 150, 30), scale=3.0), SHARED)
    assert np.array_equal(second.affine, first.affine)
    inside = second.voxels > 0
    away = np.abs(second.voxels.astype(int) - first.voxels.astype(int))[inside]
    assert np.percentile(away, 99) <= 12  # the thick slices average over 5 mm
    apart = np.abs(alone.voxels.astype(int) - first.voxels.astype(int))[inside]
    assert np.percentile(apart, 99) > 60  # each on its own grid they do not meet


def test_a_scan_elsewhere_is_out_of_view() -> None:
    [first] = prepare_volume(STRAIGHT, SHARED)
    far = STRAIGHT.affine.copy()
    far[2, 3] += 400
    with pytest.raises(VolumeError) as error:
        prepare_volume(LoadedScan(STRAIGHT.data, far, Path("neck.nii.gz")), SHARED, first.affine)
    assert error.value.reason == "out_of_view"


@pytest.mark.parametrize("change", [{"frame": "scan"}, {"through_plane": "acquired"}, {"grid": "patient"}])
def test_a_shared_grid_needs_the_patient_s_frame(change: dict[str, str]) -> None:
    with pytest.raises(SpecError, match="grid"):
        VolumeSpec.from_dict(SHARED.as_dict() | change)


def test_crop_leaves_the_foreground_and_its_margin() -> None:
    data = np.zeros((60, 50, 40), np.float32)
    data[20:32, 10:30, 15:25] = np.random.default_rng(0).uniform(80, 100, (12, 20, 10))
    scan = LoadedScan(data, np.diag([1.0, 1.0, 2.0, 1.0]), Path("scan.nii.gz"))
    spec = VolumeSpec(
        size=(14, 26, 26), fit="square", resize=(26, 26), through_plane="axial", percentiles=(0, 100), crop_mm=3.0
    )
    [volume] = prepare_volume(scan, spec)
    lit = np.argwhere(volume.voxels > 100)
    places = lit @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    np.testing.assert_allclose(places.min(0), (20, 10, 30), atol=1.01)  # mm, the box itself
    np.testing.assert_allclose(places.max(0), (31, 29, 48), atol=1.01)
    assert np.ptp(lit[:, 0]) + 1 >= 10  # ten slices and two of margin at either end fill the depth
    assert np.ptp(lit[:, 1]) + 1 >= 19


@pytest.mark.parametrize("name", ["hp2l", "pub_brain_5"])
def test_presets(name: str) -> None:
    spec = VolumeSpec.load(name)
    assert VolumeSpec.from_dict(spec.as_dict()) == spec
    if name == "hp2l":
        assert spec.spacing_mm == (1.5, 1.5, 1.5)
        assert spec.grid == "study"
        assert all(n % 16 == 0 for n in spec.size)  # the CNN halves four times
    else:
        assert spec.digest() == VolumeSpec.load("mri").digest()


def test_later_settings_leave_older_digests_as_they_were() -> None:
    assert VolumeSpec.load("mri").digest() == "fb9bd68e85c967a2"
    assert VolumeSpec.load("demo").digest() == "437d674fdd09fb6f"
