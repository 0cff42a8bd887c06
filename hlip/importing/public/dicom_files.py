"""DICOM files of many studies in one folder -> a folder of links for each series, which is what a manifest's scan can point to.

Only tags are read, and what was read is kept (headers.csv), so that a stopped import of a million files goes on where it was.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from hlip.importing.public.listing import bar, folder_name
from hlip.pools import make_pool

_CHUNK = 2000  # files whose headers are read before they are written down


@dataclass(frozen=True)
class Header:
    """What groups files; all empty where the file cannot be read."""

    name: str
    """Of the file, from the folder."""
    study: str
    series: str
    patient: str


def read_headers(folder: Path, names: Sequence[str], kept: Path, workers: int = 1, progress: bool = True) -> list[Header]:
    """Headers of files of a folder; those that stand in the file `kept` already are taken from there."""
    known = {header.name: header for header in _read(kept)}
    todo = [name for name in names if name not in known]
    kept.parent.mkdir(parents=True, exist_ok=True)
    pool = make_pool(workers) if workers > 1 else None
    try:
        with kept.open("a", encoding="utf-8", newline="") as out:
            table = csv.writer(out, lineterminator="\n")
            for start in bar(range(0, len(todo), _CHUNK), f"{_CHUNK} headers", progress and bool(todo)):
                some = [(folder, name) for name in todo[start : start + _CHUNK]]
                for header in pool.map(_header, some, chunksize=100) if pool else map(_header, some):
                    known[header.name] = header
                    if header.study:  # a damaged file is tried again next time
                        table.writerow(astuple(header))
                out.flush()
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return [known[name] for name in names]


def link_series(folder: Path, headers: Sequence[Header], place: Path) -> dict[str, list[Path]]:
    """PLACE/<study>/<series>/ with a link to each of its files; study -> its folders, in order."""
    series: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for header in headers:
        series[header.study, header.series].append(header.name)
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for (study, uid), names in sorted(series.items()):
        home = place / folder_name(study) / folder_name(uid)
        home.mkdir(parents=True, exist_ok=True)
        wanted = {name.replace("/", "__"): folder / name for name in names}
        for stale in set(os.listdir(home)) - set(wanted):
            (home / stale).unlink()
        for name, target in wanted.items():
            if not (home / name).exists():
                (home / name).unlink(missing_ok=True)  # a link to where the file was
                (home / name).symlink_to(os.path.relpath(target, os.path.realpath(home)))
        found[study].append(home)
    return dict(found)


def _read(kept: Path) -> Iterator[Header]:
    if kept.is_file():
        with kept.open(encoding="utf-8", newline="") as lines:
            for row in csv.reader(lines):
                if len(row) == 4:  # the last line of a killed run may be short
                    yield Header(*row)


def _header(where: tuple[Path, str]) -> Header:
    import pydicom

    from hlip.dicom.headers import quiet_pydicom

    folder, name = where
    try:
        with quiet_pydicom():
            tags = ["StudyInstanceUID", "SeriesInstanceUID", "PatientID"]
            data = pydicom.dcmread(folder / name, stop_before_pixels=True, specific_tags=tags)
            return Header(name, *(str(data.get(tag, "") or "") for tag in tags))  # a value is looked at when it is taken
    except Exception:  # a damaged header, whatever its error
        return Header(name, "", "", "")
