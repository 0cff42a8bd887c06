"""AdamW over towers and layers at rates of their own, the schedule, and averaged weights."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass
class OptimizerConfig:
    """AdamW and its schedule: linear warm-up, then half a cosine to zero."""

    lr: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 1600
    """Steps in which the rate rises to its peak."""
    vision_lr_scale: float = 1.0
    """Learning rate of the vision tower, relative to `lr`."""
    text_lr_scale: float = 1.0
    """Learning rate of the text tower, relative to `lr`."""
    layer_decay: float = 1.0
    """Rate of each layer relative to the one above it, within its tower; below 1 for towers that start from trained weights (0.65 to 0.9
    is usual)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    eps: float = 1e-6
    """AdamW's."""
    weight_decay: float = 0.2
    """Not applied to norms, biases, class tokens and temperatures."""
    clip_norm: float = 1.0
    """Largest gradient norm; DeepSpeed clips at this value too."""

    def __post_init__(self) -> None:
        for name in ("lr", "warmup_steps", "vision_lr_scale", "text_lr_scale", "eps", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name} {getattr(self, name)} is negative")
        if not 0 < self.layer_decay <= 1 or self.clip_norm <= 0:
            raise ValueError("optimizer: layer_decay must be in (0, 1], clip_norm above 0")


def parameter_groups(
    modules: Mapping[nn.Module, float], weight_decay: float, layer_decay: float = 1.0, fresh: Collection[nn.Module] = ()
) -> list[dict[str, Any]]:
    """Parameters by learning-rate scale and by decay: matrices decay; vectors (norms, biases, temperatures) and class tokens do not.

    Args:
        modules: the learning-rate scale of each; a module inside another takes its own.
        weight_decay: of the matrices.
        layer_decay: the scale falls by this factor from layer to layer towards a module's input.
        fresh: those of the modules that begin at random: all of their layers have one rate.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    taken: set[int] = set()
    for module, scale in reversed(list(modules.items())):
        names = [name for name, _ in module.named_parameters()]
        heights = dict.fromkeys(names, 0) if module in fresh else layer_heights(names)
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in taken:
                taken.add(id(parameter))
                # a class token, (1, P, C), and a prompt are vectors too, though they have more dimensions
                vector = parameter.ndim == 1 or parameter.shape[0] == 1 or "token" in name.rsplit(".", 1)[-1]
                groups.setdefault((scale * layer_decay ** heights[name], not vector), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": weight_decay if matrix else 0.0}
        for (scale, matrix), parameters in groups.items()
    ]


def layer_heights(names: Sequence[str]) -> dict[str, int]:
    """Layers between each parameter and its module's top: 0 above the last block, 1 in it, depth + 1 for the embeddings.

    Blocks are known by `blocks.3.` (ViT), `stages.3.` (CNN) or `layer.3.` (BERT) in their name, embeddings by theirs.
    """
    found = {name: re.search(r"(?:^|\.)(?:blocks|layers?|stages)\.(\d+)\.", name) for name in names}
    depth = 1 + max((int(match[1]) for match in found.values() if match), default=-1)
    heights = {}
    for name, match in found.items():
        embedding = re.search(r"(?:^|\.)(?:patch_embed|cls_token|pos_embed|embeddings|stem)(?:\.|$)", name)
        heights[name] = depth - int(match[1]) if match else depth + 1 if embedding and depth else 0
    return heights


def make_optimizer(
    modules: Mapping[nn.Module, float], config: OptimizerConfig, fresh: Collection[nn.Module] = ()
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of these modules; their values are learning-rate scales. `fresh` as in `parameter_groups`."""
    groups = parameter_groups(modules, config.weight_decay, config.layer_decay, fresh)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """The rate of a step (0-based): a function of the step alone, so that a resumed run needs no schedule state."""
    warmup = min(config.warmup_steps, steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Set every group's rate; works through accelerate's and DeepSpeed's wrappers."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


class WeightAverage:
    """An exponential moving average of a model's weights, in float32, on the model's device.

    Args:
        model: as it is at the start; copied.
        decay: share of the average that stays at each step, e.g. 0.999.

    The decay is lower at first, (1 + step) / (10 + step), so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"ema {decay} is not between 0 and 1")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step; buffers are copied."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        own = self.model.state_dict()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                own[name].lerp_(value.to(own[name]), 1 - decay)
            else:
                own[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """To be saved beside the engine's state."""
        return {"steps": self.steps, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.steps = state["steps"]
        self.model.load_state_dict(state["model"])
