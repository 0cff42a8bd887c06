"""The slices of a study -> parts: each one scan, one diffusion series, or left out with the reason.

A series may hold several stacks: orientations, echoes, sizes, magnitude and phase, time points. Each becomes a part of its own. Frames of
an enhanced object are slices like any others.

Notable choices:
- Copies of an image (one SOPInstanceUID) count once, damaged files not at all; what then lacks is filled in or named by
  `hlip.dicom.geometry`. Of more than a tenth, wherever they lay, the volume is refused as damaged.
- Several patients in a study are told by its images; an object that is none, or a file without PatientID, says nothing.
- Several images at one place are time points. Two to four become scans of their own; more are perfusion or function, and left out.
- Of what may be the rest of a series only numbers tell: where they begin late, or an acquisition was of more images, a note says so.
- A series that a manifest names is wanted, whatever its words say (a MIP, a localizer): where an import would take nothing of it for such a
  reason, what it holds is taken all the same.
- Of one acquisition the soft kernel is kept, a sharp one (bone, lung) only where no other covers its range: windows make the bone visible,
  and noise is not anatomy. Reformats are kept only where the study has nothing else of that sequence, opposed-phase images only where it
  has nothing else of that acquisition: the same place, size, timing and contrast.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from hlip.dicom.alignment import covered
from hlip.dicom.geometry import lay_out_whole
from hlip.dicom.kinds import IMAGES, UNWANTED, is_adc, is_opposed, is_reformat, is_sharp, reason_against
from hlip.dicom.part import Part
from hlip.dicom.sequence import Guess, guess
from hlip.dicom.shells import plan_diffusion, with_pairs_told
from hlip.dicom.stacks import grouped, parted_by_thickness, planes, stacks_of, time_points, told_apart, with_b0
from hlip.dicom.tags import Slice
from hlip.scans.diffusion import LOW_B
from hlip.scans.scan import MAX_VOXELS, MIN_SLICES
from hlip.scans.sequence import guess_sequence

TIME_POINTS = 4
"""Of one series that are kept, each as a scan."""
_FEW = 6  # slices; several orientations of fewer each are a localizer
_MOST_VOXELS = 4 * MAX_VOXELS  # of all volumes of a part
_COVERED = 0.8  # of a stack's range by another: one acquisition
_ALIKE = "one of {} images at each place that no header tells apart: perhaps sent twice"
_OPPOSED_ALONE = "opposed-phase images, no others of this acquisition at hand"


def plan_study(slices: Sequence[Slice]) -> list[Part]:
    """The parts of a study, series by series in order of their number."""
    by_series = grouped(slices, lambda piece: piece.stack.series_uid)
    order = sorted(by_series.values(), key=lambda found: (found[0].stack.series_number or 0, found[0].stack.series_uid))
    several = len({piece.stack.patient_id for piece in slices if piece.stack.sop_class in IMAGES} - {""}) > 1
    parts: list[Part] = []
    for number, found in enumerate(order, 1):
        made = _plan_series(found)
        for place, part in enumerate(made, 1):
            name = f"{number:03d}" + (f"-{place}" if len(made) > 1 else "")
            parts.append(replace(part, name=name, reason="several_patients" if several else part.reason))
    return with_pairs_told(_best(parts))


def plan_named(slices: Sequence[Slice]) -> list[Part]:
    """The parts of one series of which a user says that it is a scan; those of an import, where that takes any."""
    parts = plan_study(slices)
    if any(not part.reason for part in parts):
        return parts
    return [found for part in parts for found in (_anyway(part) if part.reason in UNWANTED and part.stack.grey else [part])]


def _anyway(part: Part) -> list[Part]:
    """Parts of what is not wanted, called by their words alone: the tags of a MIP are those of what it was made of."""
    stack = part.stack
    name = guess_sequence(stack.description or stack.protocol) or ("CT" if stack.modality == "CT" else "")
    called = Guess(name, 0.0, "named in a manifest")
    return [replace(found, guess=called) for found in _plan_group(part.slices, "", named=True)]


def _plan_series(slices: Sequence[Slice]) -> list[Part]:
    unique = with_b0(_unique(slices))
    duplicates = len({piece.file for piece in slices} - {piece.file for piece in unique})
    plane = planes(unique)
    parted = [parted_by_thickness(found) for found in stacks_of(unique, plane)]
    groups, lost = _with_whole([found for stacks in parted for found in stacks])
    usable = [found for found in groups if not reason_against(found[0].stack)]
    several = len({plane[found[0].stack.orientation] for found in usable}) > 1
    localizer = several and all(len(found) < _FEW for found in usable)
    parts = [part for found in groups for part in _plan_group(found, "localizer" if localizer else "")]
    notes = (*parts[0].notes, f"{lost} damaged files of another kind") if lost else parts[0].notes
    parts[0] = replace(parts[0], duplicates=duplicates + parts[0].duplicates, damaged=lost + parts[0].damaged, notes=notes)
    told = (*_on_thickness(parted), *_on_numbers(unique))
    return [
        replace(part, notes=(*part.notes, *told)) if not reason_against(part.stack) or is_opposed(part.stack) else part
        for part in parts
    ]


def _on_thickness(parted: Sequence[Sequence[Sequence[Slice]]]) -> list[str]:
    """That stacks of one series were parted by it."""
    mixed = sorted({found[0].stack.thickness or 0.0 for stacks in parted if len(stacks) > 1 for found in stacks})
    return [f"its series mixes slices of {' and '.join(f'{size:g}' for size in mixed)} mm: parted"] if mixed else []


def _on_numbers(slices: Sequence[Slice]) -> list[str]:
    """What the numbers of a series' images tell of others that are not here. Frames are numbered by ourselves."""
    numbers = [piece.instance for piece in slices if not piece.frame]
    if not numbers:
        return []
    stated = max((piece.acquired or 0 for piece in slices), default=0)
    notes = [f"instance numbers begin at {min(numbers)}"] if min(numbers) > 1 else []
    return notes + ([f"{len(numbers)} of the {stated} images of its acquisition"] if len(numbers) < stated else [])


