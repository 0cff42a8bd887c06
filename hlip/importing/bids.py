"""A BIDS data set -> a manifest: a session one study, a subject one patient.

    ROOT/sub-01[/ses-1]/anat/sub-01[_ses-1][_acq-tse][_run-1]_T2w.nii.gz, ROOT/.../dwi/..._dwi.nii.gz with .bval, participants.tsv, *.json

Notable choices:
- study_id is sub-01_ses-1 (sub-01 where there are no sessions), patient_id sub-01. Tables may call the patient 01 too.
- participants.tsv gives sex and age and whatever else it has; sub-01_sessions.tsv the same of a session; dates (acq_time) stay out.
  Sidecars give vendor and field_strength, which are those of most scans of the session.
- `entities` of a manifest's line has acq, run, ce, ... of each scan, in the order of its scans.
- All runs of a sequence are scans. Diffusion series become b0, DWI and ADC under OUT/scans (`hlip.importing.series`).
- derivatives/, sourcedata/ and code/ are not raw data and are not looked into.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hlip.importing import fields
from hlip.importing.bids_layout import BidsName, Sidecars, scans_below, why_not
from hlip.importing.cells import RESERVED
from hlip.importing.files import children, on_closed
from hlip.importing.options import KEPT_NAMES, Options, add_options, finish, options_of, show
from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file
from hlip.importing.series import diffusion_scans, stem_of
from hlip.importing.table_files import read_table
from hlip.study import Scan, Study

_NOT_RAW = ("derivatives", "sourcedata", "code", "stimuli")
_TAKEN = (
    *RESERVED,
    "study_id",
    "patient_id",
    "split",
    "entities",
)  # a participant's column of that name is kept as participant_NAME
_EMPTY = ("", "n/a", "na", "nan")


def import_bids(root: str | Path, out: str | Path, options: Options | None = None, *, progress: bool = True) -> Imported:
    """Write the manifest of a BIDS data set. Of NIfTI files only diffusion series are opened.

    Args:
        root: folder of the data set, which holds sub-*.
        out: folder for manifest.jsonl, left_out.csv and scans/; or the manifest's own name (*.jsonl).
        progress: show a bar.

    Raises:
        ImportingError: no subject, no usable scan, a derivative, or faults of the tables.
    """
    root, manifest = Path(root), manifest_file(out)
    notes = _check_root(root)
    check_place(manifest, "bids")
    people, said = _participants(root)
    notes += said
    left_out = [
        LeftOut(str(child), "not_raw", f"{child.name}/ holds no raw data; not looked into")
        for child in children(root)
        if child.name in _NOT_RAW and child.is_dir()
    ]
    sidecars = Sidecars(root)
    studies = []
    closed: list[Path] = []
    subjects = _folders(root, "sub-")
    notes += _on_strangers(people, subjects)
    for subject in tqdm(subjects, unit="subject", disable=not progress):
        sessions = _folders(subject, "ses-", closed)
        if sessions:
            astray = [file for file in scans_below(subject) if not file.parent.name.startswith("ses-")]
            left_out += [
                LeftOut(str(file), "misplaced", f"{file}: outside of the sessions of {subject.name}") for file in astray
            ]
        for folder in sessions or [subject]:
            files = list(scans_below(folder, closed))
            scans, entities, about, lost = _scans(files, folder, subject, sidecars, manifest.parent / "scans")
            left_out += lost
            if scans:
                extra = people.get(subject.name, {}) | about | {"entities": entities}
                studies.append(Study(_study_id(subject, folder), subject.name, tuple(scans), extra=extra))
        sidecars.forget(subject)
    left_out += [LeftOut(str(path), "sidecar", f"{path}: no JSON object ({why})") for path, why in sidecars.broken.items()]
    sessions_said = _add_sessions(root, studies)
    lost, closed_said = on_closed(closed)
    if not studies and all(item.reason == "not_raw" for item in [*left_out, *lost]):
        where = "sub-*/[ses-*/]anat, dwi or another folder of a data type"
        raise ImportingError(f"{root}: no *.nii or *.nii.gz in {where}, of {len(subjects)} folders sub-*; nothing is written")
    notes += [*closed_said, *sessions_said]
    return finish("bids", studies, out, options or Options(), [*left_out, *lost], notes, _called)


def _scans(
    files: Sequence[Path], folder: Path, subject: Path, sidecars: Sidecars, split_into: Path
) -> tuple[list[Scan], list[dict[str, str]], dict[str, Any], list[LeftOut]]:
    """Scans of a session's files, their entities, vendor and field strength of most, and what is left out."""
    scans: list[Scan] = []
    entities: list[dict[str, str]] = []
    left_out: list[LeftOut] = []
    vendors: Counter[str] = Counter()
    strengths: Counter[float] = Counter()
    for file in files:
        name = BidsName.of(stem_of(file))
        fault = why_not(name, file.parent.name) or _misplaced(file, name, subject, folder)
        if fault or name is None:
            reason, words = fault or ("not_bids", "")
            left_out.append(LeftOut(str(file), reason, f"{file}: {words}"))
            continue
        if name.suffix == "dwi":
            place = split_into / _study_id(subject, folder)
            found, lost = diffusion_scans(file, sidecars.b_values(file, name), place)
            left_out += [lost] if lost else []
        else:
            found = [Scan(file, name.sequence)]
        scans += found
        entities += [{key: value for key, value in name.entities.items() if key not in ("sub", "ses")}] * len(found)
        about = sidecars.fields(file, name) if found else {}
        vendors.update([known] if (known := fields.vendor(about.get("Manufacturer"))) else [])
        strengths.update([tesla] if (tesla := fields.field_strength(about.get("MagneticFieldStrength"))) else [])
    more: dict[str, Any] = {"session": folder.name.removeprefix("ses-")} if folder != subject else {}
    more |= {"vendor": vendors.most_common(1)[0][0]} if vendors else {}
    more |= {"field_strength": strengths.most_common(1)[0][0]} if strengths else {}
    return scans, entities, more, left_out


