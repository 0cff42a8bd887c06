"""A NIfTI or MGH file -> one scan.

Notable choices:
- Where a header states two places, sform and qform, the sform counts, as nibabel has it; without a stated sform (code 0) the qform does.
  Where the two put a corner of the scan more than 1 mm apart, a note says so, and whether they exchange left and right.
- The scale of the voxels is applied in float32.
"""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from hlip.scans.filekind import NIFTI_SUFFIXES
from hlip.scans.scan import MIRRORED, NO_ORIENTATION, TWO_PLACES, LoadedScan, VolumeError, volume_shape
from hlip.scans.sequence import guess_sequence

_NIFTI2_MARK = (540).to_bytes(4, "little")  # the header size, with which a NIfTI-2 file begins
_NIFTI1_MARK = (348).to_bytes(4, "little")
_MGH_MARK = (1).to_bytes(4, "big")  # its version
_PACKED, _PLAIN = {".nii": ".nii.gz", ".mgh": ".mgz"}, {".nii.gz": ".nii", ".mgz": ".mgh"}  # suffix -> what it should be
_STRANGERS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"<!doctype html", b"<html"), "an HTML page (of an error or a login?), not a scan; download it again"),
    ((b"<?xml", b"{"), "a text (XML or JSON, of an error?), not a scan; download it again"),
    ((b"version https://git-lfs",), "a pointer of Git LFS, not the scan itself; fetch it with `git lfs pull`"),
    ((b"pk\x03\x04",), "a zip archive; unpack it, or name it .zip and the file in it: study.zip/t1.nii.gz"),
)
"""How files begin (spaces and capitals aside) that are called NIfTI and are something else, and what they are."""
_COMPRESSED = 1 << 17  # bytes read at once
_SAME_PLACE = 1.0  # mm between the corners of two affines of one scan
READ_ERRORS = (
    ImageFileError, HeaderDataError, WrapStructError, MGHError, EOFError, OSError, zlib.error, ValueError, MemoryError, OverflowError,
    LookupError, TypeError,
)  # fmt: skip
"""What nibabel and the streams below it raise on a damaged file; `unreadable` names them."""


def read_nifti(path: Path) -> LoadedScan:
    try:
        if path.name.lower().endswith(".nii.gz"):
            with _quiet(), _GzipInPieces(path) as stream:
                scan = _read_image(path, _open_stream(stream))
                _read_to_the_end(path, stream)
            return scan
        with _quiet():
            return _read_image(path, nib.load(path))
    except VolumeError:
        raise
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """nibabel logs what it mends in a header, without the file's name; what matters of it is checked by us."""
    log = logging.getLogger("nibabel.global")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


