"""2-D images sorted into folders, or listed in a CSV -> a manifest: one image one study.

    FOLDER/CLASS/[PATIENT/]image.png
    FOLDER/{train,val,valid,test}/CLASS/[PATIENT/]image.png
    --labels: a CSV with the columns path (from FOLDER), label (several parted by ;), and if known patient_id, split, report;
              what other columns say goes into the manifest as it is. Folder names then mean nothing; a row that is there twice, cell by
              cell, counts once; images without a split take their patient's, or are drawn.

Notable choices:
- A class is called as its folder, with underscores as spaces; a CSV's labels are taken as they are. Whether a taxonomy has a class of
  that name is asked where one is used.
- PATIENT folders of one name are one patient, under whichever class they lie: who numbers patients anew in each class needs a CSV.
- An image whose patient is unknown is a patient of its own: that may leak, and is said.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlip.importing.cells import renamed
from hlip.importing.files import files_below, on_closed
from hlip.importing.options import add_preparing, prepared
from hlip.importing.outcome import ImportingError, check_place, some
from hlip.importing.splits import REMEDY, SHARES, SPLIT_NAMES, check_patients, draw_beside
from hlip.importing.table_files import Row, read_table
from hlip.scans.filekind import is_image
from hlip.study import SPLITS, Scan, Study, write_manifest

if TYPE_CHECKING:
    from hlip.taxonomy import Taxonomy

LEAK = "images of one patient may be in several splits: a leak; give PATIENT folders or a CSV"
_COLUMNS = ("path", "label", "patient_id", "split", "report")
_TAKEN = ("study_id", "scans", "sentences", "labels", "imported")  # columns that would overwrite what the manifest says
_ORIGIN = {"imported": "images"}  # in every line, so that a second run knows a manifest of its own
_DEPTH = 6  # folders looked into; more than any layout has, so that images lying too deep are named
_LONGEST = 150  # letters of a study id, which becomes a file name of the store


@dataclass(frozen=True)
class ImportedImages:
    """What an import wrote."""

    manifest: Path
    studies: tuple[Study, ...]
    unknown_patients: int
    """Images that count as a patient of their own."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Files that are no images we read, by suffix."""
    meant: dict[str, str] = field(default_factory=dict)
    """Labels as they were found -> the classes they were taken for, where they differ."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        patients = len({study.patient_id for study in self.studies}) - self.unknown_patients
        known = f"{patients} patients" + (
            f" and {self.unknown_patients} images of unknown patients" if self.unknown_patients else ""
        )
        table = Counter((label, study.split) for study in self.studies for label in study.labels or ("(no label)",))
        names = sorted({label for label, _ in table})
        width = max(map(len, [*names, "class"]))
        lines = [
            f"{len(self.studies)} images of {len(names)} classes, {known if patients else 'patients unknown'}: {self.manifest}"
        ]
        lines.append(f"  {'class':{width}}" + "".join(f"{split:>8}" for split in SPLITS))
        lines += [f"  {name:{width}}" + "".join(f"{table[name, split]:8}" for split in SPLITS) for name in names]
        shared = {split for split in SPLITS if any(study.split == split for study in self.studies)}
        lacking = [f"{name} in {split}" for name in names for split in SPLITS if split in shared and not table[name, split]]
        if lacking:
            lines.append(f"no image of: {', '.join(lacking)} (too few patients, or --splits that are too small)")
        lines += [f"taken as: {word} -> {name}" for word, name in self.meant.items()]
        if self.left_out:
            files = ", ".join(f"{suffix} {count}" for suffix, count in self.left_out.items())
            lines.append(f"left out, no image file that is read here: {files}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def add_images(sources: Any) -> None:
    """Add `images` to the sources of `hlip import`."""
    source = sources.add_parser(
        "images",
        help="2-D images, a folder a class: PNG, JPEG, TIFF, BMP, WebP",
        description="Layouts: FOLDER/CLASS/[PATIENT/]image.png, or FOLDER/{train,val,valid,test}/CLASS/[PATIENT/]image.png, or a CSV. A class "
        "is called as its folder, underscores read as spaces. PATIENT folders of one name are one patient. Where splits are not given they "
        "are drawn by patient, as evenly in the classes as possible. Then: hlip prepare MANIFEST STORE --spec image; or at once: "
        "--prepare image.",
    )
    source.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the images")
    source.add_argument("manifest", type=Path, metavar="MANIFEST", help="file to write, e.g. out/manifest.jsonl")
    source.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="columns path (from FOLDER), label (several parted by ;), and if known patient_id, split, report; instead of folder names",
    )
    source.add_argument(
        "--splits",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the splits, where neither FOLDER nor CSV states them (default: 0.7 0.1 0.2); patients of an earlier MANIFEST stay "
        "in theirs",
    )
    source.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw of splits (default: 0)")
    source.add_argument(
        "--taxonomy",
        metavar="T",
        help="name or path of a disease tree: labels become its classes by name, synonym or code (ALL: acute lymphoblastic leukemia)",
    )
    add_preparing(source, "image")
    source.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from hlip.taxonomy import Taxonomy

    tree = Taxonomy.load(arguments.taxonomy) if arguments.taxonomy else None
    words = (arguments.folder, arguments.manifest, arguments.labels, arguments.splits, arguments.seed, tree)
    prepared(arguments, lambda: import_images(*words))


def import_images(
    folder: str | Path,
    manifest: str | Path,
    labels: str | Path | None = None,
    splits: Sequence[float] | None = None,
    seed: int = 0,
    taxonomy: Taxonomy | None = None,
) -> ImportedImages:
    """Write the manifest of a folder of images, atomically. The images are not opened; `hlip prepare --spec image` does.

    Paths are relative to the manifest where the images lie below its folder, else absolute.

    Args:
        folder: see the head of this file.
        labels: a CSV that says classes, patients and splits instead of the folders.
        splits: shares of train, val and test where neither folders nor CSV tell them (default: `SHARES`).
        seed: of the draw.
        taxonomy: a tree whose names the labels become: a folder ALL its acute lymphoblastic leukemia, by synonym, code or other letters.

    Raises:
        TaxonomyError: a label that stands for none of its classes.
        ImportingError: no image, an image outside of the layout, a patient in two splits, a fault of the CSV or of the shares, or a
            file at the manifest's place that is none of this command's.
    """
    folder, manifest = Path(os.path.abspath(folder)), Path(manifest)
    if not folder.is_dir():
        raise ImportingError(f"{folder}: no such folder")
    check_place(manifest, "images")
    if labels:
        studies, left_out = _listed(folder, Path(labels))
    else:
        studies, left_out = _sorted_by_folder(folder, manifest)
    if not studies:
        found = ", ".join(f"{suffix} {count}" for suffix, count in left_out.items())
        raise ImportingError(
            f"{labels or folder}: no image (PNG, JPEG, TIFF, BMP, WebP)" + (f"; files: {found}" if found else "")
        )
    meant: dict[str, str] = {}
    notes: list[str] = []
    if taxonomy is not None:
        meant = {label: taxonomy.meant_by(label) for study in studies for label in study.labels or ()}
        studies = [replace(study, labels=study.labels and tuple(meant[label] for label in study.labels)) for study in studies]
    unknown = sum(not study.patient_id for study in studies)
    studies = [replace(study, patient_id=study.patient_id or study.study_id) for study in _named(folder, studies)]
    stated = [study for study in studies if study.split is not None]
    if stated:
        if splits is not None and len(stated) == len(studies):
            raise ImportingError(f"{labels or folder}: states its splits itself; leave --splits out")
        check_patients(
            stated,
            REMEDY
            if labels
            else "move them into one; or, if only their folders share a name, tell them apart in a CSV (--labels)",
            Path(labels) if labels else None,
        )
    if len(stated) < len(studies):
        studies, notes = draw_beside(studies, SHARES if splits is None else splits, seed, manifest)
    if unknown:
        which = (
            "no patient is known"
            if unknown == len(studies)
            else f"the patient of {unknown} of {len(studies)} images is unknown"
        )
        warnings.warn(f"{which}, each such image counts as its own: {LEAK}", stacklevel=2)
    write_manifest(studies, manifest)
    renamed = {word: name for word, name in meant.items() if word != name}
    return ImportedImages(manifest, tuple(studies), unknown, left_out, renamed, tuple(notes))


def _sorted_by_folder(folder: Path, manifest: Path) -> tuple[list[Study], dict[str, int]]:
    """Studies without an id as the folders sort them, and what else lies there."""
    closed: list[Path] = []
    files = [file for file in files_below(folder, _DEPTH, closed=closed) if file != Path(os.path.abspath(manifest))]
    for note in on_closed(closed)[1]:
        warnings.warn(note, stacklevel=3)
    images = [file for file in files if is_image(file)]
    splits = {name for name in {file.relative_to(folder).parts[0] for file in images} if name.lower() in SPLIT_NAMES}
    studies, faults = [], []
    for file in images:
        parts = file.relative_to(folder).parts[:-1]
        split = SPLIT_NAMES.get(parts[0].lower()) if parts else None
        within = parts[1:] if split else parts
        if len(within) not in (1, 2) or (splits and not split):
            faults.append(file.relative_to(folder).as_posix())
            continue
        label = re.sub(r"[_\s]+", " ", within[0]).strip() or within[0]
        patient = within[1] if len(within) == 2 else ""
        studies.append(Study("", patient, (Scan(file),), labels=(label,), split=split, extra=dict(_ORIGIN)))
    if faults:
        layout = f"{'SPLIT/' if splits else ''}CLASS/image or {'SPLIT/' if splits else ''}CLASS/PATIENT/image"
        remedy = f"expected is {layout}; move them, or list the images in a CSV (--labels)"
        raise ImportingError(f"{folder}: {len(faults)} images lie elsewhere than expected; {remedy}{some(faults)}")
    return studies, _suffixes(file for file in files if not is_image(file))


def _listed(folder: Path, table: Path) -> tuple[list[Study], dict[str, int]]:
    """Studies without an id as a CSV lists them, and what else it lists."""
    studies: list[Study] = []
    others: list[Path] = []
    faults: list[str] = []
    row_of: dict[Path, Row] = {}
    for number, row in _rows(table):
        file = Path(os.path.abspath(folder / row["path"]))
        split = row.get("split", "").lower()
        if not row["path"]:
            faults.append(f"line {number}: no path")
        elif file in row_of and row_of[file][1] == row:
            continue
        elif file in row_of:
            faults.append(f"line {number}: {row['path']} stands already on line {row_of[file][0]}")
        elif not file.is_file():
            faults.append(f"line {number}: no file {file}")
        elif split and split not in SPLIT_NAMES:
            faults.append(f"line {number}: split '{row['split']}' is none of {', '.join(SPLIT_NAMES)}")
        elif is_image(file):
            row_of[file] = (number, row)
            studies.append(_study(row, file, SPLIT_NAMES.get(split)))
        else:
            others.append(file)
    if faults:
        raise ImportingError(f"{table}: {len(faults)} problem(s){some(faults)}")
    return studies, _suffixes(others)


def _rows(table: Path) -> list[Row]:
    rows = [(line, renamed(row, ("patient_id", "report"))) for line, row in read_table(table, ("path", "label"))]
    if taken := [name for name in rows[0][1] if name in _TAKEN]:
        raise ImportingError(f"{table}: the column {taken[0]} would overwrite the manifest's own; rename it")
    return rows


def _study(row: dict[str, str], file: Path, split: str | None) -> Study:
    labels = tuple(dict.fromkeys(label.strip() for label in row["label"].split(";") if label.strip()))
    extra = {name: text for name, text in row.items() if name not in _COLUMNS and text} | _ORIGIN
    return Study("", row.get("patient_id", ""), (Scan(file),), row.get("report", ""), (), labels or None, split, extra)


def _named(folder: Path, studies: Sequence[Study]) -> list[Study]:
    """With ids: the path from the folder, without its suffix, as one word. Where two agree (in a file system that does not tell capitals
    apart), or one is too long, a digest of the path joins it."""
    paths = [_relative(study.scans[0].path, folder) for study in studies]
    words = [re.sub(r"[^\w.+-]+", "_", "__".join(path.with_suffix("").parts)).strip("._") or "image" for path in paths]
    used = Counter(word.lower() for word in words)
    named = []
    for study, path, word in zip(studies, paths, words, strict=True):
        if used[word.lower()] > 1 or len(word.encode()) > _LONGEST:
            digest = hashlib.sha256(path.as_posix().encode()).hexdigest()[:12]
            word = f"{word.encode()[-_LONGEST:].decode(errors='ignore')}-{digest}"
        named.append(replace(study, study_id=word))
    return named


def _relative(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path.relative_to(path.anchor)


def _suffixes(files: Iterable[Path]) -> dict[str, int]:
    return dict(Counter(file.suffix.lower() or "(no suffix)" for file in files).most_common())
