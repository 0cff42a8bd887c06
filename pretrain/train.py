"""Pretraining HLIP: sample, encode, gather, dual loss, backward, clip, step, clamp temperatures.

    accelerate launch pretrain --config configs/pretrain/demo.yaml --store STORE --out RUN

RUN gets `config.yaml`, `metrics.jsonl`, `training.png`, `model/` (the last weights, which `hlip.load` opens), `best/` (those that
did best on the validation split) and `checkpoints/` (all that is needed to go on). Started again with the same RUN, it continues
from the last checkpoint; a finished run says so and ends. Told to stop (SIGTERM of a scheduler, Ctrl-C), it saves first.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import torch
import yaml
from torch.utils.data import DataLoader

from hlip.config import parse_config, plain, plain_errors
from hlip.data import Batch, Chunks, StudyDataset, deaf_to_signals
from hlip.files.folders import recover
from hlip.files.lock import FolderLock
from hlip.model import HLIP
from hlip.store import Store
from hlip.training.batches import GlobalBatches
from hlip.training.engine import full_state, make_accelerator, share_cores, whole_weights
from hlip.training.optimizer import WeightAverage, learning_rate, make_optimizer, set_learning_rate
from hlip.training.runs import Checkpoints, StopSignal
from pretrain.figure import draw_run
from pretrain.settings import PretrainConfig, check_same_run, check_sizes, flat, total_steps
from pretrain.start import build_model
from pretrain.step import BadStepError, Step, train_step
from pretrain.validate import check_validation, validate
from pretrain.watch import Watch


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments and run."""
    with plain_errors():
        config = parse_config(PretrainConfig, command="pretrain", description="Pretrain HLIP on a prepared store.", argv=argv)
        Run(config).train()


