"""`hlip import dicom`: a tree of DICOM files -> manifest, NIfTI files and tables, under hashed names.

    OUT/manifest.jsonl      the studies
    OUT/studies/STUDY/      their scans
    OUT/series.csv          every series, kept or not: sequence, confidence, rule, counts
    OUT/left_out.csv        what is not in the manifest, and why
    OUT.salt.key            the secret of the hashes (or where --salt says): beside OUT, which may be passed on

Notable choices:
- Identifiers stay in memory: they group files and join tables, and are gone. Paths and texts of errors, which hold names, are shown on the
  terminal at most, and not written.
- Headers are read anew each time (a cache of them would be a list of patients); scans of unchanged studies are not made again.
- Processes read headers, which is work of Python; threads convert, which is work of the converter's own process.
"""

from __future__ import annotations

import csv
import io
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hlip.dicom.convert import program
from hlip.dicom.errors import MachineError
from hlip.dicom.found import Found
from hlip.dicom.headers import quiet_pydicom
from hlip.dicom.tags import Slice, Unread
from hlip.dicom.temporary import own_folder, remove_leftovers
from hlip.files.folders import write_atomically
from hlip.importing.cells import names_of
from hlip.importing.dicom.columns import without_names
from hlip.importing.dicom.many_headers import read_headers
from hlip.importing.dicom.notes import FOLDERS, left_files, on_files, on_leftovers, on_names, on_patients, on_runs, patient_of
from hlip.importing.dicom.study import COLUMNS, Done, Names, import_study, would_lose
from hlip.importing.dicom.walk import LOOKED_INTO, find_files
from hlip.importing.earlier import Earlier, How
from hlip.importing.fields import field_of
from hlip.importing.identity import check_names, hashed, read_salt, record_names
from hlip.importing.outcome import SHOWN, Imported, ImportingError, LeftOut, check_place, manifest_file, write_import
from hlip.importing.splits import check_shares, split_studies
from hlip.importing.table_files import read_table, require_columns
from hlip.importing.tables import Tables, check_tables, given_fields, join
from hlip.study import Study

SOURCE = "dicom"
KEYS = ("study_id", "patient_id", "accession_number")


def import_dicom(
    folder: str | Path,
    out: str | Path,
    *,
    salt: str | Path | None = None,
    keep_ids: bool = False,
    tables: Tables | None = None,
    keep_columns: Sequence[str] = (),
    shares: Sequence[float] | None = None,
    seed: int = 0,
    how: How = "",
    workers: int | None = None,
    progress: bool = True,
) -> Imported:
    """Import every study below a folder.

    Args:
        folder: any tree, or one archive (zip, tar; also compressed by gzip, bzip2 or xz).
        salt: file of the secret, drawn where there is none; default OUT.salt.key beside OUT, or OUT/salt.key where an earlier import
            left one.
        keep_ids: StudyInstanceUID and PatientID as they are, instead of their hashes.
        tables: keyed by StudyInstanceUID (study_id), PatientID (patient_id) or AccessionNumber (accession_number).
        keep_columns: of the metadata table, taken over as they are written; others than those of `hlip.importing.dicom.columns` are not,
            unless `keep_ids`.
        shares, seed: of the splits that are drawn where no table states them, see `hlip.importing.splits`. Shares and tables are
            looked at before any file is read.
        how: what becomes of the studies of an earlier import into OUT, see `hlip.importing.earlier`.
        workers: processes for headers, threads for conversion; `None` takes one for each core.

    Raises:
        ImportingError: no DICOM file, no usable study, no converter, a foreign manifest in the way, only later parts of known studies, OUT
            cannot be written. Whatever is refused, an earlier manifest and the scans that it names stay as they were.
    """
    folder, manifest = Path(os.path.abspath(folder)), manifest_file(out)
    out = manifest.parent
    _check_source(folder)
    check_place(manifest, SOURCE)
    tables = tables or Tables()
    _check(tables, shares, keep_columns)
    earlier = Earlier.at(manifest, how)
    _check_converter()
    key_file = Path(salt) if salt else default_salt(out)
    new_key = not key_file.exists()
    if earlier.studies:
        check_names(manifest, key_file, keep_ids)
    workers = workers or _cores()
    leftovers, stack = remove_leftovers(), ExitStack()
    try:
        room = Path(stack.enter_context(own_folder("hlip-archives-")))
        key = read_salt(key_file)
        slices, unread = _read(folder, out, key_file, room, workers, progress)
        studies = _studies(slices)
        names = {uid: _names(found, key, keep_ids) for uid, found in studies.items()}
        found = {name.study_id for name in names.values()}
        earlier.check(found)  # before hours of conversion
        parts = _in_part(studies, names, earlier, out, key)
        in_part, told = _on_parts(parts, names, studies, out)
        order = sorted(studies.keys() - parts, key=lambda uid: names[uid].study_id)  # UIDs go by date
        studies = {uid: studies[uid] for uid in order}
        with quiet_pydicom():
            done = _convert(studies, names, _beside(slices, unread), out, key, workers, progress)
        usable = [item.study() for item in done.values() if item.scans]
        by_id = {names[uid].study_id: found for uid, found in studies.items()}
        usable, notes = _joined(usable, tables, by_id, None if keep_ids else keep_columns, earlier.others(usable))
        reused = {item.names.study_id for item in done.values() if item.reused}
        usable, kept_fields = earlier.fields(usable, given_fields(tables), reused)
        usable, said = split_studies(usable, shares, seed, earlier) if usable else (usable, [])
        usable, kept = earlier.beside(usable, found) if usable else (usable, [])
        rows = [row for item in done.values() for row in item.rows]
        left_out = [*in_part, *(row for item in done.values() for row in item.left_out()), *left_files(unread)]
        if not usable and manifest.exists():
            return write_import(SOURCE, usable, manifest, left_out)  # which leaves all as it was, and says so
        _write_series([*_kept_rows(out / "series.csv", usable, done), *rows], out / "series.csv")
        notes = [
            *on_names(key_file, out, new_key, keep_ids),
            *on_patients(studies, done),
            *on_leftovers(leftovers),
            *on_runs(done, usable, out),
            *on_files(unread),
            *told,
            *notes,
            *kept_fields,
            *said,
            *kept,
        ]
        imported = write_import(SOURCE, usable, manifest, earlier.left_out(left_out, usable), notes)
        for item in done.values():
            item.place()
        record_names(manifest, key, keep_ids)
        return imported
    except MachineError as error:
        raise ImportingError(str(error)) from error
    except OSError as error:
        raise ImportingError(f"{out}: cannot be written ({error}); finished studies are kept, run it again") from error
    finally:
        stack.close()


