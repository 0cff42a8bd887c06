"""Prepared volumes: the square fit against torch, orientation by markers, affines by ramps, rules by bad scans."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hlip.scans.reading import read_scan
from hlip.scans.scan import LoadedScan, VolumeError
from hlip.volume import SpecError, VolumeSpec, prepare_volume, resample
from hlip.volume.fitting import square_slices

SHARED = Path(__file__).parents[3].parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="shared data absent")
RPI = np.diag([1.0, -1.0, -1.0, 1.0])
AXIAL = VolumeSpec(size=(12, 24, 24), spacing_mm=(6.0, 4.0, 4.0), through_plane="axial", percentiles=(0, 100))


def scan_of(data: np.ndarray, affine: np.ndarray = RPI, **more: object) -> LoadedScan:
    return LoadedScan(np.asarray(data, np.float32), np.asarray(affine, float), Path("scan.nii.gz"), **more)  # type: ignore[arg-type]


def ramp(shape: tuple[int, int, int], affine: np.ndarray, slope: np.ndarray) -> LoadedScan:
    """A scan whose value is a linear function of the place in mm."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    return scan_of(place @ slope, affine)


def tilted(spacing: tuple[float, float, float], degrees: tuple[float, float, float], shape: tuple[int, int, int]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2 + (7, -11, 5)
    return affine


@pytest.mark.parametrize("shape", [(20, 37, 50), (72, 61, 40)])
def test_square_equals_torch(shape: tuple[int, int, int]) -> None:
    spec = VolumeSpec.load("mri")
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape).astype(np.float32))
    side = max(shape[1:])
    left, top = (side - shape[2]) // 2, (side - shape[1]) // 2
    y = torch.nn.functional.pad(x, (left, side - shape[2] - left, top, side - shape[1] - top))
    y = torch.nn.functional.interpolate(y[None], size=(256, 256), mode="bilinear")[0]
    y = torch.nn.functional.interpolate(y[None, None], size=(48, 256, 256), mode="nearest-exact")[0, 0][:, 16:240, 16:240]
    ours = square_slices(x.numpy()[resample.nearest_exact(shape[0], 48)], spec)
    np.testing.assert_allclose(ours, y.numpy(), atol=2e-3)  # of 255; torch weighs in float32


def test_nearest_exact_equals_torch_for_every_depth() -> None:
    for outputs in (24, 48, 72, 144):
        for inputs in range(4, 300):
            index = torch.arange(inputs, dtype=torch.float32)[None, None, :, None, None]
            wanted = torch.nn.functional.interpolate(index, size=(outputs, 1, 1), mode="nearest-exact").flatten().numpy()
            np.testing.assert_array_equal(resample.nearest_exact(inputs, outputs), wanted, err_msg=f"{inputs} -> {outputs}")


# --- orientation ----------------------------------------------------------------------------------------------------------


CUBES = {  # in RAS file order, away from the middle to one side each
    "left": (slice(4, 9), slice(20, 26), slice(12, 17)),
    "front": (slice(18, 23), slice(38, 44), slice(12, 17)),
    "top": (slice(18, 23), slice(20, 26), slice(24, 28)),
}


