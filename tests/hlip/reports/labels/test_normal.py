"""Studies that are called normal, and sentences that only look as if they did."""

from __future__ import annotations

import pytest

from hlip.reports.labels.mining import Miner, labels_of, states
from hlip.reports.spec import ReportSpec
from hlip.taxonomy import Taxonomy

TREE = Taxonomy.load("brain_mri")


@pytest.fixture(scope="module")
def miner() -> Miner:
    return Miner(TREE)


def labels(miner: Miner, report: str) -> tuple[str, ...] | None:
    return labels_of(states(miner.mentions(report)), TREE)


@pytest.mark.parametrize(
    "report",
    [
        "Normal brain.",
        "Essentially normal study.",
        "Conclusion - Normal study.",
        "Findings - The ventricles are normal. Conclusion - Normal study.",
        "Normal non-contrast CT of the head.",
        "Findings are consistent with a normal study.",
        "MRI brain within normal limits.",
        "No intracranial abnormality is seen.",
        "Normal MRI of the brain with and without contrast.",
        "Normal MRI of the brain and cervical spine.",
        "No acute intracranial abnormality, normal study for age.",
    ],
)
def test_a_normal_study(miner: Miner, report: str) -> None:
    assert labels(miner, report) == ("normal",)


@pytest.mark.parametrize(
    "report",
    [
        "Pituitary macroadenoma, 2.3 cm, with chiasm compression. No acute intracranial abnormality.",  # only the acute is denied
        "Multiple sclerosis plaques. No acute intracranial abnormality.",
        "Large vestibular schwannoma. No acute intracranial pathology.",
        "Not a normal study.",
        "This is not a normal study.",
        "There is no evidence that this is a normal study.",
        "Normal study is not possible due to motion.",
        "Normal MRI of the cervical spine.",
        "Normal study of the orbits.",
        "Normal CT angiogram.",
        "Normal brain parenchyma.",
        "Colloid cyst with obstructive hydrocephalus. Otherwise normal MRI of the brain.",
        "Normal MRI of the brain except for a colloid cyst.",
        "Normal MRI of the brain with a pineal cyst.",
        "Compared with the normal study of 2019, the cyst has grown.",
        "No significant diffusion abnormality.",
        "No significant abnormality of the orbits.",
    ],
)
def test_no_statement_of_a_normal_study(miner: Miner, report: str) -> None:
    assert labels(miner, report) is None


def test_an_addendum_is_read(miner: Miner) -> None:
    report = "FINDINGS: Normal brain.\nADDENDUM: On further review there is a small left cerebellar acute infarct."
    assert labels(miner, report) == ("acute infarction",)
    for title in ("***ADDENDUM***\n", "ADDENDUM #1 (3/4/2020): ", "Addendum dated 3/4/2020: "):
        assert labels(miner, f"IMPRESSION: Normal brain.\n{title}There is an acute infarct.") == ("acute infarction",)


def test_the_evidence_says_what_leaves_it_open(miner: Miner) -> None:
    told = {
        "Otherwise normal brain MRI.": "otherwise",
        "No acute intracranial abnormality.": "acute",
        "Normal study of the orbits.": "orbits",
    }
    for sentence, words in told.items():
        (mention,) = miner.mentions("", [sentence])
        assert (mention.name, mention.state, mention.cue) == ("normal", "open", words)


def test_a_tree_of_another_part_of_the_body() -> None:
    tree = Taxonomy.from_dict({"name": "t", "classes": [{"name": "spinal stenosis"}, {"name": "normal", "normal": True}]})
    miner = Miner(tree)
    assert states(miner.mentions("", ["Normal MRI of the cervical spine."])) == {"normal": "present"}
    assert states(miner.mentions("", ["Normal MRI of the brain."])) == {"normal": "open"}


@pytest.mark.parametrize(
    ("sentence", "state"),
    [
        ("Unauffälliges MRT des Schädels.", "present"),
        ("Unauffälliges MRT der HWS.", "open"),
        ("Normaler Befund bis auf eine Kolloidzyste.", "open"),
    ],
)
def test_german(sentence: str, state: str) -> None:
    tree = Taxonomy.from_dict({"name": "t", "classes": [{"name": "Hirn Tumor"}, {"name": "normal", "normal": True}]})
    assert states(Miner(tree, ReportSpec(language="german")).mentions("", [sentence])) == {"normal": state}
