"""How far the encoder follows: which parameters learn, and what is saved."""

from __future__ import annotations

import copy

import pytest
import torch

from finetune.tuning import TuningConfig, merged, trainable
from hlip.vision import StudyEncoder, VisionConfig


@pytest.fixture
def encoder() -> StudyEncoder:
    torch.manual_seed(0)
    return StudyEncoder(VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["scan", "scan", "study"]))


def learning(encoder: StudyEncoder) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def test_what_learns(encoder):
    every = {name for name, _ in encoder.named_parameters()}
    assert learning(trainable(copy.deepcopy(encoder), TuningConfig("all"))) == every
    last = learning(trainable(copy.deepcopy(encoder), TuningConfig("last", blocks=2)))
    assert last == {name for name in every if name.startswith(("blocks.1.", "blocks.2.", "norm."))}
    low_rank = learning(trainable(copy.deepcopy(encoder), TuningConfig("lora")))
    assert {name.split(".")[3] for name in low_rank} == {"qkv", "proj"}
    assert all(".lora_" in name for name in low_rank)
    with pytest.raises(ValueError, match=r"tuning\.blocks 4: the encoder has 3"):
        trainable(encoder, TuningConfig("last", blocks=4))


def test_low_rank_additions_are_merged_into_the_weights(encoder):
    """The plain tower with the merged weights gives what the tower with additions gives; at the start nothing is added."""
    volumes = torch.randint(0, 256, (3, 1, 8, 16, 16), dtype=torch.uint8)
    before, names = encoder(volumes, [1, 2]), list(encoder.state_dict())
    tuned = trainable(copy.deepcopy(encoder), TuningConfig("lora", rank=4))
    torch.testing.assert_close(tuned(volumes, [1, 2]), before)
    for name, parameter in tuned.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    after = tuned(volumes, [1, 2])
    assert (after - before).abs().max() > 1e-2
    state = merged(tuned, tuned.state_dict())
    assert sorted(state) == sorted(names)
    encoder.load_state_dict(state)
    torch.testing.assert_close(encoder(volumes, [1, 2]), after, atol=1e-5, rtol=1e-4)
