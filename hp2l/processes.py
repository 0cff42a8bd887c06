"""Sums over all training processes, so that one process and several compute the same."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes that train together; 1 outside of a launch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(tensor: Tensor) -> Tensor:
    """The tensor's sum over all processes, without a gradient; every process must call it."""
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def share_of_count(count: Tensor) -> Tensor:
    """What a process divides its sum by so that the mean over processes (which is what their gradients get) is the mean over all that was
    counted anywhere: the mean count, and no less than one entry in all.
    """
    return summed(count).clamp(min=1.0) / world_size()
