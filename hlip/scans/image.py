"""One 2-D image from disk: a PNG, JPEG, TIFF, BMP or WebP file -> upright 8-bit RGB -> the volumes `red`, `green`, `blue`.

Notable choices:
- The pixels are those a viewer shows: turned as EXIF says; palettes and grey become RGB; a transparent pixel shows white, the empty
  field of a light microscope, because the colour that a file keeps under it is arbitrary. Colour profiles are not applied.
- Nothing is guessed: more than 8 bits a channel (which value is white?), CMYK and LAB (whose colours need a profile) and files of several
  frames are refused with a `VolumeError`, as damaged ones are. Of a phone's JPEG that carries previews the first picture is the image.
- Values stay 0..255: no percentiles, because the colour of a stain is what the image says.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hlip.scans.filekind import IMAGE_SUFFIXES, is_image
from hlip.scans.scan import VolumeError
from hlip.volume import PreparedVolume, VolumeSpec

CHANNELS = ("red", "green", "blue")
MAX_SIDE = 16384
"""Pixels; a square of it takes 0.8 GB. A longer side is a whole slide, or a damaged or hostile header."""
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX")  # Pillow's names of what becomes RGB without a choice
_DEEP = ("I", "F")  # ... and how those begin that hold more than 8 bits
_READ_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, MemoryError, OverflowError, TypeError, LookupError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class LoadedImage:
    """The pixels of one image."""

    pixels: NDArray[np.uint8]
    """(H, W, 3), upright, red green blue."""
    path: Path
    notes: tuple[str, ...] = ()
    """What a reader should know although the image is usable."""


def read_image(path: str | Path) -> LoadedImage:
    """Read an image file as upright 8-bit RGB.

    Raises:
        VolumeError: missing, not_2d (no image file by its suffix), empty_file, no_permission, not_an_image, truncated, too_large,
            several_frames, not_8_bit, colour_space, constant.
    """
    path = Path(path)
    if not path.exists():
        raise VolumeError("missing", f"{path}: no such file; correct the path in the manifest")
    if path.is_dir() or not is_image(path):
        remedy = f"it takes {' '.join(IMAGE_SUFFIXES)}; prepare scans with the spec of a scan, e.g. mri"
        raise VolumeError("not_2d", f"{path}: no image file, but the spec is one for images ({remedy})")
    if path.stat().st_size == 0:
        raise VolumeError("empty_file", f"{path}: the file has no content; copy or export it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd tags, and large images, which are checked below
            with Image.open(path, formats=_FORMATS) as file:
                _check(path, file)
                notes = _notes(file)
                pixels = np.asarray(_rgb(ImageOps.exif_transpose(file)))
    except VolumeError:
        raise
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error
    if (pixels == pixels[0, 0]).all():
        raise VolumeError("constant", f"{path}: every pixel is {tuple(pixels[0, 0].tolist())}; export the image again")
    return LoadedImage(pixels, path, notes)


def prepare_image(image: LoadedImage, spec: VolumeSpec) -> list[PreparedVolume]:
    """The three volumes (1, H, W) of an image, in the order of `CHANNELS`: zero-padded to a centred square, bilinear with antialiasing
    to `spec.resize`, centre crop to `spec.size`.

    Their affine counts pixels of the upright image and nothing physical: (d, h, w, 1) -> x = column, y = -row (as in a volume of
    orientation RPI, so that viewers show it upright), z = d.

    Raises:
        VolumeError: not_3d (the spec is one for scans).
    """
    if spec.kind != "image" or spec.resize is None:
        raise VolumeError("not_3d", f"{image.path}: a 2-D image, but the spec is one for scans; prepare it with --spec image")
    side = max(image.pixels.shape[:2])
    pad = [(side - count) // 2 for count in image.pixels.shape[:2]]
    crop = [(wide - size) // 2 for wide, size in zip(spec.resize, spec.size[1:], strict=True)]
    square = np.zeros((side, side, 3), np.uint8)
    square[pad[0] :, pad[1] :][: image.pixels.shape[0], : image.pixels.shape[1]] = image.pixels
    resized = np.asarray(Image.fromarray(square).resize(spec.resize[::-1], Image.Resampling.BILINEAR))
    kept = resized[crop[0] :, crop[1] :][: spec.size[1], : spec.size[2]]
    step = [side / wide for wide in spec.resize]
    first = [scale * (cut + 0.5) - 0.5 - border for scale, cut, border in zip(step, crop, pad, strict=True)]
    affine = np.array([[0, 0, step[1], first[1]], [0, -step[0], 0, -first[0]], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
    return [
        PreparedVolume(np.ascontiguousarray(kept[None, :, :, place]), affine, name, image.notes, 0.0, 255.0, 1.0)
        for place, name in enumerate(CHANNELS)
    ]


def _check(path: Path, file: Image.Image) -> None:
    """What cannot become 8-bit RGB without a choice; known from the header, before any pixel is read."""
    if max(file.size) > MAX_SIDE:
        remedy = "cut fields of view from it and save those"
        raise VolumeError("too_large", f"{path}: {file.size[0]} x {file.size[1]} pixels, over {MAX_SIDE} on a side; {remedy}")
    frames = getattr(file, "n_frames", 1)
    if frames > 1 and file.format != "MPO":
        raise VolumeError("several_frames", f"{path}: {frames} frames or pages; save the one to use as a file of its own")
    deep = file.format in ("PNG", "TIFF") and any(";16" in str(tile) for tile in getattr(file, "tile", ()))
    if deep or file.mode.startswith(_DEEP):
        kind = "16-bit colour" if deep and file.mode in _MODES else f"'{file.mode}'"
        remedy = "convert it to 8-bit RGB, choosing what shall be black and white"
        raise VolumeError("not_8_bit", f"{path}: holds {kind} values, more than 8 bits a channel; {remedy}")
    if file.mode not in _MODES:
        raise VolumeError("colour_space", f"{path}: holds {file.mode} colours; convert it to RGB with its colour profile")


def _notes(file: Image.Image) -> tuple[str, ...]:
    notes = []
    if file.mode in ("1", "L", "LA", "La"):
        notes.append("a grey image: red, green and blue are equal")
    if file.format == "MPO":
        notes.append("a JPEG of several pictures: the first is used")
    if file.has_transparency_data and file.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        notes.append("transparent pixels show white")
    return tuple(notes)


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _unreadable(path: Path, error: BaseException) -> VolumeError:
    """Which of our reasons an error is."""
    detail = " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())  # one line, for tables
    if isinstance(error, PermissionError):
        return VolumeError("no_permission", f"{path}: may not be read; correct its permissions")
    if isinstance(error, (MemoryError, Image.DecompressionBombError)):
        return VolumeError("too_large", f"{path}: too large to be read ({detail}); cut fields of view from it and save those")
    if isinstance(error, UnidentifiedImageError):
        known = ", ".join(_FORMATS)
        return VolumeError("not_an_image", f"{path}: none of {known}, or damaged at its start; save it as PNG with 8-bit RGB")
    return VolumeError("truncated", f"{path}: incomplete or damaged ({detail}); copy it again")
