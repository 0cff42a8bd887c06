"""The slices of one series -> its stacks: slices of one kind, plane and size, and of those the time points.

Notable choices:
- What differs by rounding is one: directions within 0.02, spacings within a thousandth, times within a step of our own rounding. Times within
  2 % are one where no place has both, as the echoes of a real multi-echo series have.
- Slices that only lack a b-value among others that have one are the b0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TypeVar

from hlip.dicom.geometry import Layout, lay_out, place_of
from hlip.dicom.kinds import is_adc, reason_against
from hlip.dicom.tags import Slice, Stack
from hlip.scans.diffusion import LOW_B
from hlip.scans.scan import MIN_SLICES

_TURNED = 0.02  # of a unit vector; slices turned by less share a plane
_SPACING = 1e-3  # of itself
_TIME = 0.02  # of itself
_THICKNESS = 0.1  # of itself
_ECHO_STEP, _INVERSION_STEP = 0.11, 1.1  # ms; to these headers are rounded
_DIXON = {"W", "WATER", "IP", "IN", "IN_PHASE", "OUT", "OP", "OPP_PHASE", "OUT_PHASE", "F", "FAT", "FAT_FRACTION"}
T = TypeVar("T")


def grouped(items: Sequence[T], key: Callable[[T], Hashable]) -> dict:
    groups: defaultdict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def stacks_of(slices: Sequence[Slice], plane: dict[tuple[float, ...], int]) -> list[list[Slice]]:
    """Slices of one kind, one orientation and one size. `plane`: see `planes`."""
    spacing = _numbered(slices, lambda stack: stack.spacing, _same_spacing)
    echo = _levels(slices, lambda stack: stack.echo_time, _ECHO_STEP)
    inversion = _levels(slices, lambda stack: stack.inversion_time, _INVERSION_STEP)
    diffusion = any((piece.stack.b_value or 0) >= LOW_B for piece in slices)

    def kind(piece: Slice) -> Hashable:
        """What tells stacks apart; the b-value does not, nor do the times of volumes that one tells apart."""
        stack = piece.stack
        timeless = diffusion and stack.b_value is not None
        return (
            plane[stack.orientation], stack.sop_class, reason_against(stack), is_adc(stack), "TRACEW" in stack.image_type, stack.rows,
            stack.columns, spacing[stack.spacing], stack.kernel, stack.inverted, stack.stack_id,
            None if timeless else inversion[stack.inversion_time], None if timeless else echo[stack.echo_time],
            *sorted(set(stack.image_type) & _DIXON),
        )  # fmt: skip

    return list(grouped(slices, kind).values())


def planes(slices: Sequence[Slice]) -> dict[tuple[float, ...], int]:
    """A number for each orientation; those that differ by rounding share one."""
    return _numbered(slices, lambda stack: stack.orientation, _same_way)


def with_b0(slices: Sequence[Slice]) -> list[Slice]:
    """Slices of a series without a b-value among others with one are its b0, unless it has another b0."""
    if all(piece.stack.b_value is None for piece in slices) or all(piece.stack.b_value is not None for piece in slices):
        return list(slices)
    images = [piece for piece in slices if _weighted(piece.stack)]
    stated = {piece.stack.b_value for piece in images if piece.stack.b_value is not None}
    if not any(b_value >= LOW_B for b_value in stated) or any(b_value < LOW_B for b_value in stated):
        return list(slices)
    size = {(piece.stack.rows, piece.stack.columns) for piece in images if piece.stack.b_value is not None}
    return [
        replace(piece, stack=replace(piece.stack, b_value=0.0), b_values=(0.0,))
        if piece.stack.b_value is None and _weighted(piece.stack) and (piece.stack.rows, piece.stack.columns) in size
        else piece
        for piece in slices
    ]


def _weighted(stack: Stack) -> bool:
    return not (is_adc(stack) or reason_against(stack) or "TRACEW" in stack.image_type)


def parted_by_thickness(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one kind by their thickness where they are no volume together, each thickness is one, and the ranges of all overlap by half
    at least: thin and thick slices of one range under one series. Ranges that follow each other are one scan."""
    same = _numbered(slices, lambda stack: stack.thickness, _same_thickness)
    groups = list(grouped(slices, lambda piece: same[piece.stack.thickness]).values())
    if len(groups) < 2 or _is_volume(slices) or not all(map(_is_volume, groups)):
        return [list(slices)]
    ends = [(min(places), max(places)) for places in (list(map(place_of, found)) for found in groups)]
    common = min(last for _, last in ends) - max(first for first, _ in ends)
    return groups if common >= min(last - first for first, last in ends) / 2 else [list(slices)]