def marked(*names: str) -> nib.Nifti1Image:
    """A box of tissue with bright cubes at the patient's left, front or top, unequal in brightness."""
    data = 50 + np.random.default_rng(0).uniform(0, 4, (40, 46, 30)).astype(np.float32)
    for name in names:
        data[CUBES[name]] = {"left": 200, "front": 150, "top": 250}[name]
    affine = np.diag([2.2, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-40, -50, -30)
    return nib.Nifti1Image(data, affine)


def bright(volume: np.ndarray) -> np.ndarray:
    """(d, h, w) middle of what is bright."""
    return np.argwhere(volume > 150).mean(0)


@pytest.mark.parametrize("spec", [AXIAL, VolumeSpec(size=(30, 60, 60), fit="square", resize=(60, 60), percentiles=(0, 100))])
def test_left_stays_left(spec: VolumeSpec) -> None:
    middle = (np.array(spec.size) - 1) / 2
    for name, axis, shown in (("left", 2, "left at small w"), ("front", 1, "front at small h"), ("top", 0, "top at small d")):
        image = marked(name)
        [volume] = prepare_volume(scan_of(image.get_fdata(), image.affine), spec)
        away = bright(volume.voxels) - middle
        assert away[axis] < -2, f"{shown}: {away}"
        assert away[axis] == away.min(), f"{shown}: {away}"
        place = (volume.affine @ [*bright(volume.voxels), 1])[:3]
        inside = image.affine @ [*((part.start + part.stop - 1) / 2 for part in CUBES[name]), 1]
        np.testing.assert_allclose(place, inside[:3], atol=2.5)  # mm


@pytest.mark.parametrize(
    "spec",
    [
        AXIAL,
        VolumeSpec(size=(30, 60, 60), fit="square", resize=(60, 60)),
        VolumeSpec(size=(12, 24, 24), spacing_mm=(6.0, 4.0, 4.0), centre="foreground"),
    ],
    ids=["axial", "square", "acquired"],
)
def test_all_48_axis_orders_prepare_to_the_same_volume(spec: VolumeSpec) -> None:
    image = marked("left", "front", "top")
    [wanted] = prepare_volume(scan_of(image.get_fdata(), image.affine), spec)
    for order in permutations(range(3)):
        for flips in product((1, -1), repeat=3):
            turned = image.as_reoriented(np.column_stack([order, flips]))
            [volume] = prepare_volume(scan_of(turned.get_fdata(), turned.affine), spec)
            difference = np.abs(volume.voxels.astype(int) - wanted.voxels.astype(int)).max()
            assert difference <= 1, f"axes {nib.aff2axcodes(turned.affine)}: {difference} grey values"
            np.testing.assert_allclose(volume.affine, wanted.affine, atol=1e-9)


def test_acquired_takes_the_thickest_axis_and_z_on_a_tie() -> None:
    spec = VolumeSpec(size=(8, 16, 16), fit="square", resize=(16, 16))
    data = np.random.default_rng(0).uniform(0, 99, (20, 20, 20))
    depth = {(1, 1, 4): 2, (1, 4, 1): 1, (4, 1, 1): 0, (1, 1, 1): 2, (3, 3, 1): 1, (1.0001, 1, 1): 2}
    for spacing, depth_axis in depth.items():
        [volume] = prepare_volume(scan_of(data, np.diag([*spacing, 1.0])), spec)
        assert np.abs(volume.affine[:3, 0]).argmax() == depth_axis, spacing


# --- millimetres ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [(0, 0, 0), (0.05, 0, 0), (12, 0, 0), (-8, 15, 20)])
@pytest.mark.parametrize(
    "spec",
    [
        AXIAL,
        VolumeSpec(size=(9, 21, 30), spacing_mm=(4.0, 3.0, 2.0), percentiles=(0, 100)),
        VolumeSpec(size=(14, 15, 15), spacing_mm=(5.0, 7.0, 7.0), centre="foreground", percentiles=(0, 100)),
        VolumeSpec(size=(28, 14, 18), fit="square", resize=(20, 20), percentiles=(0, 100)),
        VolumeSpec(size=(12, 24, 24), spacing_mm=(6.0, 4.0, 4.0), frame="scan", percentiles=(0, 100)),
    ],
    ids=["axial", "acquired", "foreground", "square", "scan frame"],
)
def test_affine_tells_where_each_voxel_lies(spec: VolumeSpec, degrees: tuple[float, float, float]) -> None:
    shape = (50, 40, 28)
    affine = tilted((2.0, 2.5, 4.0), degrees, shape)
    scan = ramp(shape, affine, np.array([1.0, -0.6, 0.8]))
    [volume] = prepare_volume(scan, spec)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in spec.size], indexing="ij"), -1)
    place = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    stored = (place - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    inside = ((stored > 1.5) & (stored < np.array(shape) - 2.5)).all(-1)  # border voxels repeat
    assert inside.sum() > 500
    low, high = scan.data.min(), scan.data.max()
    wanted = (place @ [1.0, -0.6, 0.8] - low) / (high - low) * 255
    assert np.abs(volume.voxels - wanted)[inside].max() < 1.6  # grey values
    outside = ((stored < -1) | (stored > np.array(shape))).any(-1)
    assert (volume.voxels[outside] == 0).all()


def test_equal_spacing_is_not_interpolated_and_pads_in_the_middle() -> None:
    data = np.random.default_rng(0).integers(0, 256, (17, 12, 9)).astype(np.float32)
    data.flat[:2] = 0, 255
    spec = VolumeSpec(size=(12, 10, 17), spacing_mm=(3, 1, 1), percentiles=(0, 100))
    [volume] = prepare_volume(scan_of(data, np.diag([1.0, -1.0, -3.0, 1.0])), spec)
    wanted = np.zeros((12, 10, 17))
    wanted[1:10] = data.transpose(2, 1, 0)[:, 1:11]
    np.testing.assert_array_equal(volume.voxels, wanted)


def test_fine_detail_is_averaged_not_picked() -> None:
    stripes = np.zeros((65, 64, 64))  # the grid meets every eighth voxel of 65, all of them bright
    stripes[::2] = 100
    spec = VolumeSpec(size=(8, 8, 8), spacing_mm=(8, 8, 8), percentiles=(0, 100))
    for affine in (RPI, tilted((1, 1, 1), (0, 0, 10), (65, 64, 64))):
        [volume] = prepare_volume(scan_of(stripes, affine), spec)
        assert np.abs(volume.voxels[2:6, 2:6, 2:6].astype(float) - 127.5).max() < 12


def test_a_volume_in_the_scan_s_frame_is_not_rotated() -> None:
    """frame scan: voxels as those of the same scan untilted; the affine still says where they are in the patient."""
    shape, spacing = (32, 36, 20), (2.0, 2.0, 3.0)
    data = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    spec = VolumeSpec(size=(16, 24, 24), spacing_mm=(3, 2, 2), frame="scan")
    turned = tilted(spacing, (5.0, -8.0, 12.0), shape)
    [straight] = prepare_volume(scan_of(data, np.diag([*spacing, 1.0])), spec)
    [volume] = prepare_volume(scan_of(data, turned), spec)
    np.testing.assert_array_equal(volume.voxels, straight.voxels)
    corner = np.array([3.0, 7, 11, 1])
    stored = np.linalg.inv(np.diag([*spacing, 1.0])) @ straight.affine @ corner
    np.testing.assert_allclose(volume.affine @ corner, turned @ stored, atol=1e-4)
    [rotated] = prepare_volume(scan_of(data, turned), replace(spec, frame="patient"))
    assert not np.array_equal(rotated.voxels, volume.voxels)


def test_foreground_centre_and_the_top_of_a_tall_one() -> None:
    spec = VolumeSpec(size=(20, 20, 20), spacing_mm=(4, 4, 4), through_plane="axial", centre="foreground")
    noise = np.random.default_rng(0).uniform(0, 3, (60, 60, 70))
    head = noise.copy()
    head[4:20, 30:50, 40:56] += 100  # far from the middle
    [volume] = prepare_volume(scan_of(head, np.diag([2.0, 2.0, 2.0, 1.0])), spec)
    np.testing.assert_allclose(bright(volume.voxels), 9.5, atol=0.6)
    tall = noise.copy()
    tall[20:40, 20:40, 2:68] += 100  # 132 mm of foreground, 80 mm of volume
    [volume] = prepare_volume(scan_of(tall, np.diag([2.0, 2.0, 2.0, 1.0])), spec)
    filled = (volume.voxels > 128).any((1, 2))
    assert not filled[0]
    assert filled[2:].all()


# --- intensity --------------------------------------------------------------------------------------------------------------


def test_percentiles_clip_and_spread() -> None:
    data = np.random.default_rng(0).normal(500, 100, (20, 20, 20))
    data[0, 0, 0] = 1e6
    spec = VolumeSpec(size=(20, 20, 20), spacing_mm=(1, 1, 1))
    [volume] = prepare_volume(scan_of(data), spec)
    assert (volume.low, volume.high) == pytest.approx(tuple(np.percentile(data.astype(np.float32), (0.5, 99.5))), rel=1e-6)
    assert volume.voxels.min() == 0
    assert volume.voxels.max() == 255
    assert abs(float(volume.voxels.mean()) - 127.5) < 6


def test_each_ct_window_is_a_volume() -> None:
    data = np.random.default_rng(0).uniform(-1000, 1500, (20, 20, 20))
    data[10, 10, 10], data[11, 11, 11], data[12, 12, 12] = 40, 80, 0
    windows = VolumeSpec.load("head_ct").windows
    volumes = prepare_volume(scan_of(data), VolumeSpec(size=(20, 20, 20), spacing_mm=(1, 1, 1), windows=windows))
    assert [(v.window, v.low, v.high) for v in volumes] == [("brain", 0, 80), ("blood", -20, 180), ("bone", -800, 2000)]
    brain = volumes[0].voxels.transpose(2, 1, 0)
    assert (brain[10, 10, 10], brain[11, 11, 11], brain[12, 12, 12]) == (128, 255, 0)


def sparse(share: float, slope: float = 1.0) -> LoadedScan:
    rng = np.random.default_rng(0)
    data = np.where(rng.uniform(size=(40, 40, 40)) < share, rng.uniform(20, 300, (40, 40, 40)), 0)
    return scan_of(data, slope=slope)


def refused(scan: LoadedScan, spec: VolumeSpec) -> str:
    with pytest.raises(VolumeError) as error:
        prepare_volume(scan, spec)
    assert "scan.nii.gz" in str(error.value)
    return error.value.reason


def test_thresholded_rule() -> None:
    mri, ct = VolumeSpec.load("demo"), VolumeSpec.load("head_ct")
    assert refused(sparse(0.04, slope=2.2086), mri) == "thresholded"
    assert refused(sparse(0.04), ct) == "thresholded"
    [volume] = prepare_volume(sparse(0.04), mri)  # an MR angiogram comes like this: prepared, and said
    assert "thresholded" in volume.notes[0]
    brain = np.zeros((60, 60, 60))
    brain[20:45, 20:45, 20:45] = np.random.default_rng(0).uniform(50, 99, (25, 25, 25))  # 93 % zeros, but a solid organ
    [volume] = prepare_volume(scan_of(brain, slope=0.37), mri)
    assert volume.notes == ()


def test_other_refusals() -> None:
    rng = np.random.default_rng(0)
    assert refused(scan_of(rng.uniform(0, 200, (20, 20, 20))), VolumeSpec.load("head_ct")) == "not_hu"
    lonely = np.zeros((40, 40, 40))
    lonely[:2, :3, :10] = rng.uniform(1, 99, (2, 3, 10))
    assert refused(scan_of(lonely), VolumeSpec.load("mri")) == "no_contrast"
    far = np.zeros((200, 10, 10))
    far[:20] = rng.uniform(50, 99, (20, 10, 10))
    assert refused(scan_of(far), VolumeSpec(size=(8, 8, 8), spacing_mm=(1, 1, 1), through_plane="axial")) == "out_of_view"


def test_hu_under_an_mri_spec_is_said() -> None:
    hu = np.random.default_rng(0).uniform(-1000, 1500, (20, 20, 20))
    [volume] = prepare_volume(scan_of(hu), VolumeSpec.load("demo"))
    assert "CT" in volume.notes[0]


@needs_shared
@pytest.mark.parametrize("spec", ["mri", "demo"])
def test_real_scans(spec: str) -> None:
    real = SHARED / "real"
    for name in ("study_chris/chris_t1", "study_chris/chris_PD", "study_mixed/T2w", "study_mixed/dwi"):
        [volume] = prepare_volume(read_scan(real / f"{name}.nii.gz"), VolumeSpec.load(spec))
        assert volume.notes == ()
        assert volume.voxels.shape == VolumeSpec.load(spec).size
        assert 20 < volume.voxels.mean() < 110, name
    with pytest.raises(VolumeError) as error:
        prepare_volume(read_scan(real / "ct_angio.nii.gz"), VolumeSpec.load(spec))
    assert error.value.reason == "thresholded"


# --- the spec ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mri", "head_ct", "chest_ct", "demo"])
def test_built_in_specs_load_and_survive_json(name: str) -> None:
    spec = VolumeSpec.load(name)
    assert VolumeSpec.from_dict(spec.as_dict()) == spec
    assert VolumeSpec.from_dict(spec.as_dict()).digest() == spec.digest()
    assert len(spec.digest()) == 16


def test_digest_depends_on_every_setting() -> None:
    spec = VolumeSpec.load("demo")
    changes = {
        "size": (24, 64, 60),
        "spacing_mm": (6, 3.2, 3.2),
        "through_plane": "acquired",
        "orientation": "LPS",
        "centre": "fov",
        "percentiles": (1, 99),
        "nan": "background",
        "windows": {"brain": (40, 80)},
    }
    digests = {spec.digest(), *(VolumeSpec.from_dict(spec.as_dict() | {key: value}).digest() for key, value in changes.items())}
    assert len(digests) == 1 + len(changes)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"fit": "stretch"}, "fit"),
        ({"spacing_mm": None}, "spacing_mm"),
        ({"fit": "square"}, "resize"),
        ({"percentiles": (99, 1)}, "percentiles"),
        ({"orientation": "XYZ"}, "orientation"),
        ({"size": (24, 64)}, "size"),
        ({"colour": "red"}, "unknown setting"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, object], word: str) -> None:
    with pytest.raises(SpecError, match=word):
        VolumeSpec.from_dict(VolumeSpec.load("demo").as_dict() | change)
