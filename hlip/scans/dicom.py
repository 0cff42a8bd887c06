"""The DICOM series of a folder -> one scan, by the rules of `hlip.dicom`: the same volume, place and sequence that `hlip import dicom` writes.

A folder with several series is not one scan: each series is then named by its first file, which stands for all files of
its folder with the same SeriesInstanceUID.

Notable choices:
- A series that an import would make several scans of (time points, echoes, b-values, orientations) is refused: nobody has said which is meant.
  Volumes that are equal, voxel by voxel, are copies, and one is taken.
- What was set right (a tilted gantry, missing slices, uneven steps) stands in the notes of the scan.
- What an import would leave out by its name (a MIP, a localizer) is read: the manifest asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hlip.dicom.errors import ConversionError, MachineError
from hlip.dicom.found import Found
from hlip.dicom.headers import quiet_pydicom, read_chunk
from hlip.dicom.making import Made, scans_of
from hlip.dicom.part import Part
from hlip.dicom.reasons import told_why
from hlip.dicom.series import plan_named
from hlip.dicom.tags import Slice, Unread
from hlip.scans.filekind import is_dicom, is_nifti
from hlip.scans.scan import LoadedScan, VolumeError, volume_shape
from hlip.study import Scan

_CODES = {  # of `hlip.dicom.reasons` -> ours, where they differ
    "b_values_unclear": "dicom", "colour": "rgb_or_complex", "converter_failed": "dicom", "damaged": "truncated",
    "geometry_mismatch": "dicom", "time_series": "series_4d",
    **dict.fromkeys(
        ("document", "key_objects", "no_geometry", "presentation_state", "radiotherapy", "segmentation", "spectroscopy", "structured_report"),
        "not_an_image",
    ),
}  # fmt: skip
_SPLIT = "`hlip import dicom` makes a scan of each; or split the series and name the ones to use"


def read_series(path: Path) -> LoadedScan:
    """Read the one series of a folder, or the series to which a file belongs.

    Raises:
        VolumeError: not_an_image, several_series, several_patients, truncated, no_permission, too_few_slices, missing_slices, uneven_slices,
            shifted_slices, mixed_orientations, rgb_or_complex, series_4d, too_large, dicom; converter_timeout, converter_killed, no_room,
            no_converter, which are no fault of the files.
    """
    try:
        with quiet_pydicom():
            slices, unread = _series_of(path)
            return _read(path, slices, unread)
    except (VolumeError, MemoryError):
        raise
    except ConversionError as error:
        raise _refusal(path, error.reason, str(error)) from error
    except MachineError as error:
        raise VolumeError(error.reason, f"{path}: {error}") from error
    except Exception as error:  # odd tags surface as many types
        raise VolumeError("dicom", f"{path}: the series cannot be read ({type(error).__name__}: {error})") from error


def find_series(folder: Path, files: Sequence[Path]) -> list[Scan]:
    """The series among the DICOM files of one folder, in order of their first file."""
    with quiet_pydicom():
        series: dict[str, list[Slice]] = {}
        for piece in _headers(files)[0]:
            series.setdefault(piece.stack.series_uid, []).append(piece)
        alone = len(series) == 1
        return [Scan(folder if alone else Path(found[0].file.path), _sequence(found)) for found in series.values()]


def patient_of(path: Path) -> str:
    """PatientID of a series (a file of it, or its folder), empty where there is none; for comparing, never for writing."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if is_dicom(file))[:1]
    slices, _ = _headers(files)
    return slices[0].stack.patient_id if slices else ""


def _headers(files: Sequence[Path]) -> tuple[list[Slice], list[Unread]]:
    """What files say. Those without a series UID are slices only where none has one: among others their header is damaged."""
    stats = [(file, file.stat()) for file in files]
    read = read_chunk([Found(str(file), "", stat.st_size, stat.st_mtime_ns) for file, stat in stats], nameless=True)
    slices, unread = [item for item in read if isinstance(item, Slice)], [item for item in read if isinstance(item, Unread)]
    named = [piece for piece in slices if piece.stack.series_uid]
    if not named:  # a set whose UIDs were taken away
        return slices, unread
    return named, unread + [Unread(piece.file, "no_uid") for piece in slices if not piece.stack.series_uid]


