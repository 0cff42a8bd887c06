"""The schedule, the parameter groups, averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hlip.training.optimizer import (
    OptimizerConfig,
    WeightAverage,
    layer_heights,
    learning_rate,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)
from hlip.vision import StudyEncoder, VisionConfig


def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    config = OptimizerConfig(lr=1.0, warmup_steps=4)
    rates = [learning_rate(step, 12, config) for step in range(12)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    # 8 steps of decay: 0.5 * (1 + cos(pi * k / 8)) at k = 2, 4, 6, 7
    assert [rates[4 + k] for k in (2, 4, 6, 7)] == pytest.approx([0.8535534, 0.5, 0.1464466, 0.0380602], abs=1e-7)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_the_learning_rate_of_short_runs():
    assert learning_rate(0, 10, OptimizerConfig(lr=0.2, warmup_steps=0)) == 0.2
    short = OptimizerConfig(lr=0.3, warmup_steps=1600)  # a run shorter than its warm-up still reaches the peak
    assert [learning_rate(step, 3, short) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert learning_rate(0, 1, OptimizerConfig(lr=0.3, warmup_steps=0)) == 0.3


class Model(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 2, 3))
        self.linear = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.temperature = nn.Parameter(torch.zeros(1))
        self.text = nn.Linear(3, 2)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def test_parameter_groups_by_rate_and_decay():
    model = Model()
    groups = parameter_groups({model: 1.0, model.text: 0.1}, weight_decay=0.2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        (group["lr_scale"], group["weight_decay"]): sorted(names[id(parameter)] for parameter in group["params"])
        for group in groups
    }
    assert found == {
        (1.0, 0.2): ["linear.weight"],
        (1.0, 0.0): ["cls_token", "linear.bias", "norm.bias", "norm.weight", "temperature"],
        (0.1, 0.2): ["text.weight"],
        (0.1, 0.0): ["text.bias"],
    }
    assert sum(len(group["params"]) for group in groups) == 8  # each once, and nothing frozen


def test_every_group_follows_the_schedule_at_its_own_scale():
    model = Model()
    optimizer = make_optimizer({model: 1.0, model.text: 0.1}, OptimizerConfig(lr=0.5, betas=(0.8, 0.9), eps=1e-7))
    set_learning_rate(optimizer, 0.2)
    assert len(optimizer.param_groups) == 4
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.2 * group["lr_scale"])
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.9), 1e-7)}


def test_rates_fall_from_layer_to_layer_towards_the_input():
    names = ["patch_embed.proj.weight", "cls_token", "blocks.0.attn.qkv.weight", "blocks.1.mlp.fc1.bias", "norm.weight"]
    assert layer_heights(names) == dict(zip(names, (3, 3, 2, 1, 0), strict=True))
    bert = ["transformer.embeddings.word_embeddings.weight", "transformer.encoder.layer.11.output.dense.weight", "proj.weight"]
    assert list(layer_heights(bert).values()) == [13, 1, 0]
    assert layer_heights(["weight", "embeddings.weight"]) == {"weight": 0, "embeddings.weight": 0}  # no layers, no decay
    encoder = StudyEncoder(VisionConfig(size=(4, 8, 8), patch=(2, 4, 4), width=12, heads=2, scopes=["scan", "study"]))
    groups = parameter_groups({encoder: 0.5}, 0.1, layer_decay=0.8)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales[id(encoder.cls_token)] == pytest.approx(0.5 * 0.8**3)
    assert scales[id(encoder.blocks[0].attn.qkv.weight)] == pytest.approx(0.5 * 0.8**2)
    assert scales[id(encoder.norm.weight)] == pytest.approx(0.5)


def test_layers_that_begin_at_random_have_one_rate_and_count_in_no_other_modules_depth():
    visual, head = (nn.Module() for _ in range(2))
    visual.blocks, head.blocks = nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList([nn.Linear(2, 2) for _ in range(5)])
    groups = parameter_groups({visual: 0.1, head: 1.0}, 0.0, layer_decay=0.5, fresh=[head])
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales[id(visual.blocks[0].weight)] == pytest.approx(0.05)
    assert {scales[id(parameter)] for parameter in head.parameters()} == {1.0}


def test_averaged_weights_follow_by_hand():
    """Decay min(0.9, (1 + t) / (10 + t)): 2/11, 3/12, ...; from 0 towards 1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.9)
    nn.init.ones_(model.weight)
    average.update(model)
    assert average.model.weight.item() == pytest.approx(1 - 2 / 11)
    average.update(model)
    assert average.model.weight.item() == pytest.approx(1 - 2 / 11 * 3 / 12)
    again = WeightAverage(nn.Linear(1, 1, bias=False), 0.9)
    again.load_state_dict(average.state_dict())
    again.update(model)
    average.update(model)
    assert torch.equal(again.model.weight, average.model.weight)
    with pytest.raises(ValueError, match="not between 0 and 1"):
        WeightAverage(model, 1.0)
