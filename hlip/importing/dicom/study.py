"""One study: its parts converted and written, and on record what became of each.

    OUT/studies/STUDY/001_t1.nii.gz ...     the scans
    OUT/studies/STUDY/import.json           what was done, under a keyed hash of the source files

The record is written last: a study without one, or with another hash, is made anew as a whole.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hlip.files.folders import write_atomically
from hlip.importing.dicom.convert import ConversionError, Converted, DamagedError, convert_files, convert_layout, turned
from hlip.importing.dicom.geometry import Layout, lay_out
from hlip.importing.dicom.kinds import is_adc
from hlip.importing.dicom.people import told
from hlip.importing.dicom.sequence import Guess, guess
from hlip.importing.dicom.series import TIME_POINTS, Part, plan_study
from hlip.importing.dicom.tags import Slice, Stack
from hlip.importing.dicom.unpack import unpacked
from hlip.importing.diffusion import split_diffusion
from hlip.importing.outcome import LeftOut
from hlip.scans.scan import MIN_SLICES
from hlip.study import Scan, Study

_REVISION = 2
"""Part of every hash. Raise it when the same files begin to give other scans."""
_RECORD = "import.json"
_AGAIN = ("converter_timeout", "unexpected")  # another run may fare better: such a study is tried again
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

    def study(self) -> Study:
        return Study(self.names.study_id, self.names.patient_id, self.scans, extra=dict(self.extra))

    def left_out(self) -> list[LeftOut]:
        found = [
            LeftOut(f"{self.names.study_id}/{row['series']}", row["reason"], row["notes"]) for row in self.rows if row["reason"]
        ]
        if not self.scans:
            found.append(LeftOut(self.names.study_id, "no_usable_series", "all its series are left out"))
        return found


def import_study(slices: Sequence[Slice], names: Names, out: Path, salt: bytes) -> Done:
    """Convert a study, or find that it was already.

    Raises:
        OSError: OUT cannot be written.
    """
    folder = out / "studies" / names.study_id
    digest = _digest(slices, salt)
    if (done := _from_before(folder, names, digest)) is not None:
        return done
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = plan_study(slices)
    stated_adc = any(part.guess.sequence == "ADC" and not part.reason for part in parts)
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows += _convert(part, names, folder, stated_adc)
    extra = _extra(next((part.stack for part in parts if not part.reason), slices[0].stack))
    if not any(row["reason"] in _AGAIN for row in rows):
        record = {"digest": digest, "rows": rows, "extra": extra}
        write_atomically(folder / _RECORD, json.dumps(record, indent=1).encode())
    return Done(names, _scans(rows, out), tuple(rows), extra)


def _digest(slices: Sequence[Slice], salt: bytes) -> str:
    """Changes with any source file: its identity, place, bytes or time of change. Keyed, since it is made of identifiers."""
    lines = sorted(f"{piece.uid}|{piece.position}|{piece.file.size}|{piece.file.changed}" for piece in slices)
    return hmac.new(salt, "\n".join([str(_REVISION), *lines]).encode(), hashlib.sha256).hexdigest()


def _from_before(folder: Path, names: Names, digest: str) -> Done | None:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if record["digest"] != digest:
            return None
        rows = [{**row, "study_id": names.study_id} for row in record["rows"]]
        scans = _scans(rows, folder.parent.parent)
        return Done(names, scans, tuple(rows), record["extra"], True) if all(scan.path.is_file() for scan in scans) else None
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
        with unpacked(part.slices) as files:
            made, notes = _made(_of_files(part, files), stated_adc)
        if part.stack.inverted:
            told_so = "turned around" if _upside_down(part.stack) else "kept, they are a measure"
            notes = (*notes, f"MONOCHROME1: values {told_so}")
        if any(piece.file.header_at is not None for piece in part.slices):
            notes = (*notes, "from a damaged archive: slices may be missing at the end")
    except ConversionError as error:
        return [row | {"decision": "left_out", "reason": error.reason, "notes": str(error)}]
    except MemoryError:
        return [row | {"decision": "left_out", "reason": "too_large", "notes": "does not fit into memory"}]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # not this study's fault
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
                "path": file.relative_to(folder.parent.parent).as_posix(),
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


Made = tuple[Guess, nib.Nifti1Image]


def _of_files(part: Part, files: dict[Slice, Slice]) -> Part:
    """The part with these files for its slices."""
    layouts = tuple((b, replace(layout, slices=tuple(files[piece] for piece in layout.slices))) for b, layout in part.layouts)
    return replace(part, slices=tuple(files[piece] for piece in part.slices), layouts=layouts)


def _made(part: Part, stated_adc: bool) -> tuple[list[Made], tuple[str, ...]]:
    """The scans of a part with their sequences, and notes."""
    if not part.layouts:
        return _found_by_converter(part, stated_adc)
    if part.diffusion:
        volumes = [(b_value, convert_layout(layout)) for b_value, layout in part.layouts]
        data = np.stack([_scaled(volume) for _, volume in volumes], axis=-1)
        data = turned(data) if _upside_down(part.stack) else data
        return _split(data, volumes[0][1].affine, [b for b, _ in volumes], stated_adc), part.notes
    (_, layout) = part.layouts[0]
    notes = part.notes
    try:
        volume = convert_layout(layout)
    except DamagedError as error:
        again = lay_out(error.whole) if len(error.whole) >= MIN_SLICES else "damaged"
        if not isinstance(again, Layout):
            raise ConversionError("damaged", f"{len(layout.slices) - len(error.whole)} files cannot be decoded") from error
        volume, notes = convert_layout(again), again.notes
        notes = (*notes, f"{len(layout.slices) - len(error.whole)} files cannot be decoded")
    if _upside_down(part.stack):
        volume = replace(volume, data=turned(volume.data))
    return [(part.guess, volume.image())], notes


def _upside_down(stack: Stack) -> bool:
    """Bright for dark. Hounsfield units and diffusion coefficients mean the same however they are to be shown."""
    return stack.inverted and stack.modality != "CT" and not is_adc(stack)


def _scaled(volume: Converted) -> np.ndarray:
    return volume.data.astype(np.float32) * np.float32(volume.slope) + np.float32(volume.inter)


def _split(data: np.ndarray, affine: np.ndarray, b_values: list[float], stated_adc: bool) -> list[Made]:
    """b0, trace and ADC of a diffusion series; no ADC where the scanner made one."""
    found = split_diffusion(nib.Nifti1Image(data, affine), b_values)
    made = []
    for name, image in found:
        if name == "ADC" and stated_adc:
            continue
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        made.append((Guess(name, 0.95, "b-value" if name != "ADC" else "computed from b-values"), image))
    return made


def _found_by_converter(part: Part, stated_adc: bool) -> tuple[list[Made], tuple[str, ...]]:
    """Of mosaics: one volume a file."""
    made: list[Made] = []
    notes: list[str] = list(part.notes)
    volumes = convert_files(part.slices)
    count = sum(found.data.shape[3] if found.data.ndim == 4 else 1 for found in volumes)
    if count != len(part.slices):
        raise ConversionError("geometry_mismatch", f"the converter made {count} volumes of {len(part.slices)} mosaics")
    for found in volumes:
        if {"ph", "real", "imaginary"} & set(found.name.lower().split("_")):
            notes.append("phase images passed over")
            continue
        shape = found.data.shape
        if found.data.dtype.fields is not None:
            raise ConversionError("colour", "colour images")
        if min(shape[:3]) < MIN_SLICES:
            notes.append("stacks of too few slices passed over")
            continue
        stack = _with_echo(part, found)
        count = shape[3] if len(shape) == 4 else 1
        b_values = _agreed(found.b_values, part.slices)
        if len(b_values) == count and max(b_values) > 0:
            made += _split(_scaled(found).reshape(*shape[:3], count), found.affine, b_values, stated_adc)
        elif count > TIME_POINTS:
            raise ConversionError("time_series", f"{count} images at each place")
        else:
            made += [(stack, found.volume(n).image()) for n in range(count)] if len(shape) == 4 else [(stack, found.image())]
    if not made:
        raise ConversionError("too_few_slices", "; ".join(notes) or "no volume")
    return made, tuple(dict.fromkeys(notes))


def _agreed(found: Sequence[float], slices: Sequence[Slice]) -> list[float]:
    """The converter's b-values, one a volume, put right by those of the headers.

    Raises:
        ConversionError: b_values_unclear, they are of another number.
    """
    stated = sorted({b_value for piece in slices for b_value in piece.b_values})
    theirs = sorted(set(found))
    if not theirs or not stated or set(theirs) <= set(stated):
        return list(found)
    if len(theirs) != len(stated):
        raise ConversionError("b_values_unclear", f"{len(stated)} b-values in the headers, {len(theirs)} by the converter")
    return [stated[theirs.index(b_value)] for b_value in found]


def _with_echo(part: Part, found: Converted) -> Guess:
    """The sequence by the echo of this volume, where the object holds several."""
    if found.echo_time is None or found.echo_time == part.stack.echo_time:
        return part.guess
    return guess(replace(part.stack, echo_time=found.echo_time))