def _series_of(path: Path) -> tuple[list[Slice], list[Unread]]:
    """The slices that a path stands for, and the DICOM files of its folder that cannot be read."""
    folder = path if path.is_dir() else path.parent
    slices, unread = _headers([file for file in sorted(folder.iterdir()) if file.is_file() and not is_nifti(file)])
    unread = [item for item in unread if item.reason in ("damaged", "no_permission", "no_uid")]
    if path.is_file():
        named = [item for item in unread if item.file.path == str(path)]
        own = {piece.stack.series_uid for piece in slices if piece.file.path == str(path)}
        slices = [piece for piece in slices if piece.stack.series_uid in own]
        if not slices:
            raise _unreadable(path, named)
        return slices, []
    found = {piece.stack.series_uid for piece in slices}
    if not found:
        raise _unreadable(path, unread)
    if len(found) > 1:
        raise VolumeError("several_series", f"{path}: holds {len(found)} DICOM series; name one file of each as its own scan")
    return slices, unread


def _unreadable(path: Path, unread: Sequence[Unread]) -> VolumeError:
    if any(item.reason == "no_permission" for item in unread):
        return VolumeError("no_permission", f"{path}: may not be read; correct its permissions")
    if unread:
        return VolumeError("truncated", f"{path}: DICOM whose header cannot be read; copy it again")
    return VolumeError("not_an_image", f"{path}: holds no DICOM image; name the NIfTI file itself, or the folder of a series")


def _read(path: Path, slices: Sequence[Slice], unread: Sequence[Unread]) -> LoadedScan:
    parts = plan_named(slices)
    kept = [part for part in parts if not part.reason]
    if not kept:
        largest = max(parts, key=lambda part: len(part.slices))
        raise _refusal(path, largest.reason, "; ".join(largest.notes))
    part = kept[0]
    _check_one(path, kept)
    (found, image), told = _made(path, part)
    values, affine = _held(image)
    for other in kept[1:]:
        copy, _ = _held(_made(path, other)[0][1])
        if not np.array_equal(values, copy):
            raise _several(path, len(kept), "images at each place")
    notes = [*told, *_on_others(parts, len(kept)), *([f"{len(unread)} files beside it cannot be read"] if unread else [])]
    return LoadedScan(values, affine, path, found.sequence, part.stack.modality, notes=tuple(notes))


def _check_one(path: Path, kept: Sequence[Part]) -> None:
    """Refuses what cannot be one volume before anything is converted."""
    ways = {tuple(round(way, 1) for way in part.stack.orientation) for part in kept}
    if len(ways) > 1:
        raise VolumeError("mixed_orientations", f"{path}: stacks of {len(ways)} orientations; {_SPLIT}")
    part = kept[0]
    count = len(part.layouts) if part.layouts else sum(piece.frames for piece in part.slices)  # of mosaics each is a volume
    if count > 1:
        raise _several(path, count, "volumes of a diffusion or time series")
    if len({(other.stack.columns, other.stack.rows, *(layout.count for _, layout in other.layouts)) for other in kept}) > 1:
        raise _several(path, len(kept), "stacks of different size")
    if part.layouts:
        volume_shape(path, (part.stack.columns, part.stack.rows, part.layouts[0][1].count))


def _several(path: Path, count: int, what: str) -> VolumeError:
    return VolumeError("series_4d", f"{path}: {count} {what}; {_SPLIT}")


def _made(path: Path, part: Part) -> tuple[Made, tuple[str, ...]]:
    """The scan of a part that holds one volume."""
    made, notes = scans_of(part, stated_adc=True)
    if len(made) != 1:
        raise _several(path, len(made), "volumes")
    return made[0], notes


def _held(image: nib.Nifti1Image) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values (X, Y, Z) and affine as a NIfTI file of the image holds them: its scale and place are float32."""
    slope, inter = image.header.get_slope_inter()
    values = np.asanyarray(image.dataobj).astype(np.float32)
    if (slope or 1, inter or 0) != (1, 0):
        values *= np.float32(slope)
        values += np.float32(inter)
    return values, np.asarray(image.affine, np.float64)


def _on_others(parts: Sequence[Part], kept: int) -> list[str]:
    """Notes on what of the series is not in the volume."""
    left = Counter(part.reason for part in parts if part.reason for _ in part.slices)
    notes = [f"{count} images of the series passed over: {reason}" for reason, count in left.items()]
    return notes + ([f"the first of {kept} equal copies"] if kept > 1 else [])


def _sequence(slices: Sequence[Slice]) -> str:
    try:
        parts = plan_named(slices)
    except Exception:  # hostile headers: reading will say so
        return ""
    return next((part for part in parts if not part.reason), parts[0]).guess.sequence


def _refusal(path: Path, reason: str, notes: str) -> VolumeError:
    return VolumeError(_CODES.get(reason, reason), f"{path}: {told_why(reason, notes)}")
