"""What the benchmarks share: where to measure, a process of its own for each measurement, peak memory, and model FLOPs."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch

from hlip.vision import VisionConfig

# dense bf16 of the tensor cores, FLOP/s, from the makers' data sheets (SXM forms)
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


@dataclass(frozen=True)
class Machine:
    """Where and how to measure."""

    size: str
    device: str
    threads: int
    compiled: bool = False

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


def describe(machine: Machine) -> dict[str, str]:
    """What the numbers were measured on."""
    if machine.cuda:
        return {"name": torch.cuda.get_device_name(machine.device), "torch": torch.__version__}
    return {"name": f"CPU, {machine.threads} of {os.cpu_count()} threads", "torch": torch.__version__}


def chosen_device(name: str) -> str:
    """`auto` is cuda if there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def fresh(machine: Machine, function: Any, *arguments: Any) -> Any:
    """Call in a process of its own (on a CPU: memory freed is not given back), forked from one that has only imported."""
    return function(*arguments) if machine.cuda else apart(function, *arguments)


def apart(function: Any, *arguments: Any, preload: Sequence[str] = ("hlip.vision", "rich.table")) -> Any:
    """Call in a process of its own, forked from one that has only imported the modules `preload`."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes(cuda: bool) -> float:
    """The most memory so far: what torch allocated on the device, or this process's largest resident set."""
    if cuda:
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def model_flops(config: VisionConfig, counts: Sequence[int]) -> float:
    """Multiplications and additions of one forward pass: patch embedding, linear layers, attention (no norms, no recomputing)."""
    d, h, w = config.grid
    tokens = max(1, int(d * h * w * (1 - config.patch_dropout)))
    scans, width, prefix = sum(counts), config.width, config.class_tokens
    voxels = config.patch[0] * config.patch[1] * config.patch[2]
    total = 2.0 * scans * tokens * voxels * width
    linear = 2 * width * width * (4 + 2 * config.mlp_ratio)  # a token: qkv and projection, both layers of the MLP
    groups: dict[str, list[float]] = {
        "slice": [prefix + tokens / d] * (scans * d),
        "scan": [prefix + tokens] * scans,
        "study": [prefix + count * tokens for count in counts],
    }
    for scope in config.scopes:
        total += sum(size * linear + 4 * size * size * width for size in groups[scope])
    return total


def peak_flops(device: str) -> float | None:
    """FLOP/s that the device could do at most in bf16; None where it is not in the list."""
    name = torch.cuda.get_device_name(device)
    return next((flops for key, flops in PEAKS.items() if key in name), None)
