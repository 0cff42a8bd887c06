"""Which scans to look at: flags from the measures of all scans of a store, and their order.

A flag is a reason to look, not a verdict; nothing is left out of training because of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip.quality.duplicates import shared
from hlip.scans.scan import LIKE_CT, MIRRORED, NO_ORIENTATION, SHEARED, TWO_PLACES
from hlip.scans.sequence import guess_sequence


@dataclass(frozen=True)
class Flag:
    """What a flag means, and how much it counts when scans are put in order."""

    weight: float
    meaning: str


FLAGS = {
    "mirrored": Flag(5, "sform and qform are mirrored, or name left and right the other way round"),
    "orientation": Flag(
        4, "the header states no orientation, so that left and right are a guess, or sform and qform state two different places"
    ),
    "wrong-spec": Flag(
        4, "looks like CT, or is called so, but was scaled by percentiles as for MRI: use a CT spec (head_ct, chest_ct)"
    ),
    "empty": Flag(4, "under 2 % of the scan is foreground, or under 2 % of the prepared volume is not black"),
    "clipped": Flag(
        2,
        "over 1 % of the foreground holds the scan's largest value, or, but for CT, over 10 % of the prepared volume is white",
    ),
    "motion-like": Flag(
        2, "ghosting over 5 %: the air beside the head is brighter along one axis of the slices than along the other"
    ),
    "other-part": Flag(3, "its millimetres are those of another part of the body than most scans of this store have"),
    "duplicate-voxels": Flag(3, "another study has a volume that is equal, voxel by voxel"),
    "short": Flag(
        2,
        "along one axis of the body it shows under 60 % of what the median scan of this store shows (told from 8 scans on), or under 60 mm "
        "with 100 to 280 mm along both others, as a head has (not where it looks like a spine): a slab, or slices are missing at an end",
    ),
    "cut": Flag(
        2, "over 5 % of the scan's foreground lies outside of the prepared volume: the spec's size does not hold all of it"
    ),
    "incomplete": Flag(
        3, "the DICOM series lacked slices, or some could not be decoded: filled in from their neighbours, or cut off at an end"
    ),
    "sheared": Flag(2, "the slices lean against their stack by a degree or more: a tilted gantry, or a damaged header"),
    "repeated-scan": Flag(1, "another scan of the same study has a volume that is equal, voxel by voxel"),
    "duplicate-report": Flag(0.5, "another study has the same report, word by word (templates of normal findings do)"),
}
NOTED = {
    "mirrored": (MIRRORED,),
    "orientation": (TWO_PLACES, NO_ORIENTATION),
    "wrong-spec": (LIKE_CT,),
    "sheared": (SHEARED,),
}
"""Flag -> how the notes begin that are its cause; so that studies of earlier runs have it as well."""
CT_NAMES = ("CT", "CT angiography")
IMPORTED = "import: "
"""How notes begin that an import wrote into the manifest."""
INCOMPLETE = ("missing slices filled in", "slices lost at the ends", "files cannot be decoded", "slices may be missing")
EMPTY, SATURATED, WHITE, GHOSTING = 0.02, 0.01, 0.10, 0.05
SHORT, ENOUGH_SCANS = 0.6, 8
SLAB_MM, HEAD_MM = 60.0, (100.0, 280.0)
CUT = 0.05
WORST = 20
_MOST_OF_ONE = 8  # of one flag before the others had their turn: a thousand duplicates must not hide everything else
_FAR = 5.0  # median distances from the median, from which a scan without a flag has its turn, too
_USUAL = ("foreground", "ghosting", "saturated")


def set_flags(rows: Sequence[dict[str, Any]], texts: Mapping[str, str]) -> None:
    """Fill `flags`, `same_voxels` and `same_report` of complete rows, in place.

    Args:
        texts: study id -> its report as it is compared (`same_text`).
    """
    parts = Counter(row["part"] for row in rows if row["status"] == "ok" and row["part"])
    usual = parts.most_common(1)[0][0] if parts else ""
    lengths = _usual_extent(rows)
    voxels = shared((row["study_id"], telling(row)) for row in rows)
    reports = shared((study, [text]) for study, text in texts.items())
    of_hash: dict[str, list[str]] = {}
    for row in rows:
        for key in telling(row):
            of_hash.setdefault(key, []).append(row["study_id"])
    for row in rows:
        study = row["study_id"]
        owners = [owner for key in dict.fromkeys(telling(row)) for owner in of_hash[key]]
        elsewhere = any(owner != study for owner in owners)
        row["same_voxels"] = voxels.get(study, []) if elsewhere else []
        row["same_report"] = reports.get(study, [])
        found = own_flags(row)
        if row["part"] and usual and row["part"] != usual and row["status"] == "ok":
            found.append("other-part")
        elif _is_short(row, lengths) and "short" not in found:
            found.append("short")  # of another part it goes without saying
        if elsewhere:
            found.append("duplicate-voxels")
        if len(owners) - sum(owner != study for owner in owners) > len(set(telling(row))):
            found.append("repeated-scan")
        if row["same_report"]:
            found.append("duplicate-report")
        row["flags"] = found


def _usual_extent(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64] | None:
    """(3,) median extent of what scans show along R, A, S in mm; None of too few scans to speak of usual ones."""
    known = [row["extent_mm"] for row in rows if row["status"] == "ok" and len(row["extent_mm"]) == 3]
    return np.median(np.array(known), axis=0) if len(known) >= ENOUGH_SCANS else None


def _is_short(row: Mapping[str, Any], lengths: NDArray[np.float64] | None) -> bool:
    if lengths is None or row["status"] != "ok" or len(row["extent_mm"]) != 3:
        return False
    return bool((np.array(row["extent_mm"]) < SHORT * lengths).any())


def _is_slab(row: Mapping[str, Any]) -> bool:
    """A head along two axes and not along the third; a sagittal spine is as thin by nature."""
    thin, *others = sorted(row["extent_mm"]) or [0.0]
    low, high = HEAD_MM
    return row["part"] != "spine" and 0 < thin < SLAB_MM and all(low <= extent <= high for extent in others)


def telling(row: Mapping[str, Any]) -> list[str]:
    """Hashes of a row's volumes that are not of one value: all black ones are equal."""
    return [
        key for key, black, white in zip(row["hashes"], row["black"], row["white"], strict=False) if black < 1 and white < 1
    ]