def default_salt(out: str | Path) -> Path:
    """Where the secret of an import into the folder `out` lies, unless its user names another place."""
    out = Path(os.path.abspath(out))
    earlier = out / "salt.key"
    return earlier if earlier.exists() else out.with_name(f"{out.name}.salt.key")


def _check_converter() -> None:
    try:
        program()
    except MachineError as error:
        raise ImportingError(str(error)) from error


def _check_source(folder: Path) -> None:
    if not folder.exists():
        raise ImportingError(f"{folder}: no such folder")
    if not folder.is_dir() and not folder.name.lower().endswith(LOOKED_INTO):
        raise ImportingError(f"{folder}: neither a folder nor a zip or tar archive; name the folder that holds it")


def _check(tables: Tables, shares: Sequence[float] | None, keep_columns: Sequence[str]) -> None:
    """What is wrong with tables and shares, before hours of conversion."""
    check_tables(tables, KEYS)
    if keep_columns and tables.metadata is None:
        raise ImportingError(f"--keep-columns {' '.join(keep_columns)}: of which table? name it with --metadata")
    if tables.metadata is not None:
        columns = tuple(read_table(tables.metadata)[0][1])
        require_columns(tables.metadata, columns, keep_columns)
        if ids := sorted({*KEYS, *names_of(columns, KEYS)} & {*keep_columns}):
            raise ImportingError(
                f"--keep-columns {' '.join(ids)}: tables are joined by it, it is not written; --keep-ids keeps ids"
            )
    if shares is None:
        return
    check_shares(shares)
    if tables.metadata is not None and all(row.get("split") for _, row in read_table(tables.metadata)):
        raise ImportingError(f"{tables.metadata}: states all splits itself; leave --splits out")


def _read(
    folder: Path, out: Path, key_file: Path, room: Path, workers: int, progress: bool
) -> tuple[list[Slice], list[Unread]]:
    closed: list[str] = []
    found = find_files(folder, without=out, closed=closed, room=room)
    walk = tqdm(found, unit="file", desc="files", disable=not progress)
    files = [file for file in walk if file.path != os.path.abspath(key_file)]
    slices, unread = read_headers(files, workers, progress)
    unread = [Unread(item.file, "zip_in_zip", item.kind) if _is_packed_twice(item) else item for item in unread]
    unread += [Unread(Found(path, "", 0, 0), "no_permission", FOLDERS) for path in closed]
    if not slices:
        counts = ", ".join(f"{reason} {count}" for reason, count in Counter(item.reason for item in unread).items())
        said = "".join(f"\n  {note}" for note in on_files(unread))
        raise ImportingError(f"{folder}: no DICOM series among {len(files)} files" + (f" ({counts})" if counts else "") + said)
    return slices, unread


def _is_packed_twice(item: Unread) -> bool:
    return item.reason == "not_dicom" and item.file.member.lower().endswith(".zip")


def _beside(slices: Sequence[Slice], unread: Sequence[Unread]) -> dict[str, int]:
    """Series that lie alone in their folder -> files in it whose headers cannot be read: they may be of the series."""
    damaged = Counter(_folder(item.file) for item in unread if item.reason in ("damaged", "no_uid"))
    series: defaultdict[str, set[str]] = defaultdict(set)
    for piece in slices if damaged else ():
        series[_folder(piece.file)].add(piece.stack.series_uid)
    return {uid: damaged[place] for place, found in series.items() if place in damaged and len(found) == 1 for uid in found}


