"""Fine-tuning: a hierarchical head over a disease tree, on top of a pretrained encoder.

    accelerate launch finetune --config configs/finetune/demo.yaml --encoder RUN --store STORE --out RUN2

The encoder is frozen: the cohort is encoded once and the head trains on cached tokens, so that 2,000 studies take minutes
on a CPU. The checkpoint kept is the one with the best macro AUC on the validation split. The test split is not opened here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from finetune.tokens import encode_once, weights_digest
from hlip.batches import GlobalBatches
from hlip.config import parse_config, plain, plain_errors
from hlip.engine import Precision, make_accelerator, share_cores
from hlip.folders import recover
from hlip.metrics import class_aucs, macro
from hlip.model import CheckpointError, load
from hlip.optimizer import OptimizerConfig, learning_rate, make_optimizer, set_learning_rate
from hlip.runs import RunLog, restore_state, save_state
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy, TaxonomyError
from hp2l.baselines import FlatHead
from hp2l.diagnoser import Diagnoser, HeadConfig, Tokens
from hp2l.loss import HP2LLoss, LossConfig
from hp2l.model import HP2L


@dataclass
class FinetuneConfig:
    """A fine-tuning run."""

    store: Path
    """Prepared store with labels and a train and a val split."""
    encoder: Path
    """Run or checkpoint folder of the pretrained HLIP."""
    out: Path
    """Run folder."""
    steps: int
    """Optimizer steps in all."""
    taxonomy: str = "brain_mri"
    """Name or path of the disease tree."""
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3, warmup_steps=100, weight_decay=0.05))
    batch_size: int = 64
    """Studies a step, all processes together."""
    encode_batch: int = 16
    """Studies encoded at once."""
    precision: Precision = "no"
    """Mixed precision: no | fp16 | bf16."""
    seed: int = 0
    """Of weights, order and dropout."""
    threads: int = 0
    """CPU threads of each training process; 0 shares the cores evenly when training runs on the CPU."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    validate_every: int = 100
    """Steps between two validations and saves; the end is always one."""


