"""Equal voxels and equal reports in several studies.

Equal voxels are a scan that was exported under two names, or one patient under two: a leak if the two are in different splits. Equal
reports may be honest (a normal finding, dictated from a template), or a report that was joined to the wrong study.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

SHOWN = 5
"""Other studies named of each; a template may be shared by thousands."""


def voxel_hash(volume: NDArray[np.uint8]) -> str:
    """32 hex digits of a prepared volume's bytes, in C order; equal voxels have equal ones."""
    return hashlib.blake2b(np.ascontiguousarray(volume).data, digest_size=16).hexdigest()


def same_text(report: str) -> str:
    """A report as it is compared: words and numbers in small letters. Empty for an empty one."""
    return " ".join(re.findall(r"[^\W_]+", report.lower()))


def shared(owners: Iterable[tuple[str, Sequence[Hashable]]]) -> dict[str, list[str]]:
    """Study id -> the other studies (the first `SHOWN`, in order) that have one of its keys; only studies that have any.

    Args:
        owners: (study id, its keys); an empty key is nobody's.
    """
    holders: Mapping[Hashable, list[str]]
    holders = defaultdict(list)
    keys: dict[str, list[Hashable]] = defaultdict(list)
    for study, own in owners:
        for key in dict.fromkeys(own):
            if key and study not in holders[key][-1:]:
                holders[key].append(study)
                keys[study].append(key)
    found = {}
    for study, own_keys in keys.items():
        others = dict.fromkeys(other for key in own_keys for other in holders[key][: SHOWN + 1] if other != study)
        if others:
            found[study] = list(others)[:SHOWN]
    return found