def own_flags(row: Mapping[str, Any]) -> list[str]:
    """The flags that a scan has by itself."""
    if row["status"] != "ok":
        return []
    notes = row["notes"].split("; ")
    found = [name for name, begins in NOTED.items() if any(note.startswith(begins) for note in notes)]
    if any(note.startswith(IMPORTED) and what in note for note in notes for what in INCOMPLETE):
        found.append("incomplete")
    by_percentiles = not any(row["windows"])
    if by_percentiles and "wrong-spec" not in found and guess_sequence(row["sequence"]) in CT_NAMES:
        found.append("wrong-spec")
    black = min(row["black"], default=0.0)
    if (row["foreground"] is not None and row["foreground"] < EMPTY) or black > 1 - EMPTY:
        found.append("empty")
    if (row["saturated"] or 0) > SATURATED or (by_percentiles and max(row["white"], default=0.0) > WHITE):
        found.append("clipped")
    if (row["ghosting"] or 0) > GHOSTING:
        found.append("motion-like")
    if _is_slab(row):
        found.append("short")
    if (row["cut"] or 0) > CUT:
        found.append("cut")
    return found


def worst(rows: Sequence[dict[str, Any]], count: int = WORST) -> list[dict[str, Any]]:
    """The scans to look at first: by weight of their flags, then by how far their measures lie from the others'."""
    ready = [row for row in rows if row["status"] == "ok"]
    far = _unusual(ready)
    score = [sum(FLAGS[name].weight for name in row["flags"]) + 0.1 * value for row, value in zip(ready, far, strict=True)]
    first: list[int] = []
    later: list[int] = []
    rest: list[int] = []
    taken: Counter[str] = Counter()
    for place in sorted(range(len(ready)), key=lambda place: (-score[place], place)):
        main = max(ready[place]["flags"], key=lambda name: FLAGS[name].weight, default="")
        if not main:
            (first if far[place] >= _FAR else rest).append(place)
        else:
            (first if taken[main] < _MOST_OF_ONE else later).append(place)
        taken[main] += 1
    return [ready[place] for place in [*first, *later, *rest][:count]]


def _unusual(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The largest distance of a measure from its median, in median distances, at most 9."""
    far = np.zeros(len(rows))
    for name in _USUAL:
        values = np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)
        if np.isfinite(values).sum() < 3:
            continue
        distance = np.abs(values - np.nanmedian(values))
        far = np.fmax(far, distance / max(float(np.nanmedian(distance)), 1e-3))
    return [float(value) for value in np.minimum(far, 9.0)]
