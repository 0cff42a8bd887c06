"""One study: its parts converted and written, and on record what became of each.

    OUT/studies/STUDY/001_t1.nii.gz ...     the scans
    OUT/studies/STUDY/import.json           what was done, under a keyed hash of the source files

The record is written last: a study without one, or with another hash, is made anew as a whole. It is made in OUT/studies/.STUDY and takes its
place once a manifest names it (`Done.place`): where an import is refused, the scans of the earlier manifest are still there.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib

from hlip.dicom.errors import ConversionError, MachineError
from hlip.dicom.making import scans_of
from hlip.dicom.part import Part
from hlip.dicom.people import told
from hlip.dicom.reasons import told_why
from hlip.dicom.series import plan_study
from hlip.dicom.tags import Slice, Stack
from hlip.files.folders import replace_folder, write_atomically
from hlip.importing.identity import hashed
from hlip.importing.outcome import LeftOut
from hlip.study import Scan, Study

_REVISION = 9
"""Part of every hash. Raise it when the same files begin to give other scans."""
RECORD = "import.json"
_AGAIN = ("converter_timeout", "converter_killed", "unexpected")  # another run may fare better: such a study is tried again
_HIGHEST_NUMBER = 99_999  # a larger series number may be a date or a number of the hospital's
COLUMNS = (
    *("study_id", "series", "series_number", "description", "modality", "decision", "reason", "sequence", "confidence", "rule"),
    *("files", "duplicates", "damaged", "b_values", "echo_time_ms", "repetition_time_ms", "inversion_time_ms", "flip_angle"),
    *("shape", "path", "notes"),
)
"""Of series.csv."""


@dataclass(frozen=True)
class Names:
    """What a study is called in our files."""

    study_id: str
    patient_id: str


@dataclass(frozen=True)
class Done:
    """A study as it came out."""

    names: Names
    scans: tuple[Scan, ...]
    rows: tuple[dict[str, Any], ...]
    """Of series.csv."""
    extra: dict[str, Any]
    reused: bool = False
    waiting: Path | None = None
    """The folder in which the scans lie until `place`; None where they are at their place."""

    def place(self) -> None:
        """Put the scans where `scans` names them."""
        if self.waiting is not None:
            replace_folder(self.waiting, self.waiting.with_name(self.names.study_id))

    def study(self) -> Study:
        """With `scan_notes` where there are any: what was mended in each scan, a text a scan."""
        notes = [row["notes"] for row in self.rows if row["path"]]
        extra = self.extra | ({"scan_notes": notes} if any(notes) else {})
        return Study(self.names.study_id, self.names.patient_id, self.scans, extra=extra)

    def left_out(self) -> list[LeftOut]:
        found = [(row["series"], row["reason"], row["notes"]) for row in self.rows if row["reason"]]
        if not self.scans:
            found.append(("", "no_usable_series", ""))
        study = self.names.study_id
        return [
            LeftOut(f"{study}/{series}" if series else study, reason, told_why(reason, notes))
            for series, reason, notes in found
        ]


def import_study(
    slices: Sequence[Slice], names: Names, out: Path, salt: bytes, beside: Mapping[str, int] | None = None
) -> Done:
    """Convert a study, or find that it was already. What was made anew takes its place with `Done.place`.

    Args:
        beside: series UID -> unreadable files that lie with the series.

    Raises:
        OSError: OUT cannot be written.
        MachineError: the temporary folder is full.
    """
    folder = out / "studies" / names.study_id
    making = folder.with_name(f".{names.study_id}")
    digest = _digest(slices, salt, beside or {})
    if (done := _from_before(folder, folder, digest, names)) is None:
        done = _from_before(making, folder, digest, names)  # of a run that ended before its manifest
    if done is None or done.waiting is None:
        shutil.rmtree(making, ignore_errors=True)
    if done is not None:
        return done
    making.mkdir(parents=True)
    parts = [_with_lost(part, beside or {}) for part in plan_study(slices)]
    stated_adc = any(part.guess.sequence == "ADC" and not part.reason for part in parts)
    rows: list[dict[str, Any]] = []
    series: set[str] = set()
    for part in parts:
        made = _convert(part, names, making, stated_adc)
        rows += made
        series |= {_series(part.stack, salt) for row in made if row["path"]}
    extra = _extra(next((part.stack for part in parts if not part.reason), slices[0].stack))
    again = any(row["reason"] in _AGAIN for row in rows)
    record = {"digest": "" if again else digest, "series": sorted(series), "rows": rows, "extra": extra}
    write_atomically(making / RECORD, json.dumps(record, indent=1).encode())
    scans = _scans(rows, out)
    waiting = bool(scans) or not any(folder.glob("*.nii.gz"))
    if not waiting:  # nothing usable came this time: the earlier scans stay
        shutil.rmtree(making)
    return Done(names, scans, tuple(rows), extra, waiting=making if waiting else None)


def would_lose(slices: Sequence[Slice], names: Names, out: Path, salt: bytes) -> bool:
    """Whether scans made of these files would take the place of earlier ones whose series are not among them; False where no record tells."""
    try:
        record = json.loads((out / "studies" / names.study_id / RECORD).read_text(encoding="utf-8"))
        lacking = not set(record["series"]) <= {_series(piece.stack, salt) for piece in slices}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return lacking and any(not part.reason for part in plan_study(slices))


def _series(stack: Stack, salt: bytes) -> str:
    return hashed(stack.series_uid, salt, "series")


def _with_lost(part: Part, beside: Mapping[str, int]) -> Part:
    lost = beside.get(part.stack.series_uid, 0)
    return replace(part, notes=(*part.notes, f"{lost} files beside it cannot be read")) if lost else part


def _digest(slices: Sequence[Slice], salt: bytes, beside: Mapping[str, int]) -> str:
    """Changes with any source file (its identity, place, bytes or time of change) and with unreadable files beside a series. Keyed, since
    it is made of identifiers.
    """
    lines = sorted(f"{piece.uid}|{piece.position}|{piece.file.size}|{piece.file.changed}" for piece in slices)
    lines += [f"{uid}|{beside[uid]}" for uid in sorted({piece.stack.series_uid for piece in slices} & beside.keys())]
    return hmac.new(salt, "\n".join([str(_REVISION), *lines]).encode(), hashlib.sha256).hexdigest()


def _from_before(place: Path, folder: Path, digest: str, names: Names) -> Done | None:
    """A study that lies at `place`, as it is once it stands in `folder`."""
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        if record["digest"] != digest:
            return None
        rows = [{**row, "study_id": names.study_id} for row in record["rows"]]
        scans = _scans(rows, folder.parent.parent)
        if not all((place / scan.path.name).is_file() for scan in scans):
            return None
        return Done(names, scans, tuple(rows), record["extra"], True, None if place == folder else place)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _scans(rows: Sequence[dict[str, Any]], out: Path) -> tuple[Scan, ...]:
    return tuple(Scan(out / row["path"], row["sequence"]) for row in rows if row["path"])


def _extra(stack: Stack) -> dict[str, Any]:
    """Age, sex and scanner, as far as they are known."""
    found = {
        "sex": stack.sex, "age": stack.age, "vendor": stack.vendor, "model": stack.model, "field_strength": stack.field_strength,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value not in ("", None)}


def _convert(part: Part, names: Names, folder: Path, stated_adc: bool) -> list[dict[str, Any]]:
    """The rows of a part: one, or one a scan."""
    row = _row(part, names)
    if part.reason:
        return [row]
    try:
        made, notes = scans_of(part, stated_adc)
    except ConversionError as error:
        return [row | {"decision": "left_out", "reason": error.reason, "notes": "; ".join((*part.notes, str(error)))}]
    except MachineError:
        raise  # the temporary folder is full, no fault of this study
    except MemoryError:
        return [row | {"decision": "left_out", "reason": "too_large", "notes": "does not fit into memory"}]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # nor is this
        # the error's text may hold a path or a name: only its type is told
        return [row | {"decision": "left_out", "reason": "unexpected", "notes": f"{type(error).__name__}; please report it"}]
    rows = []
    for number, (found, image) in enumerate(made, 1):
        name = part.name + (f"-{number}" if len(made) > 1 and part.layouts == () else "")
        file = folder / f"{name}_{found.sequence.lower().replace(' ', '_') or 'scan'}.nii.gz"
        _save(image, file)
        rows.append(
            row
            | {
                "sequence": found.sequence,
                "confidence": found.confidence,
                "rule": found.rule,
                "shape": "x".join(map(str, image.shape)),
                "path": f"studies/{names.study_id}/{file.name}",
                "notes": "; ".join(notes),
            }
        )
    return rows


def _save(image: nib.Nifti1Image, file: Path) -> None:
    partial = file.with_name(f"partial_{os.getpid()}_{file.name}")
    try:
        nib.save(image, partial)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _row(part: Part, names: Names) -> dict[str, Any]:
    stack = part.stack
    number = stack.series_number if stack.series_number is not None and 0 <= stack.series_number <= _HIGHEST_NUMBER else None
    b_values = sorted({int(piece.stack.b_value) for piece in part.slices if piece.stack.b_value is not None})
    return {
        "study_id": names.study_id, "series": part.name, "series_number": number, "description": told(stack.description),
        "modality": stack.modality if stack.modality.isalpha() and len(stack.modality) <= 8 else "",
        "decision": "left_out" if part.reason else "kept", "reason": part.reason, "sequence": part.guess.sequence,
        "confidence": part.guess.confidence, "rule": part.guess.rule, "files": len({piece.file for piece in part.slices}),
        "duplicates": part.duplicates,
        "damaged": part.damaged, "b_values": " ".join(map(str, b_values)), "echo_time_ms": stack.echo_time,
        "repetition_time_ms": stack.repetition_time, "inversion_time_ms": stack.inversion_time, "flip_angle": stack.flip_angle,
        "shape": "", "path": "", "notes": "; ".join(part.notes),
    }  # fmt: skip
