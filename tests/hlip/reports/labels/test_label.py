"""`hlip label`: given labels stay, mined ones come with their evidence, agreement on simulated reports."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hlip.cli import main
from hlip.reports.labels.agreement import agreement, mean
from hlip.reports.labels.label import LabelError, label
from hlip.reports.labels.lexicon import Lexicon
from hlip.reports.labels.mining import Miner, labels_of, states
from hlip.reports.labels.words import words
from hlip.reports.language import english
from hlip.study import read_manifest
from hlip.taxonomy import Taxonomy, TaxonomyError

TREE = Taxonomy.load("brain_mri")
REPORTS = {
    "tumor": ("FINDINGS: A mass. IMPRESSION: Glioma, no acute infarct.", None),
    "doubt": ("IMPRESSION: Possible glioma. Meningioma.", None),
    "given": ("IMPRESSION: Meningioma.", ["glioma"]),
    "silent": ("IMPRESSION: As before.", None),
    "bare": ("", None),
    "nothing": ("IMPRESSION: Normal brain MRI.", []),
}


def write(file: Path, reports: dict[str, tuple[str, list[str] | None]]) -> Path:
    rows = [
        {
            "study_id": name,
            "patient_id": name,
            "scans": [{"path": f"{name}.nii.gz"}],
            "report": text,
            "labels": labels,
            "age": 7,
        }
        for name, (text, labels) in reports.items()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def labels(file: Path) -> dict[str, tuple[str, ...] | None]:
    return {study.study_id: study.labels for study in read_manifest(file)}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write(tmp_path / "manifest.jsonl", REPORTS)


def test_labels_where_there_were_none(manifest: Path, tmp_path: Path) -> None:
    done = label(manifest, TREE, tmp_path / "out.jsonl", progress=False)
    assert labels(done.manifest) == {
        "tumor": ("glioma",),
        "doubt": ("meningioma",),
        "given": ("glioma",),
        "silent": None,
        "bare": None,
        "nothing": (),
    }
    assert (done.mined, done.kept, done.unlabelled, done.without_report, done.compared) == (2, 2, 2, 1, 2)
    extra = {study.study_id: study.extra for study in read_manifest(done.manifest)}
    assert extra["tumor"] == {"age": 7, "labels_from": "report"}
    assert extra["given"] == extra["silent"] == {"age": 7}


def test_the_evidence_of_every_label(manifest: Path, tmp_path: Path) -> None:
    done = label(manifest, TREE, tmp_path / "out.jsonl", progress=False)
    found = [
        (row["study_id"], row["class"], row["state"], row["cue"], row["label"], row["sentence"]) for row in rows(done.evidence)
    ]
    assert found == [
        ("tumor", "glioma", "present", "", "yes", "Glioma, no acute infarct."),
        ("tumor", "acute infarction", "negated", "no", "no", "Glioma, no acute infarct."),
        ("doubt", "glioma", "uncertain", "possible", "no", "Possible glioma."),
        ("doubt", "meningioma", "present", "", "yes", "Meningioma."),
        ("given", "meningioma", "present", "", "no", "Meningioma."),
        ("nothing", "normal", "present", "", "no", "Normal brain MRI."),
    ]


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [("negative", ("meningioma",)), ("positive", ("glioma", "meningioma")), ("unlabelled", None)],
)
def test_what_is_uncertain(manifest: Path, tmp_path: Path, uncertain: str, expected: tuple[str, ...] | None) -> None:
    done = label(manifest, TREE, tmp_path / "out.jsonl", uncertain=uncertain, progress=False)
    assert labels(done.manifest)["doubt"] == expected


def test_given_labels_go_only_when_asked(manifest: Path, tmp_path: Path) -> None:
    done = label(manifest, TREE, tmp_path / "out.jsonl", overwrite=True, progress=False)
    assert labels(done.manifest)["given"] == ("meningioma",)
    assert labels(done.manifest)["nothing"] == ("normal",)
    silent = write(tmp_path / "silent.jsonl", {"s": ("IMPRESSION: As before.", ["glioma"])})
    assert labels(label(silent, TREE, tmp_path / "out.jsonl", overwrite=True, progress=False).manifest) == {"s": ("glioma",)}


def test_mined_labels_are_mined_again_and_are_no_reference(manifest: Path, tmp_path: Path) -> None:
    first = label(manifest, TREE, tmp_path / "first.jsonl", uncertain="positive", progress=False)
    again = label(first.manifest, TREE, tmp_path / "again.jsonl", progress=False)
    assert labels(again.manifest)["doubt"] == ("meningioma",)
    assert again.compared == first.compared == 2


def test_the_manifest_itself_stays(manifest: Path) -> None:
    before = manifest.read_bytes()
    with pytest.raises(LabelError, match="another file"):
        label(manifest, TREE, manifest, progress=False)
    assert manifest.read_bytes() == before


def test_a_given_label_that_is_not_of_the_tree(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.jsonl", {"s": ("IMPRESSION: Glioma.", ["gliom"])})
    with pytest.raises(TaxonomyError, match=r"study s.*glioma"):
        label(manifest, TREE, tmp_path / "out.jsonl", progress=False)


def test_the_command(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["label", str(manifest), "brain_mri", str(tmp_path / "out.jsonl"), "--uncertain", "positive"])
    shown = capsys.readouterr().out
    assert "labels mined for 2 studies, kept as given for 2, none for 2 (1 without a report)" in shown
    assert "agreement with the given labels of 2 studies" in shown
    table = {(row["level"], row["class"]): row for row in rows(tmp_path / "out.agreement.csv")}
    assert table["3", "glioma"]["given_only"] == table["3", "meningioma"]["mined_only"] == "1"
    main(["reports", str(manifest), "--reports", "impression"])
    assert "sentences kept: 6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "brain", "mr_rate"),
    [
        ("Stroke.", "vascular", "vascular disease"),
        ("Large left MCA stroke.", "infarction", "ischemia"),
        ("Lacunar stroke.", "lacunar infarction", "lacunar infarct"),
        ("SDH.", "hemorrhage", "subdural intracranial hemorrhage"),
        ("Chronic subdural hematoma.", "chronic hemorrhage", "subdural intracranial hemorrhage"),
        ("SAH.", "hemorrhage", "intracranial hemorrhage"),
        ("GBM.", "glioma", "glioma"),
        ("Glioblastoma multiforme.", "glioma", "glioma"),
        ("Brain mets.", "metastasis", "metastatic malignant neoplasm to brain"),
        ("Cerebral metastases.", "metastasis", "metastatic malignant neoplasm to brain"),
        ("MS plaques.", "", "demyelinating disease of central nervous system"),
        ("Stroke protocol and stroke team.", None, None),
    ],
)
def test_common_names(text: str, brain: str | None, mr_rate: str | None) -> None:
    for name, expected in (("brain_mri", brain), ("mr_rate", mr_rate), ("mr_rate_brain", mr_rate)):
        found = states(Miner(Taxonomy.load(name)).mentions("", [text]))
        assert [each for each, state in found.items() if state == "present"] == ([expected] if expected else [])


@pytest.mark.parametrize(
    "name", ["brain_mri", "brain_mri_flat", "brain_mri_2level", "brain_mri_clinical", "mr_rate", "mr_rate_brain"]
)
def test_no_name_is_of_two_classes(name: str) -> None:
    """Neither of those of the taxonomy nor of those that the language adds."""
    tree, language = Taxonomy.load(name), english()
    classes = [item for level in range(1, tree.depth + 1) for item in tree.classes(level)]
    written = [term for item in classes for term in (item.name, *item.synonyms, item.prompt)]
    lexicon = Lexicon(tree, language)
    for term in [*written, *language.same_names]:
        places = [found.places for found in lexicon.find(term, words(term, language))]
        assert len(places) == len(set(places)), term


def test_agreement_on_simulated_reports() -> None:
    """Every phrase of the simulator, with its class known; hedges and negations among them."""
    from hlip.simulate import phrases

    slots = dict.fromkeys(("size", "count", "territory", "grade", "pattern", "number", "etiology", "lobe"), "2")
    slots |= {"where": "left frontal lobe", "side": "left", "territory": "middle cerebral artery", "grade": "mild"}
    miner = Miner(TREE)
    given, mined = [], []
    for name, impressions in phrases.IMPRESSIONS.items():
        for place, text in enumerate(impressions):
            denied = [negation for negation, excluded in phrases.NEGATIONS if name not in excluded]
            finding = phrases.FINDINGS.get(name, ("",))[place % len(phrases.FINDINGS.get(name, ("",)))].format(**slots)
            report = f"FINDINGS: {finding} {' '.join(denied)}\nIMPRESSION: {text.format(**slots)}"
            given.append((name,))
            mined.append(labels_of(states(miner.mentions(report)), TREE))
    deepest = [row for row in agreement(given, mined, TREE) if row.level == 3]
    assert mean(deepest, "precision") > 0.99
    assert mean(deepest, "recall") > 0.9
    assert mean(deepest, "kappa") > 0.93