class _Eager:
    """Gives the standard class more than the 8 KiB at once that it asks for until Python 3.12: most of its time goes into asking."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115, PTH123, closed by `close`

    def read(self, size: int = -1) -> bytes:
        return self._file.read(_COMPRESSED if size == io.DEFAULT_BUFFER_SIZE else size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _GzipInPieces(gzip.GzipFile):
    """Fills a large buffer piece by piece; the standard class makes a second copy of all of it first."""

    def __init__(self, path: Path) -> None:
        self._file = _Eager(path)
        super().__init__(path, "rb", fileobj=self._file)

    def close(self) -> None:
        super().close()
        self._file.close()

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer).cast("B"), 0
        while piece := self.read(min(1 << 20, len(view) - filled)):
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled


def _open_stream(stream: gzip.GzipFile) -> nib.spatialimages.SpatialImage:
    size = stream.read(4)
    stream.seek(0)
    image_class = nib.Nifti2Image if _NIFTI2_MARK in (size, size[::-1]) else nib.Nifti1Image
    return image_class.from_stream(stream)


def _read_to_the_end(path: Path, stream: gzip.GzipFile) -> None:
    """A damaged stream shows in the check sum, which stands at the very end: reading only the voxels would miss it."""
    for _ in range(64):
        if not stream.read(1 << 20):
            return
    raise VolumeError("not_an_image", f"{path}: goes on long after its last voxel; copy or export it again")


def _read_image(path: Path, image: object) -> LoadedScan:
    if not isinstance(image, nib.spatialimages.SpatialImage):
        raise VolumeError("not_an_image", f"{path}: holds a {type(image).__name__}, not a volume")
    shape = volume_shape(path, tuple(int(n) for n in image.shape))
    dtype = image.get_data_dtype()
    if dtype.fields is not None or np.issubdtype(dtype, np.complexfloating):
        raise VolumeError("rgb_or_complex", f"{path}: holds {_kind(dtype)} values; export the grey-value magnitude image")
    proxy = image.dataobj
    if isinstance(proxy, ArrayProxy):  # scale in float32: the proxy itself would go through float64
        slope, inter = float(proxy.slope), float(proxy.inter)
        data = proxy.get_unscaled().astype(np.float32)
        if (slope, inter) != (1, 0):
            data *= np.float32(slope)
            data += np.float32(inter)
    else:
        slope, data = 1.0, np.asanyarray(proxy).astype(np.float32)
    data = data.reshape(shape, order="A")
    return LoadedScan(data, _affine(path, image), path, guess_sequence(path.name), "", slope, _orientation_notes(image))


def _affine(path: Path, image: nib.spatialimages.SpatialImage) -> NDArray[np.float64]:
    affine = image.affine
    if affine is None:
        raise VolumeError("bad_affine", f"{path}: no affine in the header; export the scan again")
    return np.asarray(affine, dtype=np.float64)


def _orientation_notes(image: nib.spatialimages.SpatialImage) -> tuple[str, ...]:
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        return ()
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        return (f"{NO_ORIENTATION}: left and right are a guess",)
    if not int(header["sform_code"]) or not int(header["qform_code"]):
        return ()
    apart = _apart(header, image.shape[:3])
    if apart <= _SAME_PLACE:
        return ()
    if not np.isfinite(apart):
        return (f"{TWO_PLACES} disagree, the qform being damaged; the sform is used",)
    if _mirrored(header):
        return (f"{MIRRORED}: left and right may be exchanged (a corner lies {apart:.3g} mm apart); the sform is used",)
    return (f"{TWO_PLACES} put a corner {apart:.3g} mm apart; the sform is used",)


def _mirrored(header: nib.Nifti1Header) -> bool:
    """Whether sform and qform differ by a mirror, or by a turn that exchanges left and right."""
    try:
        turn = header.get_sform()[:3, :3] @ np.linalg.inv(header.get_qform()[:3, :3])
    except np.linalg.LinAlgError:
        return False
    return bool(turn[0, 0] < 0 or np.linalg.det(turn) < 0)


def _apart(header: nib.Nifti1Header, shape: tuple[int, ...]) -> float:
    """mm between where sform and qform put that corner of the scan of which they disagree most; infinite where the qform is none."""
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in shape))], dtype=np.float64)
    try:
        with np.errstate(all="ignore"):
            difference = header.get_sform() - header.get_qform()
            apart = float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())
    except (ValueError, HeaderDataError):  # a quaternion longer than 1
        return np.inf
    return apart if np.isfinite(apart) else np.inf


def _kind(dtype: np.dtype) -> str:
    return "colour" if dtype.fields is not None else "complex"


def unreadable(path: Path, error: Exception) -> VolumeError:
    """Which of our reasons an error is. A gzip stream that ends early is an EOFError, a short file OSError or ValueError."""
    detail = " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())  # one line, for tables
    if isinstance(error, PermissionError):
        return VolumeError("no_permission", f"{path}: may not be read; correct its permissions")
    if isinstance(error, MemoryError):
        return VolumeError("too_large", f"{path}: does not fit into memory")
    if told := _mistaken(path):
        return VolumeError(*told)
    not_gzip = isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error)
    if isinstance(error, (ImageFileError, HeaderDataError)) or not_gzip:
        return VolumeError("not_an_image", f"{path}: not a readable NIfTI or DICOM file ({detail})")
    return VolumeError("truncated", f"{path}: incomplete or damaged ({detail}); copy it again")


def _mistaken(path: Path) -> tuple[str, str] | None:
    """Reason and message where the first bytes tell that a file is not what its name says."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return None
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for marks, told in _STRANGERS:
        if text.startswith(marks):
            return "not_an_image", f"{path}: {told}"
    if start[128:132] == b"DICM":
        return "not_an_image", f"{path}: a DICOM file; rename it to end in .dcm, or name the folder of its series"
    packed = start.startswith(b"\x1f\x8b")
    suffix = next((end for end in NIFTI_SUFFIXES if path.name.lower().endswith(end)), "")
    wanted = (_PACKED if packed else _PLAIN).get(suffix)
    if wanted is None or not (packed or _plain_volume(start)):
        return None
    what = "compressed by gzip, but its name does not say so" if packed else "not compressed, although its name says so"
    return "wrong_suffix", f"{path}: {what}; rename it to {path.name[: -len(suffix)]}{wanted}"


def _plain_volume(start: bytes) -> bool:
    size = start[:4]
    return size == _MGH_MARK or any(mark in (size, size[::-1]) for mark in (_NIFTI1_MARK, _NIFTI2_MARK))
