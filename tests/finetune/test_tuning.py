"""How far the encoder follows: which parameters learn, and what is saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import hlip
from finetune.tuning import Tuned, TuningConfig, merged, trainable
from hlip.taxonomy import Taxonomy
from hlip.volume import VolumeSpec
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import CNNConfig, CNNEncoder, Encoder, HLIPEncoder, ImageConfig, ImageEncoder
from hp2l.heads import HeadConfig

PIXELS = VolumeSpec(size=(1, 64, 64), fit="square", resize=(64, 64), percentiles=(0, 100))


@pytest.fixture(scope="module")
def study() -> HLIPEncoder:
    torch.manual_seed(0)
    vision = {"size": [8, 16, 16], "patch": [2, 8, 8], "width": 24, "heads": 2, "scopes": ["scan", "scan", "study"]}
    return HLIPEncoder(hlip.create("tiny_scan_study", vision=vision))


def learning(encoder: Encoder, config: TuningConfig) -> set[str]:
    tuned: nn.Module = trainable(copy.deepcopy(encoder), config)
    return {name for name, parameter in tuned.named_parameters() if parameter.requires_grad}


def test_what_learns(study):
    every = {name for name, _ in study.visual.named_parameters()}
    assert learning(study, TuningConfig("all")) == every
    last = learning(study, TuningConfig("last", blocks=2))
    assert last == {name for name in every if name.startswith(("blocks.1.", "blocks.2.", "norm."))}
    low_rank = learning(study, TuningConfig("lora"))
    assert {name.split(".")[3] for name in low_rank} == {"qkv", "proj"}
    assert all(".lora_" in name for name in low_rank)
    with pytest.raises(ValueError, match=r"tuning\.blocks 4: the encoder has 3"):
        learning(study, TuningConfig("last", blocks=4))


def test_what_learns_of_other_encoders():
    vit = ImageEncoder(ImageConfig("vit_tiny_patch16_224", pretrained=False), PIXELS)
    last = learning(vit, TuningConfig("last", blocks=2))
    assert {name.split(".")[2] if "blocks" in name else name.split(".")[1] for name in last} == {"10", "11", "norm"}
    low_rank = learning(vit, TuningConfig("lora"))
    assert {".".join(name.split(".")[3:5]) for name in low_rank} == {"attn.qkv", "attn.proj"}
    convnext = ImageEncoder(ImageConfig("convnext_atto", pretrained=False), PIXELS)
    last = learning(convnext, TuningConfig("last", blocks=1))
    assert {".".join(name.split(".")[1:3]) for name in last} == {"stages.3", "head.norm"}
    cnn = CNNEncoder(CNNConfig(width=64))
    assert {name.split(".")[1] for name in learning(cnn, TuningConfig("last", blocks=3))} == {"1", "2", "3"}
    with pytest.raises(ValueError, match="lora is for transformers"):
        learning(cnn, TuningConfig("lora"))


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_all_that_learns_is_read_whether_the_class_token_is_or_not(name):
    """A parameter that gets no gradient stops several processes."""
    for cls in ("encoder", "learned"):
        encoder = ImageEncoder(ImageConfig(name, pretrained=False), PIXELS)
        head = HeadConfig(kind="linear" if cls == "encoder" else "hp2l", blocks=(1, 1, 1), width=16, heads=2, cls=cls)
        module = Tuned(Diagnoser(encoder, head, Taxonomy.load("brain_mri_flat")), TuningConfig("all")).train()
        output = module(torch.randint(0, 256, (3, 1, 1, 64, 64), dtype=torch.uint8), [3])
        (sum(level.sum() for level in output.logits) + sum(token.sum() for token in output.cls)).backward()
        without = [
            name for name, parameter in module.visual.named_parameters() if parameter.requires_grad and parameter.grad is None
        ]
        assert without == [], cls


def test_low_rank_additions_are_merged_into_the_weights(study):
    """The plain tower with the merged weights gives what the tower with additions gives; at the start nothing is added."""
    encoder = copy.deepcopy(study)
    plain = encoder.visual
    volumes = torch.randint(0, 256, (3, 1, 8, 16, 16), dtype=torch.uint8)
    before, names = plain(volumes, [1, 2]), list(plain.state_dict())
    tuned = trainable(copy.deepcopy(encoder), TuningConfig("lora", rank=4))
    torch.testing.assert_close(tuned(volumes, [1, 2]), before)
    for name, parameter in tuned.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    after = tuned(volumes, [1, 2])
    assert (after - before).abs().max() > 1e-2
    state = merged(tuned, tuned.state_dict())
    assert sorted(state) == sorted(names)
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(volumes, [1, 2]), after, atol=1e-5, rtol=1e-4)
