"""CT-RATE: chest CT with reports and 18 labels.

    FOLDER/.../<split>_<patient>_<scan>_<reconstruction>.nii.gz    e.g. valid_1_a_1.nii.gz, anywhere below
    CSV files anywhere up to three folders deep, known by their columns:
        VolumeName, RescaleSlope, RescaleIntercept, XYSpacing, ZSpacing, ...    metadata
        VolumeName, Findings_EN, Impressions_EN, ...                            reports
        VolumeName, Emphysema, Atelectasis, ...                                 labels

Notable choices:
- A scan (valid_1_a) is a study, its reconstructions are the scans of it.
- HU: the files hold stored values, the metadata their scale. A corrected header over the same voxels is written where it is needed, and
  only there (`hlip.importing.public.hounsfield`); spacings that contradict the metadata are corrected on the way.
- `valid` is the split on which the set is published to be measured, so it becomes `test`; a share of the training patients becomes `val`.
- Where a volume lies there twice, as first released and in a folder called *_fixed, the fixed one counts. Volumes named in a
  no_chest*.txt are left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file, write_import
from hlip.importing.public.hounsfield import Stated, in_hounsfield
from hlip.importing.public.listing import Labels, bar, existing, read_list, tables_below
from hlip.importing.splits import draw_beside
from hlip.importing.table_files import read_table
from hlip.importing.tables import put_together
from hlip.scans.scan import VolumeError
from hlip.study import Scan, Study

SOURCE = "ct-rate"
VAL = 0.05
"""Share of the training patients that becomes val."""
_NAME = re.compile(r"((train|valid)_\d+)_([a-z]+)_(\d+)\.nii\.gz")
_SECTIONS = {
    "ClinicalInformation_EN": "clinical_information",
    "Technique_EN": "technique",
    "Findings_EN": "findings",
    "Impressions_EN": "impression",
}
_EXTRA = {"PatientSex": "sex", "PatientAge": "age", "Manufacturer": "vendor"}

Row = dict[str, str]


def import_ct_rate(folder: str | Path, out: str | Path, *, val: float = VAL, seed: int = 0, progress: bool = True) -> Imported:
    """Write the manifest, and corrected headers below OUT/scans.

    Args:
        val: share of the training patients that becomes val; 0 for none.

    Raises:
        ImportingError: no volume, or a table that contradicts itself.
    """
    folder, manifest = existing(folder), manifest_file(out)
    check_place(manifest, SOURCE)
    if not 0 <= val < 1:
        raise ImportingError(f"val {val}: expected a share of the training patients, from 0 to below 1")
    files, left_out = _volumes(folder)
    if not files:
        raise ImportingError(f"{folder}: no volume called like valid_1_a_1.nii.gz")
    metadata = {row["VolumeName"]: row for row in _rows(folder, "VolumeName", "RescaleSlope", "RescaleIntercept")}
    reports = {row["VolumeName"]: row for row in _rows(folder, "VolumeName", "Findings_EN")}
    labels: dict[str, Labels] = {}
    said: list[str] = []  # of the labels
    for table in tables_below(folder, "VolumeName", "Emphysema"):
        labels |= read_list(table, "VolumeName", notes=said)
    done: Counter[str] = Counter()
    volumes: defaultdict[str, list[str]] = defaultdict(list)
    scans: dict[str, Scan] = {}
    for name in bar(sorted(files, key=_order), "volume", progress):
        study = name.rsplit("_", 1)[0]
        try:
            path, corrected = in_hounsfield(files[name], _stated(metadata.get(name, {})), manifest.parent / "scans" / study)
        except VolumeError as error:
            left_out.append(LeftOut(str(files[name].relative_to(folder)), error.reason, str(error)))
            continue
        done.update(corrected or ("none",))
        scans[name] = Scan(path, "CT")
        volumes[study].append(name)
    studies = [_study(name, members, scans, metadata, reports, labels) for name, members in volumes.items()]
    notes = [
        f"headers corrected: {done['rescale']} rescales to HU, {done['spacing']} spacings; {done['none']} files were right as they are",
        "valid, on which the set is published to be measured, is called test here",
        *said,
    ]
    if absent := sum(name not in metadata for name in scans):
        notes.append(f"{absent} volumes have no metadata: they are taken as HU, which their air agrees with")
    studies, said = _with_val(studies, val, seed, manifest)
    return write_import(SOURCE, studies, manifest, left_out, [*notes, *said])


def _volumes(folder: Path) -> tuple[dict[str, Path], list[LeftOut]]:
    """Volume name -> file, one each, and what is left out."""
    not_chest = {
        found[0]
        for file in folder.rglob("no_chest*.txt")
        for found in _NAME.finditer(file.read_text(encoding="utf-8", errors="replace"))
    }
    files: dict[str, Path] = {}
    left_out = []
    fixed_first = sorted(
        folder.rglob("*.nii.gz"), key=lambda file: (not any(part.endswith("_fixed") for part in file.parts), file)
    )
    for file in fixed_first:
        place = file.relative_to(folder).as_posix()
        if not _NAME.fullmatch(file.name):
            left_out.append(LeftOut(place, "not_the_layout", "not called like valid_1_a_1.nii.gz"))
        elif file.name in not_chest:
            left_out.append(LeftOut(place, "no_chest", "named in the set's own list of volumes that show no chest"))
        elif file.name in files:
            left_out.append(
                LeftOut(place, "duplicate", f"the volume is taken from {files[file.name].relative_to(folder).as_posix()}")
            )
        else:
            files[file.name] = file
    return files, left_out


def _rows(folder: Path, *needed: str) -> list[Row]:
    return [row for table in tables_below(folder, *needed) for _, row in read_table(table, needed)]


def _stated(row: Row) -> Stated:
    """What the metadata say of a volume."""
    slope, intercept = _number(row.get("RescaleSlope", ""), 1.0), _number(row.get("RescaleIntercept", ""), 0.0)
    try:
        rows, columns = json.loads(row["XYSpacing"])  # as DICOM's PixelSpacing: down a column first
        spacing = (float(columns), float(rows), float(row["ZSpacing"]))
    except (ValueError, KeyError, TypeError):
        return Stated(slope, intercept)
    shape = tuple(int(_number(row.get(name, ""), 0)) for name in ("Columns", "Rows", "NumberofSlices"))
    return Stated(slope, intercept, spacing if min(spacing) > 0 else None, shape if all(shape) else ())


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default


def _study(
    name: str,
    members: list[str],
    scans: dict[str, Scan],
    metadata: dict[str, Row],
    reports: dict[str, Row],
    labels: dict[str, Labels],
) -> Study:
    said = next((reports[member] for member in members if member in reports), {})
    report = put_together({ours: said.get(theirs, "") for theirs, ours in _SECTIONS.items()})
    known = [labels[member] for member in members if labels.get(member) is not None]
    names = tuple(dict.fromkeys(label for given in known for label in given or ()))
    row = next((metadata[member] for member in members if member in metadata), {})
    extra: dict[str, str | int] = {ours: row[theirs] for theirs, ours in _EXTRA.items() if row.get(theirs)}
    if match := re.fullmatch(r"0*(\d+)Y?", str(extra.get("age", ""))):
        extra["age"] = int(match[1])
    return Study(
        name,
        name.rsplit("_", 1)[0],
        tuple(scans[member] for member in members),
        report,
        labels=names if known else None,
        split="train" if name.startswith("train") else "test",
        extra=extra,
    )


def _with_val(studies: Sequence[Study], val: float, seed: int, manifest: Path) -> tuple[list[Study], list[str]]:
    train = [replace(study, split=None) for study in studies if study.split == "train"]
    if not train or not val:
        return list(studies), []
    drawn, notes = draw_beside(train, (1 - val, val, 0), seed, manifest)
    split = {study.study_id: study.split for study in drawn}
    return [replace(study, split=split.get(study.study_id, study.split)) for study in studies], notes


def _order(name: str) -> tuple[str, int, str, int]:
    patient, _, scan, number = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
    split, _, count = patient.partition("_")
    return split, int(count), scan, int(number)
