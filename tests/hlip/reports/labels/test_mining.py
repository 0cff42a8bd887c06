"""Names of classes in sentences, and labels of studies."""

from __future__ import annotations

import pytest
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support

from hlip.reports.labels.agreement import agreement, mean
from hlip.reports.labels.mining import Miner, labels_of, states
from hlip.taxonomy import Taxonomy

TREE = Taxonomy.load("brain_mri")


@pytest.fixture(scope="module")
def miner() -> Miner:
    return Miner(TREE)


def found(miner: Miner, sentence: str) -> dict[str, str]:
    return states(miner.mentions("", [sentence]))


@pytest.mark.parametrize(
    ("sentence", "names"),
    [
        ("Acute left middle cerebral artery territory infarct.", ["acute infarction"]),
        ("Acute haemorrhage of the thalamus.", ["acute hemorrhage"]),
        ("Multiple brain metastases.", ["metastasis"]),
        ("Chronic lacunar infarcts.", ["lacunar infarction"]),
        ("Old infarct in the left occipital lobe.", ["chronic infarction"]),
        ("Extra axial mass consistent with meningioma.", ["meningioma"]),
        ("Acute infarct and chronic hemorrhage.", ["acute infarction", "chronic hemorrhage"]),
        ("Acute infarct, hemorrhage.", ["acute infarction", "hemorrhage"]),  # words are not borrowed over a comma
        ("Hemorrhage, acute infarct.", ["hemorrhage", "acute infarction"]),
        ("Evolving subdural hematoma, subacute.", ["subacute hemorrhage"]),  # but a word alone behind one belongs to the name
        ("Infarct, chronic, in the left occipital lobe.", ["chronic infarction"]),
        ("Hemorrhage, acute or chronic infarct.", ["hemorrhage", "chronic infarction"]),
        ("White matter lesions (Fazekas 2).", ["white matter hyperintensity"]),
        ("Lesions of the white matter.", []),
        ("Hemorrhage and infarct.", ["hemorrhage", "infarction"]),
        ("Findings of Alzheimer\u2019s disease.", ["Alzheimer's disease"]),
        ("Middle cerebral artery, a vascular territory, is patent.", []),  # too general a name
        ("The acute angle of the infarctology course.", []),
    ],
)
def test_names(miner: Miner, sentence: str, names: list[str]) -> None:
    assert [mention.name for mention in miner.mentions("", [sentence])] == names


@pytest.mark.parametrize(
    "sentence",
    ["Normal MRI of the brain.", "Unremarkable brain MRI.", "No significant abnormalities.", "Normal study for age."],
)
def test_normal_is_stated(miner: Miner, sentence: str) -> None:
    assert labels_of(found(miner, sentence), TREE) == ("normal",)


@pytest.mark.parametrize("sentence", ["The ventricles are normal in size.", "No hydrocephalus.", "Not a word of it."])
def test_normal_is_not_stated(miner: Miner, sentence: str) -> None:
    assert labels_of(found(miner, sentence), TREE) is None


def test_a_name_of_the_tree_goes_before_what_the_language_takes_it_for() -> None:
    names = ("white matter hyperintensity", "white matter lesion")
    own = Miner(Taxonomy.from_dict({"name": "t", "classes": [{"name": name} for name in names]}))
    assert found(own, "White matter lesions.") == {"white matter lesion": "present"}
    without = Miner(Taxonomy.from_dict({"name": "t", "classes": [{"name": "glioma"}]}))
    assert found(without, "White matter lesions.") == {}


def test_sections_that_are_not_read(miner: Miner) -> None:
    report = "INDICATION: Glioma.\nCOMPARISON: Acute infarct in 2020.\nFINDINGS: Meningioma.\nIMPRESSION: No metastasis."
    assert states(miner.mentions(report)) == {"meningioma": "present", "metastasis": "negated"}


def test_labels_are_the_deepest_that_are_there() -> None:
    here = {
        "hemorrhage": "present",
        "acute hemorrhage": "present",
        "glioma": "negated",
        "tumor": "present",
        "normal": "present",
    }
    assert labels_of(here, TREE) == ("acute hemorrhage", "tumor")


def test_what_is_uncertain() -> None:
    doubt = {"glioma": "uncertain", "meningioma": "present"}
    assert labels_of(doubt, TREE, "negative") == ("meningioma",)
    assert labels_of(doubt, TREE, "positive") == ("glioma", "meningioma")
    assert labels_of(doubt, TREE, "unlabelled") is None
    assert labels_of({"tumor": "uncertain", "glioma": "present"}, TREE, "unlabelled") == ("glioma",)
    assert labels_of({"glioma": "uncertain", "normal": "present"}, TREE, "negative") == ("normal",)


def test_a_tree_without_a_normal_class_knows_studies_without_findings() -> None:
    tree = Taxonomy.from_dict({"name": "t", "classes": [{"name": "glioma"}]})
    assert labels_of({"glioma": "negated"}, tree) == ()


def test_present_once_is_present(miner: Miner) -> None:
    assert states(miner.mentions("", ["No glioma.", "Glioma.", "Possible glioma."])) == {"glioma": "present"}


def test_agreement_is_that_of_a_library() -> None:
    tree = Taxonomy.from_dict({"name": "t", "classes": [{"name": "a"}, {"name": "b"}]})
    given = [("a",), ("a",), (), ("b",), ("a", "b"), (), ()]
    mined = [("a",), (), ("a",), ("b",), ("a",), None, ()]
    rows = agreement(given, mined, tree)
    for row in rows:
        truth, said = [row.name in labels for labels in given], [row.name in (labels or ()) for labels in mined]
        precision, recall, f1, _ = precision_recall_fscore_support(truth, said, average="binary")
        expected = (precision, recall, f1, cohen_kappa_score(truth, said))
        assert (row.precision, row.recall, row.f1, row.kappa) == pytest.approx(expected)
    assert mean(rows, "recall") == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_agreement_leaves_out_what_coarse_labels_do_not_say() -> None:
    rows = {row.name: row for row in agreement([("tumor",), ("glioma",)], [("glioma",), ("glioma",)], TREE)}
    assert (rows["glioma"].both, rows["glioma"].mined_only) == (1, 0)  # a tumor of unknown kind is no error
    assert rows["tumor"].both == 2
