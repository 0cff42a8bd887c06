"""Prepared studies as training samples, and their packed batches.

Every draw (which scans, which sentence, the order of the report) comes from a generator seeded by (seed, epoch, index), and
the order of an epoch from (seed, epoch): any number of workers and processes gives the same samples. A study without a
report cannot be contrasted and is left out by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hlip.reports import split_sentences
from hlip.store import Store, StudyRecord


@dataclass
class SamplingConfig:
    """What a training step sees of a study."""

    max_scans: int = 8
    """Scans drawn from a study at most, in random order (8 in the updated version, 10 in the paper)."""
    sentence_dropout: bool = True
    """One random sentence for class token 0; False gives it the whole report."""
    rare_sentences: float = 0.0
    """0: every sentence of a report is as likely. 1: in inverse proportion to how often it stands in the training reports."""


class Sample(NamedTuple):
    """One study, drawn."""

    study_id: str
    volumes: Tensor
    """(n, 1, D, H, W) uint8."""
    sentence: str
    report: str


class Batch(NamedTuple):
    """Packed studies."""

    study_ids: list[str]
    volumes: Tensor
    """(S, 1, D, H, W) uint8, study after study."""
    scans_per_study: list[int]
    """B counts on the host, so that no step waits for the device to learn them."""
    sentences: list[str]
    reports: list[str]


class StudyDataset(Dataset[Sample]):
    """Studies of one split; `dataset[epoch, index]` is a random draw, the same wherever and whenever it is made."""

    def __init__(self, store: Store, split: str, sampling: SamplingConfig, seed: int, prefix: str):
        self.store, self.sampling, self.seed, self.prefix = store, sampling, seed, prefix
        self.records: list[StudyRecord] = []
        self.sentences: list[list[str]] = []
        self.without_report: list[str] = []
        for record in store.split(split):
            sentences = list(record.sentences) or split_sentences(record.report)
            if sentences:
                self.records.append(record)
                self.sentences.append(sentences)
            else:
                self.without_report.append(record.study_id)
        self.chances = sentence_chances(self.sentences, sampling.rare_sentences)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        """The draw of one epoch and index."""
        epoch, index = place
        generator = np.random.default_rng([self.seed, epoch, index])
        record, sentences = self.records[index], self.sentences[index]
        scans = generator.permutation(len(record.sequences))[: self.sampling.max_scans]
        order = generator.permutation(len(sentences))
        report = self.prefix + " ".join(sentences[place] for place in order)
        drawn = sentences[generator.choice(len(sentences), p=self.chances[index])]
        sentence = self.prefix + drawn if self.sampling.sentence_dropout else report
        return Sample(record.study_id, self.store.volumes(record.study_id, scans.tolist()), sentence, report)


def sentence_chances(reports: Sequence[Sequence[str]], rarity: float) -> list[np.ndarray]:
    """For each report, the chance of drawing each sentence: (frequency in the cohort) ** -rarity, normalised."""
    counts: dict[str, int] = {}
    for sentences in reports:
        for sentence in sentences:
            counts[sentence] = counts.get(sentence, 0) + 1
    weights = [np.array([counts[sentence] for sentence in sentences], float) ** -rarity for sentences in reports]
    return [weight / weight.sum() for weight in weights]


def collate(samples: Sequence[Sample]) -> Batch:
    """Pack samples: no scan repeated, no padding."""
    return Batch(
        study_ids=[sample.study_id for sample in samples],
        volumes=torch.cat([sample.volumes for sample in samples]),
        scans_per_study=[len(sample.volumes) for sample in samples],
        sentences=[sample.sentence for sample in samples],
        reports=[sample.report for sample in samples],
    )


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """This process's share of each global batch, endlessly from `start`; an epoch's remainder that fills no batch is left out.

    Step s of any number of processes sees the same global batch, so one process equals two, and a resumed run continues
    where it was.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, steps: int, start: int = 0, rank: int = 0, world: int = 1):
        if batch_size % world:
            raise ValueError(f"batch_size {batch_size} (all processes together) is not a multiple of {world} processes")
        if length < batch_size:
            raise ValueError(f"{length} training studies do not fill one batch of {batch_size}: choose a smaller batch_size")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.steps, self.start, self.rank, self.world = steps, start, rank, world

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        in_epoch, share = self.length // self.batch_size, self.batch_size // self.world
        current, order = -1, np.empty(0, int)
        for step in range(self.start, self.steps):
            epoch, place = divmod(step, in_epoch)
            if epoch != current:
                current, order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.length)
            first = place * self.batch_size + self.rank * share
            yield [(epoch, int(index)) for index in order[first : first + share]]


def evaluation_batches(store: Store, records: Sequence[StudyRecord], batch_size: int) -> Iterator[Batch]:
    """All scans of each study, in order, nothing random; sentence and report are left empty."""
    for first in range(0, len(records), batch_size):
        part = records[first : first + batch_size]
        yield collate([Sample(record.study_id, store.volumes(record.study_id), "", "") for record in part])
