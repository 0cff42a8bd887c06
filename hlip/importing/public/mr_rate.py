"""MR-RATE: brain and spine MRI with reports and 37 labels; zips as they come, or unpacked.

    FOLDER/mri/batchNN/<study>.zip            or  FOLDER/mri/batchNN/<study>/img/<study>_<series>.nii.gz
    FOLDER/metadata/batchNN_metadata.csv      a row a series
    FOLDER/reports/batchNN_reports.csv        a row a study
    FOLDER/pathology_labels/mrrate_labels.csv a column of 0 and 1 a label
    FOLDER/splits.csv                         the official split, by patient

Notable choices:
- Zips stay zips: a scan's path is `<study>.zip/<study>/img/...`, which every command reads. Masks lie in `seg` and are no scans.
- Labels become the classes of the taxonomy mr_rate, by name or code. A study with no label at all has none of the 37, which is not "normal".
- A batch that was not downloaded is one line of left_out.csv, and so is one whose metadata was not; of one that was, every study and
  series without a file is named, and one line counts the studies that its metadata lacks. Images that it lacks of a study that it has are
  taken, and told. Reports, labels and label columns that are not there are notes.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file, write_import
from hlip.importing.public.listing import Labels, bar, existing, read_list
from hlip.importing.public.mr_rate_region import IN_BRAIN, Region, region_of
from hlip.importing.splits import SPLIT_NAMES, check_patients
from hlip.importing.table_files import read_columns, read_table
from hlip.importing.tables import SECTIONS, put_together
from hlip.study import Scan, Study
from hlip.taxonomy import Taxonomy

SOURCE = "mr-rate"
SEQUENCES = {"t1w": "T1", "t2w": "T2", "flair": "FLAIR", "swi": "SWI", "mra": "MRA"}
"""First part of a series id -> our name."""
_SERIES = re.compile(r"(t1w|t2w|flair|swi|mra)-raw-(axi|sag|cor|obl)(-\d+)?", re.IGNORECASE)
_NO_LABELS = ("patient_uid", "batch_id", "split")  # columns that may stand beside the labels
_EXTRA = {"Patient'sSex": "sex", "Manufacturer": "vendor", "FieldStrength_T": "field_strength"}

Row = dict[str, str]


@dataclass(frozen=True)
class _Known:
    """What the tables say of studies, by study id."""

    reports: dict[str, Row]
    labels: dict[str, Labels]
    splits: dict[str, Row]
    notes: tuple[str, ...] = ()


def import_mr_rate(folder: str | Path, out: str | Path, *, brain: bool = False, progress: bool = True) -> Imported:
    """Write the manifest of what of the set lies in a folder.

    Args:
        brain: only studies that show a brain (`hlip.importing.public.mr_rate_region`), with labels of mr_rate_brain; labels of the spine
            go into the field `spine_labels`.

    Raises:
        ImportingError: not the layout, no usable study, a label that mr_rate lacks, or a patient in several splits.
    """
    folder, manifest = existing(folder), manifest_file(out)
    check_place(manifest, SOURCE)
    tables = sorted((folder / "metadata").glob("batch*_metadata.csv"))
    if not tables:
        raise ImportingError(
            f"{folder}: no metadata/batchNN_metadata.csv; download the folders metadata, reports and mri of a batch"
        )
    known = _read_known(folder)
    studies: list[Study] = []
    left_out: list[LeftOut] = []
    bare: list[str] = []
    for table in tables:
        batch = table.name.removesuffix("_metadata.csv")
        rows = read_table(table, ["study_uid", "series_id"])
        series: defaultdict[str, list[Row]] = defaultdict(list)
        for _, row in rows:
            series[row["study_uid"]].append(row)
        if not (folder / "mri" / batch).is_dir():
            left_out.append(LeftOut(f"mri/{batch}", "batch_absent", f"{len(series)} studies were not downloaded"))
            continue
        for uid in bar(list(series), "study", progress):
            study = _study(folder, batch, uid, series[uid], known, left_out, bare)
            if study is not None:
                studies.append(study)
        left_out += _without_row(folder, batch, series)
    left_out += _without_metadata(folder, {table.name.removesuffix("_metadata.csv") for table in tables})
    check_patients([study for study in studies if study.split], "use the splits.csv of the set as it comes")
    regions = Counter(study.extra["region"] for study in studies)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(regions.items()))
    notes = [f"region, by series, labels and words (the set does not state it): {counts}"]
    if bare:
        notes.append(
            f"{len(bare)} images have no row in the metadata, which tells localizers; they are taken: {_first(bare)}; download it again"
        )
    if brain:
        names = frozenset(Taxonomy.load("mr_rate_brain").levels[-1])
        studies = [_brain_only(study, names) for study in _in_brain(studies, left_out)]
    return write_import(SOURCE, studies, manifest, left_out, [*notes, *known.notes, *_notes(studies)])


def label_names(names: Sequence[str], tree: Taxonomy) -> dict[str, str]:
    """Column of the label table -> class of the taxonomy, by name in any letters and punctuation, or by SNOMED code.

    Raises:
        ImportingError: a column that stands for no class.
    """
    called = {}
    for item in tree.classes(tree.depth):
        for word in (item.name, *item.codes.values()):
            called[_plain(word)] = item.name
    strange = [name for name in names if _plain(name) not in called]
    if strange:
        raise ImportingError(
            f"label '{strange[0]}': no class of the taxonomy {tree.name}; is this the set's mrrate_labels.csv?"
        )
    return {name: called[_plain(name)] for name in names}


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.casefold())


def _read_known(folder: Path) -> _Known:
    reports: dict[str, Row] = {}
    for file in sorted((folder / "reports").glob("batch*_reports.csv")):
        reports |= {row["study_uid"]: row for _, row in read_table(file, ["study_uid"])}
    labels: dict[str, Labels] = {}
    notes = _no_reports(folder)
    file, tree = folder / "pathology_labels" / "mrrate_labels.csv", Taxonomy.load("mr_rate")
    if not file.is_file():
        notes.append(f"no {file.relative_to(folder)}: no study has labels")
    else:
        found = read_list(file, "study_uid", other=_NO_LABELS, notes=notes)
        classes = [name for name in read_columns(file) if name not in ("study_uid", *_NO_LABELS)]
        names = label_names(classes, tree)
        if absent := sorted(set(tree.levels[-1]) - set(names.values())):
            notes.append(
                f"{file.name} has no column for {len(absent)} of the set's {tree.counts[-1]} labels, which no study has then: {_first(absent)}"
            )
        labels = {uid: None if given is None else tuple(names[name] for name in given) for uid, given in found.items()}
    file = folder / "splits.csv"
    rows = read_table(file, ["patient_uid", "study_uid", "split"]) if file.is_file() else []
    if strange := sorted({row["split"] for _, row in rows if row["split"].lower() not in SPLIT_NAMES}):
        raise ImportingError(f"{file}: split '{strange[0]}' is none of {', '.join(SPLIT_NAMES)}")
    return _Known(reports, labels, {row["study_uid"]: row for _, row in rows}, tuple(notes))


def _no_reports(folder: Path) -> list[str]:
    """Batches of which there are images and metadata, but no reports."""
    batches = [file.name.removesuffix("_metadata.csv") for file in sorted((folder / "metadata").glob("batch*_metadata.csv"))]
    absent = [
        name
        for name in batches
        if (folder / "mri" / name).is_dir() and not (folder / "reports" / f"{name}_reports.csv").is_file()
    ]
    return [f"no reports/{name}_reports.csv: its studies have no report" for name in absent]


def _without_metadata(folder: Path, known: Collection[str]) -> Iterator[LeftOut]:
    """Batches whose images lie there, but of which no table tells the series."""
    for place in sorted((folder / "mri").glob("batch*")):
        if place.is_dir() and place.name not in known:
            yield LeftOut(
                f"mri/{place.name}", "no_metadata", f"no metadata/{place.name}_metadata.csv; download it, then import again"
            )


def _without_row(folder: Path, batch: str, known: Collection[str]) -> Iterator[LeftOut]:
    """Studies whose images lie there, but of which the table of their batch has no row."""
    there = (file for file in (folder / "mri" / batch).iterdir() if not file.name.startswith("."))
    studies = {file.name.removesuffix(".zip") for file in there if file.suffix == ".zip" or (file / "img").is_dir()}
    if bare := sorted(studies.difference(known)):
        table = f"metadata/{batch}_metadata.csv"
        message = (
            f"{len(bare)} studies have images, but no row in {table}: {_first(bare)}; download it again, then import again"
        )
        yield LeftOut(f"mri/{batch}", "no_metadata", message)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _study(
    folder: Path, batch: str, uid: str, rows: list[Row], known: _Known, left_out: list[LeftOut], bare: list[str]
) -> Study | None:
    """None where nothing of it can be used. `bare` takes its images without a row."""
    here = f"mri/{batch}/{uid}"
    try:
        files = dict(_files(folder / "mri" / batch, uid))
    except (zipfile.BadZipFile, OSError) as error:
        left_out.append(LeftOut(f"{here}.zip", "truncated", f"no whole zip ({error}); download it again"))
        return None
    if not files:
        left_out.append(LeftOut(here, "missing", "neither a zip nor a folder with img/*.nii.gz"))
        return None
    by_series = {row["series_id"]: row for row in rows}
    scans = []
    for series in sorted({*files, *by_series}):
        match = _SERIES.fullmatch(series)
        if _true(by_series.get(series, {}).get("is_localizer", "")):
            left_out.append(LeftOut(f"{here}/{series}", "localizer", "is_localizer in the metadata"))
        elif series not in files:
            left_out.append(LeftOut(f"{here}/{series}", "missing", "in the metadata, but there is no such image"))
        else:
            if series not in by_series:
                bare.append(f"{here}/{series}")
            scans.append(Scan(files[series], SEQUENCES[match[1].lower()] if match else ""))
    if not scans:
        left_out.append(LeftOut(here, "no_scan", "localizers only"))
        return None
    report = {name.lower(): text for name, text in known.reports.get(uid, {}).items()}
    split = known.splits.get(uid, {})
    labels = known.labels.get(uid)
    found = region_of(
        [series for series in by_series if series in files], labels or (), _words(rows), report.get("technique", "")
    )
    return Study(
        uid,
        split.get("patient_uid") or rows[0].get("patient_uid") or uid,
        tuple(scans),
        _report(report),
        labels=labels,
        split=SPLIT_NAMES.get(split.get("split", "").lower()),
        extra={"batch": batch, "region": found} | _extra(rows),
    )


def _files(batch: Path, uid: str) -> Iterator[tuple[str, Path]]:
    """Series id and path of each image of a study, in its zip or in its folder."""
    archive = batch / f"{uid}.zip"
    if (batch / uid / "img").is_dir():
        names = [(batch / uid / "img", file.name) for file in (batch / uid / "img").iterdir()]
    elif archive.is_file():
        with zipfile.ZipFile(archive) as members:
            inside = [PurePosixPath(name) for name in members.namelist()]
        names = [(archive / path.parent, path.name) for path in inside if path.parent.name == "img"]
    else:
        names = []
    for place, name in names:
        if name.endswith(".nii.gz") and not name.startswith("."):
            yield name.removesuffix(".nii.gz").removeprefix(f"{uid}_"), place / name


def _report(cells: Row) -> str:
    """The sections under their headers; the whole report where there are none."""
    return put_together(cells) if any(cells.get(name) for name in SECTIONS[-3:]) else cells.get("report", "")


def _extra(rows: list[Row]) -> dict[str, str | float]:
    """What most of a study's series say of patient and scanner."""
    found: dict[str, str | float] = {}
    for column, name in {**_EXTRA, "Patient'sAge": "age"}.items():
        said = Counter(row[column] for row in rows if row.get(column))
        if said:
            text = said.most_common(1)[0][0]
            value = _years(text) if name == "age" else text
            if value is not None:
                found[name] = float(value) if name == "field_strength" and re.fullmatch(r"[\d.]+", text) else value
    return found


