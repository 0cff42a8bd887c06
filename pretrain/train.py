"""Pretraining HLIP: sample, encode, gather, dual loss, backward, clip, step, clamp temperatures.

    accelerate launch pretrain --config configs/pretrain/demo.yaml --store STORE --out RUN

RUN gets `config.yaml`, `metrics.jsonl`, `model/` (a checkpoint that `hlip.load` opens) and `state/` (all that is needed to
go on). Started again with the same RUN, it continues from the last saved step; a finished run says so and ends.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from hlip.config import parse_config, plain, plain_errors
from hlip.data import Batch, GlobalBatches, SamplingConfig, StudyDataset, collate
from hlip.engine import (
    OptimizerConfig,
    Precision,
    RunLog,
    clamp_temperatures,
    full_state,
    learning_rate,
    make_accelerator,
    make_optimizer,
    restore_state,
    save_state,
    set_learning_rate,
    share_cores,
)
from hlip.loss import LossConfig, Losses, dual_contrastive_loss
from hlip.model import HLIP, CheckpointError, HLIPConfig, load
from hlip.store import Store
from hlip.text import grow_text_source, widen_word_embeddings
from pretrain.validate import ValidationConfig, validate


@dataclass
class PretrainConfig:
    """A pretraining run."""

    store: Path
    """Prepared store (made by `hlip prepare`); its `train` split is learnt from, its `val` split watched."""
    out: Path
    """Run folder."""
    steps: int
    """Optimizer steps in all."""
    init: Path | None = None
    """Run or checkpoint folder (ours or official) whose weights training starts from; `model` must describe the same architecture."""
    model: HLIPConfig = field(default_factory=HLIPConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    centre_studies: int = 500
    """Training studies whose mean is subtracted when `model.vision.patch_norm` is on."""
    batch_size: int = 384
    """Studies a step, all processes together."""
    precision: Precision = "no"
    """Mixed precision: no | fp16 | bf16; what `accelerate launch --mixed_precision` says is taken when this is no."""
    seed: int = 0
    """Of weights, order, draws and dropout."""
    workers: int = 2
    """Loader processes of each training process; the samples do not depend on it."""
    threads: int = 0
    """CPU threads of each training process; 0 shares the cores evenly when training runs on the CPU."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between two saves of model and state; the end is always saved."""


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments and run."""
    with plain_errors():
        config = parse_config(PretrainConfig, command="pretrain", description="Pretrain HLIP on a prepared store.", argv=argv)
        Run(config).train()


class Run:
    """One pretraining run: everything it needs, built in the order it is needed."""

    def __init__(self, config: PretrainConfig):
        self.config = config
        store = Store(config.store)
        check_sizes(config, store)
        share_cores(config.threads)
        self.accelerator = make_accelerator(config.precision, config.optimizer.clip_norm, self._local_batch())
        self.main = self.accelerator.is_main_process
        if self.main:
            config.out.mkdir(parents=True, exist_ok=True)
            (config.out / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")
        self.store = store
        self.data = StudyDataset(store, "train", config.sampling, config.seed, config.model.prefix)
        if self.data.without_report:
            self.say(f"left out, no report: {len(self.data.without_report)} studies ({_few(self.data.without_report)})")
        torch.manual_seed(config.seed)
        model = build_model(config, self.data, self.accelerator)
        if config.model.vision.patch_norm and config.init is None:
            model.visual.patch_embed.set_centre(some_volumes(self.data, config.centre_studies))
        optimizer = make_optimizer({model: 1.0, model.text: config.optimizer.text_lr_scale}, config.optimizer)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.start = restore_state(self.accelerator, config.out / "state")
        self.log = RunLog(config.out, self.main, self.start)

    def train(self) -> None:
        """Every step from where the run stands to its end."""
        config, accelerator = self.config, self.accelerator
        if self.start >= config.steps:
            self.say(f"{config.out} is finished ({self.start} steps)")
            return
        self.say(self.introduction())
        waited, began, since = 0.0, time.perf_counter(), self.start
        bar = tqdm(total=config.steps, initial=self.start, desc="pretrain", unit="step", mininterval=1.0, disable=not self.main)
        batches, ready = iter(self.loader()), time.perf_counter()
        for step in range(self.start, config.steps):
            batch = next(batches)
            waited += time.perf_counter() - ready
            rate = learning_rate(step, config.steps, config.optimizer)
            set_learning_rate(self.optimizer, rate)
            torch.manual_seed(hash((config.seed, step, accelerator.process_index)) % 2**63)  # a resumed step draws the same
            losses, norm = train_step(accelerator, self.model, self.optimizer, batch, config)
            done = step + 1
            bar.update()
            if done % config.log_every == 0 or done == config.steps:
                elapsed = time.perf_counter() - began
                values = self.watch(losses, norm)
                shown = {key: f"{values[key]:.3f}" for key in ("loss", "loss_sentence", "loss_report")}
                bar.set_postfix(shown | {"studies/s": f"{(done - since) * config.batch_size / elapsed:.1f}"})
                self.log.write(done, **values, lr=rate, wait_share=waited / elapsed)
                waited, began, since = 0.0, time.perf_counter(), done
            if config.validation.every and (done % config.validation.every == 0 or done == config.steps):
                scores = validate(accelerator, accelerator.unwrap_model(self.model), self.store, config.validation)
                self.log.write(done, **scores)
                self.say(f"step {done}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
            if done % config.save_every == 0 or done == config.steps:
                self.save(done)
            ready = time.perf_counter()
        bar.close()
        self.say(f"checkpoint: {config.out / 'model'}")

    def watch(self, losses: Losses, norm: float) -> dict[str, float]:
        """Numbers of a step, averaged over processes."""
        named = {"loss": losses.total, "loss_sentence": losses.sentence, "loss_report": losses.report}
        means = self.accelerator.reduce(torch.stack([value.detach().float() for value in named.values()]), "mean")
        values = dict(zip(named, means.tolist(), strict=True))
        model = self.accelerator.unwrap_model(self.model)
        scales = {"scale_sentence": model.logit_scale_sentence, "scale_report": model.logit_scale_report}
        values |= {name: scale.detach().float().exp().item() for name, scale in scales.items()}
        if not all(map(_finite, values.values())):
            raise FloatingPointError(f"the loss is {values['loss']}; the last good checkpoint is in {self.config.out}")
        return values | {"grad_norm": norm}

    def save(self, step: int) -> None:
        """The model as a checkpoint folder, and the state to continue from; both appear whole or not at all."""
        state = full_state(self.accelerator, self.model)
        if self.main:
            model = self.accelerator.unwrap_model(self.model)
            model.volume_spec = self.store.spec
            model.facts = {"step": step, "studies": len(self.data), "simulated": self.is_simulated(), "kind": "pretrain"}
            model.facts["prompts"] = self.config.validation.prompts
            model.save(self.config.out / "model", state)
        save_state(self.accelerator, self.config.out / "state", step)

    def is_simulated(self) -> bool:
        """Whether every training study says of itself that it is simulated."""
        return all(record.extra.get("simulated") is True for record in self.data.records)

    def loader(self) -> DataLoader[Batch]:
        """This process's share of the remaining global batches."""
        config, accelerator = self.config, self.accelerator
        batches = GlobalBatches(
            len(self.data),
            config.batch_size,
            seed=config.seed,
            steps=config.steps,
            start=self.start,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        return DataLoader(
            self.data,  # type: ignore[arg-type]  # the sampler gives (epoch, index)
            batch_sampler=batches,
            num_workers=config.workers,
            collate_fn=collate,
            pin_memory=accelerator.device.type == "cuda",
            prefetch_factor=4 if config.workers else None,
        )

    def introduction(self) -> str:
        """One line of what is about to happen."""
        config = self.config
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        return (
            f"{len(self.data)} training studies, {millions:.1f} M parameters, {config.steps} steps of {config.batch_size} studies, "
            f"{self.accelerator.num_processes} process(es) on {self.accelerator.device.type}"
            + (f", continuing after step {self.start}" if self.start else "")
        )

    def say(self, text: str) -> None:
        """Print on the main process, above the bar."""
        if self.main:
            tqdm.write(text)

    def _local_batch(self) -> int:
        import os

        return max(1, self.config.batch_size // int(os.environ.get("WORLD_SIZE", "1")))


def train_step(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, config: PretrainConfig
) -> tuple[Losses, float]:
    """One step on this process's share of a global batch; returns the losses and the gradient norm before clipping."""
    tokenizer = accelerator.unwrap_model(model).tokenizer
    device = accelerator.device
    with accelerator.autocast():
        features = model(
            batch.volumes.to(device, non_blocking=True),
            batch.scans_per_study,
            tokenizer(batch.sentences).to(device, non_blocking=True),
            tokenizer(batch.reports).to(device, non_blocking=True),
        )
    features = {name: value.float() for name, value in features.items()}
    losses = dual_contrastive_loss(features, config.loss, (batch.sentences, batch.reports))
    accelerator.backward(losses.total)
    norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    clamp_temperatures(accelerator, model)
    return losses, float(norm) if norm is not None else float("nan")


def build_model(config: PretrainConfig, data: StudyDataset, accelerator: Accelerator) -> HLIP:
    """The model: that of `init`, or a new one, its text tower grown from the training reports if the configuration names no source.

    Raises:
        CheckpointError: the weights of `init` are of another architecture.
    """
    if config.init is not None:
        return continued(config.init, config.model)
    if config.model.text.source is not None:
        return HLIP(config.model, pretrained_text=config.model.text.pretrained)
    source = config.out / "text"
    texts = [config.model.prefix + sentence for sentences in data.sentences for sentence in sentences]
    if accelerator.is_main_process and not (source / "config.json").exists():
        grow_text_source(source, texts, config.model.text)
    accelerator.wait_for_everyone()
    model = HLIP(config.model, text_source=source)
    widen_word_embeddings(model.text, config.model.text.embedding_std)
    return model


def continued(path: Path, config: HLIPConfig) -> HLIP:
    """The weights of a checkpoint under this configuration (another patch dropout, say), in training mode."""
    start = load(path)
    free = {  # how it is trained or where it came from, not what it is
        "vision": {"patch_dropout", "drop_air_first", "drop_path", "checkpoint_blocks"},
        "text": {"locked", "pretrained", "source"},
    }
    wanted, found = plain(config), plain(start.config)
    for part, names in free.items():
        for side in (wanted, found):
            side[part] = {key: value for key, value in side[part].items() if key not in names}
    wrong = [f"{key}: {value}, but {path} has {found[key]}" for key, value in wanted.items() if found[key] != value]
    if wrong:
        raise CheckpointError("the model differs from that of init: " + "; ".join(wrong))
    vision = start.visual.config
    for name in free["vision"]:
        setattr(vision, name, getattr(config.vision, name))
    start.visual.spread_drop_path()
    if config.text.locked:
        start.text.encoder.lock()
    return start.train()


def some_volumes(data: StudyDataset, studies: int) -> torch.Tensor:
    """(S, 1, D, H, W) uint8: the drawn scans of training studies spread over the split."""
    step = max(1, len(data) // studies)
    return torch.cat([data[0, index].volumes for index in range(0, len(data), step)])


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


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
