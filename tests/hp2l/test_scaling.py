"""From scores to probabilities, with what the checkpoint keeps of the validation split."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from hlip.taxonomy import Taxonomy
from hp2l.card import diagnoser_card
from hp2l.diagnoser import Diagnoser, load
from hp2l.encoders import CNNConfig, CNNEncoder
from hp2l.heads import HeadConfig
from hp2l.scaling import Scaling
from hp2l.statistics.calibration import Rule

COUNTS = (3, 2)


def validation(studies: int = 200) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Scores that tell something but shout, targets, and what is known: the first study of every class is not."""
    draw = torch.Generator().manual_seed(0)
    targets = [(torch.rand(studies, count, generator=draw) < 0.3).float() for count in COUNTS]
    scores = [torch.sigmoid(2.0 + 3 * t + torch.randn(t.shape, generator=draw)) for t in targets]
    known = [torch.ones_like(t) for t in targets]
    for level in known:
        level[0] = 0
    return scores, targets, known


def test_scaled_scores_have_the_mean_of_their_targets_and_keep_their_order():
    """The first-order condition of a logistic fit with a bias; the targets are Platt's, (n+ + 1) / (n+ + 2) and 1 / (n- + 2)."""
    scores, targets, known = validation()
    scaling = Scaling.of(scores, targets, known)
    assert scaling is not None
    assert scaling.studies == 200
    for raw, scaled, target in zip(scores, scaling.apply(scores), targets, strict=True):
        positives, negatives = target[1:].sum(0), (1 - target[1:]).sum(0)
        soft = (positives * (positives + 1) / (positives + 2) + negatives / (negatives + 2)) / len(target[1:])
        torch.testing.assert_close(scaled[1:].mean(0), soft, atol=1e-5, rtol=0)
        assert torch.equal(raw.argsort(dim=0), scaled.argsort(dim=0))


def test_unknown_truth_says_nothing():
    scores, targets, known = validation()
    turned = [target.clone() for target in targets]
    for level in turned:
        level[0] = 1 - level[0]
    assert Scaling.of(scores, turned, known) == Scaling.of(scores, targets, known)


def test_rules_by_hand():
    """odds 1/4 squared (temperature 1/2), times e^b = 8: 1/16 * 8 = 1/2, a probability of 1/3."""
    bias = torch.tensor(8.0).log().item()
    scaling = Scaling(((Rule("platt", 0.5, bias), Rule("none")),), 9)
    assert scaling.unscaled == []
    assert Scaling((*scaling.rules, (Rule("none"), Rule("none"))), 9).unscaled == [2]
    (found,) = scaling.apply([torch.tensor([[0.2, 0.7]])])
    assert found.tolist() == [pytest.approx([1 / 3, 0.7])]
    assert found.dtype == torch.float32
    again = Scaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
    assert again == scaling


def test_scores_that_are_none_have_no_scaling():
    scores, targets, known = validation()
    scores[1][3, 0] = float("nan")
    assert Scaling.of(scores, targets, known) is None


def test_the_checkpoint_carries_it(tmp_path):
    encoder = CNNEncoder(CNNConfig(channels=("T1",), width=64), None)
    tree = Taxonomy.load("brain_mri_2level")
    model = Diagnoser(encoder, HeadConfig(kind="linear"), tree).eval()
    model.save(tmp_path / "plain")
    scores = [torch.full((1, count), 0.2) for count in tree.counts]
    plain = load(tmp_path / "plain")
    assert plain.scaling is None
    assert all(torch.equal(same, score) for same, score in zip(plain.comparable(scores), scores, strict=True))
    assert "no probability" in plain.card()
    assert "Probabilities (" not in plain.card()
    model.scaling = Scaling(tuple((Rule("platt", 2.0, 0.5),) * count for count in tree.counts), 31)
    model.save(tmp_path / "scaled")
    found = load(tmp_path / "scaled")
    assert found.scaling == model.scaling
    expected = torch.tensor(0.25).log() / 2 + 0.5
    assert found.comparable(scores)[1][0, 0].item() == pytest.approx(expected.sigmoid().item())
    assert "on the 31 validation studies" in diagnoser_card(found.describe())
