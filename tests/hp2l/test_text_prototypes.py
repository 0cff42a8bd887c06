"""Prototypes that begin at the classes' texts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import hlip
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import PromptSet, embed_classes
from hp2l.diagnoser import Diagnoser
from hp2l.heads import HeadConfig
from hp2l.text_prototypes import text_prototypes

TREE = Taxonomy.load("brain_mri")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return hlip.create("tiny_scan_study", text={"vocabulary": 600}).eval()


def test_distances_between_classes_are_those_of_their_texts(model):
    """A head as wide as the joint space or wider keeps every cosine; rows are as long as those of N(0, 1)."""
    for width in (40, 64):
        for level, prototypes in enumerate(text_prototypes(model, TREE, width), start=1):
            assert prototypes.shape == (TREE.counts[level - 1], width)
            torch.testing.assert_close(prototypes.norm(dim=-1), torch.full((len(prototypes),), width**0.5))
            phrases = [[c.prompt, *c.synonyms] for c in TREE.classes(level)]
            texts = embed_classes(model, phrases, PromptSet.load("hlip"))
            texts = F.normalize(texts - texts.mean(dim=0), dim=-1).detach()
            torch.testing.assert_close(prototypes @ prototypes.T / width, texts @ texts.T, atol=1e-5, rtol=0)


def test_a_head_begins_there_and_a_loaded_one_does_not(model, tmp_path):
    config = HeadConfig(blocks=(2, 2, 2), width=24, heads=2, prototype_start="text")
    diagnoser = Diagnoser(model, config, TREE)
    normal = diagnoser.head.bank.prototypes(3).clone()
    targets, masks = zip(*TREE.encode_all([("glioma",), ("normal",)]), strict=True)
    diagnoser.start([torch.from_numpy(t) for t in targets], [torch.from_numpy(m) for m in masks])
    begun = diagnoser.head.bank.prototypes(3).clone()
    assert not torch.equal(begun, normal)
    torch.testing.assert_close(begun, text_prototypes(model, TREE, 24)[2])
    diagnoser.head.bank.prototypes(3).mul_(2)
    model.volume_spec = hlip.VolumeSpec.load("demo")
    diagnoser.save(tmp_path / "model")
    from hp2l.diagnoser import load

    assert torch.equal(load(tmp_path / "model").head.bank.prototypes(3), 2 * begun)


def test_random_prototypes_follow_the_seed(model):
    diagnoser = Diagnoser(model, HeadConfig(blocks=(2, 2, 2), width=24, heads=2), TREE)
    targets, masks = zip(*TREE.encode_all([("glioma",), ("normal",)]), strict=True)
    found = []
    for seed in (0, 1, 0):
        diagnoser.start([torch.from_numpy(t) for t in targets], [torch.from_numpy(m) for m in masks], seed)
        found.append(diagnoser.head.bank.prototypes(3).clone())
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_only_averaged_prototypes_can_begin_at_texts():
    with pytest.raises(ValueError, match="prototypes must be ema"):
        HeadConfig(prototypes="learnable", prototype_start="text")
    with pytest.raises(ValueError, match="an option of kind hp2l"):
        HeadConfig(kind="flat", prototype_start="text")