def _is_volume(slices: Sequence[Slice]) -> bool:
    placed = all(piece.position is not None and piece.stack.orientation and min(piece.stack.spacing) > 0 for piece in slices)
    return placed and len(slices) >= MIN_SLICES and _once(slices) and isinstance(lay_out(slices), Layout)


def time_points(slices: Sequence[Slice]) -> tuple[list[list[Slice]], list[Slice]]:
    """Slices such that each place comes once, point by point, and those that were passed over as repeats of single slices."""
    by_place = grouped(slices, lambda piece: round(place_of(piece), 2))
    most = max(map(len, by_place.values()))
    if most == 1:
        return [list(slices)], []
    for key in (_temporal, _acquisition, _trigger):
        groups = list(grouped(slices, key).values())
        if 1 < len(groups) <= most and all(_once(group) and len(group) >= MIN_SLICES for group in groups):
            return groups, []
    ranks: defaultdict[int, list[Slice]] = defaultdict(list)
    for found in by_place.values():
        for rank, piece in enumerate(sorted(found, key=lambda piece: (not piece.whole, piece.instance))):
            ranks[rank].append(piece)
    points = [found for found in ranks.values() if len(found) > len(by_place) / 2]
    return points, [piece for found in ranks.values() if len(found) <= len(by_place) / 2 for piece in found]


def told_apart(points: Sequence[Sequence[Slice]]) -> bool:
    """Whether any header that we know differs between the time points, but for the instance numbers."""
    said = {frozenset((piece.stack, piece.temporal, piece.acquisition, piece.trigger) for piece in point) for point in points}
    return len(said) > 1


def _temporal(piece: Slice) -> float | None:
    return piece.temporal


def _acquisition(piece: Slice) -> float | None:
    return piece.acquisition


def _trigger(piece: Slice) -> float | None:
    return piece.trigger


def _once(slices: Sequence[Slice]) -> bool:
    return len({round(place_of(piece), 2) for piece in slices}) == len(slices)


def _numbered(slices: Sequence[Slice], value: Callable[[Stack], T], same: Callable[[T, T], bool]) -> dict[T, int]:
    """A number for each value; it shares that of the first one that is the same."""
    numbers: dict[T, int] = {}
    known: list[T] = []
    for item in dict.fromkeys(value(piece.stack) for piece in slices):
        numbers[item] = next((place for place, other in enumerate(known) if same(item, other)), len(known))
        if numbers[item] == len(known):
            known.append(item)
    return numbers


def _same_way(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= _TURNED for a, b in zip(one, other, strict=True))


def _same_spacing(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(a - b) <= _SPACING * max(a, b) for a, b in zip(one, other, strict=True))


def _same_thickness(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= _THICKNESS * max(one, other)


def _levels(slices: Sequence[Slice], value: Callable[[Stack], float | None], step: float) -> dict[float | None, int]:
    """A number for each time, ms; times that are one share it."""
    places: defaultdict[float, set[Hashable]] = defaultdict(set)
    for piece in slices:
        if (time := value(piece.stack)) is not None:
            places[time].add((piece.stack.orientation, tuple(round(x, 1) for x in piece.position or ())))
    numbers: dict[float | None, int] = {None: -1}
    level, last, taken = -1, -1.0, set[Hashable]()
    for time in sorted(places):
        near = level >= 0 and (time - last <= step or (time - last <= _TIME * time and not taken & places[time]))
        taken = taken | places[time] if near else places[time]
        level, last = level + (not near), time
        numbers[time] = level
    return numbers
