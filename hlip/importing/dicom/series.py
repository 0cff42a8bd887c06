"""The slices of a study -> parts: each one scan, one diffusion series, or left out with the reason.

A series may hold several stacks: orientations, echoes, sizes, magnitude and phase, time points. Each becomes a part of its own. Frames of
an enhanced object are slices like any others.

Notable choices:
- Copies of an image (one SOPInstanceUID) count once, damaged files not at all; what then lacks is filled in or named by
  `hlip.importing.dicom.geometry`.
- Several images at one place are time points. Two to four become scans of their own; more are perfusion or function, and left out.
- Of one acquisition the soft kernel is kept, a sharp one (bone, lung) only where there is no other: windows make the bone visible, and
  noise is not anatomy. Reformats are kept only where the study has nothing else of that sequence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hlip.importing.dicom.geometry import Layout, lay_out, place_of
from hlip.importing.dicom.kinds import is_adc, is_reformat, is_sharp, reason_against
from hlip.importing.dicom.sequence import Guess, guess
from hlip.importing.dicom.tags import Slice, Stack
from hlip.importing.diffusion import LOW_B
from hlip.scans.scan import MAX_VOXELS, MIN_SLICES

TIME_POINTS = 4
"""Of one series that are kept, each as a scan."""
_FEW = 6  # slices; several orientations of fewer each are a localizer
_MOST_VOXELS = 4 * MAX_VOXELS  # of all volumes of a part
_TURNED = 0.02  # of a unit vector; slices turned by less share a plane
_DIXON = {"W", "WATER", "IP", "IN", "IN_PHASE", "OUT", "F", "FAT"}
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One scan to be, or what is left out."""

    name: str
    """Number of its series in the study, and of the part in the series: 003, 003-2."""
    stack: Stack
    slices: tuple[Slice, ...]
    guess: Guess
    reason: str = ""
    """Why it is left out; empty where it is kept."""
    layouts: tuple[tuple[float, Layout], ...] = ()
    """b-value and slices of each volume: one, or those of a diffusion series. Empty where the converter has to find the volumes:
    mosaics."""
    diffusion: bool = False
    damaged: int = 0
    duplicates: int = 0
    notes: tuple[str, ...] = field(default=())


def plan_study(slices: Sequence[Slice]) -> list[Part]:
    """The parts of a study, series by series in order of their number."""
    by_series = _grouped(slices, lambda piece: piece.stack.series_uid)
    order = sorted(by_series.values(), key=lambda found: (found[0].stack.series_number or 0, found[0].stack.series_uid))
    several = len({piece.stack.patient_id for piece in slices}) > 1
    parts: list[Part] = []
    for number, found in enumerate(order, 1):
        made = _plan_series(found)
        for place, part in enumerate(made, 1):
            name = f"{number:03d}" + (f"-{place}" if len(made) > 1 else "")
            parts.append(replace(part, name=name, reason="several_patients" if several else part.reason))
    return _best(parts)


def _plan_series(slices: Sequence[Slice]) -> list[Part]:
    unique = _unique(slices)
    whole = [piece for piece in unique if piece.whole or reason_against(piece.stack)]
    files, once, good = ({piece.file for piece in found} for found in (slices, unique, whole))  # of many frames one file
    duplicates, damaged = len(files - once), len(once - good)
    if not whole:
        return [Part("", unique[0].stack, (), guess(unique[0].stack), "damaged", duplicates=duplicates, damaged=damaged)]
    plane = _planes(whole)
    groups = list(_grouped(whole, lambda piece: (_kind_of(piece.stack), plane[piece.stack.orientation])).values())
    usable = [found for found in groups if not reason_against(found[0].stack)]
    several = len({plane[found[0].stack.orientation] for found in usable}) > 1
    localizer = several and all(len(found) < _FEW for found in usable)
    parts = [part for found in groups for part in _plan_group(found, "localizer" if localizer else "")]
    parts[0] = replace(parts[0], damaged=damaged, duplicates=duplicates + parts[0].duplicates)
    if damaged:
        parts[0] = replace(parts[0], notes=(*parts[0].notes, f"{damaged} damaged files"))
    return parts


def _unique(slices: Sequence[Slice]) -> list[Slice]:
    """Of copies of an image one, whole if any is."""
    found: dict[Hashable, Slice] = {}
    for piece in slices:
        key = (piece.uid, piece.position, piece.instance) if piece.uid else id(piece)
        if key not in found or piece.whole:
            found[key] = piece
    return list(found.values())


def _planes(slices: Sequence[Slice]) -> dict[tuple[float, ...], int]:
    """A number for each orientation; those that differ by rounding share one."""
    numbers: dict[tuple[float, ...], int] = {}
    known: list[tuple[float, ...]] = []
    for orientation in dict.fromkeys(piece.stack.orientation for piece in slices):
        near = (
            place
            for place, other in enumerate(known)
            if len(other) == len(orientation) and all(abs(a - b) <= _TURNED for a, b in zip(orientation, other, strict=True))
        )
        numbers[orientation] = next(near, len(known))
        if numbers[orientation] == len(known):
            known.append(orientation)
    return numbers


