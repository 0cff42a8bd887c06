"""Rad-ChestCT: chest CT with labels; NumPy archives as released, or NIfTI made of them.

    FOLDER/.../<id>.npz or <id>.nii.gz    id like trn00001, val00001, tst00001
    CSV with the columns NoteAcc_DEID (in any letters), Emphysema, ...; all that lie below FOLDER, or those of --labels

Notable choices:
- The archives hold HU as (slices, rows, columns) and no header. Their spacing is given by `spacing` (0.8 mm in all directions, as the set was
  resampled), where the axes grow to by `axes` (default IPL: downward, backward, to the patient's left, as axial CT is shown). The release
  states no orientation in its files: look at the montage, and name other axes where it is wrong.
- A table with that key whose other columns hold more than 0 and 1 is no table of labels; it is named, as is every other CSV. A volume in
  several tables has what any of them says. Classes are called as the protocol rad_chestct calls them, where only letters differ.
- trn, val and tst are train, val and test. The set names no patients: a volume counts as one.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hlip.files import resources
from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file, write_import
from hlip.importing.public.listing import Labels, bar, existing, read_list, tables_below
from hlip.importing.public.volumes import is_made, write_volume
from hlip.importing.table_files import read_columns
from hlip.scans.scan import VolumeError
from hlip.study import Scan, Study

SOURCE = "rad-chestct"
SPACING = (0.8, 0.8, 0.8)
"""mm of slices, rows, columns."""
AXES = "IPL"
KEY = "NoteAcc_DEID"
_NAME = re.compile(r"(trn|val|tst)\d+")
_SPLITS = {"trn": "train", "val": "val", "tst": "test"}


def import_rad_chestct(
    folder: str | Path,
    out: str | Path,
    *,
    labels: Sequence[Path] = (),
    spacing: Sequence[float] = SPACING,
    axes: str = AXES,
    progress: bool = True,
) -> Imported:
    """Write the manifest, and NIfTI files below OUT/scans of archives.

    Raises:
        ImportingError: no volume, impossible axes, or one of `labels` that is no such table.
    """
    folder, manifest = existing(folder), manifest_file(out)
    check_place(manifest, SOURCE)
    if len(axes) != 3 or any(len(set(pair) & set(axes)) != 1 for pair in ("LR", "AP", "SI")):
        raise ImportingError(f"axes '{axes}': expected three letters, one of each of L R, A P, S I, such as IPL")
    files: dict[str, Path] = {}
    for file in sorted(file for end in ("*.npz", "*.nii.gz") for file in folder.rglob(end)):
        name = file.name.removesuffix(".npz").removesuffix(".nii.gz")
        ours = file.parent == manifest.parent / "scans"  # of an earlier run
        if not ours and _NAME.fullmatch(name) and (name not in files or file.suffix == ".gz"):  # NIfTI stands for its archive
            files[name] = file
    if not files:
        raise ImportingError(f"{folder}: no volume called like trn00001.npz")
    known, notes = _labels(folder, labels, manifest.parent)
    if not any(known.get(name) is not None for name in files):
        notes.append(f"no volume has labels: name CSV files with the column {KEY} by --labels")
    left_out: list[LeftOut] = []
    studies = []
    for name in bar(sorted(files), "volume", progress):
        path = files[name]
        try:
            if path.suffix == ".npz":
                path = _convert(path, manifest.parent / "scans" / f"{name}.nii.gz", axes, spacing)
        except VolumeError as error:
            left_out.append(LeftOut(str(files[name].relative_to(folder)), error.reason, str(error)))
            continue
        studies.append(Study(name, name, (Scan(path, "CT"),), labels=known.get(name), split=_SPLITS[name[:3]]))
    taken = [
        f"axes {axes} and {' x '.join(f'{step:g}' for step in spacing)} mm are taken for all archives: look at the montage"
    ]
    if any(file.suffix == ".npz" for file in files.values()):
        notes += taken
    return write_import(SOURCE, studies, manifest, left_out, notes)


def _labels(folder: Path, given: Sequence[Path], out: Path) -> tuple[dict[str, Labels], list[str]]:
    """Volume -> labels of the given tables, else of those that lie in the folder; and notes on which were taken and which not."""
    out = Path(os.path.abspath(out))
    ours = out if out != folder and out.is_relative_to(folder) else None
    tables = list(given) or [file for file in tables_below(folder, without=ours) if file.name != "left_out.csv"]
    names = {_plain(name): name for name in _columns()}
    known: dict[str, Labels] = {}
    notes: list[str] = []
    taken: list[str] = []
    passed: list[str] = []
    for table in tables:
        shown = str(table) if given else table.relative_to(folder).as_posix()
        key = (
            next((name for name in read_columns(table) if name.casefold() == KEY.casefold()), None) if table.is_file() else KEY
        )
        if key is None:
            if given:
                raise ImportingError(f"{table}: no column {KEY}")
            passed.append(f"{shown} (no column {KEY})")
            continue
        said: list[str] = []
        try:
            rows = read_list(table, key, notes=said)
        except ImportingError as error:
            if given:
                raise
            passed.append(f"{shown} ({str(error).removeprefix(str(table)).lstrip(',: ')})")
            continue
        for volume, found in rows.items():
            if found is not None:
                classes = (names.get(_plain(name), name) for name in found)
                known[volume.lower()] = tuple(dict.fromkeys((*(known.get(volume.lower()) or ()), *classes)))
        taken.append(f"{shown} ({len(rows)} rows)")
        notes += said
    told = [f"tables of labels: {', '.join(taken)}"] if taken else []
    told += [f"tables not taken: {', '.join(passed)}"] if passed else []
    return known, [*told, *notes]


def _columns() -> list[str]:
    """Names of the protocol's classes; read plainly, since the protocols' own code loads PyTorch."""
    import yaml

    content = yaml.safe_load(resources.find("protocol", "rad_chestct").read_text(encoding="utf-8"))
    return [item["column"] for item in content["classes"]]


def _plain(word: str) -> str:
    return re.sub(r"[\W_]", "", word.casefold())


def _convert(archive: Path, place: Path, axes: str, spacing: Sequence[float]) -> Path:
    if is_made(place, archive):
        return place
    try:
        with np.load(archive, allow_pickle=False) as arrays:
            name = "ct" if "ct" in arrays.files else arrays.files[0]
            voxels = arrays[name]
    except (OSError, ValueError, EOFError, KeyError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise VolumeError("truncated", f"{archive}: no NumPy archive that can be read ({error}); download it again") from error
    if voxels.ndim != 3 or voxels.dtype.kind not in "iuf":
        raise VolumeError("not_3d", f"{archive}: {voxels.dtype} of shape {voxels.shape}, not one volume of numbers")
    if voxels.dtype.kind in "iu":
        voxels = voxels.astype(np.int16)  # HU; 64-bit integers are no NIfTI that others read
    write_volume(place, voxels, axes, spacing)
    return place
