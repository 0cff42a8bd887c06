"""2-D images: pixels as a viewer shows them, values by hand, every kind of bad file named, and `hlip prepare` on a few."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from hlip.prepare import prepare
from hlip.scans import image as imagefile
from hlip.scans.image import CHANNELS, LoadedImage, prepare_image, read_image
from hlip.scans.reading import read_scan
from hlip.scans.scan import VolumeError
from hlip.store import Store
from hlip.volume import SpecError, VolumeSpec, prepare_volume

SPEC = VolumeSpec.load("image")
# Two rows of four: red green blue white / black yellow grey pink
COLOURS = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]],
        [[0, 0, 0], [255, 255, 0], [127, 128, 129], [200, 3, 77]],
    ],
    np.uint8,
)


def spec_of(height: int, width: int) -> VolumeSpec:
    return replace(SPEC, size=(1, height, width), resize=(height, width))


def noise(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def refused(path: Path) -> str:
    with pytest.raises(VolumeError) as error:
        read_image(path)
    assert path.name in str(error.value), "the message must name the file"
    assert "\n" not in str(error.value)
    assert pickle.loads(pickle.dumps(error.value)).reason == error.value.reason
    return error.value.reason


# --- pixels ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.tif", "a.tiff", "a.bmp", "a.webp"])
def test_colours_come_back_as_written(tmp_path: Path, name: str) -> None:
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    image = read_image(write(tmp_path / name, COLOURS, **options))
    assert image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, COLOURS)
    assert image.notes == ()


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None] * np.ones((48, 1, 3), np.uint8)
    smooth[..., 2] = 200
    image = read_image(write(tmp_path / "a.jpeg", smooth, quality=98, subsampling=0))
    assert np.abs(image.pixels.astype(int) - smooth).max() <= 6


def test_padded_to_a_square_and_left_alone_at_its_own_size(tmp_path: Path) -> None:
    """4 wide, 2 high, resized to 4 x 4: a row of zeros above and below, every colour where it was."""
    volumes = prepare_image(read_image(write(tmp_path / "a.png", COLOURS)), spec_of(4, 4))
    assert [volume.window for volume in volumes] == ["red", "green", "blue"]
    red, green, blue = (volume.voxels for volume in volumes)
    assert red.shape == (1, 4, 4)
    assert red.dtype == np.uint8
    assert red[0].tolist() == [[0, 0, 0, 0], [255, 0, 0, 255], [0, 255, 127, 200], [0, 0, 0, 0]]
    assert green[0].tolist() == [[0, 0, 0, 0], [0, 255, 0, 255], [0, 255, 128, 3], [0, 0, 0, 0]]
    assert blue[0].tolist() == [[0, 0, 0, 0], [0, 0, 255, 255], [0, 0, 129, 77], [0, 0, 0, 0]]
    assert {(volume.low, volume.high) for volume in volumes} == {(0.0, 255.0)}


def test_a_tall_image_is_padded_left_and_right() -> None:
    volumes = prepare_image(LoadedImage(COLOURS.transpose(1, 0, 2).copy(), Path("a.png")), spec_of(4, 4))
    assert volumes[0].voxels[0].tolist() == [[0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 127, 0], [0, 255, 200, 0]]


@pytest.mark.parametrize(("height", "width", "size"), [(31, 50, 16), (90, 40, 24), (9, 12, 33)])
def test_resized_as_torch_does_with_antialiasing(height: int, width: int, size: int) -> None:
    pixels = noise(height, width)
    side = max(height, width)
    square = torch.zeros(1, 3, side, side)
    top, left = (side - height) // 2, (side - width) // 2
    square[0, :, top : top + height, left : left + width] = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = interpolate(square, (size, size), mode="bilinear", antialias=True, align_corners=False)[0].numpy()
    made = np.concatenate([volume.voxels for volume in prepare_image(LoadedImage(pixels, Path("a.png")), spec_of(size, size))])
    assert np.abs(made - expected).max() < 1.01  # Pillow rounds after each axis


def test_values_are_not_windowed_and_a_crop_is_central() -> None:
    dull = np.full((8, 8, 3), 100, np.uint8)
    dull[2:4, 2:4, 1] = 120
    whole = prepare_image(LoadedImage(dull, Path("a.png")), spec_of(8, 8))
    assert [int(volume.voxels.min()) for volume in whole] == [100, 100, 100]
    assert whole[1].voxels.max() == 120
    cut = prepare_image(LoadedImage(dull, Path("a.png")), replace(SPEC, size=(1, 4, 6), resize=(8, 8)))
    np.testing.assert_array_equal(cut[1].voxels, whole[1].voxels[:, 2:6, 1:7])


def test_the_affine_counts_pixels_of_the_image() -> None:
    """Padding, resize and crop: the place of every prepared pixel, in columns and rows, is that of linear ramps."""
    rows, columns = np.mgrid[0:40, 0:60]
    ramps = np.stack([columns * 4, rows * 6, 0 * rows], -1).astype(np.uint8)
    red, green, _ = prepare_image(LoadedImage(ramps, Path("a.png")), replace(SPEC, size=(1, 20, 24), resize=(30, 30)))
    place = red.affine @ [0, 10, 12, 1]
    assert red.voxels[0, 10, 12] / 4 == pytest.approx(place[0], abs=0.3)
    assert green.voxels[0, 10, 12] / 6 == pytest.approx(-place[1], abs=0.3)
    same = prepare_image(LoadedImage(noise(5, 5), Path("a.png")), spec_of(5, 5))[0].affine
    np.testing.assert_array_equal(same @ [0, 3, 4, 1], [4, -3, 0, 1])


TURNS = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 6: lambda a: np.rot90(a, -1), 8: np.rot90}


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", sorted(TURNS))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / f"a.{suffix}", COLOURS, exif=exif)
    np.testing.assert_array_equal(read_image(path).pixels, TURNS[orientation](COLOURS))


def test_exif_orientation_of_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top row of the file is the right column of the image
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :, 0] = 255
    image = read_image(write(tmp_path / "a.jpg", pixels, exif=exif, quality=98, subsampling=0)).pixels
    assert image.shape == (32, 16, 3)
    assert image[:, 10:, 0].min() > 240
    assert image[:, :6, 0].max() < 15


def test_palette_grey_and_two_tone(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    indexed.putpalette([10, 20, 30, 200, 100, 50, 255, 254, 253])
    indexed.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").pixels.tolist() == [[[10, 20, 30], [200, 100, 50]], [[255, 254, 253], [200, 100, 50]]]
    grey = read_image(write(tmp_path / "g.png", np.array([[0, 7], [99, 255]], np.uint8)))
    assert grey.pixels.tolist() == [[[0] * 3, [7] * 3], [[99] * 3, [255] * 3]]
    assert "grey" in grey.notes[0]
    two = read_image(write(tmp_path / "1.png", np.array([[0, 255]], np.uint8), "1"))
    assert two.pixels.tolist() == [[[0] * 3, [255] * 3]]


def test_transparent_pixels_show_white(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0, 255], [9, 9, 9, 0], [0, 0, 200, 51]]], np.uint8)  # alpha 51 is a fifth
    image = read_image(write(tmp_path / "a.png", pixels))
    assert image.pixels.tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 244]]]
    assert image.notes == ("transparent pixels show white",)
    opaque = read_image(write(tmp_path / "o.png", np.dstack([COLOURS, np.full((2, 4), 255, np.uint8)])))
    np.testing.assert_array_equal(opaque.pixels, COLOURS)
    assert opaque.notes == ()
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    indexed.putpalette([10, 20, 30, 200, 100, 50])
    indexed.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png").pixels.tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_a_jpeg_of_several_pictures_is_its_first(tmp_path: Path) -> None:
    first, second = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 250, np.uint8)
    first[:, 8:] = 90
    Image.fromarray(first).save(tmp_path / "a.mpo", save_all=True, append_images=[Image.fromarray(second)], quality=98)
    (tmp_path / "a.mpo").rename(tmp_path / "phone.jpg")
    image = read_image(tmp_path / "phone.jpg")
    assert image.pixels.max() < 100
    assert "several pictures" in image.notes[0]


# --- refusals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    whole = write(tmp_path / f"a.{suffix}", noise(64, 64))
    assert read_image(whole).pixels.shape == (64, 64, 3)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert refused(cut) == "truncated"


def test_missing_empty_and_no_image(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone.png") == "missing"
    (tmp_path / "empty.jpg").touch()
    assert refused(tmp_path / "empty.jpg") == "empty_file"
    (tmp_path / "text.png").write_text("no image at all")
    assert refused(tmp_path / "text.png") == "not_an_image"
    assert refused(write(tmp_path / "one_colour.png", np.full((5, 5, 3), 7, np.uint8))) == "constant"
    (tmp_path / "folder.png").mkdir()
    assert refused(tmp_path / "folder.png") == "not_2d"


def test_more_than_eight_bits(tmp_path: Path) -> None:
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    assert refused(write(tmp_path / "grey.png", deep)) == "not_8_bit"
    assert refused(write(tmp_path / "grey.tif", deep)) == "not_8_bit"
    assert refused(write(tmp_path / "float.tif", deep.astype(np.float32))) == "not_8_bit"
    assert refused(write(tmp_path / "int.tif", deep.astype(np.int32))) == "not_8_bit"
    assert refused(rgb_16(tmp_path / "colour.png")) == "not_8_bit"


def rgb_16(path: Path) -> Path:
    """A 16-bit colour PNG, which Pillow reads, silently, as 8 bits, and cannot write."""
    rows = b"".join(b"\0" + struct.pack(">6H", *[1000 * n for n in range(6)]) for _ in range(2))
    chunks = {b"IHDR": struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks.items()]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_colour_spaces_and_frames(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "cmyk.jpg", noise(), "CMYK")) == "colour_space"
    assert refused(write(tmp_path / "lab.tif", noise(), "LAB")) == "colour_space"
    pages = [Image.fromarray(noise(seed=n)) for n in range(3)]
    for name in ("pages.tif", "moving.webp", "moving.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert refused(tmp_path / name) == "several_frames"


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (imagefile.MAX_SIDE + 1, 2)).save(tmp_path / "long.png")
    assert refused(tmp_path / "long.png") == "too_large"
    bomb = write(tmp_path / "bomb.png", noise(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above it, which is none of ours
    assert read_image(bomb).pixels.shape == (40, 40, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # ... and refuses above twice of it
    assert refused(bomb) == "too_large"


def test_any_cut_or_flipped_byte_is_refused_or_read(tmp_path: Path) -> None:
    """Whatever a damaged file holds, it is a VolumeError or an image; nothing else escapes."""
    generator = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        stream = BytesIO()
        Image.fromarray(noise(24, 24)).save(stream, kind)
        for _ in range(60):
            content = bytearray(stream.getvalue())
            for place in generator.integers(0, min(len(content), 400), 3):
                content[place] = generator.integers(256)
            path = tmp_path / "a.png"
            path.write_bytes(content)
            with suppress(VolumeError):
                assert read_image(path).pixels.shape[2] == 3


# --- the spec ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("mri", "fb9bd68e85c967a2"),
        ("head_ct", "6bd88528b6666a22"),
        ("chest_ct", "4fac74d8f943c0b5"),
        ("demo", "437d674fdd09fb6f"),
    ],
)
def test_digests_of_specs_for_scans_are_what_checkpoints_and_stores_hold(name: str, digest: str) -> None:
    spec = VolumeSpec.load(name)
    assert spec.digest() == digest
    before = {key: value for key, value in spec.as_dict().items() if key != "kind"}  # as checkpoints hold it
    assert VolumeSpec.from_dict(before) == spec


def test_the_built_in_image_spec() -> None:
    assert (SPEC.kind, SPEC.size, SPEC.percentiles) == ("image", (1, 384, 384), None)
    assert VolumeSpec.from_dict(SPEC.as_dict()) == SPEC
    same_but_scan = VolumeSpec.from_dict(SPEC.as_dict() | {"kind": "scan", "percentiles": (0.5, 99.5)})
    assert len({SPEC.digest(), same_but_scan.digest(), spec_of(4, 4).digest()}) == 3


@pytest.mark.parametrize(
    "change",
    [{"size": [2, 4, 4]}, {"percentiles": [0, 100]}, {"windows": {"brain": (40, 80)}}, {"kind": "film"}, {"resize": [9, 3]},
     {"fit": "spacing", "spacing_mm": [1, 1, 1]}],
)  # fmt: skip
def test_impossible_image_specs_are_named(change: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="kind"):
        VolumeSpec.from_dict(spec_of(4, 4).as_dict() | change)


def test_percentiles_are_still_needed_for_scans() -> None:
    with pytest.raises(SpecError, match="percentiles"):
        VolumeSpec.from_dict(VolumeSpec.load("mri").as_dict() | {"percentiles": None})


# --- hlip prepare ------------------------------------------------------------------------------------------------------------


def manifest_of(folder: Path, scans: dict[str, list[dict[str, str]]]) -> Path:
    rows = [{"study_id": study, "patient_id": study, "scans": files, "labels": ["normal"]} for study, files in scans.items()]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def nifti(path: Path) -> str:
    data = np.random.default_rng(0).integers(0, 900, (16, 14, 10)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([6.0, 6, 6, 1])), path)
    return path.name


def test_prepare_six_images(tmp_path: Path) -> None:
    names = [f"{n}.{suffix}" for n, suffix in enumerate(["png", "png", "tif", "bmp", "webp", "jpg"])]
    for n, name in enumerate(names):
        write(tmp_path / name, noise(12, 20, seed=n))
    scans = {f"s{n}": [{"path": name, "sequence": "smear"}] for n, name in enumerate(names)}
    store_path = tmp_path / "store"
    summary = prepare(manifest_of(tmp_path, scans), store_path, spec_of(16, 16), workers=1, progress=False)
    assert (summary.studies_ready, summary.scans_ok, summary.scans_skipped) == (6, 6, 0)
    store = Store(store_path)
    assert store.spec == spec_of(16, 16)
    assert store.record("s0").sequences == CHANNELS
    volumes = store.volumes("s0")
    assert volumes.shape == (3, 1, 1, 16, 16)  # Store.volumes: (n, 1, D, H, W), D is 1
    expected = prepare_image(read_image(tmp_path / "0.png"), spec_of(16, 16))
    np.testing.assert_array_equal(volumes[:, 0].numpy(), np.stack([volume.voxels for volume in expected]))
    np.testing.assert_array_equal(store.affines("s0")[2], expected[2].affine)
    row = store.quality[0]
    assert (row["shape"], row["windows"], row["volumes"], row["prepared_shape"]) == (
        [12, 20, 3],
        ["red", "green", "blue"],
        [0, 1, 2],
        [1, 16, 16],
    )
    assert (row["low"], row["high"], row["spacing_mm"], row["orientation"]) == ([0, 0, 0], [255, 255, 255], [], "")


def test_two_images_are_one_study_and_bad_ones_stop_nothing(tmp_path: Path) -> None:
    write(tmp_path / "ct_1.png", noise())
    write(tmp_path / "b.png", noise(seed=1))
    (tmp_path / "cut.png").write_bytes((tmp_path / "b.png").read_bytes()[:300])
    scans = {"both": ["ct_1.png", "cut.png", "b.png"], "volume": [nifti(tmp_path / "t1.nii.gz")]}
    path = manifest_of(tmp_path, {name: [{"path": file} for file in files] for name, files in scans.items()})
    summary = prepare(path, tmp_path / "store", spec_of(8, 8), workers=1, progress=False)
    assert summary.reasons == {"truncated": 1, "not_2d": 1}
    store = Store(tmp_path / "store")
    assert store.study_ids == ["both"]
    assert store.record("both").sequences == CHANNELS * 2
    assert "cut.png" in store.quality[1]["message"]
    assert "t1.nii.gz" in store.quality[3]["message"]


def test_an_image_under_the_spec_of_a_scan(tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise())
    scans = {"image": [{"path": "a.png"}], "scan": [{"path": nifti(tmp_path / "t1.nii.gz")}]}
    spec = VolumeSpec(size=(6, 12, 12), spacing_mm=(10, 8, 8), through_plane="axial")
    summary = prepare(manifest_of(tmp_path, scans), tmp_path / "store", spec, workers=1, progress=False)
    assert summary.reasons == {"not_3d": 1}
    assert "--spec image" in Store(tmp_path / "store").quality[0]["message"]
    with pytest.raises(VolumeError, match="spec image"):
        prepare_image(read_image(tmp_path / "a.png"), spec)
    with pytest.raises(VolumeError, match="one for images"):
        prepare_volume(read_scan(tmp_path / "t1.nii.gz"), SPEC)
