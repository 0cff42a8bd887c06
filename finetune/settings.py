"""The settings of a fine-tuning run, which of them decide nothing in it, and that a run folder keeps to those it was begun with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path

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
from hlip.volume import VolumeSpec
from hp2l.encoders import FRESH, CNNConfig, ImageConfig
from hp2l.heads import HeadConfig
from hp2l.loss import HP2LLoss, LossConfig


@dataclass
class FinetuneConfig:
    """A fine-tuning run."""

    store: Path
    """Prepared store with labels and a train and a val split."""
    encoder: str
    """Run or checkpoint folder of a pretrained HLIP; or `cnn` (the paper's own, over named sequences) or `image` (a 2-D backbone of timm)."""
    out: Path
    """Run folder."""
    steps: int = 2000
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
    """Of weights, prototypes, order and dropout."""
    seeds: int = 1
    """Runs with seeds from `seed` on, into OUT/seed_0, OUT/seed_1, ...; OUT/summary.md has mean and spread. 1: a single run, OUT itself."""
    tokens: Path | None = None
    """Where a frozen encoder's tokens are kept, OUT/tokens by default; any runs may share a folder, at once too: each study is encoded
    once for an encoder, token blocks, preparation and precision. Nothing is ever deleted there: 2,000 studies of 32 tokens x 768
    channels are 0.2 GB, for each of these anew."""
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
    """Validations without a better one after which the run ends early; 0 never does. One without an AUC does not count."""
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


def left_out_of_the_loss(config: FinetuneConfig, used: LossConfig) -> str:
    """What the head does not train of the loss as configured, in one line; empty if nothing.

    Args:
        used: the loss as the head takes it, `Head.loss_config`.
    """
    parts = []
    if used.consistency != config.loss.consistency:
        parts.append(f"consistency, so that loss.consistency {config.loss.consistency:g} has no effect")
    if used.level_weights is not None and config.loss.level_weights is None:
        levels = [str(level) for level, weight in enumerate(used.level_weights, start=1) if not weight]
        parts += [f"level {' and '.join(levels)}, whose scores follow from the level below"] if levels else []
    return f"head {config.head.kind} leaves out of the loss: {'; '.join(parts)}" if parts else ""


def untrained_levels(config: FinetuneConfig) -> str:
    """Levels that the given weights leave out, in one line; empty if there are none."""
    levels = [str(level) for level, weight in enumerate(config.loss.level_weights or (), start=1) if not weight]
    if not levels:
        return ""
    return f"loss.level_weights: level {' and '.join(levels)} is not trained and has no part in the mean AUC that chooses the checkpoint"


def without_effect(config: FinetuneConfig, loss: HP2LLoss, weights: Sequence[float] | None) -> str:
    """Settings that were given and decide nothing in this run, in one line with the reasons; empty if there are none.

    Args:
        loss: as the head takes it.
        weights: how often each training study is drawn, where `cohort.balance` is given.
    """
    frozen = "the encoder is frozen"
    tuned, tail, folds = config.tuning.encoder, config.loss.long_tail, config.cohort.folds
    alike = weights is not None and max(weights) == min(weights)
    reasons = {
        **{f"head.{name}": (True, why) for name, why in config.head.unread().items()},
        "loss.consistency": (len(loss.counts) == 1, "the tree has one level"),
        "loss.direction": (len(loss.counts) == 1 or not loss.config.consistency, "no consistency in the loss"),
        "loss.beta": (tail != "class_balanced", "of loss.long_tail class_balanced"),
        "loss.tau": (tail != "logit_adjusted", "of loss.long_tail logit_adjusted"),
        "optimizer.layer_decay": (tuned == "frozen", f"{frozen}, and the head has one rate"),
        "optimizer.vision_lr_scale": (True, "of pretraining; the encoder's rate is tuning.lr_scale"),
        "optimizer.text_lr_scale": (True, "of pretraining"),
        "tuning.blocks": (tuned != "last", "of tuning.encoder last"),
        "tuning.rank": (tuned != "lora", "of tuning.encoder lora"),
        **{f"tuning.{name}": (config.encoder in FRESH, f"not of encoder {config.encoder}") for name in ("max_scans", "checkpoint_blocks")},
        **({f"tuning.{name}": (True, frozen) for name in ("lr_scale", "max_scans", "checkpoint_blocks")} if tuned == "frozen" else {}),
        "tokens": (tuned != "frozen", "the encoder is trained"),
        "image.pretrained": (config.encoder == "image" and bool(config.image.weights), "image.weights are given"),
        "cohort.balance": (alike, "all classes are alike often"),
        "cohort.seed": (config.cohort.fraction == 1 and not folds, "no share or folds are drawn"),
        **{f"cnn.{option.name}": (config.encoder != "cnn", "of encoder cnn") for option in fields(CNNConfig)},
        **({f"image.{option.name}": (True, "of encoder image") for option in fields(ImageConfig)} if config.encoder != "image" else {}),
    }  # fmt: skip
    usual = FinetuneConfig(config.store, config.encoder, config.out, config.steps, tuning=TuningConfig(encoder=tuned))
    idle = [
        f"{name} {value} ({why})"
        for name, (applies, why) in reasons.items()
        if applies and (value := attrgetter(name)(config)) != attrgetter(name)(usual)
    ]
    return f"no effect here: {'; '.join(idle)}" if idle else ""


def mixed_planes(config: FinetuneConfig, spec: VolumeSpec) -> str:
    """What to know of a store whose scans keep their planes, where the encoder stacks them as channels; empty if it does not."""
    if config.encoder != "cnn" or spec.through_plane == "axial":
        return ""
    return (
        "the store keeps scans in the planes they were acquired in: channels of one study may show different ones; prepare with --spec hp2l "
        "for one grid a study"
    )


def doors_beside(config: FinetuneConfig) -> str:
    """What to know of a cascade under a loss that moves its scores; empty if nothing."""
    loss = config.loss
    if config.head.kind != "cascade" or (loss.long_tail == "none" and not loss.focal_gamma):
        return ""
    return (
        "head cascade: its doors stand where the plain loss puts a class's prevalence; loss.long_tail and loss.focal_gamma move the scores and "
        "not the doors, so that classes are let in or refused otherwise"
    )


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


COHORT, ENCODER = "cohort.sha256", "encoder.sha256"


def check_same_cohort(run: Path, digest: str) -> None:
    """A run folder belongs to its training and validation studies: on others it would be validated on what it has learnt from.

    Raises:
        CheckpointError: the folder was begun with others.
    """
    _check_same(run, COHORT, digest, "other studies, labels or splits than those of this store")


def check_same_encoder(run: Path, digest: str) -> None:
    """A run folder belongs to one encoder: its head means nothing on another's tokens.

    Raises:
        CheckpointError: the folder was begun with another.
    """
    _check_same(run, ENCODER, digest, "another encoder than the one given")


def record_identity(run: Path, cohort: str, encoder: str) -> None:
    """Write what a run folder belongs to, once the run has begun: a start that fails binds nothing."""
    for name, digest in ((COHORT, cohort), (ENCODER, encoder)):
        (run / name).write_text(digest + "\n", encoding="utf-8")


def _check_same(run: Path, file: str, digest: str, what: str) -> None:
    path = run / file
    if path.is_file() and path.read_text(encoding="utf-8").strip() != digest:
        raise CheckpointError(f"{run}: begun with {what}; choose another --out, or delete this folder")
