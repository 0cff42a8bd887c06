"""Which part of the body a study of MR-RATE shows. The set does not say; this is a stated rule over what it does say.

Evidence of a brain: a FLAIR, SWI or MRA series; a label that only a brain has; the words brain, cranial, ... in the technique section or in
the names of the series. Evidence of a spine: a label of the spine; the words spine, lumbar, cervical, ... there. Both is `both`, neither
`unknown` (a T1 and T2 study without a finding). Demyelination, schwannoma and Chiari malformation are seen in either and count for neither.

It is decided for studies, not for series: a study of both keeps its series of the spine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Literal

from hlip.taxonomy import Taxonomy

Region = Literal["brain", "spine", "both", "unknown"]
IN_BRAIN: tuple[Region, ...] = ("brain", "both")
EITHER = ("demyelinating disease of central nervous system", "schwannoma", "Chiari malformation")
"""Labels that say nothing of the region."""
_BRAIN_SERIES = ("flair", "swi", "mra")
_BRAIN = re.compile(r"\b(brain|crani\w+|head|cerebr\w+|intracranial|pituitary|hypophys\w+|sella\w*|orbit\w*)\b", re.IGNORECASE)
_SPINE = re.compile(r"\b(spin(e|al)|cervical|thora\w+|lumb\w+|sacr\w+|vertebra\w*|interverte\w+)\b", re.IGNORECASE)


def region_of(series: Sequence[str], labels: Sequence[str], names: str, technique: str) -> Region:
    """
    Args:
        series: series ids, such as flair-raw-axi.
        labels: classes of the taxonomy mr_rate.
        names: what the acquisition calls its series.
        technique: that section of the report.
    """
    spine_labels, brain_labels = _labels()
    words = f"{names} {technique}".replace("_", " ")
    brain = any(name.lower().startswith(_BRAIN_SERIES) for name in series) or bool(
        brain_labels & set(labels) or _BRAIN.search(words)
    )
    spine = bool(spine_labels & set(labels) or _SPINE.search(words))
    if brain and spine:
        return "both"
    return "brain" if brain else "spine" if spine else "unknown"


@cache
def _labels() -> tuple[frozenset[str], frozenset[str]]:
    """Labels of the spine, and those of the brain alone."""
    brain = frozenset(Taxonomy.load("mr_rate_brain").levels[-1])
    return frozenset(Taxonomy.load("mr_rate").levels[-1]) - brain, brain - set(EITHER)
