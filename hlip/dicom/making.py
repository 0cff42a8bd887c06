"""One part of a study -> its scans, voxels and all, with their sequences and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import nibabel as nib
import numpy as np

from hlip.dicom.convert import Converted, convert_files, convert_layout, turned
from hlip.dicom.errors import ConversionError, DamagedError
from hlip.dicom.geometry import Layout, lay_out_whole
from hlip.dicom.kinds import is_adc
from hlip.dicom.part import Part
from hlip.dicom.sequence import Guess, guess
from hlip.dicom.series import TIME_POINTS
from hlip.dicom.tags import Slice, Stack
from hlip.dicom.unpack import plainly, unpacked
from hlip.scans.diffusion import split_diffusion
from hlip.scans.scan import MIN_SLICES

Made = tuple[Guess, nib.Nifti1Image]


def scans_of(part: Part, stated_adc: bool) -> tuple[list[Made], tuple[str, ...]]:
    """The scans of a part with their sequences, and notes.

    Args:
        stated_adc: the study has an ADC of the scanner's, so that none is computed.

    Raises:
        ConversionError: it cannot be converted.
        MachineError: the temporary folder is full.
    """
    with unpacked(part.slices) as files:
        made, notes = _made(_of_files(part, files), stated_adc)
    if part.stack.inverted:
        told_so = "turned around" if _upside_down(part.stack) else "kept, they are a measure"
        notes = (*notes, f"MONOCHROME1: values {told_so}")
    if any(piece.file.cut for piece in part.slices):
        notes = (*notes, "from a damaged archive: slices may be missing at the end")
    return made, notes


def _of_files(part: Part, files: dict[Slice, Slice]) -> Part:
    """The part with these files for its slices."""
    layouts = tuple((b, replace(layout, slices=tuple(files[piece] for piece in layout.slices))) for b, layout in part.layouts)
    return replace(part, slices=tuple(files[piece] for piece in part.slices), layouts=layouts)


def _made(part: Part, stated_adc: bool) -> tuple[list[Made], tuple[str, ...]]:
    if not part.layouts:
        return _found_by_converter(part, stated_adc)
    if part.diffusion:
        return _diffusion(part, stated_adc)
    (_, layout) = part.layouts[0]
    volume, found = _volume(layout)
    notes = (*found, *(note for note in part.notes if note not in layout.notes))
    if _upside_down(part.stack):
        volume = replace(volume, data=turned(volume.data))
    return [(part.guess, volume.image())], notes


def _diffusion(part: Part, stated_adc: bool) -> tuple[list[Made], tuple[str, ...]]:
    """Its volumes, at one place, stacked."""
    found = [_volume(layout) for _, layout in part.layouts]
    volumes = [volume for volume, _ in found]
    first = volumes[0]
    if any(volume.data.shape != first.data.shape or not np.allclose(volume.affine, first.affine, atol=1) for volume in volumes):
        raise ConversionError("damaged", "slices at the end of a volume cannot be decoded")
    data = np.stack([_scaled(volume) for volume in volumes], axis=-1)
    data = turned(data) if _upside_down(part.stack) else data
    notes = dict.fromkeys((*part.notes, *(note for _, told in found for note in told)))
    return _split(data, first.affine, [b_value for b_value, _ in part.layouts], stated_adc), tuple(notes)


def _volume(layout: Layout) -> tuple[Converted, tuple[str, ...]]:
    """The volume, without the slices that cannot be decoded where they are few, and its notes."""
    try:
        return _converted(layout), layout.notes
    except DamagedError as error:
        lost = f"{len(layout.slices) - len(error.whole)} of {len(layout.slices)} files cannot be decoded"
        again = lay_out_whole(layout.slices, error.whole)
        if not isinstance(again, Layout):
            raise ConversionError("damaged", lost) from error
        return _converted(again), (*again.notes, lost)


def _converted(layout: Layout) -> Converted:
    """Where the converter makes several volumes of it, or none, or goes wrong by the numbers of the slices, it is given slices of plain
    headers, numbered by their places."""
    try:
        return convert_layout(layout)
    except ConversionError as error:
        if error.reason != "converter_failed" and (error.reason != "geometry_mismatch" or _in_turn(layout)):
            raise
        with plainly(layout.slices) as files:
            if len(files) < len(layout.slices):
                raise DamagedError(tuple(files)) from error
            try:
                return convert_layout(replace(layout, slices=tuple(files.values())))
            except DamagedError as damaged:
                raise DamagedError(tuple(piece for piece in files if files[piece] in damaged.whole)) from damaged


def _in_turn(layout: Layout) -> bool:
    """The instance numbers rise, or fall, from slice to slice: none lacks or comes twice."""
    steps = np.diff([piece.instance for piece in layout.slices])
    return bool((steps > 0).all() or (steps < 0).all())


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
