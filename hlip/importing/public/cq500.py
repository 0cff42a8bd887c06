"""CQ500: 491 head CTs, each read by three radiologists; zips as they come, or unpacked.

    FOLDER/CQ500CT<n>.zip, or FOLDER/CQ500CT<n> CQ500CT<n>/Unknown Study/<series>/*.dcm
    FOLDER/reads.csv    name (CQ500-CT-<n>), R1:ICH, R1:IPH, ..., R3:MassEffect

Notable choices:
- Zips stay zips: a scan's path goes on within them (`CQ500CT0.zip/.../CT PLAIN THIN`).
- A study has what two of its three readers saw; where fewer than two read it, nothing is known. Sides of a bleed are no classes.
- Every series of a study is a scan of it (thin, thick, bone). A patient has one study.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file, write_import
from hlip.importing.public.listing import Labels, bar, existing, for_evaluation, tables_below
from hlip.importing.table_files import read_table
from hlip.scans.filekind import is_dicom
from hlip.scans.scan import MIN_SLICES
from hlip.study import Scan, Study

SOURCE = "cq500"
_NAME = re.compile(r"CQ500-?CT-?(\d+)", re.IGNORECASE)
_READ = re.compile(r"R([123]):(?!BleedLocation)(.+)")


def import_cq500(
    folder: str | Path,
    out: str | Path,
    *,
    reads: Path | None = None,
    splits: Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Imported:
    """Write the manifest. All studies are `test`, unless `splits` are to be drawn.

    Raises:
        ImportingError: no study, or a table of reads of another form.
    """
    folder, manifest = existing(folder), manifest_file(out)
    check_place(manifest, SOURCE)
    tables = [reads] if reads else tables_below(folder, "name", "R1:ICH")
    labels = _majority(tables[0]) if tables else {}
    places: dict[int, Path] = {}
    for place in sorted(folder.iterdir(), reverse=True):  # an unpacked folder stands for its zip
        match = _NAME.match(place.name)
        if match and (place.is_dir() or (place.suffix == ".zip" and int(match[1]) not in places)):
            places[int(match[1])] = place
    if not places:
        raise ImportingError(f"{folder}: no CQ500CT<n>.zip and no folder CQ500CT<n> ...")
    left_out: list[LeftOut] = []
    studies = []
    for number in bar(sorted(places), "study", progress):
        name, place = f"CQ500-CT-{number}", places[number]
        try:
            series = _packed(place) if place.suffix == ".zip" else _unpacked(place)
        except (zipfile.BadZipFile, OSError) as error:
            left_out.append(LeftOut(place.name, "truncated", f"no whole zip ({error}); download it again"))
            continue
        few = [path for path, count in series.items() if count < MIN_SLICES]
        left_out += [LeftOut(str(path.relative_to(folder)), "too_few_slices", f"{series[path]} slices") for path in few]
        scans = tuple(Scan(path, "CT") for path in sorted(series) if path not in few)
        if scans:
            studies.append(Study(name, name, scans, labels=labels.get(name)))
        else:
            left_out.append(LeftOut(place.name, "no_scan", "no series of enough slices"))
    notes = [] if tables else ["no reads.csv: the studies have no labels; name it with --reads"]
    return write_import(SOURCE, for_evaluation(studies, splits, seed), manifest, left_out, notes)


def _packed(archive: Path) -> Counter[Path]:
    """Folders of .dcm files within a zip, and how many each has."""
    with zipfile.ZipFile(archive) as members:
        paths = [PurePosixPath(name) for name in members.namelist() if not name.startswith("__MACOSX")]
    return Counter(archive / path.parent for path in paths if path.suffix.lower() == ".dcm")


def _unpacked(study: Path) -> Counter[Path]:
    """Series below a study's folder: a folder, or a file of it where several share one."""
    from hlip.scans.dicom import find_series

    found: Counter[Path] = Counter()
    for place in sorted({file.parent for file in study.rglob("*") if file.is_file()}):
        files = sorted(file for file in place.iterdir() if is_dicom(file))
        series = find_series(place, files)
        for scan in series:  # of several in one folder the reader counts the slices
            found[scan.path] = len(files) if len(series) == 1 else MIN_SLICES
    return found


def _majority(file: Path) -> dict[str, Labels]:
    """Study -> what at least two readers saw."""
    found: dict[str, Labels] = {}
    for number, row in read_table(file, ["name"]):
        match = _NAME.fullmatch(row["name"])
        if not match:
            raise ImportingError(f"{file}, line {number}: '{row['name']}' is no name like CQ500-CT-0")
        votes: defaultdict[str, list[str]] = defaultdict(list)
        for column, text in row.items():
            if (reader := _READ.fullmatch(column)) and text in ("0", "1"):
                votes[reader[2]].append(text)
        known = any(len(given) >= 2 for given in votes.values())
        seen = tuple(name for name, given in votes.items() if given.count("1") >= 2)
        found[f"CQ500-CT-{int(match[1])}"] = seen if known else None
    return found