def _folder(file: Found) -> str:
    inside = file.member and not file.gzipped
    return f"{file.path}!{os.path.dirname(file.member)}" if inside else os.path.dirname(file.path)  # noqa: PTH120 (a million times)


def _studies(slices: Sequence[Slice]) -> dict[str, list[Slice]]:
    """By StudyInstanceUID; the order of files does not matter."""
    found: defaultdict[str, list[Slice]] = defaultdict(list)
    for piece in slices:
        found[piece.stack.study_uid].append(piece)
    return {
        uid: sorted(pieces, key=lambda piece: (piece.stack.series_uid, piece.instance, piece.uid))
        for uid, pieces in found.items()
    }


def _names(slices: Sequence[Slice], key: bytes, keep_ids: bool) -> Names:
    """A patient without PatientID is known by the study alone."""
    study, patient = slices[0].stack.study_uid, patient_of(slices)
    if keep_ids and re.fullmatch(r"[0-9][0-9.]*", study):
        return Names(study, patient or study)
    return Names(hashed(study, key, "study"), hashed(patient or f"study {study}", key, "patient"))


def _in_part(
    studies: Mapping[str, Sequence[Slice]], names: Mapping[str, Names], earlier: Earlier, out: Path, key: bytes
) -> set[str]:
    """Under --add, studies whose earlier scans would be dropped, as a later part of them came alone."""
    before = {study.study_id for study in earlier.studies} if earlier.how == "add" else set()
    return {uid for uid, found in studies.items() if names[uid].study_id in before and would_lose(found, names[uid], out, key)}


def _on_parts(
    parts: Collection[str], names: Mapping[str, Names], studies: Mapping[str, Sequence[Slice]], out: Path
) -> tuple[list[LeftOut], list[str]]:
    """A row for each study that comes in part, which names no file, and a note for the terminal, which does.

    Raises:
        ImportingError: nothing else was found.
    """
    remedy = f"import a folder that holds all its files, or first delete its folder in {out / 'studies'}"
    files = sorted((names[uid].study_id, str(studies[uid][0].file)) for uid in parts)
    notes = [
        f"{len(files)} studies come in part, their earlier scans stay and the later series are left out: {study} (e.g. {file}); {remedy}"
        for study, file in files[:1]
    ]
    notes += [f"comes in part too: {study} (e.g. {file})" for study, file in files[1:SHOWN]]
    if parts and len(parts) == len(studies):
        raise ImportingError("\n  ".join(notes))
    message = "series of an earlier import are not among the files found now, so its earlier scans stay; import all files of it together"
    return [LeftOut(study, "in_part", message) for study, _ in files], notes


def _convert(
    studies: dict[str, list[Slice]],
    names: dict[str, Names],
    beside: Mapping[str, int],
    out: Path,
    key: bytes,
    workers: int,
    progress: bool,
) -> dict[str, Done]:
    """In the order of `studies`. The first error of the disk stops all; studies under way are finished."""
    stop = threading.Event()

    def one(uid: str) -> Done | None:
        if stop.is_set():
            return None
        try:
            return import_study(studies[uid], names[uid], out, key, beside)
        except BaseException:
            stop.set()
            raise

    done: dict[str, Done] = {}
    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        tqdm(total=len(studies), unit="study", desc="studies", disable=not progress) as bar,
    ):
        futures = {pool.submit(one, uid): uid for uid in studies}
        try:
            for future in as_completed(futures):
                if (result := future.result()) is not None:
                    done[futures[future]] = result
                bar.update()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return {uid: done[uid] for uid in studies}


def _joined(
    studies: list[Study],
    tables: Tables,
    slices: dict[str, list[Slice]],
    keep: Sequence[str] | None,
    others: Collection[str],
) -> tuple[list[Study], list[str]]:
    """Studies with their tables, joined by the hospital's own identifiers, of which none stays. `keep`: columns; None, all. `others`: see
    `join`."""

    def key_of(study: Study, name: str) -> tuple[str, ...]:
        field = {"study_id": "study_uid", "patient_id": "patient_id", "accession_number": "accession"}[name]
        return tuple(filter(None, dict.fromkeys(str(getattr(piece.stack, field)) for piece in slices[study.study_id])))

    joined, notes = join(studies, tables, key_of, KEYS, others)
    if keep is not None:
        joined, said = without_names(studies, joined, {*keep, *map(field_of, keep)})
        notes += said
    if tables.reports:
        notes.append("reports are taken over as they are: free text is not de-identified here")
    return joined, notes


def _kept_rows(file: Path, studies: Sequence[Study], done: Mapping[str, Done]) -> list[dict[str, Any]]:
    """Rows of an earlier import's table whose studies are kept."""
    kept = {study.study_id for study in studies} - {item.names.study_id for item in done.values() if item.scans}
    if not kept or not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return [{name: row.get(name, "") for name in COLUMNS} for row in csv.DictReader(lines) if row["study_id"] in kept]


def _write_series(rows: Iterable[Mapping[str, Any]], file: Path) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(file, text.getvalue().encode())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
