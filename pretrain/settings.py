"""What a pretraining run is told, and whether it can be: the configuration and the checks before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hlip.config import plain
from hlip.data import SamplingConfig
from hlip.loss import LossConfig
from hlip.model import HLIPConfig
from hlip.store import Store
from hlip.training.augment import AugmentConfig
from hlip.training.engine import Precision
from hlip.training.optimizer import OptimizerConfig
from pretrain.start import FREE
from pretrain.validate import ValidationConfig


@dataclass
class PretrainConfig:
    """A pretraining run."""

    store: Path
    """Prepared store (made by `hlip prepare`); its `train` split is learnt from, its `val` split watched."""
    out: Path
    """Run folder."""
    steps: int | None = None
    """Optimizer steps in all; or give `epochs`."""
    epochs: float | None = None
    """Times every training study is seen; or give `steps`."""
    init: Path | None = None
    """Run or checkpoint folder (ours or official) whose weights training starts from; `model` must describe the same architecture."""
    init_vision: str | None = None
    """2-D ViT from which the vision tower starts, as the published models do: a timm name (vit_base_patch16_224.mae) or a file."""
    model: HLIPConfig = field(default_factory=HLIPConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    ema: float = 0.0
    """Share of the averaged weights that stays at each step (0.999, say); they are then what is watched and saved. 0: the last weights."""
    centre_studies: int = 500
    """Training studies whose mean is subtracted when `model.vision.patch_norm` is on."""
    batch_size: int = 384
    """Studies a step, all processes together: what each study is contrasted with."""
    chunk_studies: int = 0
    """Studies a forward pass of a process at most; more are taken one after another, with the same loss (gradient caching): a batch
    larger than the memory, for about a third more time. 0: no limit."""
    chunk_scans: int = 0
    """Scans a forward pass of a process at most, which bounds its memory. 0: no limit."""
    precision: Precision = "no"
    """Mixed precision: no | fp16 | bf16; what `accelerate launch --mixed_precision` says is taken when this is no."""
    seed: int = 0
    """Of weights, order, draws and dropout."""
    workers: int = 2
    """Loader processes of each training process; the samples do not depend on it."""
    prefetch: int = 2
    """Steps that each loader process holds ready; memory: workers x prefetch x a process's share of the batch."""
    threads: int = 0
    """CPU threads of each training process; 0 shares the cores evenly when training runs on the CPU."""
    compile: bool = False
    """torch.compile each block."""
    damaged_share: float = 0.01
    """Share of the training studies that may be unreadable; each is replaced by another draw, more of them stop the run."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """accelerate's names: tensorboard (RUN/tensorboard), wandb, mlflow, ...; [] for none."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between two checkpoints; the end is always saved."""
    keep: int = 2
    """Checkpoints left on disk."""
    resume: str = "auto"
    """auto: go on after the last checkpoint in `out`, if there is one. never: refuse if there is. Or the path of one."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "prefetch", "log_every", "save_every", "keep", "centre_studies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: at least 1")
        if not 0 <= self.damaged_share <= 1:
            raise ValueError(f"damaged_share {self.damaged_share} is not a share, between 0 and 1")
        if self.model.text.locked and self.model.text.source is None and self.init is None:
            raise ValueError(
                "model.text.locked: a tower grown from the reports knows nothing yet; name a text.source, or unlock it"
            )


def total_steps(config: PretrainConfig, studies: int) -> int:
    """Optimizer steps of the whole run.

    Raises:
        ValueError: neither or both of steps and epochs are given.
    """
    if config.steps is None and config.epochs is None:
        raise ValueError("give steps or epochs")
    if config.steps is not None and config.epochs is not None:
        raise ValueError(f"steps {config.steps} and epochs {config.epochs} are both given: add --epochs null, or --steps null")
    return config.steps if config.steps is not None else math.ceil((config.epochs or 0) * studies / config.batch_size)


def check_same_run(config: PretrainConfig) -> list[str]:
    """Notes on settings that differ from those that the run was begun with.

    Raises:
        ValueError: they make another model, which the saved state does not fit.
    """
    path = config.out / "config.yaml"
    if not path.is_file() or not list((config.out / "checkpoints").glob("step-*/run.json")):
        return []
    before, now = flat(yaml.safe_load(path.read_text(encoding="utf-8"))), flat(plain(config))
    changed = {name: (before[name], value) for name, value in now.items() if name in before and before[name] != value}
    free = {f"model.{part}.{name}" for part, names in FREE.items() for name in names}
    fatal = [
        name for name in changed if (name.startswith("model.") and name not in free) or (name == "ema" and 0 in changed[name])
    ]
    if fatal:
        listed = ", ".join(f"{name} {changed[name][0]}, now {changed[name][1]}" for name in fatal[:5])
        raise ValueError(f"{config.out}: begun with {listed}; choose another --out, or the same settings")
    quiet = {
        "store",
        "out",
        "resume",
        "workers",
        "prefetch",
        "threads",
        "log_every",
        "save_every",
        "keep",
        "trackers",
        "compile",
        *free,
    }
    return [f"note: begun with {name} {old}, now {new}" for name, (old, new) in changed.items() if name not in quiet]


def check_sizes(config: PretrainConfig, store: Store) -> None:
    """The store's volumes must be what the model is built for.

    Raises:
        SystemExit: they differ; the message says how to mend it.
    """
    if tuple(store.spec.size) != tuple(config.model.vision.size):
        raise SystemExit(
            f"{config.store}: volumes of {tuple(store.spec.size)}, but model.vision.size is {config.model.vision.size}; "
            "prepare the store with another --spec, or set --model.vision.size"
        )


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str | float]:
    """A nested configuration as one level of dotted names, for trackers."""
    rows: dict[str, str | float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            rows |= flat(value, f"{prefix}{name}.")
        else:
            rows[prefix + name] = value if isinstance(value, int | float) else str(value)
    return rows
