"""What both verbs need of the training engine: an Accelerator for any launch, parameter groups, the schedule, and the run's
log.

The same code runs on one CPU process, several gloo processes, one GPU, DDP and DeepSpeed; which of them is decided by
`accelerate launch`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import nn

from hlip.folders import recover, replace_folder
from hlip.model import LARGEST_SCALE

Precision = Literal["no", "fp16", "bf16"]


@dataclass
class OptimizerConfig:
    """AdamW and its schedule: linear warm-up, then half a cosine to zero."""

    lr: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 1600
    """Steps in which the rate rises to its peak."""
    text_lr_scale: float = 1.0
    """Learning rate of the text tower, relative to `lr`."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    eps: float = 1e-6
    """AdamW's."""
    weight_decay: float = 0.2
    """Not applied to norms, biases, class tokens and temperatures."""
    clip_norm: float = 1.0
    """Largest gradient norm; DeepSpeed clips at this value too."""


def make_accelerator(precision: Precision, clip_norm: float, local_batch: int) -> Accelerator:
    """An Accelerator that fits the launch.

    Args:
        precision: no, fp16 or bf16; a choice made by `accelerate launch --mixed_precision` wins over "no".
        clip_norm: told to DeepSpeed, which otherwise clips at 1.0 without saying so.
        local_batch: studies a process and step, which DeepSpeed wants to know.
    """
    handlers: list[Any] = []
    if not torch.cuda.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    accelerator = Accelerator(
        mixed_precision=precision if precision != "no" else launched,
        kwargs_handlers=handlers,
        cpu=not torch.cuda.is_available() and not _deepspeed_launch(),
    )
    plugin = accelerator.state.deepspeed_plugin if accelerator.distributed_type == DistributedType.DEEPSPEED else None
    if plugin is not None:
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": local_batch,
            "gradient_clipping": clip_norm,
            "zero_force_ds_cpu_optimizer": False,
        }
    return accelerator


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


def parameter_groups(modules: Mapping[nn.Module, float], weight_decay: float) -> list[dict[str, Any]]:
    """Parameters by learning-rate scale and by decay: matrices decay; vectors (norms, biases, temperatures) and class tokens do not.

    Args:
        modules: the learning-rate scale of each; a module inside another takes its own.
        weight_decay: of the matrices.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    taken: set[int] = set()
    for module, scale in reversed(list(modules.items())):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in taken:
                taken.add(id(parameter))
                # a class token, (1, P, C), and a prompt are vectors too, though they have more dimensions
                vector = parameter.ndim == 1 or parameter.shape[0] == 1 or "token" in name.rsplit(".", 1)[-1]
                matrix = not vector
                groups.setdefault((scale, matrix), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": weight_decay if matrix else 0.0}
        for (scale, matrix), parameters in groups.items()
    ]


def make_optimizer(modules: Mapping[nn.Module, float], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of these modules; their values are learning-rate scales."""
    groups = parameter_groups(modules, config.weight_decay)
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


class RunLog:
    """`metrics.jsonl` of a run folder, written by the main process; lines of steps that a resumed run repeats are dropped."""

    def __init__(self, folder: Path, main: bool, start: int = 0):
        self.path, self.main, self.began = folder / "metrics.jsonl", main, time.perf_counter()
        if main:
            kept = [line for line in self._lines() if json.loads(line)["step"] <= start]
            self.path.write_text("".join(kept), encoding="utf-8")

    def write(self, step: int, **values: float) -> None:
        """Append one line: the step, seconds since the (re)start, and the values."""
        if self.main:
            row = {"step": step, "seconds": round(time.perf_counter() - self.began, 2), **values}
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        # a line cut short by a crash is not JSON and is left out
        return [line for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]


def save_state(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Optimizer, weights and scaler of every process, to continue after `step`; the folder appears whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        facts = {"step": step, "processes": accelerator.num_processes, "engine": str(accelerator.distributed_type)}
        (partial / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        replace_folder(partial, folder)
    accelerator.wait_for_everyone()


def restore_state(accelerator: Accelerator, folder: Path) -> int:
    """Load what `save_state` wrote and return its step; 0 when there is nothing to continue.

    Raises:
        SystemExit: it was saved under another engine or number of processes.
    """
    if accelerator.is_main_process:
        recover(folder)
    accelerator.wait_for_everyone()
    if not (folder / "run.json").is_file():
        return 0
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    engine = str(accelerator.distributed_type)
    sharded = "DEEPSPEED" in facts["engine"] or "DEEPSPEED" in engine
    if sharded and (facts["engine"], facts["processes"]) != (engine, accelerator.num_processes):
        raise SystemExit(
            f"{folder}: saved by {facts['processes']} process(es) under {facts['engine']}, but this is {accelerator.num_processes} under "
            f"{engine}. DeepSpeed's state is cut by process: launch as before, or start a new run from the model folder beside it."
        )
    accelerator.load_state(str(folder))
    return int(facts["step"])


def full_state(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole model's float32 weights on the host; every process must call it (ZeRO gathers)."""
    return {
        key: value.detach().float().cpu() if value.is_floating_point() else value
        for key, value in accelerator.get_state_dict(model).items()
    }


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
