"""What an import of DICOM tells beside its manifest: notes for the terminal, which may name files, and rows on files, which may not."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hlip.dicom.kinds import IMAGES
from hlip.dicom.tags import Slice, Unread
from hlip.importing.dicom.study import RECORD, Done
from hlip.importing.outcome import LeftOut
from hlip.study import Study

_SHOWN, _NAMED = 3, 100  # files, and archives of a fault, named on the terminal
FOLDERS = "folders"  # the kind of what is no file
_BROKEN = ("damaged", "no_uid", "no_permission")
_UNREAD = {
    "not_dicom": "files that are not DICOM; the import names the first ones on the terminal",
    "damaged": "DICOM files whose header cannot be read; copy them again",
    "damaged_archive": "archives that are damaged or cut short; copy them again (what was whole in them is read)",
    "encrypted_archive": "zip archives that are encrypted; unpack them with their password and import again",
    "archive_not_read": "archives that are not looked into, of a kind that is not read, within another one, or too large for the temporary "
    "folder; unpack them first and import again",
    "zip_in_zip": "zip archives within archives, not looked into; unpack the outer ones and import again",
    "no_permission": "files that may not be read; correct their permissions",
    "no_permission of folders": "folders that may not be read, so that nothing in them is imported; correct their permissions",
    "no_uid": "DICOM files without a study or series UID, or cut short before it; copy them again",
}


def left_files(unread: Sequence[Unread]) -> list[LeftOut]:
    """One row for files of a kind: their names may hold a patient's."""
    counts = Counter((item.reason, item.kind) for item in unread)
    return [
        LeftOut(f"({kind})", reason, f"{count} {_UNREAD[f'{reason} of {kind}']}")
        if kind == FOLDERS
        else LeftOut(f"({'other' if kind == 'others' else kind} files)", reason, f"{count} {_UNREAD[reason]}")
        for (reason, kind), count in sorted(counts.items())
    ]


def on_names(key_file: Path, out: Path, new: bool, keep_ids: bool) -> list[str]:
    """Under what names patients and studies go on. `new`: the salt was drawn now."""
    if keep_ids:
        return ["--keep-ids: study and patient ids are the hospital's own; this manifest is not de-identified"]
    salt = f"a new salt, {key_file}" if new else f"the salt {key_file}"
    notes = [f"ids are hashes under {salt}: keep it to know these patients again, secret and apart from what you share"]
    if out.resolve() in key_file.resolve().parents:
        notes.append(f"{key_file} lies in the folder that you may share: move it to {out.with_name(f'{out.name}.salt.key')}")
    return notes


def on_patients(studies: Mapping[str, Sequence[Slice]], done: Mapping[str, Done]) -> list[str]:
    """What is not known of who is who."""
    used = [uid for uid, item in done.items() if item.scans]
    alone = sum(not patient_of(studies[uid]) for uid in used)
    if not alone:
        return []
    return [
        f"{alone} of {len(used)} studies name no patient (no PatientID): each counts as a patient of its own, and if patients have several "
        "studies, one may be in train and in test; export them with PatientID, or state splits (--metadata with study_id and split)"
    ]


def on_leftovers(count: int) -> list[str]:
    """`count`: folders that were removed."""
    where = tempfile.gettempdir()
    return [f"removed from {where}: {count} folders of killed runs, which held names and images"] if count else []


def on_runs(done: dict[str, Done], studies: Sequence[Study], out: Path) -> list[str]:
    """What an earlier import had done, and what sequences are unsure."""
    notes = []
    if reused := sum(item.reused for item in done.values()):
        notes.append(f"{reused} of {len(done)} studies are unchanged and were not converted again")
    ours = {item.names.study_id for item in done.values()} | {study.study_id for study in studies}
    there = [path.name for path in (out / "studies").iterdir() if not path.name.startswith(".") or (path / RECORD).is_file()]
    if others := sorted(name for name in there if name.removeprefix(".") not in ours):  # .NAME: of an import that was refused
        notes.append(
            f"{len(others)} studies in {out / 'studies'} ({others[0]}, ...) are of an earlier import and not in this manifest"
        )
    rows = [row for item in done.values() for row in item.rows if row["decision"] == "kept"]
    if unsure := sum(row["confidence"] <= 0.5 for row in rows):
        notes.append(
            f"{unsure} of {len(rows)} scans have an uncertain sequence (confidence 0.5 or less): see {out / 'series.csv'}"
        )
    return notes


def on_files(unread: Sequence[Unread]) -> list[str]:
    """Damaged files and archives, and files of other kinds, by name; this goes to the terminal and nowhere else."""
    broken = [str(item.file) for item in unread if item.reason in _BROKEN and item.kind != FOLDERS]
    whole = {  # all are named: each may be a patient
        "damaged archive, copy it again": [item for item in unread if item.reason == "damaged_archive"],
        "an encrypted archive, unpack it with its password": [item for item in unread if item.reason == "encrypted_archive"],
        "an archive that is not looked into, unpack it first": [item for item in unread if item.reason == "archive_not_read"],
        "an archive within an archive, unpack the outer one": [item for item in unread if item.reason == "zip_in_zip"],
        "no permission to read this folder, nothing in it is imported": [item for item in unread if item.kind == FOLDERS],
    }
    notes = [f"{text}: {item.file}" for text, items in whole.items() for item in items[:_NAMED]]
    notes += [f"{text}: {len(items) - _NAMED} more" for text, items in whole.items() if len(items) > _NAMED]
    foreign = [str(item.file) for item in unread if item.reason == "not_dicom"]
    for text, files in (("unreadable", broken), ("not DICOM", foreign)):
        more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
        notes += [f"{text}: {', '.join(files[:_SHOWN])}{more}"] if files else []
    return notes


def patient_of(slices: Sequence[Slice]) -> str:
    """PatientID of a study; empty where no image has one."""
    return next((p.stack.patient_id for p in slices if p.stack.patient_id and p.stack.sop_class in IMAGES), "")
