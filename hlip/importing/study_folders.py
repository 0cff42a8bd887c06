"""A folder a study -> a manifest.

    ROOT/STUDY/scan.nii.gz
    ROOT/PATIENT/STUDY/scan.nii.gz

Notable choices:
- A folder that holds NIfTI or MGZ files is a study; a folder above it, below ROOT, is its patient. Both layouts may be mixed. Without a
  patient's folder a study is a patient of its own, which may leak between splits: that is said.
- study_id is STUDY, or PATIENT__STUDY; tables may call a study either way, as long as STUDY is one of its kind.
- Files called masks or segmentations are left out, and what is called a localizer, a map, a projection or a subtraction
  (`hlip.scans.unwanted`), by its name or by the description in a sidecar that a converter wrote (NAME.json).
- DICOM is for `hlip import dicom`. No file is opened, except diffusion series with a .bval beside them, which become b0, DWI and ADC under
  OUT/scans. Other 4-D series are named when the scans are prepared.
- Every folder of ROOT either gives a study or stands in left_out.csv, by itself or by what is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from tqdm import tqdm

from hlip.importing.files import children, files_below, id_fault, looks_like_mask, on_closed, own_places
from hlip.importing.options import KEPT_NAMES, Options, add_options, finish, options_of, show
from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file, some
from hlip.importing.series import b_values_beside, diffusion_scans, stem_of
from hlip.importing.tables import KeyOf
from hlip.importing.unusable import unusable, unusable_rows
from hlip.scans.filekind import is_dicom, is_nifti
from hlip.scans.sequence import guess_sequence
from hlip.scans.unwanted import unwanted_file
from hlip.study import Scan, Study

LEAK = "each study counts as a patient of its own; if patients have several studies that is a leak: give PATIENT folders or --metadata"
_DEPTH = 6  # folders looked into; more than a layout has, so that scans lying too deep are named
_BESIDE = (".json", ".bval", ".bvec", ".txt", ".csv", ".tsv")  # endings of what lies beside scans


def import_folders(root: str | Path, out: str | Path, options: Options | None = None, *, progress: bool = True) -> Imported:
    """Write the manifest of a tree in which a folder is a study.

    Args:
        root: see the head of this file.
        out: folder for manifest.jsonl, left_out.csv and scans/; or the manifest's own name (*.jsonl).
        progress: show a bar.

    Raises:
        ImportingError: no scan, scans outside of the layout (but for some in ROOT itself), or faults of the tables.
    """
    root, manifest, options = Path(os.path.abspath(root)), manifest_file(os.path.abspath(out)), options or Options()
    if not root.is_dir():
        raise ImportingError(f"{root}: no such folder")
    if (root / "dataset_description.json").is_file():
        raise ImportingError(f"{root}: a BIDS data set (dataset_description.json); hlip import bids reads it")
    check_place(manifest, "folders")
    skip = own_places(root, manifest.parent)
    found, left_out, notes = _found(root, skip, progress)
    left_out += _stray(root, found)
    _check_layout(root, found)
    studies: list[Study] = []
    used: set[tuple[str, ...]] = set()
    for folder, files in tqdm(sorted(found.items()), unit="study", disable=not progress):
        parts = folder.relative_to(root).parts
        study_id = re.sub(r"[\\\0]", "_", "__".join(parts))
        if fault := id_fault(study_id):
            left_out.append(LeftOut(str(folder), "study_id", f"{folder}: {fault}"))
            continue
        scans, lost = scans_of(files, manifest.parent / "scans" / study_id)
        left_out += lost
        if scans:
            studies.append(Study(study_id, parts[0] if len(parts) > 1 else study_id, tuple(scans)))
            used |= {parts, parts[:1]}
    left_out += _without_scans(root, skip, used, left_out)
    notes += _notes(root, found, studies, options)
    return finish("folders", studies, out, options, left_out, notes, _called(studies))


def scans_of(files: Sequence[Path], split_into: Path) -> tuple[list[Scan], list[LeftOut]]:
    """Scans of a study's files, masks left out; those with a .bval beside them are split into `split_into`."""
    scans: list[Scan] = []
    left_out = []
    for file in files:
        if looks_like_mask(file.name):
            left_out.append(LeftOut(str(file), "mask", f"{file}: called a mask or segmentation"))
        elif not file.exists():
            left_out.append(LeftOut(str(file), "missing", f"{file}: a link to a file that is not there"))
        elif file.is_dir():
            left_out.append(_called_a_file(file))
        elif b_values := b_values_beside(file):
            found, lost = diffusion_scans(file, b_values, split_into)
            scans += found
            left_out += [lost] if lost else []
        else:
            words = _words_of(file)
            if reason := unwanted_file(words):
                message = f"{file}: by its name or sidecar ({shorten(words, 80)}) no scan to read; list it to keep it: hlip import table"
                left_out.append(LeftOut(str(file), reason, message))
            else:
                scans.append(Scan(file, guess_sequence(file.name) or guess_sequence(words)))
    return scans, left_out


