"""Reports as they are written, from sections to states: lists, tables, hedges, history, wrapped text."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hlip.reports.labels.cues import HISTORY as H
from hlip.reports.labels.cues import NEGATED as N
from hlip.reports.labels.cues import OPEN
from hlip.reports.labels.cues import PRESENT as P
from hlip.reports.labels.cues import UNCERTAIN as U
from hlip.reports.labels.mining import Miner, states
from hlip.reports.spec import ReportSpec
from hlip.taxonomy import Taxonomy

CLASSES = {
    "english": ("hemorrhage", "infarct", "mass", "meningioma", "glioma", "metastasis"),
    "german": ("Blutung", "Infarkt", "Meningeom", "Gliom", "Metastase"),
}


@pytest.fixture(scope="module")
def miners() -> dict[str, Miner]:
    trees = {
        name: Taxonomy.from_dict({"name": name, "classes": [{"name": each} for each in CLASSES[name]]}) for name in CLASSES
    }
    return {name: Miner(tree, ReportSpec.load("clean", name)) for name, tree in trees.items()}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (
            "IMPRESSION:\nNo acute intracranial hemorrhage\nRight MCA territory infarct, subacute\nNo mass effect or midline shift",
            {"hemorrhage": N, "infarct": P, "mass": N},
        ),
        (
            "FINDINGS:\nHemorrhage: None\nInfarct: Acute, left MCA territory\nMass: None\nExtra-axial: small meningioma along the falx",
            {"hemorrhage": N, "infarct": P, "mass": N, "meningioma": P},
        ),
        ("Infarct\tnone\nHemorrhage\tnone\nMeningioma\tleft, 1.2 cm", {"infarct": N, "hemorrhage": N, "meningioma": P}),
        ("Infarct | no\nHemorrhage | no\nMeningioma | yes", {"infarct": N, "hemorrhage": N, "meningioma": P}),
        (
            "FINDINGS: There is no evidence of acute infarct, hemorrhage,\nor mass. The previously described meningioma along the right\n"
            "convexity has not changed in size. No new lesions.",
            {"infarct": N, "hemorrhage": N, "mass": N, "meningioma": P},
        ),
        ("IMPRESSION\nNEGATIVE FOR HEMORRHAGE\nLARGE RIGHT MCA INFARCT", {"hemorrhage": N, "infarct": P}),
        (
            "IMPRESSION: 1.Glioma of the left insula.2.No hemorrhage.3.Old infarct of the right caudate.",
            {"glioma": P, "hemorrhage": N, "infarct": P},
        ),
        (
            "IMPRESSION:\nGlioma s/p resection, no evidence of recurrence\nNo acute infarct\nStable meningioma",
            {"glioma": H, "infarct": N, "meningioma": P},
        ),
        ("IMPRESSION: Enhancing lesion of the left lobe. DDx: glioma, metastasis, abscess.", {"glioma": U, "metastasis": U}),
        (
            "FINDINGS:\nNo hemorrhage or infarct\nMeningioma of the left convexity\nGlioma of the pons with edema that\nextends to the "
            "midbrain.",
            {"hemorrhage": N, "infarct": N, "meningioma": P, "glioma": P},
        ),
        ("FINDINGS: No infarct\nMeningioma along the falx\nvery small.", {"infarct": N, "meningioma": P}),
        (
            "HISTORY: Melanoma.\nIMPRESSION: Previously noted metastases are no longer identified. Recommend follow-up to exclude infarct.",
            {"metastasis": N, "infarct": OPEN},
        ),
    ],
)
def test_english(miners: dict[str, Miner], report: str, expected: dict[str, str]) -> None:
    assert states(miners["english"].mentions(report)) == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (
            "BEURTEILUNG:\nKein Infarkt\nBekanntes Meningeom links, größenkonstant\nKeine Blutung",
            {"Infarkt": N, "Meningeom": P, "Blutung": N},
        ),
        (
            "BEFUND:\nIm Vergleich zur Voruntersuchung zeigt sich das bekannte\nMeningeom links frontal größenkonstant. Kein Nachweis einer "
            "akuten\nBlutung. Die Metastasen wurden in der aktuellen Untersuchung nicht\nnachgewiesen.",
            {"Meningeom": P, "Blutung": N, "Metastase": N},
        ),
        ("Blutung: keine\nInfarkt: alt, rechts okzipital\nMetastasen: nein", {"Blutung": N, "Infarkt": P, "Metastase": N}),
        (
            "BEURTEILUNG:\nInfarkt im Mediastromgebiet rechts, subakut,\nmit geringer Einblutung\nKeine Metastasen\nGliom links in der "
            "Verlaufskontrolle stabil",
            {"Infarkt": P, "Metastase": N, "Gliom": P},
        ),
        (
            "Raumforderung links temporal, a.e. Gliom, DD: Metastase. Eine Blutung konnte ausgeschlossen werden.",
            {"Gliom": P, "Metastase": U, "Blutung": N},
        ),
    ],
)
def test_german(miners: dict[str, Miner], report: str, expected: dict[str, str]) -> None:
    assert states(miners["german"].mentions(report)) == expected


def test_reports_for_which_no_rule_was_made(miners: dict[str, Miner]) -> None:
    """Of these 24, 18 were right in every class when they were first mined, 20 after two cues were added for others of their form."""
    told = yaml.safe_load((Path(__file__).parent / "held_out_reports.yaml").read_text(encoding="utf-8"))
    right = sum(states(miners[language].mentions(report)) == expected for language, report, expected in told)
    assert (len(told), right >= 20) == (24, True)
