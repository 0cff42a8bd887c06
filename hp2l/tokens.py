"""What a head reads: a fixed number of tokens a study, pooled from whatever an encoder gives.

Patches are averaged over blocks of place and over the study's scans: `blocks` (2, 4, 4) gives 32 tokens, the number of the
paper's own encoder, whatever the number of scans and the grid. Nothing is zero-filled: a missing sequence is simply not
part of the mean. Blocks part the patient's z, y and x, in whatever plane a scan was acquired: the patches of a sagittal scan are turned
before they are averaged with those of an axial one. Place is a share of a scan's own box, not millimetres. Where the grid is no multiple
of the blocks (14 patches over 4), neighbouring blocks share a layer of patches; maps of blocks are drawn as cells of equal size, whose
faces are then up to half a patch off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hlip.vision import StudyTokens


class Tokens(NamedTuple):
    """What a head reads of a batch of studies."""

    patches: Tensor
    """(B, N, C)."""
    cls: Tensor
    """(B, C): the encoder's first class token, or the mean of what it sees where it has none."""


Axes = tuple[int, int, int]
"""Which axis of a scan's grid (0 depth, 1 height, 2 width) runs along the patient's z, y and x."""
AXIAL: Axes = (0, 1, 2)
Blocks = tuple[int, int, int]
"""Blocks of tokens along the patient's z, y and x."""


def axes_of(affine: NDArray[np.float64]) -> Axes:
    """Of an affine (4, 4), voxel index (D, H, W) -> RAS mm; an oblique axis counts as the nearest."""
    towards = io_orientation(affine)[:, 0].tolist()
    return towards.index(2), towards.index(1), towards.index(0)


def turned_back(blocks: Tensor, axes: Axes) -> Tensor:
    """A map (d, h, w) over the patient's z, y, x -> over the axes of a scan's grid."""
    return blocks.permute(*(axes.index(axis) for axis in range(3)))


def pool_over_place(tokens: StudyTokens, blocks: Blocks, axes: Sequence[Axes] = ()) -> Tensor:
    """Tokens of packed studies, all patches kept -> (B, N, C), N = the product of `blocks` (along z, y, x of the patient).

    Args:
        axes: of all scans, study after study; empty: all are axial. A turned grid with fewer patches than blocks along an axis repeats them.

    Raises:
        ValueError: patches were dropped, or there are more blocks than patches along an axis.
    """
    if tokens.kept is not None:
        raise ValueError("pooling over place needs all patches: encode in evaluation mode, without patch dropout")
    if any(count > patches for count, patches in zip(blocks, tokens.grid, strict=True)):
        raise ValueError(f"token blocks {tuple(blocks)} do not fit the encoder's grid {tokens.grid}: choose fewer an axis")
    d, h, w = tokens.grid
    place = rearrange(tokens.patches, "S (d h w) C -> S C d h w", d=d, h=h, w=w)
    if set(axes) <= {AXIAL}:
        pooled = F.adaptive_avg_pool3d(place, blocks)
    else:
        turned = (scan.permute(0, *(axis + 1 for axis in own)) for scan, own in zip(place, axes, strict=True))
        pooled = torch.stack([F.adaptive_avg_pool3d(scan, blocks) for scan in turned])
    pooled = rearrange(pooled, "S C d h w -> S (d h w) C")
    return torch.stack([reduce(scans, "n N C -> N C", "mean") for scans in pooled.split(tokens.scans_per_study)])


def pool_map(features: Tensor, blocks: Blocks) -> Tensor:
    """A feature map (B, C, d, h, w) of any size -> (B, N, C), N = the product of `blocks`; a smaller map is repeated."""
    return rearrange(F.adaptive_avg_pool3d(features, blocks), "B C d h w -> B (d h w) C")