def _kind_of(stack: Stack) -> Hashable:
    """What tells stacks of one plane apart; the b-value does not."""
    return (
        stack.sop_class, reason_against(stack), is_adc(stack), "TRACEW" in stack.image_type, stack.rows, stack.columns,
        stack.spacing, stack.kernel, stack.inverted, stack.stack_id, None if stack.b_value else stack.inversion_time,
        None if stack.b_value is not None else stack.echo_time, *sorted(set(stack.image_type) & _DIXON),
    )  # fmt: skip


def _plan_group(slices: Sequence[Slice], reason: str) -> list[Part]:
    """Parts of slices of one kind, one orientation and one size."""
    first = slices[0].stack
    part = Part("", first, tuple(slices), guess(first))
    if found := reason_against(first) or reason:
        return [replace(part, reason=found)]
    if first.rows * first.columns * sum(piece.frames for piece in slices) > _MOST_VOXELS:
        return [replace(part, reason="too_large")]
    if "MOSAIC" in first.image_type and not first.enhanced:
        return [part]
    if not first.orientation or min(first.spacing) <= 0 or any(piece.position is None for piece in slices):
        return [replace(part, reason="no_geometry")]
    if len(slices) < MIN_SLICES:
        return [replace(part, reason="too_few_slices")]
    if any((piece.stack.b_value or 0) >= LOW_B for piece in slices) and not is_adc(first):
        return [_plan_diffusion(part)]
    points, extra = _time_points(slices)
    if len(points) > TIME_POINTS:
        return [replace(part, reason="time_series", notes=(f"{len(points)} images at each place",))]
    made = [_laid_out(replace(part, slices=tuple(point))) for point in points]
    made[0] = replace(made[0], duplicates=extra)
    return made


def _laid_out(part: Part) -> Part:
    if len(part.slices) < MIN_SLICES:
        return replace(part, reason="too_few_slices")
    layout = lay_out(part.slices)
    if isinstance(layout, str):
        return replace(part, reason=layout)
    return replace(part, layouts=((part.stack.b_value or 0.0, layout),), notes=layout.notes)


def _plan_diffusion(part: Part) -> Part:
    """Every b-value and direction is a volume; those that are not whole are passed over."""
    shells = _grouped(part.slices, lambda piece: piece.stack.b_value or 0.0)
    volumes = []
    passed = 0
    for b_value, slices in sorted(shells.items()):
        for point in _time_points(slices)[0]:
            layout = lay_out(point) if len(point) >= MIN_SLICES else ""
            if isinstance(layout, Layout):
                volumes.append((b_value, layout))
            else:
                passed += 1
    if not volumes:
        return replace(part, reason="missing_slices")
    size = Counter(layout.count for _, layout in volumes).most_common(1)[0][0]
    alike = [(b_value, layout) for b_value, layout in volumes if layout.count == size]
    passed += len(volumes) - len(alike)
    notes = (f"{passed} incomplete volumes passed over",) if passed else ()
    strongest = max(part.slices, key=lambda piece: piece.stack.b_value or 0.0).stack
    return replace(part, layouts=tuple(alike), diffusion=True, guess=guess(strongest), notes=notes)


def _time_points(slices: Sequence[Slice]) -> tuple[list[list[Slice]], int]:
    """Slices such that each place comes once, point by point, and how many were passed over as repeats of single slices."""
    by_place = _grouped(slices, lambda piece: round(place_of(piece), 2))
    most = max(map(len, by_place.values()))
    if most == 1:
        return [list(slices)], 0
    for key in (_temporal, _acquisition, _trigger):
        groups = list(_grouped(slices, key).values())
        if 1 < len(groups) <= most and all(_once(group) and len(group) >= MIN_SLICES for group in groups):
            return groups, 0
    ranks: defaultdict[int, list[Slice]] = defaultdict(list)
    for found in by_place.values():
        for rank, piece in enumerate(sorted(found, key=lambda piece: piece.instance)):
            ranks[rank].append(piece)
    points = [found for found in ranks.values() if len(found) > len(by_place) / 2]
    return points, len(slices) - sum(map(len, points))


def _temporal(piece: Slice) -> float | None:
    return piece.temporal


def _acquisition(piece: Slice) -> float | None:
    return piece.acquisition


def _trigger(piece: Slice) -> float | None:
    return piece.trigger


def _once(slices: Sequence[Slice]) -> bool:
    return len({round(place_of(piece), 2) for piece in slices}) == len(slices)


def _best(parts: list[Part]) -> list[Part]:
    """Reformats and sharp kernels left out where the study has the original or the soft one."""
    kept = [part for part in parts if not part.reason]
    originals = {part.guess.sequence for part in kept if not is_reformat(part.stack)}
    chosen = [
        replace(part, reason="reformat")
        if not part.reason and is_reformat(part.stack) and part.guess.sequence in originals
        else part
        for part in parts
    ]
    soft = {part.stack.frame for part in chosen if not part.reason and part.stack.modality == "CT" and not is_sharp(part.stack)}
    return [
        replace(part, reason="sharp_kernel")
        if not part.reason and part.stack.modality == "CT" and is_sharp(part.stack) and part.stack.frame in soft
        else part
        for part in chosen
    ]


def _grouped(items: Sequence[T], key: Callable[[T], Hashable]) -> dict:
    groups: defaultdict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)
