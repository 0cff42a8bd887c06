"""The frames of an enhanced multi-frame object, as slices like any others.

Notable choices:
- Frames are sorted by what their functional groups say (place, direction, b-value, echo, kind, stack, time), by the same rules as files. How
  a converter sorts them depends on the vendor, and two b-values of one object were seen to come out as one volume of alternating slices.
- Frames without a b-value among others with one are b0.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset

from hlip.dicom.bvalues import b_value_of
from hlip.dicom.tags import Slice, Stack
from hlip.dicom.values import first_of, numbers_of, one_of, rounded, texts_of
from hlip.scans.diffusion import LOW_B
from hlip.scans.scan import MIN_SLICES

FRAMES = 1_000_000
"""Of one file at most: frames of several files keep their order by it."""
_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence")


def frames_of(whole: Slice, data: Dataset) -> list[Slice]:
    """One slice a frame. `whole`: the object as one slice; `data`: its header. Of an object with more or
    fewer groups than frames none has a position."""
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    stated = list(data.get("PerFrameFunctionalGroupsSequence") or ())
    if len(stated) != whole.frames:  # nothing tells which are missing
        stated = [Dataset()] * whole.frames
    ids = [str(_content(frame, "StackID") or "") for frame in stated]
    if min(Counter(ids).values()) < MIN_SLICES:  # a name for each slice is no name of a stack
        ids = [""] * len(ids)
    stacks: dict[Stack, Stack] = {}
    pieces = []
    for number, (frame, stack_id) in enumerate(zip(stated, ids, strict=True), 1):
        groups = [frame, shared]
        stack = replace(_stack(whole.stack, data, groups), stack_id=stack_id)
        stack = stacks.setdefault(stack, stack)
        position = numbers_of(first_of(groups, "PlanePositionSequence", "ImagePositionPatient"))
        if whole.frames == 1 and not position:
            position = whole.position or ()
        pieces.append(
            replace(
                whole,
                stack=stack,
                uid=f"{whole.uid}#{number}" if whole.uid else "",
                position=position if len(position) == 3 else None,
                instance=whole.instance * FRAMES + number,
                temporal=either(one_of(_content(frame, "TemporalPositionIndex")), whole.temporal),
                acquisition=either(one_of(_content(frame, "FrameAcquisitionNumber")), whole.acquisition),
                frames=1,
                b_values=() if stack.b_value is None else (stack.b_value,),
                frame=number,
            )
        )
    return _with_b0(pieces)


def _stack(common: Stack, data: Dataset, groups: list[Dataset]) -> Stack:
    """What the object shares, with what these groups say otherwise."""
    echo = one_of(first_of(groups, "MREchoSequence", "EffectiveEchoTime"))
    repetition = one_of(first_of(groups, "MRTimingAndRelatedParametersSequence", "RepetitionTime"))
    flip = one_of(first_of(groups, "MRTimingAndRelatedParametersSequence", "FlipAngle"))
    inversion = one_of(first_of(groups, "MRModifierSequence", "InversionTimes"))
    spacing = numbers_of(first_of(groups, "PixelMeasuresSequence", "PixelSpacing"))
    orientation = numbers_of(first_of(groups, "PlaneOrientationSequence", "ImageOrientationPatient"))
    thickness = one_of(first_of(groups, "PixelMeasuresSequence", "SliceThickness"))
    return replace(
        common,
        image_type=_types(groups) or common.image_type,
        echo_time=either(rounded(echo, 1), common.echo_time),
        repetition_time=either(rounded(repetition, 0), common.repetition_time),
        flip_angle=either(rounded(flip, 0), common.flip_angle),
        inversion_time=either(rounded(inversion, 0), common.inversion_time),
        b_value=_b_value(groups, common, data),
        spacing=(round(spacing[0], 6), round(spacing[1], 6)) if len(spacing) == 2 else common.spacing,
        orientation=tuple(round(way, 6) + 0.0 for way in orientation) if len(orientation) == 6 else common.orientation,
        thickness=either(rounded(thickness, 2), common.thickness),
    )


def _b_value(groups: list[Dataset], common: Stack, data: Dataset) -> float | None:
    found = one_of(first_of(groups, "MRDiffusionSequence", "DiffusionBValue"))
    if found is None:
        found = next((b for group in groups if (b := b_value_of(group, common.vendor)) is not None), None)
    if found is None and first_of(groups, "MRDiffusionSequence", "DiffusionDirectionality") == "NONE":
        return 0.0
    return found if found is not None else b_value_of(data, common.vendor)


def _with_b0(pieces: list[Slice]) -> list[Slice]:
    if not any((piece.stack.b_value or 0) >= LOW_B for piece in pieces):
        return pieces
    return [
        piece
        if piece.stack.b_value is not None or "ADC" in piece.stack.image_type
        else replace(piece, stack=replace(piece.stack, b_value=0.0), b_values=(0.0,))
        for piece in pieces
    ]


def _types(groups: list[Dataset]) -> tuple[str, ...]:
    """FrameType, and whether the frame is a phase, real or imaginary one: an object may hold them all."""
    for macro in _TYPES:
        for group in groups:
            if items := group.get(macro):
                component = str(items[0].get("ComplexImageComponent") or "").upper()
                words = tuple(word.upper() for word in texts_of(items[0], "FrameType"))
                return (*words, *([component] if component in ("PHASE", "REAL", "IMAGINARY") else [])) if words else ()
    return ()


def _content(frame: Dataset, name: str) -> Any:
    return first_of([frame], "FrameContentSequence", name)


def either(found: float | None, other: float | None) -> float | None:
    return other if found is None else found