def _misplaced(file: Path, name: BidsName | None, subject: Path, folder: Path) -> tuple[str, str] | None:
    """A file that is not there, or that carries another subject's or session's name than its folder."""
    if not file.exists():
        return "missing", "a link to content that is not here (datalad get, git annex get)"
    session = folder.name if folder != subject else None
    if name and f"sub-{name.entities.get('sub')}" != subject.name:
        return "misplaced", f"named otherwise than its folder {subject.name}"
    if name and name.entities.get("ses") != (session.removeprefix("ses-") if session else None):
        return "misplaced", f"named otherwise than its session {session or '(none)'}"
    return None


def _study_id(subject: Path, folder: Path) -> str:
    return subject.name if folder == subject else f"{subject.name}_{folder.name}"


def _called(study: Study, key: str) -> Sequence[str]:
    """What tables may call a study: as it is called here, or its patient without sub-."""
    if key == "study_id":
        return (study.study_id,)
    return study.patient_id, study.patient_id.removeprefix("sub-")


def _folders(folder: Path, start: str, closed: list[Path] | None = None) -> list[Path]:
    return [child for child in children(folder, closed) if child.name.startswith(start) and child.is_dir()]


def _check_root(root: Path) -> list[str]:
    """Notes on a data set that is one.

    Raises:
        ImportingError: it is none, or a derivative.
    """
    if not root.is_dir():
        raise ImportingError(f"{root}: no such folder")
    if not _folders(root, "sub-"):
        inside = next((child for child in children(root) if child.is_dir() and _folders(child, "sub-")), None)
        hint = f"; {inside} does: name that" if inside else "; for a folder a study: hlip import folders"
        raise ImportingError(f"{root}: holds no folder sub-*, so is no BIDS data set{hint}")
    described = root / "dataset_description.json"
    if not described.is_file():
        return ["no dataset_description.json: taken for BIDS by its folders sub-*"]
    try:
        kind = json.loads(described.read_text(encoding="utf-8-sig")).get("DatasetType", "raw")
    except (OSError, ValueError, AttributeError) as error:
        return [f"{described.name} cannot be read ({error})"]
    if kind == "derivative":
        raise ImportingError(f"{root}: a derivative, not raw data (DatasetType); name the raw data set")
    return []