def _words_of(file: Path) -> str:
    """A file's name without its ending, and the description in the sidecar (NAME.json) that converters write."""
    sidecar = file.with_name(f"{stem_of(file)}.json")
    try:
        told = json.loads(sidecar.read_text(encoding="utf-8", errors="replace")) if sidecar.is_file() else {}
    except (OSError, ValueError):  # dcm2niix writes some that are no JSON
        told = {}
    described = told.get("SeriesDescription") or told.get("ProtocolName") if isinstance(told, dict) else ""
    return f"{stem_of(file)} {described or ''}".strip()


def _found(root: Path, skip: set[Path], progress: bool) -> tuple[dict[Path, list[Path]], list[LeftOut], list[str]]:
    """Folder -> its NIfTI files; folders of other scans, or that may not be read; and notes."""
    found: defaultdict[Path, list[Path]] = defaultdict(list)
    others: defaultdict[tuple[Path, str], list[str]] = defaultdict(list)
    left_out: list[LeftOut] = []
    closed: list[Path] = []
    seen: set[Path] = set()  # folders whose first other file was looked at
    tops = [child for child in children(root, closed) if child not in skip]
    for top in tqdm(tops, unit="folder", desc="looking", disable=not progress):
        for file in [top] if is_nifti(top) or not top.is_dir() else files_below(top, _DEPTH, skip, closed):
            if is_nifti(file):
                found[file.parent].append(file)
            elif file.parent not in seen and not file.name.endswith(_BESIDE):
                seen.add(file.parent)
                if is_dicom(file):
                    message = f"{file.parent}: holds DICOM files; hlip import dicom reads them"
                    left_out.append(LeftOut(str(file.parent), "dicom", message))
            if reason := unusable(file.name):
                others[file.parent, reason].append(file.name)
    rows, notes = on_closed(closed)
    return found, [*left_out, *unusable_rows(others), *rows], notes


def _called_a_file(folder: Path) -> LeftOut:
    return LeftOut(
        str(folder), "folder", f"{folder}: a folder, called like a file; move the scan in it out, and delete the folder"
    )


def _stray(root: Path, found: dict[Path, list[Path]]) -> list[LeftOut]:
    """Takes scans in ROOT itself, which are of no study, out of what was found, and names them.

    Raises:
        ImportingError: ROOT holds nothing else.
    """
    files = found.pop(root, [])
    if files and not any(child.is_dir() and child not in files for child in children(root)):
        raise ImportingError(f"{root}: {files[0].name} lies in ROOT itself; if ROOT is one study, name the folder above it")
    message = "lies in ROOT itself, so belongs to no study; move it into its study's folder (if ROOT is one study, name the folder above)"
    return [_called_a_file(file) if file.is_dir() else LeftOut(str(file), "stray", f"{file}: {message}") for file in files]


