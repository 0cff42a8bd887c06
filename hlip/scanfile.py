"""One scan from disk: a NIfTI file or a DICOM series -> voxels with a trusted place in the patient.

Notable choices:
- Everything that cannot be one 3-D grey-value scan is refused with a `VolumeError` whose `reason` is a short code, so that a
  table can count it, and whose message names the file and the remedy. Nothing is repaired silently.
- Any NaN or infinite voxel refuses the scan: a resampled NaN grows, and only the owner knows what should stand there.
- Coordinates are RAS millimetres, as nibabel gives them: x grows to the patient's right, y to the front, z upwards.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from hlip.study import Scan

MIN_SLICES = 4
"""Along any axis. Fewer are a localizer or a single image."""
MIN_DISTINCT = 16
"""Grey values of a scan. Fewer are a mask or a label map."""
MAX_VOXELS = 2**30
"""4 GiB as float32. A larger header is damaged or hostile."""
_SPACING_RANGE = (0.01, 100.0)  # mm
_NIFTI = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""What is called a 2-D image; `hlip.imagefile` reads them."""
_NIFTI2_MARK = (540).to_bytes(4, "little")  # the header size, with which a NIfTI-2 file begins
_READ_ERRORS = (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error, ValueError, MemoryError, OverflowError)


class VolumeError(ValueError):
    """A scan cannot be used. `reason` is a short code for tables, the text names the file and the remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[VolumeError], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # crosses process borders with its code


@dataclass(frozen=True)
class LoadedScan:
    """Voxels of one scan and where they lie."""

    data: NDArray[np.float32]
    """(X, Y, Z) in file order, in the file's units (HU for a CT) after scale slope and intercept."""
    affine: NDArray[np.float64]
    """(4, 4), voxel index (x, y, z, 1) -> RAS mm."""
    path: Path
    sequence: str = ""
    """Guessed from the file name or the DICOM series description; may be empty."""
    modality: str = ""
    """DICOM modality (MR, CT), empty for NIfTI, which does not say."""
    slope: float = 1.0
    """The scale slope that was applied. Not an integer: the stored values are not the scanner's own."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    """What a reader should know although the scan is usable."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along x, y, z of the file."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def codes(self) -> str:
        """Where the file's axes point, e.g. RAS or LPI ("to" naming of nibabel)."""
        return "".join(nib.orientations.aff2axcodes(self.affine))


def read_scan(path: str | Path) -> LoadedScan:
    """Read a NIfTI file, a folder of one DICOM series, or a DICOM file (with the series it belongs to in its folder).

    Raises:
        VolumeError: missing, empty_file, truncated, not_an_image, not_3d, series_4d, rgb_or_complex, nan, constant,
            label_map, bad_affine, too_few_slices, too_large, or a code of `hlip.dicom`.
    """
    path = Path(path)
    if not path.exists():
        raise VolumeError("missing", f"{path}: no such file or folder; correct the path in the manifest")
    if path.is_file() and path.stat().st_size == 0:
        raise VolumeError("empty_file", f"{path}: the file has no content; copy or export it again")
    if path.is_dir() or is_dicom(path):
        from hlip.dicom import read_series  # pydicom and dicom2nifti only where there is DICOM

        scan = read_series(path)
    elif is_image(path):
        raise VolumeError("not_3d", f"{path}: a 2-D image, but the spec is one for scans; prepare it with --spec image")
    else:
        scan = _read_nifti(path)
    _check(scan)
    return scan


def find_scans(folder: str | Path) -> list[Scan]:
    """The scans below a folder: NIfTI files and DICOM series of the folder itself and of its direct subfolders.

    Other files are ignored. A DICOM series is named by its folder, or by its first file where a folder holds several.
    A single file is a list of one.

    Raises:
        VolumeError: missing, or not_an_image when there is no scan.
    """
    folder = Path(folder)
    if not folder.exists():
        raise VolumeError("missing", f"{folder}: no such file or folder")
    if folder.is_file():
        return [Scan(folder, guess_sequence(folder.name))]
    scans: list[Scan] = []
    for place in [folder, *sorted(child for child in folder.iterdir() if child.is_dir())]:
        files = sorted(child for child in place.iterdir() if child.is_file() and not child.name.startswith("."))
        scans += [Scan(file, guess_sequence(file.name)) for file in files if _is_nifti(file)]
        dicom = [file for file in files if is_dicom(file)]
        if dicom:
            from hlip.dicom import find_series

            scans += find_series(place, dicom)
    if not scans:
        raise VolumeError("not_an_image", f"{folder}: no NIfTI or DICOM file in this folder or its subfolders")
    return scans


def check_one_patient(folder: Path, scans: Sequence[Scan]) -> None:
    """Refuse scans of several patients as one study: several DICOM PatientIDs, or several BIDS `sub-` names.

    Raises:
        VolumeError: several_patients.
    """
    patients = set()
    for scan in scans:
        bids = re.match(r"sub-[A-Za-z0-9]+", scan.path.name)
        if bids:
            patients.add(bids.group())
        elif not _is_nifti(scan.path):
            from hlip.dicom import patient_of

            patients.add(patient_of(scan.path))
    patients.discard("")
    if len(patients) > 1:
        raise VolumeError("several_patients", f"{folder}: scans of {len(patients)} patients; name the folder of one study")


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's mark (128 bytes, then DICM) and is not called NIfTI."""
    if _is_nifti(path) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_image(path: Path) -> bool:
    """Whether a path is called a 2-D image (PNG, JPEG, ...)."""
    return path.suffix.lower() in IMAGE_SUFFIXES


