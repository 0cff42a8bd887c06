"""Fine-tuning: a hierarchical head over a disease tree, on top of a pretrained encoder.

    accelerate launch finetune --config configs/finetune/demo.yaml --encoder RUN --store STORE --out RUN2

A frozen encoder (the default) encodes the cohort once and the head trains on cached tokens, so that 2,000 studies take minutes on a
CPU; `tuning.encoder` trains its last blocks, all of it, or low-rank additions. The checkpoint kept is the one with the best macro
AUC on the validation split, or the last where that has none. No scan of the test split is opened here.

RUN2 gets `config.yaml`, `metrics.jsonl`, `training.png`, `model/` (the best, which `hp2l.load` opens), its scores of the validation
studies, `validation.npz`, and of each class its validation AUC and numbers of studies, `validation.csv`; `checkpoints/`, and where
prototypes move `prototypes.png` and `prototypes.csv`. Started again with the same RUN2 it goes on after the last checkpoint; told to
stop (SIGTERM, Ctrl-C) it saves first.
"""

from __future__ import annotations

import math
import os
from datetime import timedelta

import torch
import yaml
from accelerate import PartialState
from torch import Tensor, nn
from tqdm import tqdm

from finetune.cohort import Labels, cohort, cohort_digest, draw_weights, label_notes, macro_auc, only_read, unfitted
from finetune.feed import CachedTokens, Feed, LiveScans, Steps
from finetune.figures.movement import draw_movement, keep_snapshot
from finetune.figures.training import draw_run, draw_safely
from finetune.saving import CLASSES, facts, parted, rebuilt, write_bad_step, write_classes
from finetune.settings import (
    FinetuneConfig,
    check_same_cohort,
    check_same_encoder,
    check_same_settings,
    check_same_tree,
    doors_beside,
    left_out_of_the_loss,
    mixed_planes,
    record_identity,
    untrained_levels,
    without_effect,
)
from finetune.several import check_folder, expand, keep_scores, summarise
from finetune.tokens import encode_once, weights_digest
from finetune.validations import Validations, told
from hlip.config import parse_config, plain, plain_errors
from hlip.files.jsonable import jsonable
from hlip.files.lock import FolderLock
from hlip.metrics import macro
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hlip.training.batches import GlobalBatches
from hlip.training.engine import full_state, make_accelerator, share_cores, whole_weights
from hlip.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from hlip.training.runs import Checkpoints, RunLog, StopSignal
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import Encoder, make_encoder
from hp2l.head import Head
from hp2l.long_tail import count_labels
from hp2l.loss import HP2LLoss
from hp2l.scaling import Scaling


def main(argv: list[str] | None = None, *, watched: bool = True) -> bool:
    """Parse the arguments and run; `watched` as in `Run`. False where it was told to stop."""
    with plain_errors():
        config = parse_config(FinetuneConfig, command="finetune", description="Fine-tune HP2L on a labelled store.", argv=argv)
        runs = expand(config)
        check_folder(config.out, len(runs))
        for number, one in enumerate(runs, start=1):
            if len(runs) > 1 and os.environ.get("RANK", "0") == "0":
                print(f"run {number} of {len(runs)}: {one.out}")
            run = Run(one, watched)
            finished = run.train()
            run.leave()
            if not finished:
                return False  # the runs that follow stop, too
        if len(runs) > 1 and PartialState().is_main_process:
            print(summarise(config, runs))
        PartialState().destroy_process_group()
    return True