def _participants(root: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """sub-01 -> fields of the manifest, as participants.tsv says; and notes."""
    table = root / "participants.tsv"
    if not table.is_file():
        return {}, ["no participants.tsv: sex and age are unknown"]
    try:
        rows = read_table(table, ["participant_id"])
    except ImportingError as error:  # others' sets are often read-only: what it would have said is missing, no more
        return {}, [f"{error}; the table is not used"]
    codes = _sex_codes(root / "participants.json")
    return {"sub-" + row.pop("participant_id").removeprefix("sub-"): _person(row, codes) for _, row in rows}, []


def _on_strangers(people: Mapping[str, object], subjects: Sequence[Path]) -> list[str]:
    """A note on rows of participants.tsv that are of no subject here."""
    strangers = people.keys() - {subject.name for subject in subjects}
    return [f"participants.tsv: {len(strangers)} of {len(people)} rows meet no folder sub-*"] if strangers else []


def _add_sessions(root: Path, studies: Sequence[Study]) -> list[str]:
    """Put what sub-01_sessions.tsv says into the studies; returns notes."""
    notes = []
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for study in studies:
        person = study.patient_id
        if person not in tables:
            table, tables[person] = root / person / f"{person}_sessions.tsv", {}
            try:
                rows = read_table(table, ["session_id"]) if table.is_file() else []
                tables[person] = {row.pop("session_id").removeprefix("ses-"): _person(row, {}) for _, row in rows}
            except ImportingError as error:
                notes.append(f"{error}; the table is not used")
        study.extra.update(tables[person].get(study.extra.get("session", ""), {}))
    return notes


def _person(row: dict[str, str], codes: Mapping[str, str]) -> dict[str, Any]:
    """A row as fields of the manifest: sex and age in our words, other columns as they are, dates left out."""
    known = {name: text for name, text in row.items() if text.lower() not in _EMPTY and name != "acq_time"}
    said: dict[str, Any] = {}
    for name, text in known.items():
        key, value = fields.told(name, text)
        if key == "sex":
            value = fields.sex(codes.get(text, text)) or text
        said.setdefault(f"participant_{key}" if key in _TAKEN else key, value)
    return said


def _sex_codes(file: Path) -> dict[str, str]:
    """Code -> word, where participants.json explains how sex is written: {"sex": {"Levels": {"1": "male"}}}."""
    try:
        columns = {name.casefold(): about for name, about in json.loads(file.read_text(encoding="utf-8-sig")).items()}
        levels = (columns.get("sex") or columns.get("gender") or {}).get("Levels", {})
        return {str(code): word for code, word in levels.items() if isinstance(word, str) and fields.sex(word)}
    except (OSError, ValueError, AttributeError):
        return {}


def add_bids(sources: Any) -> None:
    """Add `hlip import bids`."""
    source = sources.add_parser(
        "bids",
        help="a BIDS data set: a session a study",
        description="A BIDS data set: a session is a study, a subject a patient. anat (T1w, T2w, FLAIR, PDw, T2starw, angio, swi) and dwi "
        "are used, diffusion series split into b0, DWI and ADC under OUT/scans; functional, perfusion and field map series, masks and "
        "derivatives are left out and listed. participants.tsv and JSON sidecars give sex, age, vendor and field_strength."
        + KEPT_NAMES,
    )
    source.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set, which holds sub-*")
    source.add_argument("out", type=Path, metavar="OUT", help="folder to write: manifest.jsonl, left_out.csv, scans/")
    add_options(source)
    source.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    options = options_of(arguments)
    show(import_bids(arguments.root, arguments.out, options), options)
