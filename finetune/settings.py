"""The settings of a fine-tuning run, and that a run folder keeps to those it was begun with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator

from finetune.cohort import CohortConfig
from finetune.tuning import TuningConfig
from hlip.config import plain
from hlip.files.folders import recover
from hlip.model import CheckpointError
from hlip.taxonomy import Taxonomy
from hlip.training.augment import AugmentConfig
from hlip.training.engine import Precision
from hlip.training.optimizer import OptimizerConfig
from hlip.training.runs import changed_settings
from hp2l.encoders import CNNConfig, ImageConfig
from hp2l.heads import HeadConfig
from hp2l.loss import LossConfig


@dataclass
class FinetuneConfig:
    """A fine-tuning run."""

    store: Path
    """Prepared store with labels and a train and a val split."""
    encoder: str
    """Run or checkpoint folder of a pretrained HLIP; or `cnn` (the paper's own, over named sequences) or `image` (a 2-D backbone of timm)."""
    out: Path
    """Run folder."""
    steps: int
    """Optimizer steps in all."""
    taxonomy: str = "brain_mri"
    """Name or path of the disease tree."""
    head: HeadConfig = field(default_factory=HeadConfig)
    cnn: CNNConfig = field(default_factory=CNNConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    cohort: CohortConfig = field(default_factory=CohortConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3, warmup_steps=100, weight_decay=0.05))
    batch_size: int = 64
    """Studies a step, all processes together."""
    encode_batch: int = 16
    """Studies encoded at once where no gradient is wanted."""
    precision: Precision = "no"
    """Mixed precision: no | fp16 | bf16."""
    seed: int = 0
    """Of weights, order and dropout."""
    seeds: int = 1
    """Runs with seeds from `seed` on, into OUT/seed_0, OUT/seed_1, ...; OUT/summary.md has mean and spread."""
    tokens: Path | None = None
    """Where a frozen encoder's tokens are kept, OUT/tokens by default; runs on the same cohort may share them."""
    workers: int = 2
    """Loader processes of each training process, where the encoder is trained."""
    threads: int = 0
    """CPU threads of each training process; 0 shares the cores evenly when training runs on the CPU."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """accelerate's names: tensorboard (RUN/tensorboard), wandb, ...; [] for none."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    validate_every: int = 100
    """Steps between two validations and checkpoints; the end is always one."""
    patience: int = 0
    """Validations without a better one after which the run ends early; 0 never does."""
    resume: str = "auto"
    """auto: go on after the last checkpoint in `out`, if there is one. never: refuse if there is. Or the path of one."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "encode_batch", "log_every", "validate_every", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.encoder == "cnn" and self.tuning.encoder != "all":
            raise ValueError("encoder cnn starts at random: it must be trained, with --tuning.encoder all")
        if self.tuning.encoder == "frozen" and not self.augmentation.off:
            raise ValueError(
                "augmentation changes voxels, but a frozen encoder reads them once: train it (--tuning.encoder), or leave it out"
            )


PLACES = {"out", "store", "encoder", "tokens"}
PACE = {"steps", "patience", "log_every", "validate_every", "encode_batch", "threads", "workers", "trackers", "resume", "seeds"}
FREE = PLACES | PACE
"""Settings with which a run may go on otherwise than it began: they decide no number, or are checked by themselves."""


def check_same_settings(config: FinetuneConfig) -> None:
    """A run goes on as it began.

    Raises:
        CheckpointError: settings that decide its numbers are others now.
    """
    if changed := changed_settings(config.out, plain(config), FREE):
        more = f", and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise CheckpointError(
            f"{config.out}: begun with other settings ({'; '.join(changed[:5])}{more}); choose another --out, or give those of its config.yaml"
        )


def check_same_tree(run: Path, taxonomy: Taxonomy) -> None:
    """A run folder belongs to one tree.

    Raises:
        CheckpointError: it holds a model of another.
    """
    recover(run / "model")
    path = run / "model" / "config.json"
    if path.is_file():
        trained = Taxonomy.from_dict(json.loads(path.read_text(encoding="utf-8"))["taxonomy"])
        if not trained.same_tree(taxonomy):
            raise CheckpointError(
                f"{run}: holds a model for taxonomy '{trained.name}' ({' / '.join(map(str, trained.counts))} classes), not '{taxonomy.name}' "
                f"({' / '.join(map(str, taxonomy.counts))}); choose another --out"
            )


def check_same_encoder(run: Path, digest: str, accelerator: Accelerator) -> None:
    """A run folder belongs to one encoder: its head means nothing on another's tokens.

    Raises:
        CheckpointError: the folder was begun with another.
    """
    path = run / "encoder.sha256"
    known = path.read_text(encoding="utf-8").strip() if path.is_file() else digest
    accelerator.wait_for_everyone()
    if known != digest:
        raise CheckpointError(
            f"{run}: begun with another encoder than the one given; choose another --out, or delete this folder"
        )
    if accelerator.is_main_process:
        path.write_text(digest + "\n", encoding="utf-8")
