"""Where a fine-tuned model looked at each level, and what the prototypes had to do with it.

HP2L's prompt reads the image tokens at every level; its attention, averaged over heads, is a map over the study's place: one number a
block of tokens (2 x 4 x 4 by default), one map for all scans, as the head reads one token a block, and one for all classes of the level.
Encoders with named channels (the CNN, 2-D backbones) also have Grad-CAM, of the highest class of each level, whatever the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor

from hp2l.diagnoser import Diagnoser
from hp2l.encoders import ChannelEncoder
from hp2l.grad_cam import GradCAM
from hp2l.head import Head, HP2LOutput
from hp2l.model import HP2L

LOOKED = {
    "prompt": "prompt: how the level's prompt attends to each of {blocks}, in times an even look (1 is even); one map for all classes",
    "grad_cam": "grad_cam: which of {blocks} of the encoder's last map raise the level's highest class, as a share of the map's highest",
}
ONE_MAP = "; one map for all scans of the study, as the head does not read them one by one"


class Look(NamedTuple):
    """One map of one level."""

    kind: str
    """A key of LOOKED."""
    level: int
    title: str
    map: Tensor
    """(d, h, w) on the host: log2 of the prompt's attention over an even look, or Grad-CAM's share of its highest."""

    @property
    def values(self) -> Tensor:
        """The map in its unit: times an even look, or the share."""
        return self.map.exp2() if self.kind == "prompt" else self.map

    @property
    def blocks(self) -> str:
        """What it is made of, in words."""
        d, h, w = self.map.shape
        return f"{h} x {w} blocks (height x width)" if d == 1 else f"{d} x {h} x {w} blocks (depth x height x width)"

    @property
    def range(self) -> str:
        """From where to where it goes, in words."""
        low, high = float(self.values.min()), float(self.values.max())
        if self.kind == "prompt":
            return f"{low:.3g} to {high:.3g} times an even look"
        return "the highest place is 1" if high > 0 else "no place raises it"

    def of(self, best: str) -> str:
        """What it is a look for: the prompt's is not one for a class."""
        return "one look for all classes" if self.kind == "prompt" else f"for {best}, the highest class"


def looks(model: Diagnoser, volumes: Tensor, output: HP2LOutput, likely: list[Tensor]) -> Iterator[Look]:
    """The prompt's maps, then those of Grad-CAM, as far as head and encoder have them.

    Args:
        likely: (1, K_l) of each level, whose highest class Grad-CAM is for.
    """
    for level, found in enumerate(prompt_maps(output, model.config.blocks), start=1):
        yield Look("prompt", level, "where the prompt looked", found[0])
    if isinstance(model.encoder, ChannelEncoder):
        cam = GradCAM(model, volumes.to(model.encoder.device), [len(volumes)])
        for level, values in enumerate(likely, start=1):
            found = cam.map(level, int(values[0].argmax()))[0].cpu()
            yield Look("grad_cam", level, "Grad-CAM", found / found.max().clamp(min=torch.finfo(found.dtype).tiny))


def looked_notes(found: list[Look], more: str = "") -> list[str]:
    """What each kind of map is."""
    kinds = dict.fromkeys((look.kind, look.blocks) for look in found)
    return [f"{LOOKED[kind].format(blocks=blocks)}{more}." for kind, blocks in kinds]


def prompt_maps(output: HP2LOutput, blocks: tuple[int, int, int]) -> list[Tensor]:
    """(1, d, h, w) of each level: log2 of the prompt's attention over an even look, mean over heads; empty without a prompt."""
    d, h, w = blocks
    maps = []
    for attention in output.prompt_attention or []:
        looked = reduce(attention, "1 heads N -> N", "mean").float().cpu()
        even = looked.sum() / (d * h * w)
        maps.append(rearrange((looked / even).clamp(min=2**-6).log2(), "(d h w) -> 1 d h w", d=d, h=h, w=w))
    return maps


def chosen_prototypes(output: HP2LOutput) -> list[NDArray[np.float64]]:
    """(K_l,) of levels 1 to L-1: the prompt's attention over prototypes, mean over heads, summing to 1; empty without any."""
    return [reduce(row, "1 heads K -> K", "mean").double().cpu().numpy() for row in output.prototype_attention or []]


def prototype_similarity(head: Head, output: HP2LOutput) -> list[NDArray[np.float64]]:
    """(K_l,) of every level: cosine of the study's class token with each class's prototype; empty where a head averages none."""
    own = getattr(head, "head", head)  # inside a dependency prior
    if not isinstance(own, HP2L) or own.config.prototypes != "ema":
        return []
    return [row[0].double().cpu().numpy() for row in own.similarity(output)]
