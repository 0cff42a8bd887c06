"""A number behind a comma ends a negation where it measures or counts something, and nowhere else."""

from __future__ import annotations

import pytest

from hlip.reports.labels.cues import NEGATED as N
from hlip.reports.labels.cues import PRESENT as P
from hlip.reports.labels.mining import Miner, states
from hlip.reports.spec import ReportSpec
from hlip.taxonomy import Taxonomy

NAMES = ("hemorrhage", "infarct", "meningioma", "glioma", "microhemorrhages")


@pytest.fixture(scope="module")
def miner() -> Miner:
    return Miner(
        Taxonomy.from_dict({"name": "t", "classes": [{"name": name} for name in NAMES]}), ReportSpec.load("clean", "english")
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No infarct, 2 cm meningioma.", {"infarct": N, "meningioma": P}),
        ("No infarct, 1.5 cm meningioma.", {"infarct": N, "meningioma": P}),
        ("No infarct, 3rd ventricle glioma or hemorrhage.", {"infarct": N, "glioma": N, "hemorrhage": N}),
        ("No infarct, 3rd ventricle glioma.", {"infarct": N, "glioma": N}),
        ("No hemorrhage, 3 mm or larger, or meningioma.", {"hemorrhage": N, "meningioma": N}),
        ("No acute infarct, 5 mm midline shift, or hemorrhage.", {"infarct": N, "hemorrhage": N}),
        ("No infarct, 2D or 3D, glioma or hemorrhage.", {"infarct": N, "glioma": N, "hemorrhage": N}),
        ("No evidence of infarct, 0 microhemorrhages.", {"infarct": N, "microhemorrhages": N}),
        ("No evidence of 1) infarct, 2) hemorrhage, 3) glioma.", {"infarct": N, "hemorrhage": N, "glioma": N}),
    ],
)
def test_a_number_ends_a_negation_where_it_measures_or_counts(miner: Miner, text: str, expected: dict[str, str]) -> None:
    assert states(miner.mentions(text)) == expected
