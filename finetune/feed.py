"""What a training step reads: cached tokens of a frozen encoder, or the scans themselves where the encoder is trained too.

Both answer the same two questions: the module's output for these training studies, and the scores of a whole split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from finetune.tuning import Tuned, TuningConfig
from hlip.data import Batch, Sample, collate, deaf_to_signals, evaluation_batches
from hlip.store import Store, StudyRecord
from hlip.training.augment import AugmentConfig, augment
from hlip.training.batches import GlobalBatches, Place
from hlip.training.engine import whole_weights
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import ScanReader
from hp2l.head import HP2LOutput
from hp2l.tokens import Tokens

Steps = Iterator[tuple[Tensor, "Batch | None"]]


class Feed(Protocol):
    """A source of training steps."""

    module: nn.Module
    """What is trained; the engine wraps it."""

    def steps(self, batches: GlobalBatches) -> Steps:
        """For each step the studies' rows (B,) and what else is needed of them."""

    def output(self, trained: nn.Module, rows: Tensor, batch: Batch | None) -> HP2LOutput:
        """Of the wrapped module, for a step."""

    def scores(self, trained: nn.Module, split: str) -> list[Tensor]:
        """(N, K_l) float32 on the host, in [0, 1], of a whole split in evaluation mode; all processes call it and get the same."""


class CachedTokens:
    """Tokens that were encoded once; the head alone is trained."""

    def __init__(self, model: Diagnoser, tokens: dict[str, Tokens], accelerator: Accelerator):
        self.module: nn.Module = model.head
        self.tokens, self.accelerator, self.start = tokens, accelerator, model.config.cls == "encoder"

    def steps(self, batches: GlobalBatches) -> Steps:
        for places in batches:
            yield torch.tensor([place.study for place in places]), None

    def output(self, trained: nn.Module, rows: Tensor, batch: Batch | None) -> HP2LOutput:
        tokens = Tokens(*(part[rows].to(self.accelerator.device) for part in self.tokens["train"]))
        output: HP2LOutput = trained(tokens.patches, tokens.cls if self.start else None)
        return output

    @torch.no_grad()
    def scores(self, trained: nn.Module, split: str) -> list[Tensor]:
        head = self.accelerator.unwrap_model(trained).eval()
        with whole_weights(self.accelerator, head):
            dtype = next((parameter.dtype for parameter in head.parameters()), torch.float32)
            patches, cls = (part.to(self.accelerator.device, dtype) for part in self.tokens[split])
            parts = [
                head(rows, start if self.start else None).probabilities()
                for rows, start in zip(patches.split(256), cls.split(256), strict=True)
            ]
        return [torch.cat(level).cpu() for level in zip(*parts, strict=True)]


class Scans(Dataset[Sample]):
    """Scans of labelled studies, drawn and changed anew each epoch by (seed, epoch, study)."""

    def __init__(
        self,
        store: Store,
        records: Sequence[StudyRecord],
        reader: ScanReader,
        max_scans: int,
        augmentation: AugmentConfig,
        seed: int,
    ):
        self.store, self.records, self.reader = store, records, reader
        self.max_scans, self.augmentation, self.seed = max_scans, augmentation, seed

    def __getitem__(self, place: Place) -> Sample:
        record = self.records[place.study]
        draws = np.random.default_rng([self.seed, place.epoch, place.study])
        order = draws.permutation(len(record.sequences))[: self.max_scans].tolist()
        volumes = self.reader(self.store, record, order)
        axes = self.reader.axes(self.store, record, order)
        return Sample(str(place.study), augment(volumes, self.augmentation, draws), "", "", axes=axes)


class LiveScans:
    """Voxels at every step; encoder and head are trained together."""

    def __init__(
        self,
        model: Diagnoser,
        config: TuningConfig,
        store: Store,
        records: dict[str, list[StudyRecord]],
        accelerator: Accelerator,
        *,
        seed: int,
        workers: int,
        batch_size: int,
        augmentation: AugmentConfig,
    ):
        self.module: nn.Module = Tuned(model, config)
        self.store, self.records, self.accelerator = store, records, accelerator
        self.reader = model.encoder.reader
        self.scans = Scans(store, records["train"], self.reader, config.max_scans, augmentation, seed)
        self.workers, self.batch_size = workers, batch_size

    def steps(self, batches: GlobalBatches) -> Steps:
        pinned = self.accelerator.device.type == "cuda"
        loader = DataLoader(
            self.scans,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=pinned,
            worker_init_fn=deaf_to_signals,
        )
        for batch in loader:
            yield torch.tensor([int(study) for study in batch.study_ids]), batch

    def output(self, trained: nn.Module, rows: Tensor, batch: Batch | None) -> HP2LOutput:
        assert batch is not None
        volumes = batch.volumes.to(self.accelerator.device, non_blocking=True)
        output: HP2LOutput = trained(volumes, batch.scans_per_study, batch.axes)
        return output

    @torch.no_grad()
    def scores(self, trained: nn.Module, split: str) -> list[Tensor]:
        model, accelerator, records = self.accelerator.unwrap_model(trained).eval(), self.accelerator, self.records[split]
        own = range(accelerator.process_index, len(records), accelerator.num_processes)
        mine = [records[row] for row in own]
        parts: list[list[Tensor]] = []
        with whole_weights(accelerator, model), accelerator.autocast():
            for batch in evaluation_batches(self.store, mine, self.batch_size, self.reader, self.reader.axes):
                output = model(batch.volumes.to(accelerator.device), batch.scans_per_study, batch.axes)
                parts.append([level.float().cpu() for level in output.probabilities()])
        levels = [torch.cat(level) for level in zip(*parts, strict=True)]
        rows = [(row, [level[place].tolist() for level in levels]) for place, row in enumerate(own)]
        found = dict(gather_object(rows))
        return [torch.tensor([found[row][level] for row in range(len(records))]) for level in range(len(found[0]))]
