"""What both verbs need of the training engine: an Accelerator for any launch, its cores, whole weights, clamped temperatures.

The same code runs on one CPU process, several gloo processes, one GPU, DDP and DeepSpeed; which of them is decided by
`accelerate launch`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    LoggerType,
    ProjectConfiguration,
)
from torch import nn

from hlip.model import LARGEST_SCALE

Precision = Literal["no", "fp16", "bf16"]


def make_accelerator(
    precision: Precision,
    clip_norm: float,
    local_batch: int,
    trackers: Sequence[str] = (),
    out: Path | None = None,
    wait: timedelta | None = None,
) -> Accelerator:
    """An Accelerator that fits the launch.

    Args:
        precision: no, fp16 or bf16; a choice made by `accelerate launch --mixed_precision` wins over "no".
        clip_norm: told to DeepSpeed, which otherwise clips at 1.0 without saying so.
        local_batch: studies a process and forward pass, which DeepSpeed wants to know.
        trackers: accelerate's names: tensorboard, wandb, ...
        out: run folder, where trackers that write files do so.
        wait: how long processes wait for one another, where one of them works alone for long; `None`: torch's own time (10 or 30 minutes).

    Raises:
        ValueError: a tracker that accelerate does not know, or whose package is not installed.
    """
    check_trackers(trackers)
    # buffers are constant; sending them round at every forward pass would only cost
    handlers: list[Any] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        handlers.append(InitProcessGroupKwargs(backend="nccl" if torch.cuda.is_available() else "gloo", timeout=wait))
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    accelerator = Accelerator(
        mixed_precision=precision if precision != "no" else launched,
        kwargs_handlers=handlers,
        cpu=not torch.cuda.is_available() and not _deepspeed_launch(),
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(str(out), logging_dir=str(out / "tensorboard")) if out else None,
    )
    plugin = accelerator.state.deepspeed_plugin if accelerator.distributed_type == DistributedType.DEEPSPEED else None
    if plugin is not None:
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": local_batch,
            "gradient_clipping": clip_norm,
            "zero_force_ds_cpu_optimizer": False,
        }
        plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    return accelerator


def check_trackers(names: Sequence[str]) -> None:
    """accelerate leaves out what is not installed without a word; a week later is too late to notice."""
    there = {str(tracker) for tracker in get_available_trackers()}
    known = {str(kind) for kind in LoggerType} - {"all"}
    for name in names:
        if name not in known:
            raise ValueError(f"tracker '{name}' is not known; choose from {', '.join(sorted(known))}")
        if name not in there:
            raise ValueError(f"tracker '{name}' is not installed; `pip install {name}`, or leave it out of --trackers")


@contextmanager
def whole_weights(accelerator: Accelerator, model: nn.Module | None = None) -> Iterator[None]:
    """Where a model is built, or used outside its engine: no parameter is cut over processes (DeepSpeed ZeRO-3)."""
    plugin = accelerator.state.deepspeed_plugin if accelerator.distributed_type == DistributedType.DEEPSPEED else None
    if plugin is None or plugin.zero_stage < 3:
        yield
    elif model is None:
        from transformers.integrations import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # while it is set, transformers cuts what it builds, whatever accelerate's own flag says
        try:
            yield
        finally:
            plugin.set_deepspeed_weakref()
    else:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            yield


@contextmanager
def accumulating(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """One of several backward passes of a step: gradients are exchanged, and DeepSpeed steps, in the last alone."""
    if last:
        yield
        return
    accelerator.gradient_state._set_sync_gradients(False)  # accelerate offers this only by counting steps
    try:
        with accelerator.no_sync(model):
            yield
    finally:
        accelerator.gradient_state._set_sync_gradients(True)


def share_cores(threads: int) -> None:
    """Set the CPU threads of this process.

    Args:
        threads: how many; 0 gives a training process on the CPU an even share of the cores, because `accelerate launch` sets one
            thread a process unless told otherwise (OMP_NUM_THREADS, or --num_cpu_threads_per_process, above 1 is left as it is).
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if not threads and launched and os.environ.get("OMP_NUM_THREADS") == "1" and not torch.cuda.is_available():
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        threads = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if threads:
        torch.set_num_threads(threads)


def _deepspeed_launch() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def full_state(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole model's float32 weights on the host; every process must call it (ZeRO gathers). DeepSpeed's float32 masters are
    taken where its model is in half precision."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        state = accelerator.get_state_dict(model)
    else:
        from deepspeed.utils import safe_get_full_fp32_param

        own = accelerator.unwrap_model(model)
        with whole_weights(accelerator, own):
            state = {name: value.detach().clone() for name, value in own.state_dict().items()}
        for name, parameter in own.named_parameters():
            master = safe_get_full_fp32_param(parameter)
            if master is not None:
                state[name] = master
    return {key: value.detach().float().cpu() if value.is_floating_point() else value.cpu() for key, value in state.items()}


def clamp_temperatures(accelerator: Accelerator, model: nn.Module) -> None:
    """`HLIP.clamp_temperatures`, in the float32 masters too where DeepSpeed keeps them apart."""
    own = accelerator.unwrap_model(model)
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        own.clamp_temperatures()
        return
    from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

    for scale in (own.logit_scale_sentence, own.logit_scale_report):
        master = safe_get_full_fp32_param(scale)
        if master is not None and not 0 <= float(master) <= LARGEST_SCALE:
            safe_set_full_fp32_param(scale, master.clamp(0, LARGEST_SCALE))
