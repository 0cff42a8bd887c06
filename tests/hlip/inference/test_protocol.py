"""Zero-shot protocols: numbers by hand, and protocols that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from hlip.files.resources import names
from hlip.inference.protocol import Protocol, ProtocolError, evaluate_protocol


def test_every_built_in_protocol_loads_and_counts():
    sizes = {name: len(Protocol.load(name).classes) for name in names("protocol")}
    assert sizes == {
        "cq500": 9, "ct_rate": 16, "head_ct_82": 82, "mr_rate": 37, "mri_74": 74, "pub_brain_5": 5, "rad_chestct": 15, "rsna": 5,
    }  # fmt: skip
    assert Protocol.load("ct_rate").classes[0].prefix == "The lung shows: "


def test_presence_is_the_softmax_over_absent_and_present():
    """By hand: scores sigmoid(1), sigmoid(-1), sigmoid(2), sigmoid(-3); all on the right side of one half but the last positive."""
    protocol = Protocol.load("rad_chestct")
    logits = np.zeros((4, 15, 2))
    logits[:, 0, 1] = [1, -1, 2, -3]
    targets = np.zeros((4, 15))
    targets[[0, 2, 3], 0] = 1
    found = evaluate_protocol(protocol, logits, targets, list("abcd"), resamples=0)["all"]
    entry = found["classes"]["Emphysema"]
    assert (entry["positives"], entry["studies"]) == (3, 4)
    assert entry["auc"] == pytest.approx(2 / 3)
    assert entry["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert len(found["left_out"]) == 14  # no positive study: named, and not in the mean
    assert found["auc"]["value"] == pytest.approx(2 / 3)


def test_a_task_may_look_at_some_studies_only():
    protocol = Protocol.load("pub_brain_5")
    logits, targets = np.zeros((4, 5)), np.zeros((4, 5))
    for row, (truth, called) in enumerate([(2, 2), (3, 3), (4, 2), (2, 4)]):
        targets[row, truth], logits[row, called] = 1, 3
    found = evaluate_protocol(protocol, logits, targets, ["brats/a", "brats/b", "brats/c", "nyu/d"], resamples=0)
    assert found["brats"]["studies"] == 3
    assert found["brats"]["balanced_accuracy"] == pytest.approx(2 / 3)
    assert found["tumor"]["studies"] == 4


def test_means_of_accuracies_are_over_the_classes_of_the_mean_auc():
    """Normal and Glioma alone: the three classes that nobody has are not three perfect ones."""
    protocol = Protocol.load("pub_brain_5")
    logits, targets = np.zeros((5, 5)), np.zeros((5, 5))
    for row, (truth, called) in enumerate([(0, 0), (0, 0), (0, 2), (2, 2), (2, 2)]):
        targets[row, truth], logits[row, called] = 1, 3
    found = evaluate_protocol(protocol, logits, targets, list("abcde"), resamples=0)
    anomaly = found["anomaly"]
    assert anomaly["left_out"] == ["Stroke", "Meningioma", "Metastasis"]
    assert anomaly["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert anomaly["weighted_f1"] == anomaly["classes"]["Glioma"]["weighted_f1"] < 1
    assert (anomaly["accuracies_of"], found["disease"]["accuracies_of"]) == ("mean", "choice")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("kind: each", "kind 'some'"),
        ("classes: [a, b]", "no class c"),
        ("prompts: hlip", "not a protocol"),
        ("column: b", "stands twice"),
    ],
)
def test_faults_are_named(tmp_path, change, message):
    text = """title: t
prompts: hlip
classes:
  - {column: a, phrase: one}
  - {column: b, phrase: two}
tasks:
  all: {kind: each, classes: [a, b]}
"""
    wrong = {"kind: each": "kind: some", "classes: [a, b]": "classes: [a, c]", "prompts: hlip": "", "column: b": "column: a"}[
        change
    ]
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(change, wrong))
    with pytest.raises(ProtocolError, match=message):
        Protocol.load(path)
    path.write_text(text)
    assert Protocol.load(path).columns == ["a", "b"]