def _with_whole(groups: list[list[Slice]]) -> tuple[list[list[Slice]], int]:
    """The groups that have a whole slice, and the files of the others: a damaged header may say anything. All as one where none has."""
    kept = [found for found in groups if any(piece.whole for piece in found) or reason_against(found[0].stack)]
    if not kept:
        return [[piece for found in groups for piece in found]], 0
    files = {piece.file for found in kept for piece in found}
    return kept, len({piece.file for found in groups for piece in found} - files)


def _unique(slices: Sequence[Slice]) -> list[Slice]:
    """Of copies of an image one, whole if any is."""
    found: dict[Hashable, Slice] = {}
    for piece in slices:
        key = (piece.uid, piece.position, piece.instance) if piece.uid else id(piece)
        if key not in found or piece.whole:
            found[key] = piece
    return list(found.values())


def _plan_group(slices: Sequence[Slice], reason: str, named: bool = False) -> list[Part]:
    """Parts of slices of one kind, one orientation and one size; damaged ones are counted alone. `named`: see `plan_named`."""
    first = slices[0].stack
    part = Part("", first, tuple(slices), guess(first))
    if is_opposed(first) and not reason and not named:  # laid out, as it may be all there is: see _best
        return [replace(found, reason=found.reason or "dixon_part") for found in _plan_group(slices, "", named=True)]
    if (found := reason_against(first) or reason) and not named:
        return [replace(part, reason=found)]
    part = _without_damaged(part, slices)
    slices = [piece for piece in slices if piece.whole or piece.position is not None]
    if not part.slices:
        return [replace(part, reason="damaged")]
    if first.rows * first.columns * sum(piece.frames for piece in slices) > _MOST_VOXELS:
        return [replace(part, reason="too_large")]
    if "MOSAIC" in first.image_type and not first.enhanced:
        return [part]
    if not first.orientation or min(first.spacing) <= 0 or any(piece.position is None for piece in slices):
        return [replace(part, reason="no_geometry")]
    if len(part.slices) < MIN_SLICES:
        return [replace(part, reason="damaged" if part.damaged else "too_few_slices")]
    if any((piece.stack.b_value or 0) >= LOW_B for piece in slices) and not is_adc(first):
        return plan_diffusion(part, slices)
    points, extra = time_points(slices)
    if len(points) > TIME_POINTS:
        return [replace(part, reason="time_series", notes=(*part.notes, f"{len(points)} images at each place"))]
    made = [_laid_out(_without_damaged(part, point), point) for point in points]
    if len(points) > 1 and not told_apart(points):
        made = [replace(found, notes=(*found.notes, _ALIKE.format(len(points)))) for found in made]
    made[0] = replace(
        made[0],
        duplicates=sum(piece.whole for piece in extra),
        damaged=made[0].damaged + sum(not piece.whole for piece in extra),
    )
    return made