_SEQUENCES = (  # first match wins; the order matters (a FLAIR is also a T2, a DWI may say "b0 t2")
    ("FLAIR", r"flair|tirm"),
    ("SWI", r"swi|swan|susc|t2\*|t2star|gre|hemo"),
    ("ADC", r"adc|apparent"),
    ("DWI", r"dwi|diff|trace|dti"),
    ("CT angiography", r"cta|ct.*angio"),
    ("MRA", r"mra|tof|angio"),
    ("PD", r"pd|proton"),
    ("T1 contrast", r"t1(ce|c|gd|gad|post)|t1.*(\+c|gado|contrast|post)"),
    ("T1", r"t1|mprage|mpr|spgr|bravo"),
    ("T2", r"t2"),
    ("CT", r"ct"),
)


def guess_sequence(text: str) -> str:
    """A sequence name from a file name or a series description; empty when nothing is recognised."""
    words = re.sub(r"\.nii(\.gz)?$|\.dcm$", "", text.lower())
    for name, pattern in _SEQUENCES:
        if re.search(rf"(?<![a-z])(?:{pattern})", words):
            return name
    return ""


def sample(data: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """About `count` voxels at equal steps through memory; the step shares no factor with an axis, so that it does not walk
    along one row or plane."""
    step = max(1, data.size // count)
    while any(math.gcd(step, n) > 1 for n in data.shape):
        step += 1
    return data.reshape(-1, order="A")[::step]


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(_NIFTI)


def _read_nifti(path: Path) -> LoadedScan:
    try:
        if path.name.lower().endswith(".nii.gz"):
            with _GzipInPieces(path) as stream:
                scan = _read_image(path, _open_stream(stream))
                _read_to_the_end(path, stream)
            return scan
        return _read_image(path, nib.load(path))
    except VolumeError:
        raise
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


class _GzipInPieces(gzip.GzipFile):
    """Fills a large buffer piece by piece; the standard class makes a second copy of all of it first."""

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
    shape = _volume_shape(path, tuple(int(n) for n in image.shape))
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


def _volume_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The first three axes, or the reason why there are not three."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        count = int(np.prod(shape[3:]))
        raise VolumeError("series_4d", f"{path}: a series of {count} volumes {shape}; split it and name the ones to use")
    if len(shape) < 3 or min(shape) == 1:
        raise VolumeError("not_3d", f"{path}: a 2-D image {shape}; a scan needs at least {MIN_SLICES} slices")
    if min(shape) < MIN_SLICES:
        raise VolumeError("too_few_slices", f"{path}: shape {shape}; a scan needs at least {MIN_SLICES} slices")
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise VolumeError("too_large", f"{path}: the header claims {shape} voxels, over {MAX_VOXELS}; is it damaged?")
    return shape


def _affine(path: Path, image: nib.spatialimages.SpatialImage) -> NDArray[np.float64]:
    affine = image.affine
    if affine is None:
        raise VolumeError("bad_affine", f"{path}: no affine in the header; export the scan again")
    return np.asarray(affine, dtype=np.float64)


def _orientation_notes(image: nib.spatialimages.SpatialImage) -> tuple[str, ...]:
    header = image.header
    if isinstance(header, nib.Nifti1Header) and not int(header["sform_code"]) and not int(header["qform_code"]):
        return ("the header states no orientation: left and right are a guess",)
    return ()


def _kind(dtype: np.dtype) -> str:
    return "colour" if dtype.fields is not None else "complex"


def _unreadable(path: Path, error: Exception) -> VolumeError:
    """Which of our reasons an error is. A gzip stream that ends early is an EOFError, a short file OSError or ValueError."""
    detail = " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())  # one line, for tables
    if isinstance(error, PermissionError):
        return VolumeError("no_permission", f"{path}: may not be read; correct its permissions")
    if isinstance(error, MemoryError):
        return VolumeError("too_large", f"{path}: does not fit into memory")
    not_gzip = isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error)
    if isinstance(error, (ImageFileError, HeaderDataError)) or not_gzip:
        return VolumeError("not_an_image", f"{path}: not a readable NIfTI or DICOM file ({detail})")
    return VolumeError("truncated", f"{path}: incomplete or damaged ({detail}); copy it again")


def _check(scan: LoadedScan) -> None:
    """The rules that hold for every scan, whatever it will be prepared to."""
    path, data = scan.path, scan.data
    _volume_shape(path, data.shape)
    _check_affine(path, scan.affine)
    low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(data.size - np.isfinite(data).sum())
        raise VolumeError("nan", f"{path}: {count} of {data.size} voxels are NaN or infinite; replace them, then prepare again")
    if low == high:
        raise VolumeError("constant", f"{path}: every voxel is {low:g}; export the scan again")
    # A glance at some voxels is enough for nearly all scans; only a suspicious one is counted in full.
    some = sample(data, 8192)
    if len(np.unique(some)) < MIN_DISTINCT:
        distinct = 1 + len(np.unique(data[data != some[0]]))
        if distinct < MIN_DISTINCT:
            raise VolumeError("label_map", f"{path}: only {distinct} distinct values: a mask or label map, not a scan")


def _check_affine(path: Path, affine: NDArray[np.float64]) -> None:
    remedy = "correct sform / qform or export the scan again"
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise VolumeError("bad_affine", f"{path}: the affine holds values that are not numbers; {remedy}")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < _SPACING_RANGE[0] or spacing.max() > _SPACING_RANGE[1]:
        shown = " x ".join(f"{value:g}" for value in spacing)
        raise VolumeError("bad_affine", f"{path}: voxels of {shown} mm; {remedy}")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.1:
        raise VolumeError("bad_affine", f"{path}: the axes of the affine are not independent; {remedy}")