def _years(age: str) -> float | None:
    """DICOM's 036Y or 009M, or plain years."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([YMWD]?)", age.strip().upper())
    if match is None:
        return None
    years = round(float(match[1]) / {"": 1, "Y": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]], 2)
    return int(years) if years == int(years) else years


def _words(rows: list[Row]) -> str:
    """Free words of the acquisition, as far as the metadata has them."""
    free = ("BodyPartExamined", "SeriesDescription", "ProtocolName", "StudyDescription")
    return " ".join(row[name] for row in rows for name in free if row.get(name))


def _true(text: str) -> bool:
    return text.lower() in ("1", "1.0", "true", "yes")


def _in_brain(studies: list[Study], left_out: list[LeftOut]) -> Iterator[Study]:
    for study in studies:
        region: Region = study.extra["region"]
        if region in IN_BRAIN:
            yield study
        else:
            reason = "spine" if region == "spine" else "region_unknown"
            message = "evidence of a spine only" if region == "spine" else "no evidence of a brain"
            left_out.append(LeftOut(f"mri/{study.extra['batch']}/{study.study_id}", reason, message))


def _brain_only(study: Study, names: frozenset[str]) -> Study:
    """With the labels of the brain; those of the spine are kept aside."""
    spine = [label for label in study.labels or () if label not in names]
    labels = None if study.labels is None else tuple(label for label in study.labels if label in names)
    return replace(study, labels=labels, extra=study.extra | ({"spine_labels": spine} if spine else {}))


def _notes(studies: list[Study]) -> list[str]:
    notes = []
    if bare := sum(study.split is None for study in studies):
        notes.append(f"{bare} studies are not in splits.csv: they have no split and nothing uses them")
    if tokens := sum(bool(re.search(r"\[\w+_\d+\]", study.report)) for study in studies):
        notes.append(f"{tokens} reports hold tokens like [date_1] in place of what was removed")
    return notes