class Run:
    """One fine-tuning run: everything it needs, built in the order it is needed.

    Args:
        config: its settings.
        watched: show a bar, and draw at every validation. False, for one of many runs: no bar, and one picture, at the end.
    """

    def __init__(self, config: FinetuneConfig, watched: bool = True):
        self.config, self.watched = config, watched
        share_cores(config.threads)
        local = max(1, config.batch_size // int(os.environ.get("WORLD_SIZE", "1")))
        clip = config.optimizer.clip_norm
        encoding = timedelta(hours=12)  # the main process encodes a cohort while the others wait
        self.accelerator = make_accelerator(config.precision, clip, local, config.trackers, config.out, encoding)
        self.main = self.accelerator.is_main_process
        self.taxonomy = Taxonomy.load(config.taxonomy)
        check_same_tree(config.out, self.taxonomy)
        self.store = Store(config.store)
        self.records = cohort(self.store, config.cohort, self.taxonomy)
        if without := unfitted(self.store, config.cohort, self.taxonomy):
            self.say(without)
        check_same_settings(config)
        if self.main:
            config.out.mkdir(parents=True, exist_ok=True)
            self.lock = FolderLock(config.out).hold(self.say)
        torch.manual_seed(config.seed)
        with whole_weights(self.accelerator):
            encoder = self.make_encoder()
            self.records = only_read(self.records, encoder.reader, self.say)
            self.model = Diagnoser(encoder, config.head, self.taxonomy).to(self.accelerator.device).eval()
        self.labels = {split: Labels(records, self.taxonomy) for split, records in self.records.items()}
        # a class that a study has is learnt from, whatever else is unknown of it; counted is only what is known of the whole level
        self.learnt = Labels(self.records["train"], self.taxonomy, "absent")
        self.batch_size = self.fitting_batch()
        self.model.start(self.labels["train"].targets, self.labels["train"].known, config.seed, config.loss.smoothing)
        self.loss = self.make_loss()  # before the cohort is encoded: weights that do not fit are refused here
        studies, weights = cohort_digest(self.records, self.store.spec.digest()), weights_digest(self.model.encoder)
        check_same_cohort(config.out, studies)
        check_same_encoder(config.out, weights)
        self.feed: Feed = self.make_feed()
        followed = {} if config.tuning.encoder == "frozen" else {self.model.encoder.visual: config.tuning.lr_scale}
        head: nn.Module = self.model.head
        optimizer = make_optimizer({**followed, head: 1.0}, config.optimizer, fresh=[head])
        self.trained: nn.Module
        self.trained, self.optimizer = self.accelerator.prepare(self.feed.module, optimizer)
        self.head = self.own_head()
        self.checkpoints = Checkpoints(config.out / "checkpoints", keep=1)
        self.start = self.checkpoints.restore(self.accelerator, config.resume)
        if self.main:  # not before: a start that fails leaves the record of the run as it was
            (config.out / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")
            record_identity(config.out, studies, weights)
        if config.trackers:
            self.accelerator.init_trackers("finetune")
        self.log = RunLog(config.out, self.main, self.start)
        self.accelerator.wait_for_everyone()  # until the main process has dropped the lines of lost steps
        self.validations = Validations(self.log.values("val_auc") if self.start else (), config.patience)

    def fitting_batch(self) -> int:
        """Studies a step: as configured, or all that there are."""
        world = self.accelerator.num_processes
        most = len(self.records["train"]) // world * world
        if 0 < most < self.config.batch_size:
            self.say(f"batch_size {self.config.batch_size} is more than the training studies: {most} a step")
            return most
        return self.config.batch_size

    def make_encoder(self, fetch: bool = True) -> Encoder:
        """The encoder as it is before fine-tuning."""
        config = self.config
        return make_encoder(config.encoder, config.cnn, config.image, self.store.spec, fetch=fetch)

    def make_feed(self) -> Feed:
        """Cached tokens of a frozen encoder, encoded by the main process once and read by all; or the scans."""
        config, accelerator = self.config, self.accelerator
        if config.tuning.encoder != "frozen":
            return LiveScans(
                self.model,
                config.tuning,
                self.store,
                self.records,
                accelerator,
                seed=config.seed,
                workers=config.workers,
                batch_size=config.encode_batch,
                augmentation=config.augmentation,
            )
        cached, folder, precision = {}, config.tokens or config.out / "tokens", accelerator.mixed_precision
        with accelerator.main_process_first():
            for split, records in self.records.items():
                cached[split] = encode_once(
                    self.model, self.store, records, folder, split, config.encode_batch, precision, self.main
                )
        return CachedTokens(self.model, cached, accelerator)

    def make_loss(self) -> HP2LLoss:
        """The loss in the form that fits the head, with the training labels' counts where the form wants them."""
        head, labels = self.model.head, self.labels["train"]
        counts = count_labels(labels.targets, head.level_loss_mask(labels.targets, labels.known))
        loss = HP2LLoss.from_counts(self.taxonomy, head.loss_config(self.config.loss), *counts)
        return loss.to(self.accelerator.device)

    def train(self) -> bool:
        """Every step from where the run stands to its end; False where it was told to stop, be it in its last step."""
        config = self.config
        if self.start >= config.steps or self.validations.is_out_of_patience:
            area = told(self.validations.best)
            self.say(
                f"{config.out} is finished ({self.start} steps); best validation AUC {area}; checkpoint: {config.out / 'model'}"
            )
            return True
        self.say(self.introduction())
        for split in ("train", "val"):
            everything = self.store.split(split)
            if without := sum(record.labels is None for record in everything):
                self.say(f"left out, no labels: {without} of {len(everything)} {split} studies")
        for line in (*label_notes(self.labels, self.taxonomy), *self.setting_notes()):
            self.say(line)
        shown = self.main and self.watched
        bar = tqdm(total=config.steps, initial=self.start, desc="finetune", unit="step", mininterval=1.0, disable=not shown)
        if self.main and not self.start:
            keep_snapshot(self.head, config.out, 0)
        with StopSignal() as stop:
            for step, (rows, batch) in enumerate(self.steps(), start=self.start):
                rate = learning_rate(step, config.steps, config.optimizer)
                set_learning_rate(self.optimizer, rate)
                torch.manual_seed(hash((config.seed, step, self.accelerator.process_index)) % 2**63)
                parts = self.step(rows, batch)
                done = step + 1
                if not torch.isfinite(parts["loss"]):
                    bar.close()
                    studies = [self.records["train"][row].study_id for row in rows.tolist()]
                    raise FloatingPointError(write_bad_step(config.out, done, studies, parts, self.checkpoints.all()))
                bar.update()
                if done % config.log_every == 0 or done == config.steps:
                    values = {name: float(self.accelerator.reduce(value.detach(), "mean")) for name, value in parts.items()}
                    bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
                    self.write(done, values | {"lr": rate})
                reason = stop.asked(self.accelerator)
                if done % config.validate_every == 0 or done == config.steps:
                    self.validate(done)
                    if self.main:
                        keep_snapshot(self.head, config.out, done)
                        if self.watched or reason or done == config.steps or self.validations.is_out_of_patience:
                            draw_safely(lambda: draw_run(config.out), self.say)
                    self.checkpoints.save(self.accelerator, done)
                elif reason:  # without a validation that a run never stopped would not have
                    self.checkpoints.save(self.accelerator, done)
                if reason and done < config.steps:
                    bar.close()
                    self.say(f"stopped after step {done} ({reason}); the same command goes on from there")
                    return False
                if self.validations.is_out_of_patience:
                    self.say(f"step {done}: no better validation in {config.patience}, the run ends early")
                    break
            told_late = stop.asked(self.accelerator)
        bar.close()
        if self.main:
            draw_safely(lambda: draw_movement(config.out, self.taxonomy), self.say, "prototypes.png")
        self.say(
            f"best validation AUC {told(self.validations.best)}; checkpoint: {config.out / 'model'}; of each class: "
            f"{config.out / CLASSES}"
        )
        for tracker in self.accelerator.trackers:  # not end_training: it parts the processes, and other runs may follow
            tracker.finish()
        return not told_late

    def leave(self) -> None:
        """Let other processes into the run folder."""
        if self.main:
            self.lock.release()

    def step(self, rows: Tensor, batch: object) -> dict[str, Tensor]:
        """One optimizer step on these training studies, then the prototypes move; returns the loss and its parts."""
        self.trained.train()
        targets, known = self.learnt.rows(rows, self.accelerator.device)
        with self.accelerator.autocast():
            output = self.feed.output(self.trained, rows, batch)  # type: ignore[arg-type]  # of the feed's own making
        total, parts = self.loss(output.logits, targets, self.head.level_loss_mask(targets, known))
        for name, extra in self.head.extra_losses(output, targets, known).items():
            total, parts[name] = total + extra, extra.detach()
        self.accelerator.backward(total)
        self.accelerator.clip_grad_norm_(self.trained.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.head.update_prototypes(output, targets, known)
        return {"loss": total, **parts}

    def validate(self, step: int) -> None:
        """Macro AUC a level on the validation split; the best model so far is saved, or the last while none has an AUC."""
        scores = self.feed.scores(self.trained, "val")
        areas = [macro_auc(level, table, self.labels["val"], self.taxonomy) for level, table in enumerate(scores, start=1)]
        values = {f"val_auc_level_{level}": area for level, area in enumerate(areas, start=1)}
        trained = self.config.loss.level_weights or [1.0] * len(areas)
        values["val_auc"] = float(macro([area for area, weight in zip(areas, trained, strict=True) if weight]))
        self.write(step, values)
        for line in self.validations.notes(step, values):
            self.say(line)
        if self.validations.add(values["val_auc"]):
            self.save_model(step, values, scores)
        self.accelerator.wait_for_everyone()

    def save_model(self, step: int, values: dict[str, float], scores: list[Tensor]) -> None:
        """The whole diagnoser as a checkpoint folder, scaled on the validation scores (N, K_l); all processes call it."""
        state = full_state(self.accelerator, self.trained)
        if not self.main:
            return
        if self.config.tuning.encoder == "frozen":
            model, head_state = self.model, state
        else:
            visual, head_state = parted(state, self.accelerator.unwrap_model(self.trained).visual)
            model = rebuilt(self.make_encoder(fetch=False), visual, self.config, self.taxonomy)
        model.facts = facts(self.config, self.records["train"], self.learnt, self.taxonomy, step, values)
        model.scaling = Scaling.of(scores, self.labels["val"].targets, self.labels["val"].known)
        model.save(self.config.out / "model", head_state)
        keep_scores(self.config.out, [record.study_id for record in self.records["val"]], scores)
        write_classes(self.config.out, scores, self.labels["val"], self.taxonomy)

    def steps(self) -> Steps:
        """This process's share of the remaining steps."""
        config = self.config
        tuned = config.tuning.encoder != "frozen"
        reader = self.model.encoder.reader
        sizes = [min(reader.count(record), config.tuning.max_scans) for record in self.records["train"]] if tuned else None
        return self.feed.steps(
            GlobalBatches(
                len(self.records["train"]),
                self.batch_size,
                seed=config.seed,
                steps=config.steps,
                start=self.start,
                rank=self.accelerator.process_index,
                world=self.accelerator.num_processes,
                sizes=sizes,
                weights=draw_weights(self.labels["train"], config.cohort.balance),
            )
        )

    def own_head(self) -> Head:
        """The head itself, without the engine's wrapper; asked for once, since accelerate takes its time to answer."""
        own = self.accelerator.unwrap_model(self.trained)
        head = own if self.config.tuning.encoder == "frozen" else own.head
        assert isinstance(head, Head)
        return head

    def write(self, step: int, values: dict[str, float]) -> None:
        """To the log and the trackers; what is not defined is null in the log, and nothing to a tracker."""
        self.log.write(step, **jsonable(values))
        if self.accelerator.trackers:
            self.accelerator.log({name: value for name, value in values.items() if math.isfinite(value)}, step=step)

    def introduction(self) -> str:
        """One line of what is about to happen."""
        counts = " / ".join(map(str, self.taxonomy.counts))
        with whole_weights(self.accelerator, self.accelerator.unwrap_model(self.trained)):
            trained = sum(p.numel() for p in self.trained.parameters() if p.requires_grad)
        studies = f"{len(self.records['train'])} training and {len(self.records['val'])} validation studies"
        parts = f"head {self.config.head.kind}, encoder {self.model.encoder.kind} ({self.config.tuning.encoder})"
        return (
            f"{studies}, taxonomy {self.taxonomy.name} ({counts} classes), {parts}: {counted(trained)} trained parameters, "
            f"{self.config.steps} steps" + (f", continuing after step {self.start}" if self.start else "")
        )

    def setting_notes(self) -> list[str]:
        """What the head leaves out of the loss, and which settings decide nothing in this run."""
        config = self.config
        weights = draw_weights(self.labels["train"], config.cohort.balance)
        lines = [
            left_out_of_the_loss(config, self.loss.config),
            without_effect(config, self.loss, weights),
            untrained_levels(config),
            mixed_planes(config, self.store.spec),
            doors_beside(config),
        ]
        return [line for line in lines if line]

    def say(self, text: str) -> None:
        """Print on the main process, above the bar."""
        if self.main:
            tqdm.write(text)


def counted(parameters: int) -> str:
    """In millions; a few as they are."""
    return f"{parameters / 1e6:.2f} M" if parameters >= 100_000 else f"{parameters:,}"
