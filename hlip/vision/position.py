"""Fixed sine-cosine position tables of the vision tower.

The updated version adds a depth table to a plane table; the paper version joins three axes of a third of the width each. Golden
outputs of both are checked in the tests.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor


def sine_cosine(positions: Tensor, channels: int) -> Tensor:
    """(N,) positions -> (N, channels): sines then cosines, frequencies 10000 ** (-i / (channels / 2)).

    Raises:
        ValueError: an odd number of channels cannot hold sine-cosine pairs.
    """
    if channels % 2:
        raise ValueError(f"{channels} channels cannot hold sine-cosine pairs: choose an even number")
    frequencies = 10000.0 ** -(torch.arange(channels // 2, dtype=torch.float64) / (channels / 2))
    angles = positions.to(torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def rotary_angles(grid: tuple[int, int, int], trained: tuple[int, int, int], pairs: int) -> Tensor:
    """(d h w, pairs) angles of a rotary embedding over three axes, row-major.

    The pairs of a head are shared by depth, height and width as evenly as may be, the remainder going to the plane. A place is counted
    in patches of the trained grid, so that another grid spans the same angles.

    Raises:
        ValueError: fewer than three pairs cannot hold three axes.
    """
    if pairs < 3:
        raise ValueError(f"{pairs} channel pairs a head cannot hold three axes: choose fewer heads or a larger width")
    shares = (pairs // 3, pairs // 3 + (pairs % 3) // 2, pairs // 3 + (pairs % 3 + 1) // 2)
    axes = []
    for count, reference, share in zip(grid, trained, shares, strict=True):
        place = (torch.arange(count, dtype=torch.float64) + 0.5) * (reference / count) - 0.5
        frequencies = 100.0 ** -(torch.arange(share, dtype=torch.float64) / share)
        axes.append(place[:, None] * frequencies)
    d, h, w = grid
    parts = [
        repeat(axes[0], "d a -> (d h w) a", h=h, w=w),
        repeat(axes[1], "h a -> (d h w) a", d=d, w=w),
        repeat(axes[2], "w a -> (d h w) a", d=d, h=h),
    ]
    return torch.cat(parts, dim=-1).float()


def depth_plane_table(grid: tuple[int, int, int], width: int) -> Tensor:
    """(d, h, w, C): depth over the full width, plus the plane with halves joined as [w, h] (updated version)."""
    d, h, w = grid
    depth = sine_cosine(torch.arange(d), width)
    row, column = sine_cosine(torch.arange(h), width // 2), sine_cosine(torch.arange(w), width // 2)
    plane = torch.cat([repeat(column, "w c -> h w c", h=h), repeat(row, "h c -> h w c", w=w)], dim=-1)
    return rearrange(depth, "d C -> d 1 1 C") + plane


def space_table(grid: tuple[int, int, int], width: int) -> Tensor:
    """(d, h, w, C): a third of the width an axis, joined as [w, h, d] (paper version)."""
    d, h, w = grid
    if width % 6:
        raise ValueError(f"width {width} does not split into three axes of sine-cosine pairs: choose a multiple of 6")
    third = width // 3
    depth, row, column = (sine_cosine(torch.arange(n), third) for n in grid)
    parts = [
        repeat(column, "w c -> d h w c", d=d, h=h),
        repeat(row, "h c -> d h w c", d=d, w=w),
        repeat(depth, "d c -> d h w c", h=h, w=w),
    ]
    return torch.cat(parts, dim=-1)


def sequence_table(places: int, width: int) -> Tensor:
    """(places, C): a scan's place in the study (paper version)."""
    return sine_cosine(torch.arange(places), width)
