"""One scan from disk: a NIfTI file or a DICOM series -> voxels with a trusted place in the patient.

Notable choices:
- Everything that cannot be one 3-D grey-value scan is refused with a `VolumeError` whose `reason` is a short code, so that a
  table can count it, and whose message names the file and the remedy. Nothing is repaired silently: what was set right of a DICOM series
  (`hlip.dicom`) stands in the scan's notes.
- Any NaN or infinite voxel refuses the scan: a resampled NaN grows, and only the owner knows what should stand there. What of NaN is taken
  for background first, preparing decides (`hlip.scans.background`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hlip.scans.archive import IN_TAR, archive_of, in_tar, unpacked
from hlip.scans.filekind import is_dicom, is_image, is_nifti
from hlip.scans.nifti import read_nifti
from hlip.scans.scan import LoadedScan, VolumeError, check
from hlip.scans.sequence import guess_sequence
from hlip.study import Scan


def read_scan(path: str | Path, fill: Callable[[LoadedScan], LoadedScan] | None = None) -> LoadedScan:
    """Read a NIfTI file, a folder of one DICOM series, or a DICOM file (with the series it belongs to in its folder); or one that lies in
    a zip (`study.zip/t1.nii.gz`).

    Args:
        fill: of voxels that are no numbers, such as `hlip.scans.background.filled`; `None`: they refuse the scan.

    Raises:
        VolumeError: missing, archive, empty_file, truncated, not_an_image, wrong_suffix, not_3d, series_4d, rgb_or_complex, nan, constant,
            label_map, bad_affine, too_few_slices, too_large, or a code of `hlip.scans.dicom`.
    """
    path = Path(path)
    if in_tar(path):
        raise VolumeError("archive", f"{path}: {IN_TAR}")
    if not path.exists():
        if inside := archive_of(path):
            return _read_packed(path, *inside, fill)
        raise VolumeError("missing", f"{path}: no such file or folder; correct the path in the manifest")
    if path.is_file() and path.stat().st_size == 0:
        raise VolumeError("empty_file", f"{path}: the file has no content; copy or export it again")
    if path.is_dir() or is_dicom(path):
        from hlip.scans.dicom import read_series  # pydicom only where there is DICOM

        scan = read_series(path)
    elif is_image(path):
        raise VolumeError("not_3d", f"{path}: a 2-D image, but the spec is one for scans; prepare it with --spec image")
    else:
        scan = read_nifti(path)
    scan = fill(scan) if fill else scan
    check(scan)
    return scan


def _read_packed(path: Path, archive: Path, name: str, fill: Callable[[LoadedScan], LoadedScan] | None) -> LoadedScan:
    with unpacked(archive, name) as copy:
        try:
            return replace(read_scan(copy, fill), path=path)
        except VolumeError as error:  # it names the copy, which nobody can find
            raise VolumeError(error.reason, str(error).replace(str(copy), str(path))) from error


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
        scans += [Scan(file, guess_sequence(file.name)) for file in files if is_nifti(file)]
        dicom = [file for file in files if is_dicom(file)]
        if dicom:
            from hlip.scans.dicom import find_series

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
        elif not is_nifti(scan.path):
            from hlip.scans.dicom import patient_of

            patients.add(patient_of(scan.path))
    patients.discard("")
    if len(patients) > 1:
        raise VolumeError("several_patients", f"{folder}: scans of {len(patients)} patients; name the folder of one study")
