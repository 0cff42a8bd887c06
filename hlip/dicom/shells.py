"""Diffusion series: every b-value and direction is a volume, and those that lie at one place are stacked.

Notable choices:
- Of one b-value the volumes of the commonest extent are taken, the longer one of two as common. b-values of different extents are cut to the
  slices that all have; one with less than three quarters of the longest is incomplete, and passed over.
- b-values that lie apart become scans of their own: nothing can be computed of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hlip.dicom.alignment import common_slices, on_one_grid
from hlip.dicom.geometry import Layout, lay_out_whole
from hlip.dicom.part import Part
from hlip.dicom.sequence import guess
from hlip.dicom.stacks import grouped, time_points
from hlip.dicom.tags import Slice
from hlip.scans.diffusion import LOW_B
from hlip.scans.scan import MIN_SLICES

_ENOUGH = 0.75  # of the slices of the longest volume
Shell = tuple[float, list[Layout]]


def plan_diffusion(part: Part, slices: Sequence[Slice]) -> list[Part]:
    """The part with its volumes; several where its b-values lie apart. `slices`: its own and the damaged ones."""
    shells, passed = _shells(slices)
    if not shells:
        return [replace(part, reason="damaged" if part.damaged else "missing_slices")]
    longest = max(layouts[0].count for _, layouts in shells)
    whole = [shell for shell in shells if shell[1][0].count >= _ENOUGH * longest]
    passed += sum(len(layouts) for _, layouts in shells) - sum(len(layouts) for _, layouts in whole)
    stacks = _at_one_place(whole, longest)
    taken = {b_value for stack in stacks[1:] for b_value, _ in stack}
    parts = []
    for place, stack in enumerate(stacks):
        ours = {b_value for b_value, _ in stack}
        pieces = tuple(
            piece for piece in part.slices if (_b_of(piece) in ours if place else _b_of(piece) not in taken)
        )  # the first has what was passed over
        notes = (f"{passed} incomplete volumes passed over",) if passed and not place else ()
        apart = ("its b-values lie at different places: no ADC of them",) if len(stacks) > 1 else ()
        made = _stacked(replace(part, slices=pieces, notes=(*part.notes, *notes, *apart)), stack)
        parts.append(made if not place else replace(made, damaged=0, duplicates=0))
    return parts


def with_pairs_told(parts: Sequence[Part]) -> list[Part]:
    """A note where b0 and diffusion images of one place are in two series, and there is no ADC."""
    kept = [part for part in parts if not part.reason and part.layouts]
    if any(part.guess.sequence == "ADC" for part in kept):
        return list(parts)
    low = [part for part in kept if part.guess.sequence == "DWI b0"]
    told = []
    for part in parts:
        alone = not part.reason and part.guess.sequence == "DWI" and all(b_value >= LOW_B for b_value, _ in part.layouts)
        pair = next((other for other in low if alone and part.layouts and _paired(other, part)), None)
        note = f"its b0 is in {pair.name}: no ADC is computed over two series" if pair else ""
        told.append(replace(part, notes=(*part.notes, note)) if note else part)
    return told


def _paired(low: Part, high: Part) -> bool:
    return low.stack.frame == high.stack.frame and on_one_grid(low.layouts[0][1], high.layouts[0][1])


def _b_of(piece: Slice) -> float:
    return piece.stack.b_value or 0.0


def _shells(slices: Sequence[Slice]) -> tuple[list[Shell], int]:
    """The volumes of each b-value, and how many were passed over."""
    shells: list[Shell] = []
    passed = 0
    for b_value, found in sorted(grouped(slices, _b_of).items()):
        points = time_points(found)[0]
        layouts = [_layout(point) for point in points]
        alike = _alike([layout for layout in layouts if isinstance(layout, Layout)])
        passed += len(points) - len(alike)
        if alike:
            shells.append((b_value, alike))
    return shells, passed


def _layout(point: Sequence[Slice]) -> Layout | str:
    return lay_out_whole(point, [piece for piece in point if piece.whole]) if len(point) >= MIN_SLICES else "too_few_slices"


def _alike(layouts: Sequence[Layout]) -> list[Layout]:
    """The most volumes of one place and extent, the longer ones of two as common."""
    groups: list[list[Layout]] = []
    for layout in layouts:
        home = next((group for group in groups if _same(group[0], layout)), None)
        if home is None:
            groups.append(home := [])
        home.append(layout)
    return max(groups, key=lambda group: (len(group), group[0].count), default=[])


def _same(one: Layout, other: Layout) -> bool:
    if not on_one_grid(one, other):
        return False
    common = common_slices([one, other])
    return bool(common) and one.count == other.count == common[0].count


def _at_one_place(shells: Sequence[Shell], longest: int) -> list[list[Shell]]:
    """b-values that share enough slices together, the longest first; in each by b-value."""
    stacks: list[list[Shell]] = []
    for shell in sorted(shells, key=lambda shell: -shell[1][0].count):
        home = next((stack for stack in stacks if _fits(stack, shell, longest)), None)
        if home is None:
            stacks.append(home := [])
        home.append(shell)
    return [sorted(stack, key=lambda shell: shell[0]) for stack in stacks]


def _fits(stack: Sequence[Shell], shell: Shell, longest: int) -> bool:
    layouts = [layouts[0] for _, layouts in (*stack, shell)]
    if not on_one_grid(layouts[0], layouts[-1]):
        return False
    common = common_slices(layouts)
    return bool(common) and common[0].count >= max(MIN_SLICES, _ENOUGH * longest)


def _stacked(part: Part, stack: Sequence[Shell]) -> Part:
    volumes = [(b_value, layout) for b_value, layouts in stack for layout in layouts]
    cut = common_slices([layout for _, layout in volumes])
    longest = max(layout.count for _, layout in volumes)
    notes = (f"cut to the {cut[0].count} slices that all volumes have",) if cut[0].count < longest else ()
    strongest = max((layout.slices[0] for layout in cut), key=_b_of).stack
    layouts = tuple((b_value, layout) for (b_value, _), layout in zip(volumes, cut, strict=True))
    filled = dict.fromkeys(note for layout in cut for note in layout.notes)
    return replace(part, layouts=layouts, diffusion=True, guess=guess(strongest), notes=(*part.notes, *filled, *notes))