class Run:
    """One pretraining run: everything it needs, built in the order it is needed."""

    def __init__(self, config: PretrainConfig):
        self.config = config
        self.store = Store(config.store)
        check_sizes(config, self.store)
        share_cores(config.threads)
        local = max(1, config.batch_size // int(os.environ.get("WORLD_SIZE", "1")))
        local = min(local, config.chunk_studies or local)
        self.accelerator = make_accelerator(config.precision, config.optimizer.clip_norm, local, config.trackers, config.out)
        self.main = self.accelerator.is_main_process
        vision, augmentation = config.model.vision, None if config.augmentation.off else config.augmentation
        prefix = config.model.prefix
        self.data = StudyDataset(self.store, "train", config.sampling, config.seed, prefix, vision, augmentation)
        self.steps = total_steps(config, len(self.data))
        self.notes = check_same_run(config) + check_validation(self.store, config.validation)
        self.accelerator.wait_for_everyone()
        if self.main:
            config.out.mkdir(parents=True, exist_ok=True)
            self.lock = FolderLock(config.out).hold()
            (config.out / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")
        torch.manual_seed(config.seed)
        model = self.build()
        self.tokenizer = model.tokenizer
        optimizer = make_optimizer(
            {model: 1.0, model.visual: config.optimizer.vision_lr_scale, model.text: config.optimizer.text_lr_scale},
            config.optimizer,
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.average:
            self.accelerator.register_for_checkpointing(self.average)
        self.checkpoints = Checkpoints(config.out / "checkpoints", config.keep)
        self.start = self.checkpoints.restore(self.accelerator, config.resume)
        if config.trackers:
            self.accelerator.init_trackers("pretrain", config=flat(plain(config)))
        self.watch = Watch(self.accelerator, config.out, self.start, self.steps, self.store)
        self.best = best_so_far(config.out)
        self.measures: dict[str, float] = {}
        self.faults: list[tuple[str, str]] = []

    def build(self) -> HLIP:
        """The model before the engine takes it, and its averaged copy."""
        config = self.config
        model = build_model(
            config.model, self.data, self.accelerator, config.out, config.init, config.init_vision, config.centre_studies
        )
        if config.compile:
            for block in model.visual.blocks:
                block.compile()
        self.average = WeightAverage(model.to(self.accelerator.device), config.ema) if config.ema else None
        return model

    def train(self) -> None:
        """Every step from where the run stands to its end."""
        config, watch = self.config, self.watch
        if self.start >= self.steps:
            watch.say(f"{config.out} is finished ({self.start} steps)")
            return
        watch.say(self.introduction())
        for note in self.notes:
            watch.say(note)
        if self.data.without_report:
            watch.say(f"left out, no report: {len(self.data.without_report)} studies ({_few(self.data.without_report)})")
        chunks = iter(self.loader())
        with StopSignal() as stop:
            for step in range(self.start, self.steps):
                asked = time.perf_counter()
                batch = next(chunks)
                watch.pace.waited += time.perf_counter() - asked
                self.step(step, batch)
                done, end = step + 1, step + 1 == self.steps
                reason = stop.asked(self.accelerator)
                with watch.pace.paused():
                    if config.validation.every and (done % config.validation.every == 0 or end):
                        self.validate(done)
                    if done % config.save_every == 0 or end or reason:
                        self.save(done)
                if reason and not end:
                    self.report_damage()
                    watch.close()
                    watch.say(f"stopped after step {done} ({reason}); the same command goes on from there")
                    return
        watch.close()
        watch.say(f"checkpoint: {config.out / 'model'}")
        self.accelerator.end_training()

    def step(self, step: int, chunks: list[Batch]) -> None:
        """One optimizer step (0-based), and what is told of it.

        Raises:
            FloatingPointError: the loss is not finite or has exploded; the message names studies and the last good checkpoint.
        """
        config, done = self.config, step + 1
        rate = learning_rate(step, self.steps, config.optimizer)
        set_learning_rate(self.optimizer, rate)
        norm, seed = config.optimizer.clip_norm, [config.seed, step]
        try:
            taken = train_step(self.accelerator, self.model, self.optimizer, chunks, config.loss, norm, seed)
            self.check_explosion(taken)
        except BadStepError as error:
            studies = [study for chunk in chunks for study in chunk.study_ids]
            # what was saved just now has not seen a step yet, and its weights may be what went wrong
            saved = self.checkpoints.distrust(step) if self.main else self.checkpoints.all()
            last = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved yet"
            raise FloatingPointError(self.watch.bad_step(done, error, studies, last)) from error
        if self.average:
            own = self.accelerator.unwrap_model(self.model)
            with whole_weights(self.accelerator, own):
                self.average.update(own)
        pace = self.watch.pace
        pace.studies += sum(len(chunk.study_ids) for chunk in chunks)
        pace.scans += sum(len(chunk.volumes) for chunk in chunks)
        self.faults += [fault for chunk in chunks for fault in chunk.faults]
        self.watch.bar.update()
        if done % config.log_every == 0 or done == self.steps:
            self.watch.report(done, taken, self.accelerator.unwrap_model(self.model), rate)
            self.report_damage()

    def report_damage(self) -> None:
        """Studies that could not be read since the last report; all processes call it."""
        self.watch.damaged(self.faults, len(self.data), self.config.damaged_share)
        self.faults.clear()

    def check_explosion(self, taken: Step) -> None:
        """
        Raises:
            BadStepError: the loss is five times what guessing costs.
        """
        guessing = math.log(self.config.batch_size) if self.config.model.objective == "clip" else 10.0
        mean = float(self.accelerator.reduce(taken.losses.total.detach().float(), "mean"))
        if mean > 5 * max(1.0, guessing) * (self.config.loss.sentence + self.config.loss.report):
            raise BadStepError(f"the loss has exploded to {mean:.4g}")

    def validate(self, done: int) -> None:
        """Measures on the validation split; the best model so far is kept."""
        validation = self.config.validation
        values = validate(self.accelerator, self.watched(), self.store, validation)
        if not values:
            return
        if self.main:
            self.watch.write(done, values)
        self.watch.say(f"step {done}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        measure = validation.best if validation.best in values else next(iter(values))
        if values[measure] > self.best:
            self.best = values[measure]
            self.save_model(self.config.out / "best", done, values, chosen_by=measure)
        self.measures = values

    def watched(self) -> HLIP:
        """The model that is watched and saved: with averaged weights, if there are any."""
        if self.average:
            assert isinstance(self.average.model, HLIP)
            return self.average.model
        return self.accelerator.unwrap_model(self.model)

    def save(self, step: int) -> None:
        """The figure, the weights as a checkpoint folder, and last the state to continue from: once it is there, all is."""
        if self.main:
            draw_run(self.config.out)
        self.save_model(self.config.out / "model", step, self.measures)
        self.checkpoints.save(self.accelerator, step)

    def save_model(self, folder: Path, step: int, measures: dict[str, float], **more: str) -> None:
        """Weights that `hlip.load` opens, with what they have seen; all processes call it."""
        state = self.average.model.state_dict() if self.average else full_state(self.accelerator, self.model)
        if self.main:
            model = self.accelerator.unwrap_model(self.model)
            model.volume_spec = self.store.spec
            model.facts = self.facts(step) | {"metrics": measures} | more
            model.save(folder, state)
        self.accelerator.wait_for_everyone()

    def facts(self, step: int) -> dict[str, object]:
        """What a checkpoint says of itself."""
        config, records = self.config, self.data.records
        sequences: dict[str, int] = {}
        for record in records:
            for name in record.sequences:
                sequences[name] = sequences.get(name, 0) + 1
        kept = (
            "steps",
            "epochs",
            "batch_size",
            "precision",
            "seed",
            "ema",
            "sampling",
            "augmentation",
            "loss",
            "optimizer",
            "init",
            "init_vision",
        )
        data = {
            "split": "train",
            "studies": len(records),
            "scans": sum(sequences.values()),
            "patients": len({record.patient_id for record in records}),
            "sequences": dict(sorted(sequences.items(), key=lambda item: -item[1])[:20]),
        }
        return {
            "kind": "pretrain",
            "step": step,
            "studies": len(records),
            "simulated": all(record.extra.get("simulated") is True for record in records),
            "prompts": config.validation.prompts,
            "weights": "averaged" if config.ema else "last",
            "training": {name: plain(getattr(config, name)) for name in kept} | {"steps": self.steps},
            "data": data,
        }

    def loader(self) -> DataLoader[list[Batch]]:
        """This process's share of the remaining global batches, in chunks."""
        config, accelerator = self.config, self.accelerator
        batches = GlobalBatches(
            len(self.data),
            config.batch_size,
            seed=config.seed,
            steps=self.steps,
            start=self.start,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            sizes=self.data.sizes,
            chunk_studies=config.chunk_studies,
            chunk_scans=config.chunk_scans,
        )
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the loader's processes are forked
        return DataLoader(
            self.data,  # type: ignore[arg-type]  # the sampler gives places
            batch_sampler=batches,
            num_workers=config.workers,
            collate_fn=Chunks(self.tokenizer),
            pin_memory=accelerator.device.type == "cuda",
            prefetch_factor=config.prefetch if config.workers else None,
            worker_init_fn=deaf_to_signals,
        )

    def introduction(self) -> str:
        """One line of what is about to happen."""
        config = self.config
        with whole_weights(self.accelerator, self.accelerator.unwrap_model(self.model)):
            millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        return (
            f"{len(self.data)} training studies, {millions:.1f} M parameters, {self.steps} steps of {config.batch_size} studies "
            f"({self.steps * config.batch_size / len(self.data):.1f} epochs), "
            f"{self.accelerator.num_processes} process(es) on {self.accelerator.device.type}"
            + (f", continuing after step {self.start}" if self.start else "")
        )


def best_so_far(out: Path) -> float:
    """The measure of the model in RUN/best; minus infinity if there is none."""
    recover(out / "best")
    path = out / "best" / "config.json"
    if not path.is_file():
        return float("-inf")
    facts = json.loads(path.read_text(encoding="utf-8"))["facts"]
    return float(facts["metrics"][facts["chosen_by"]])


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