def _without_scans(root: Path, skip: set[Path], used: set[tuple[str, ...]], left_out: Sequence[LeftOut]) -> list[LeftOut]:
    """Folders of ROOT, and of a patient, of which nothing became a scan and nothing has been named yet."""
    named = {Path(row.path).relative_to(root).parts[:depth] for row in left_out for depth in (1, 2)}
    patients = [root / parts[0] for parts in sorted(used) if len(parts) == 2]
    rows = []
    for folder in [*children(root), *(child for patient in dict.fromkeys(patients) for child in children(patient))]:
        if folder.relative_to(root).parts in used | named or folder in skip or not folder.is_dir():
            continue
        endings = Counter(file.suffix.lower() or "(none)" for file in files_below(folder, _DEPTH, skip))
        there = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(3)) or "nothing"
        message = f"holds no NIfTI or MGZ file, {_DEPTH} folders down (its files: {there}); if it is a study, put its scans there as .nii.gz"
        rows.append(LeftOut(str(folder), "no_scan", f"{folder}: {message}"))
    return rows


def _check_layout(root: Path, found: Mapping[Path, Sequence[Path]]) -> None:
    """
    Raises:
        ImportingError: scans too deep, or above another study's folder.
    """
    depth = {folder: len(folder.relative_to(root).parts) for folder in found}
    above = {parent for folder in found for parent in folder.parents}
    faults = []
    for folder in sorted(found):
        name = folder.relative_to(root).as_posix()
        if depth[folder] > 2:
            faults.append(f"{name}: too deep")
        elif folder in above:
            faults.append(f"{name}: holds scans, and folders with scans")
    if faults:
        remedy = (
            "expected is ROOT/STUDY/scan.nii.gz or ROOT/PATIENT/STUDY/scan.nii.gz; move them, or list them: hlip import table"
        )
        raise ImportingError(f"{root}: {len(faults)} folders are not of the layout; {remedy}{some(faults)}")


def _notes(root: Path, found: Mapping[Path, Sequence[Path]], studies: Sequence[Study], options: Options) -> list[str]:
    notes = []
    alone = sum(study.patient_id == study.study_id for study in studies)
    if alone and options.tables.metadata is None:
        notes.append(f"{alone} of {len(studies)} studies have no patient's folder: {LEAK}")
    deep = [files for folder, files in found.items() if folder.parent != root]
    patients = {folder.parent for folder in found if folder.parent != root}
    if len(deep) > 2 * len(patients) and all(len(files) == 1 for files in deep):
        notes.append(
            "every folder two below ROOT holds one scan: if such a folder is a series and not a study, list them (hlip import table)"
        )
    return notes


def _called(studies: Sequence[Study]) -> KeyOf:
    """What tables may call a study: its id, or the name of its folder where that is the only one of its name."""
    last = Counter(study.study_id.removeprefix(f"{study.patient_id}__") for study in studies)
    short = {study.study_id: study.study_id.removeprefix(f"{study.patient_id}__") for study in studies}

    def names(study: Study, key: str) -> Sequence[str]:
        if key == "patient_id":
            return (study.patient_id,)
        folder = short[study.study_id]
        return (study.study_id, folder) if last[folder] == 1 else (study.study_id,)

    return names


def add_folders(sources: Any) -> None:
    """Add `hlip import folders`."""
    source = sources.add_parser(
        "folders",
        help="NIfTI or MGZ files, a folder a study",
        description="Layouts: ROOT/STUDY/scan.nii.gz or ROOT/PATIENT/STUDY/scan.nii.gz. Sequences are guessed from file names and sidecars "
        "(NAME.json); a table says them (hlip import table). Files called masks, localizers, maps or subtractions are left out. A folder "
        "without a scan is named in left_out.csv. A diffusion series with a .bval beside it becomes b0, DWI and ADC under OUT/scans; other "
        "series of volumes are refused when they are prepared." + KEPT_NAMES,
    )
    source.add_argument("root", type=Path, metavar="ROOT", help="folder of the studies, or of the patients")
    source.add_argument("out", type=Path, metavar="OUT", help="folder to write: manifest.jsonl, left_out.csv, scans/")
    add_options(source)
    source.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    options = options_of(arguments)
    show(import_folders(arguments.root, arguments.out, options), options)
