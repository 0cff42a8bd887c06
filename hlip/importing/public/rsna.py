"""RSNA 2019 intracranial hemorrhage detection: head CT, all slices of all studies in one folder.

    FOLDER/stage_2_train/ID_*.dcm (and stage_2_test), or FOLDER/ID_*.dcm
    --list CSV    study, Any, Intraparenchymal, ... (HLIP's list, which then also chooses the studies); default: FOLDER/stage_2_train.csv,
                  whose rows are ID_<image>_<type>, Label: a study has a type that any of its slices has

Notable choices:
- Study, series and patient are the set's own pseudonyms in the DICOM tags. A series is a folder of links below OUT/scans: no voxel is copied.
- Labels are called as in HLIP's list and the protocol rsna; the set's own rows add Epidural, which the list lacks.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file, write_import
from hlip.importing.public.dicom_files import Header, link_series, read_headers
from hlip.importing.public.listing import Labels, existing, folder_name, for_evaluation, read_list
from hlip.study import Scan, Study

SOURCE = "rsna"


def import_rsna(
    folder: str | Path,
    out: str | Path,
    *,
    listed: Path | None = None,
    splits: Sequence[float] | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Imported:
    """Write the manifest, and folders of links. All studies are `test`, unless `splits` are to be drawn.

    Raises:
        ImportingError: no DICOM file, or a list of another form.
    """
    folder, manifest = existing(folder), manifest_file(out)
    check_place(manifest, SOURCE)
    places = [place for place in ("stage_2_train", "stage_2_test", ".") if (folder / place).is_dir()]
    names = sorted(
        os.path.normpath(f"{place}/{entry.name}")
        for place in places
        for entry in os.scandir(folder / place)
        if entry.name.endswith(".dcm")
    )
    if not names:
        raise ImportingError(f"{folder}: no stage_2_train/*.dcm; unpack the archive of the competition first")
    headers = read_headers(folder, names, manifest.parent / "headers.csv", workers, progress)
    left_out = [LeftOut(header.name, "truncated", "no DICOM header") for header in headers if not header.study]
    headers = [header for header in headers if header.study]
    notes: list[str] = []
    if listed is not None:
        labels = read_list(listed, "study", notes=notes)
        headers = [header for header in headers if header.study in labels]
        there = {header.study for header in headers}
        left_out += [LeftOut(study, "missing", "listed, but no file has it") for study in labels if study not in there]
    else:
        labels = _of_slices(folder / "stage_2_train.csv", headers)
    patients = {header.study: header.patient or header.study for header in headers}
    studies = [
        Study(folder_name(study), patients[study], tuple(Scan(series, "CT") for series in homes), labels=labels.get(study))
        for study, homes in link_series(folder, headers, manifest.parent / "scans").items()
    ]
    return write_import(SOURCE, for_evaluation(studies, splits, seed), manifest, left_out, notes)


def _of_slices(file: Path, headers: Sequence[Header]) -> dict[str, Labels]:
    """Labels of studies from those of slices; studies of which no slice is labelled are not in it."""
    if not file.is_file():
        return {}
    study_of = {Path(header.name).stem: header.study for header in headers}
    found: dict[str, set[str]] = {}
    with file.open(encoding="utf-8-sig", newline="") as lines:  # row by row: the set has millions
        rows = csv.reader(lines)
        if next(rows, []) != ["ID", "Label"]:
            raise ImportingError(f"{file}: its columns are not ID, Label; is this the set's own file?")
        for name, label in rows:
            image, _, kind = name.rpartition("_")
            if label not in ("0", "1"):
                raise ImportingError(f"{file}, line {rows.line_num}: label '{label}' is neither 0 nor 1")
            if image in study_of:
                found.setdefault(study_of[image], set()).update({kind.capitalize()} if label == "1" else ())
    return {study: tuple(sorted(kinds)) for study, kinds in found.items()}
