"""Pub-Brain-5, HLIP's public benchmark of brain MRI, as it is rebuilt from its five sources.

    FOLDER/<study>/...            NIfTI files (or <scan>/img.pt of the official preparation), <study> as in the list, e.g. nyu_mets/NYU_Mets_1_2
    --list CSV                    study, Normal, Stroke, Glioma, Meningioma, Metastasis; default: such a CSV in FOLDER

Notable choices:
- A study's id is its path with __ for /; its source, the first folder of that path, stands in the field `source` (a name without a folder
  has none), and the import says which classes come from one source only: there, a model may know the hospital and not the disease.
- Masks and segmentations, known by name, are no scans.
- The patient follows from the name where its form is known (NYU_Mets_<patient>_<study>, BraTS-GLI-<patient>-<visit>, sub-<patient>), else
  it is the study.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file, write_import
from hlip.importing.public.hlip_layout import convert
from hlip.importing.public.listing import bar, existing, folder_name, for_evaluation, read_list, tables_below
from hlip.scans.filekind import is_nifti
from hlip.scans.scan import VolumeError
from hlip.scans.sequence import guess_sequence
from hlip.study import Scan, Study

SOURCE = "pub-brain-5"
CLASSES = ("Normal", "Stroke", "Glioma", "Meningioma", "Metastasis")
_MASK = re.compile(r"(?:^|[-_.])(seg|segmentation|mask|label|labels|lesion|roi)(?=[-_.]|$)", re.IGNORECASE)
_PATIENT = (
    re.compile(r"(NYU_Mets_\d+)_\d+"),
    re.compile(r"(BraTS-\w+-\d+)-\d+"),
    re.compile(r"(sub-[A-Za-z0-9]+)(?:_ses-.*)?"),
)
_BRATS = (
    ("t1c", "T1 contrast"),
    ("t1n", "T1"),
    ("t2f", "FLAIR"),
    ("t2w", "T2"),
)  # BraTS 2023's names, which say less to others


def import_pub_brain_5(
    folder: str | Path,
    out: str | Path,
    *,
    listed: Path | None = None,
    splits: Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Imported:
    """Write the manifest of the listed studies. All are `test`, unless `splits` are to be drawn.

    Raises:
        ImportingError: no list, or none of its studies lies in the folder.
    """
    folder, manifest = existing(folder), manifest_file(out)
    check_place(manifest, SOURCE)
    if listed is None:
        lists = tables_below(folder, "study", *CLASSES)
        if not lists:
            raise ImportingError(f"{folder}: no CSV with the columns study, {', '.join(CLASSES)}; name it with --list")
        listed = max(lists, key=lambda file: file.stat().st_size)
    left_out: list[LeftOut] = []
    studies = []
    notes: list[str] = []
    for name, labels in bar(list(read_list(listed, "study", notes=notes).items()), "study", progress):
        scans = tuple(_scans(folder / name, name, manifest.parent / "scans" / folder_name(name), left_out))
        if scans:
            extra = {"source": name.split("/")[0]} if "/" in name else {}
            studies.append(Study(folder_name(name), _patient(name), scans, labels=labels, extra=extra))
    return write_import(SOURCE, for_evaluation(studies, splits, seed), manifest, left_out, [*notes, *_sources(studies)])


def _scans(study: Path, name: str, made: Path, left_out: list[LeftOut]) -> Iterator[Scan]:
    files = sorted(file for file in study.rglob("*") if is_nifti(file) or file.name == "img.pt") if study.is_dir() else []
    if not files:
        left_out.append(LeftOut(name, "missing", "listed, but there is no such folder with NIfTI files"))
    for file in files:
        path = file.relative_to(study)
        if _MASK.search(path.name.removesuffix(".nii.gz").removesuffix(".nii")):
            left_out.append(LeftOut(f"{name}/{path.as_posix()}", "mask", "called a mask or segmentation"))
        elif file.name != "img.pt":
            yield Scan(file, _sequence(file.name))
        else:
            nifti = made / f"{folder_name(path.parent.as_posix())}.nii.gz"
            try:
                convert(file, nifti)
            except VolumeError as error:
                left_out.append(LeftOut(f"{name}/{path.as_posix()}", error.reason, str(error)))
            else:
                yield Scan(nifti, _sequence(path.parent.name))


def _sequence(name: str) -> str:
    words = re.split(r"[-_.]", name.lower())
    return next((ours for theirs, ours in _BRATS if theirs in words), "") or guess_sequence(name)


def _patient(name: str) -> str:
    last = name.split("/")[-1]
    return next((found[1] for pattern in _PATIENT if (found := pattern.fullmatch(last))), name)


def _sources(studies: list[Study]) -> list[str]:
    """What to beware of: classes that one source has alone, and studies whose source is not known."""
    homes: defaultdict[str, set[str | None]] = defaultdict(set)
    for study in studies:
        for label in study.labels or ():
            homes[label].add(study.extra.get("source"))
    notes = []
    alone = [f"{label} ({next(iter(found))})" for label, found in homes.items() if len(found) == 1 and None not in found]
    if alone:
        notes.append(
            f"from one source only: {', '.join(alone)}. Class and source are confounded: a model may know the scanner, not the disease"
        )
    if bare := sum("source" not in study.extra for study in studies):
        notes.append(f"the source of {bare} of {len(studies)} studies is not known: the list names them without a folder")
    return notes
