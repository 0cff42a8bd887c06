"""Mild augmentation of prepared volumes: small moves of the head in the plane of the slices, and small changes of intensity.

Never a flip: reports speak of left and right. One move for all scans of a study (they stay aligned), intensities drawn scan by
scan. Typical values: MRI rotate 5, scale 0.05, shift 0.03, gamma 0.2, noise 0.02; CT the same with gamma 0 and contrast 0.1, which
is a jitter of the window (grey values of CT mean something, those of MRI do not).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


@dataclass
class AugmentConfig:
    """Largest change of each kind, drawn evenly up to it; 0 leaves it out, and all are 0 by default."""

    rotate: float = 0.0
    """Degrees in the plane of the slices, to either side."""
    scale: float = 0.0
    """Share of the size, larger or smaller."""
    shift: float = 0.0
    """Share of height and width, in any direction."""
    gamma: float = 0.0
    """Grey values (0 to 1) to the power of exp(g), g up to this to either side: MRI."""
    contrast: float = 0.0
    """Grey values times 1 + c, plus an offset up to the same: a jitter of the window, CT."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, as a share of the range; not added to air (grey value 0)."""

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ValueError(f"augmentation: no value may be negative ({vars(self)})")
        if self.scale >= 1 or self.contrast >= 1:
            raise ValueError("augmentation: scale and contrast must be below 1")

    @property
    def off(self) -> bool:
        """Whether nothing is changed."""
        return not any(vars(self).values())


def augment(volumes: Tensor, config: AugmentConfig, generator: np.random.Generator) -> Tensor:
    """(n, 1, D, H, W) uint8 of one study -> the same, changed; the generator decides everything."""
    if config.off:
        return volumes
    grey = volumes.float() / 255
    if config.rotate or config.scale or config.shift:
        grey = moved(grey, config, generator)
    air = grey == 0
    for scan in grey:
        scan.pow_(math.exp(generator.uniform(-config.gamma, config.gamma)))
        scan.mul_(1 + generator.uniform(-config.contrast, config.contrast))
        scan.add_(generator.uniform(-config.contrast, config.contrast) / 2)
    if config.noise:
        spread = generator.uniform(0, config.noise, len(grey))
        drawn = torch.from_numpy(generator.standard_normal(grey.shape, dtype=np.float32))
        grey += drawn * torch.as_tensor(spread, dtype=torch.float32)[:, None, None, None, None]
    grey[air] = 0
    return (grey.clamp_(0, 1) * 255).round_().to(torch.uint8)


def moved(grey: Tensor, config: AugmentConfig, generator: np.random.Generator) -> Tensor:
    """(n, 1, D, H, W) float32, every slice turned, scaled and shifted alike; bilinear, air comes in from outside."""
    count, depth, height, width = len(grey), *grey.shape[2:]
    angle = math.radians(generator.uniform(-config.rotate, config.rotate))
    size = 1 + generator.uniform(-config.scale, config.scale)
    down, right = generator.uniform(-config.shift, config.shift, 2)
    cos, sin, ratio = math.cos(angle) / size, math.sin(angle) / size, height / width
    # the grid's sides are 2 long whatever their voxels, hence the ratio
    matrix = torch.tensor([[cos, -sin * ratio, -2 * right], [sin / ratio, cos, -2 * down]], dtype=torch.float32)
    images = rearrange(grey, "n 1 D H W -> 1 (n D) H W")
    grid = F.affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
    return rearrange(F.grid_sample(images, grid, align_corners=False), "1 (n D) H W -> n 1 D H W", n=count, D=depth)