def _without_damaged(part: Part, slices: Sequence[Slice]) -> Part:
    """The part of those slices that are whole. Of many frames one file is damaged."""
    damaged = len({piece.file for piece in slices if not piece.whole})
    notes = (f"{damaged} of {len({piece.file for piece in slices})} files damaged",) if damaged else ()
    return replace(part, slices=tuple(piece for piece in slices if piece.whole), damaged=damaged, notes=notes)


def _laid_out(part: Part, slices: Sequence[Slice]) -> Part:
    """`slices`: the part's own and the damaged ones."""
    if len(slices) < MIN_SLICES:
        return replace(part, reason="too_few_slices")
    layout = lay_out_whole(slices, part.slices)
    if isinstance(layout, str):
        return replace(part, reason=layout)
    return replace(part, layouts=((part.stack.b_value or 0.0, layout),), notes=(*layout.notes, *part.notes))


def _best(parts: list[Part]) -> list[Part]:
    """Reformats and sharp kernels left out where the study has the original or the soft one; opposed-phase images that are all there is of
    their acquisition taken."""
    parts = [_alone(part, parts) if part.reason == "dixon_part" and part.layouts else part for part in parts]
    kept = [part for part in parts if not part.reason]
    originals = {part.guess.sequence for part in kept if not is_reformat(part.stack)}
    chosen = [
        replace(part, reason="reformat")
        if not part.reason and is_reformat(part.stack) and part.guess.sequence in originals
        else part
        for part in parts
    ]
    soft = [part for part in chosen if not part.reason and part.stack.modality == "CT" and not is_sharp(part.stack)]
    return [
        replace(part, reason="sharp_kernel")
        if not part.reason
        and part.stack.modality == "CT"
        and is_sharp(part.stack)
        and any(_one_acquisition(part, other) for other in soft)
        else part
        for part in chosen
    ]


def _one_acquisition(part: Part, other: Part) -> bool:
    """Whether the other stack shows what this one does."""
    if part.stack.frame != other.stack.frame or not (part.layouts and other.layouts):
        return False
    return covered(part.layouts[0][1], other.layouts[0][1]) >= _COVERED


def _alone(opposed: Part, parts: Sequence[Part]) -> Part:
    """Taken, unless the study has other images of its acquisition."""

    def taking(part: Part) -> Hashable:
        return part.stack.rows, part.stack.columns, part.stack.repetition_time, part.stack.contrast

    if any(not part.reason and taking(part) == taking(opposed) and _one_acquisition(opposed, part) for part in parts):
        return opposed
    return replace(opposed, reason="", notes=(*opposed.notes, _OPPOSED_ALONE))