class Labels:
    """Targets of studies at every level; rows follow the records."""

    def __init__(self, records: Sequence[StudyRecord], taxonomy: Taxonomy):
        check_labels(records, taxonomy)
        levels = taxonomy.encode_all([record.labels for record in records])
        self.targets = [torch.from_numpy(targets) for targets, _ in levels]
        self.known = [torch.from_numpy(known) for _, known in levels]

    def rows(self, indices: Tensor, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        """Targets and masks (B, K_l) of some rows, a level each."""
        return [t[indices].to(device) for t in self.targets], [k[indices].to(device) for k in self.known]


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments and run."""
    with plain_errors():
        config = parse_config(FinetuneConfig, command="finetune", description="Fine-tune HP2L on a labelled store.", argv=argv)
        Run(config).train()


class Run:
    """One fine-tuning run: everything it needs, built in the order it is needed."""

    def __init__(self, config: FinetuneConfig):
        self.config = config
        share_cores(config.threads)
        local = max(1, config.batch_size // int(os.environ.get("WORLD_SIZE", "1")))
        self.accelerator = make_accelerator(config.precision, config.optimizer.clip_norm, local)
        self.main = self.accelerator.is_main_process
        self.taxonomy = Taxonomy.load(config.taxonomy)
        check_same_tree(config.out, self.taxonomy)
        self.store = Store(config.store)
        self.records = {split: self.labelled(split) for split in ("train", "val")}
        self.labels = {split: Labels(records, self.taxonomy) for split, records in self.records.items()}
        if self.main:
            config.out.mkdir(parents=True, exist_ok=True)
            (config.out / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")
        torch.manual_seed(config.seed)
        encoder = load(config.encoder)
        self.model = Diagnoser(encoder, config.head, self.taxonomy).to(self.accelerator.device).eval()
        check_same_encoder(config.out, weights_digest(encoder), self.accelerator)
        self.tokens = self.encode()
        self.loss = HP2LLoss(self.taxonomy, config.loss).to(self.accelerator.device)
        optimizer = make_optimizer({self.model.head: 1.0}, config.optimizer)
        self.head: nn.Module
        self.head, self.optimizer = self.accelerator.prepare(self.model.head, optimizer)
        self.start = restore_state(self.accelerator, config.out / "state")
        self.best = best_so_far(config.out) if self.start else -1.0
        self.log = RunLog(config.out, self.main, self.start)

    def labelled(self, split: str) -> list[StudyRecord]:
        """Studies of a split with labels.

        Raises:
            SystemExit: there is none.
        """
        everything = self.store.split(split)
        records = [record for record in everything if record.labels is not None]
        if not records:
            raise SystemExit(
                f"{self.config.store}: no labelled study in split '{split}' (labels and split are fields of the manifest)"
            )
        if len(records) < len(everything):
            self.say(f"left out, no labels: {len(everything) - len(records)} of {len(everything)} {split} studies")
        return records

    def encode(self) -> dict[str, Tokens]:
        """Tokens of both splits, encoded by the main process once and read by all."""
        config, cached = self.config, {}
        folder, precision = config.out / "tokens", self.accelerator.mixed_precision
        with self.accelerator.main_process_first(), self.accelerator.autocast():
            for split, records in self.records.items():
                cached[split] = encode_once(
                    self.model, self.store, records, folder, split, config.encode_batch, precision, self.main
                )
        return cached

    def train(self) -> None:
        """Every step from where the run stands to its end."""
        config = self.config
        if self.start >= config.steps:
            self.say(f"{config.out} is finished ({self.start} steps)")
            return
        self.say(self.introduction())
        bar = tqdm(total=config.steps, initial=self.start, desc="finetune", unit="step", mininterval=1.0, disable=not self.main)
        for step, places in enumerate(self.batches(), start=self.start):
            rate = learning_rate(step, config.steps, config.optimizer)
            set_learning_rate(self.optimizer, rate)
            torch.manual_seed(hash((config.seed, step, self.accelerator.process_index)) % 2**63)
            parts = self.step(torch.tensor([place.study for place in places]))
            done = step + 1
            bar.update()
            if done % config.log_every == 0 or done == config.steps:
                values = {name: float(self.accelerator.reduce(value.detach(), "mean")) for name, value in parts.items()}
                bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
                self.log.write(done, **values, lr=rate)
            if done % config.validate_every == 0 or done == config.steps:
                self.validate(done)
                save_state(self.accelerator, config.out / "state", done)
        bar.close()
        self.say(f"best validation AUC {self.best:.3f}; checkpoint: {config.out / 'model'}")

    def step(self, indices: Tensor) -> dict[str, Tensor]:
        """One optimizer step on cached tokens of these training studies, then the prototypes move; returns the loss and its
        parts."""
        self.head.train()
        device = self.accelerator.device
        tokens = Tokens(*(part[indices].to(device) for part in self.tokens["train"]))
        targets, known = self.labels["train"].rows(indices, device)
        with self.accelerator.autocast():
            output = self.head(tokens.patches, self.start_token(tokens))
        total, parts = self.loss(output.logits, targets, known)
        self.accelerator.backward(total)
        self.accelerator.clip_grad_norm_(self.head.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        own = unwrap(self.accelerator, self.head)
        own.update_prototypes(output, targets, known)
        return {"loss": total, **parts}

    @torch.no_grad()
    def validate(self, step: int) -> None:
        """Macro AUC a level on the validation split; the best model so far is saved."""
        if self.main:
            head = unwrap(self.accelerator, self.head).eval()
            device = self.accelerator.device
            tokens = Tokens(*(part.to(device) for part in self.tokens["val"]))
            output = head(tokens.patches.to(next(head.parameters()).dtype), self.start_token(tokens))
            areas = [
                macro_auc(level, scores, self.labels["val"], self.taxonomy)
                for level, scores in enumerate(output.probabilities(), start=1)
            ]
            values = {f"val_auc_level_{level}": area for level, area in enumerate(areas, start=1)}
            self.log.write(step, **values)
            self.say(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
            mean = float(np.nanmean(areas)) if not np.isnan(areas).all() else 0.0
            if mean > self.best:
                self.best = mean
                self.model.facts = self.facts(step, values)
                self.model.save(self.config.out / "model")
        self.accelerator.wait_for_everyone()

    def facts(self, step: int, values: dict[str, float]) -> dict[str, object]:
        """What a checkpoint says of itself."""
        simulated = all(record.extra.get("simulated") is True for record in self.records["train"])
        counts = {"studies": len(self.records["train"]), "val_auc": self.best, "simulated": simulated}
        return {"step": step, "kind": "finetune", **counts, **values}

    def start_token(self, tokens: Tokens) -> Tensor | None:
        return tokens.cls if self.config.head.cls == "encoder" else None

    def batches(self) -> GlobalBatches:
        """This process's share of the remaining global batches."""
        return GlobalBatches(
            len(self.records["train"]),
            self.config.batch_size,
            seed=self.config.seed,
            steps=self.config.steps,
            start=self.start,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    def introduction(self) -> str:
        """One line of what is about to happen."""
        counts = " / ".join(map(str, self.taxonomy.counts))
        millions = sum(parameter.numel() for parameter in self.head.parameters()) / 1e6
        return (
            f"{len(self.records['train'])} training and {len(self.records['val'])} validation studies, taxonomy {self.taxonomy.name} "
            f"({counts} classes), head {self.config.head.kind} with {millions:.1f} M parameters, {self.config.steps} steps"
        )

    def say(self, text: str) -> None:
        """Print on the main process, above the bar."""
        if self.main:
            tqdm.write(text)


def unwrap(accelerator: Accelerator, head: nn.Module) -> HP2L | FlatHead:
    """The head itself, without the engine's wrapper."""
    module = accelerator.unwrap_model(head)
    assert isinstance(module, HP2L | FlatHead)
    return module


def macro_auc(level: int, scores: Tensor, labels: Labels, taxonomy: Taxonomy) -> float:
    """Mean AUC over the level's disease classes that have positives and negatives; NaN if there is none."""
    targets, known, table = (part.cpu().numpy() for part in (labels.targets[level - 1], labels.known[level - 1], scores))
    areas = class_aucs(targets, known, table)[[name != taxonomy.normal for name in taxonomy.levels[level - 1]]]
    return float(macro(areas))


def check_labels(records: Sequence[StudyRecord], taxonomy: Taxonomy) -> None:
    """Every label must stand in the tree.

    Raises:
        TaxonomyError: the first studies whose labels do not, by name.
    """
    faults = []
    for record in records:
        try:
            taxonomy.encode(record.labels or ())
        except TaxonomyError as error:
            faults.append(f"study '{record.study_id}': {error}")
    if faults:
        more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise TaxonomyError(f"{len(faults)} studies have labels that do not fit the tree\n  " + "\n  ".join(faults[:10]) + more)


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


def best_so_far(run: Path) -> float:
    """The validation AUC of the model kept by an earlier part of this run."""
    recover(run / "model")
    path = run / "model" / "config.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["facts"]["val_auc"]) if path.is_file() else -1.0
