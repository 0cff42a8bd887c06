"""NIfTI files whose scale or spacing stands in a table -> a corrected header over the same voxels.

A NIfTI pair is a header (.hdr.gz) and an image (.img.gz); the image may begin anywhere in its file. So the corrected header, 348 bytes, stands
beside a link to the file as it was downloaded: right for every reader of NIfTI, without a second copy of terabytes.

Whether a rescale is still to be applied is asked of the voxels: air and lung lie within -1100 to -600 HU. The reading, with or without the
rescale, that has more voxels there is the right one; where neither has any, the file is refused. So files of a later release, which are HU
already, are not rescaled twice.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hlip.files.folders import write_atomically
from hlip.scans.scan import VolumeError

AIR = (-1100.0, -600.0)
"""HU of air and lung."""
_SHARE = 0.01  # of the looked-at voxels that must be air
_SLICES = 4  # that are looked at, a quarter into the file: cheaper than all of it, and not the first, which may be empty
_OFF = 0.01  # of a spacing: less is rounding


@dataclass(frozen=True)
class Stated:
    """What the table says of a file."""

    slope: float = 1.0
    intercept: float = 0.0
    spacing: tuple[float, float, float] | None = None
    """mm along the file's axes."""
    shape: tuple[int, ...] = ()
    """Voxels that the table counts; where they are not the file's, its spacing is not either."""


def in_hounsfield(file: Path, stated: Stated, place: Path) -> tuple[Path, tuple[str, ...]]:
    """The path to read, and what was corrected (`rescale`, `spacing`); nothing: the file itself.

    Args:
        file: .nii.gz.
        place: folder for the header and the link; their name carries a digest of the header, so that another correction is another scan.

    Raises:
        VolumeError: truncated, not_3d, not_hu.
    """
    try:
        image = nib.load(file)
        if not isinstance(image, nib.Nifti1Image) or image.ndim != 3:
            raise VolumeError("not_3d", f"{file}: no NIfTI file of three axes")
        first = min(image.shape[2] // 4, image.shape[2] - 1)
        proxy = cast("nib.arrayproxy.ArrayProxy", image.dataobj)
        values = np.asarray(proxy[..., first : first + _SLICES], dtype=np.float32)
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise VolumeError("truncated", f"{file}: incomplete or damaged ({error}); download it again") from error
    scaled = (float(proxy.slope), float(proxy.inter)) != (1, 0)  # the file's own scale, which nibabel applies
    as_it_is = _air(values)
    rescaled = 0.0 if scaled else _air(values * np.float32(stated.slope) + np.float32(stated.intercept))
    if max(as_it_is, rescaled) < _SHARE:
        raise VolumeError(
            "not_hu", f"{file}: no air at -1000 HU, with or without slope {stated.slope:g} and intercept {stated.intercept:g}"
        )
    header = nib.nifti1.Nifti1PairHeader.from_header(image.header, check=False)
    done = []
    if rescaled > as_it_is:
        header["scl_slope"], header["scl_inter"] = stated.slope, stated.intercept
        done.append("rescale")
    else:
        header["scl_slope"], header["scl_inter"] = proxy.slope, proxy.inter
    have = np.linalg.norm(image.affine[:3, :3], axis=0)
    if stated.spacing and stated.shape in ((), image.shape) and (np.abs(have / stated.spacing - 1) > _OFF).any():
        _respace(header, image, np.array(stated.spacing) / have)
        done.append("spacing")
    if not done:
        return file, ()
    header["vox_offset"] = proxy.offset
    return _pair(file, header.binaryblock + bytes(4), place), tuple(done)


def _respace(header: nib.nifti1.Nifti1PairHeader, image: nib.Nifti1Image, factor: NDArray[np.float64]) -> None:
    """Steps along the axes times `factor`; a header that states no orientation goes on stating none."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    affine = image.affine @ np.diag([*factor, 1.0])
    header.set_zooms(np.array(header.get_zooms()) * factor)
    if any(codes):
        header.set_sform(affine, codes[0])
        header.set_qform(affine, codes[1])


def _air(values: np.ndarray) -> float:
    return float(((values > AIR[0]) & (values < AIR[1])).mean())


def _pair(file: Path, header: bytes, place: Path) -> Path:
    name = f"{file.name.removesuffix('.nii.gz')}.{hashlib.sha256(header).hexdigest()[:8]}"
    place.mkdir(parents=True, exist_ok=True)
    image = place / f"{name}.img.gz"
    target = os.path.relpath(file, os.path.realpath(place))
    if not image.is_symlink() or image.readlink() != Path(target):
        image.unlink(missing_ok=True)
        image.symlink_to(target)
    write_atomically(place / f"{name}.hdr.gz", gzip.compress(header, mtime=0))
    return image
