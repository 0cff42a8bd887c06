"""A number behind a comma ends a negation where it measures or counts something, and nowhere else."""

from __future__ import annotations

import pytest

from hlip.reports.labels.cues import NEGATED as N
from hlip.reports.labels.cues import PRESENT as P
from hlip.reports.labels.cues import UNCERTAIN as U
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
        ("No hemorrhage, 3 cm glioma in the frontal or parietal lobe.", {"hemorrhage": N, "glioma": P}),
        ("No hemorrhage, 2 cm meningioma, no shift or infarct.", {"hemorrhage": N, "meningioma": P, "infarct": N}),
        ("No hemorrhage, a 2 cm meningioma without shift or infarct.", {"hemorrhage": N, "meningioma": P, "infarct": N}),
        ("No hemorrhage, 5 mm meningioma or glioma.", {"hemorrhage": N, "meningioma": N, "glioma": N}),
        ("No hemorrhage, 2 or more meningiomas.", {"hemorrhage": N, "meningioma": P}),
        ("No hemorrhage, 5 mm infarct, nor glioma.", {"hemorrhage": N, "infarct": N, "glioma": N}),
        ("No hemorrhage, 2 cm meningioma or possibly glioma.", {"hemorrhage": N, "meningioma": U, "glioma": U}),
        ("No hemorrhage, several meningiomas.", {"hemorrhage": N, "meningioma": P}),
        ("No glioma, multiple sclerosis, infarct.", {"glioma": N, "infarct": N}),
        ("No hemorrhage, 2 days after surgery, infarct or glioma.", {"hemorrhage": N, "infarct": N, "glioma": N}),
        ("No evidence of 1) infarct, 2) hemorrhage, 3) glioma.", {"infarct": N, "hemorrhage": N, "glioma": N}),
    ],
)
def test_a_number_ends_a_negation_where_it_measures_or_counts(miner: Miner, text: str, expected: dict[str, str]) -> None:
    assert states(miner.mentions(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Keine Blutung, 3 cm Gliom im Frontal- oder Parietallappen.", {"Blutung": N, "Gliom": P}),
        ("Keine Blutung, 5 mm Mittellinienverlagerung oder Gliom.", {"Blutung": N, "Gliom": N}),
        ("Keine Blutung, mehrere Gliome.", {"Blutung": N, "Gliom": P}),
        ("Keine Blutung, 2 Tage nach Operation, Gliom oder Infarkt.", {"Blutung": N, "Gliom": N}),
    ],
)
def test_german_numbers(text: str, expected: dict[str, str]) -> None:
    tree = Taxonomy.from_dict({"name": "t", "classes": [{"name": "Blutung"}, {"name": "Gliom"}]})
    assert states(Miner(tree, ReportSpec.load("clean", "german")).mentions(text)) == expected
