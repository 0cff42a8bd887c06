"""Prepared studies as training samples, and their packed batches.

Every draw (which scans, which sentence, the order of the report, which patches are kept, augmentation) comes from generators
seeded by (seed, epoch, index): any number of workers and processes gives the same samples. A study without a report cannot be
contrasted and is left out by name; one whose file is damaged is replaced by another draw, and the batch says so.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hlip.reports import split_sentences
from hlip.store import Store, StoreError, StudyRecord
from hlip.training.augment import AugmentConfig, augment
from hlip.training.batches import Place
from hlip.vision import VisionConfig, draw_study_patches

REPLACEMENTS = 10  # other studies tried where one cannot be read


@dataclass
class SamplingConfig:
    """What a training step sees of a study."""

    max_scans: int = 8
    """Scans drawn from a study at most, in random order (8 in the updated version, 10 in the paper)."""
    sentence_dropout: bool = True
    """One random sentence for class token 0; False gives it the whole report."""
    exclude: list[str] = field(default_factory=list)
    """Study ids that are left out of training, for example those that a stopped run named."""
    rare_sentences: float = 0.0
    """0: every sentence of a report is as likely. 1: in inverse proportion to how often it stands in the training reports."""


class Sample(NamedTuple):
    """One study, drawn."""

    study_id: str
    volumes: Tensor
    """(n, 1, D, H, W) uint8."""
    sentence: str
    report: str
    kept: Tensor | None = None
    """(n, T) int64 patches that patch dropout keeps."""
    chunk: int = 0
    """Which forward pass of its step it belongs to."""
    axes: tuple[tuple[int, int, int], ...] = ()
    """Which axis of each scan's grid runs along the patient's z, y and x; empty: all scans are axial, or nobody asked."""
    faults: tuple[tuple[str, str], ...] = ()
    """Studies that should have stood here and could not be read, each with the reason."""


class Batch(NamedTuple):
    """Packed studies."""

    study_ids: list[str]
    volumes: Tensor
    """(S, 1, D, H, W) uint8, study after study."""
    scans_per_study: list[int]
    """B counts on the host, so that no step waits for the device to learn them."""
    sentences: list[str]
    reports: list[str]
    kept: Tensor | None = None
    """(S, T) int64 patches that patch dropout keeps."""
    sentence_ids: Tensor | None = None
    """(B, t) int64, when a tokenizer was at hand."""
    report_ids: Tensor | None = None
    """(B, t) int64."""
    axes: tuple[tuple[int, int, int], ...] = ()
    """As of `Sample`, of all scans."""
    faults: tuple[tuple[str, str], ...] = ()
    """As of `Sample`."""


class StudyDataset(Dataset[Sample]):
    """Studies of one split; `dataset[epoch, index]` is a random draw, the same wherever and whenever it is made.

    Args:
        store: where the studies are.
        split: which of them.
        sampling: what is drawn.
        seed: of every draw.
        prefix: begins every text.
        vision: the encoder that will see the volumes; its patch dropout is drawn here, study by study. None keeps every patch.
        augmentation: of the voxels; none by default.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        sampling: SamplingConfig,
        seed: int,
        prefix: str,
        vision: VisionConfig | None = None,
        augmentation: AugmentConfig | None = None,
    ):
        self.store, self.sampling, self.seed, self.prefix = store, sampling, seed, prefix
        self.vision, self.augmentation = vision, augmentation
        self.records: list[StudyRecord] = []
        self.sentences: list[list[str]] = []
        self.without_report: list[str] = []
        for record in store.split(split):
            if record.study_id in sampling.exclude:
                continue
            sentences = list(record.sentences) or split_sentences(record.report)
            if sentences:
                self.records.append(record)
                self.sentences.append(sentences)
            else:
                self.without_report.append(record.study_id)
        self.chances = sentence_chances(self.sentences, sampling.rare_sentences)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def sizes(self) -> list[int]:
        """Scans that a draw of each study has."""
        return [min(len(record.sequences), self.sampling.max_scans) for record in self.records]

    def __getitem__(self, place: Place | tuple[int, int]) -> Sample:
        """The draw of one epoch and index; where its file is damaged, that of another study.

        Raises:
            StoreError: the studies tried instead could not be read either.
        """
        place = Place(*place)
        faults: list[tuple[str, str]] = []
        while len(faults) <= REPLACEMENTS:
            try:
                return self.draw(place)._replace(faults=tuple(faults))
            except (StoreError, OSError) as error:
                faults.append((self.records[place.study].study_id, str(error)))
                other = np.random.default_rng([self.seed, place.epoch, place.study, len(faults)]).integers(len(self))
                place = place._replace(study=int(other))
        raise StoreError(f"{len(faults)} studies one after another could not be read, the last: {faults[-1][1]}")

    def draw(self, place: Place) -> Sample:
        """One draw of a study that can be read."""
        key = [self.seed, place.epoch, place.study]
        generator = np.random.default_rng(key)
        record, sentences = self.records[place.study], self.sentences[place.study]
        scans = generator.permutation(len(record.sequences))[: self.sampling.max_scans]
        order = generator.permutation(len(sentences))
        report = self.prefix + " ".join(sentences[place] for place in order)
        drawn = sentences[generator.choice(len(sentences), p=self.chances[place.study])]
        sentence = self.prefix + drawn if self.sampling.sentence_dropout else report
        volumes = self.store.volumes(record.study_id, scans.tolist())
        if self.augmentation is not None:
            volumes = augment(volumes, self.augmentation, np.random.default_rng([*key, 1]))
        kept = draw_study_patches(volumes, self.vision, [*key, 2]) if self.vision is not None else None
        return Sample(record.study_id, volumes, sentence, report, kept, place.chunk)


def sentence_chances(reports: Sequence[Sequence[str]], rarity: float) -> list[np.ndarray]:
    """For each report, the chance of drawing each sentence: (frequency in the cohort) ** -rarity, normalised."""
    counts: dict[str, int] = {}
    for sentences in reports:
        for sentence in sentences:
            counts[sentence] = counts.get(sentence, 0) + 1
    weights = [np.array([counts[sentence] for sentence in sentences], float) ** -rarity for sentences in reports]
    return [weight / weight.sum() for weight in weights]


def collate(samples: Sequence[Sample], tokenizer: Callable[[Sequence[str]], Tensor] | None = None) -> Batch:
    """Pack samples: no scan repeated, no padding of volumes. With a tokenizer the texts' ids come along."""
    kept = [sample.kept for sample in samples if sample.kept is not None]
    sentences, reports = [sample.sentence for sample in samples], [sample.report for sample in samples]
    return Batch(
        study_ids=[sample.study_id for sample in samples],
        volumes=torch.cat([sample.volumes for sample in samples]),
        scans_per_study=[len(sample.volumes) for sample in samples],
        sentences=sentences,
        reports=reports,
        kept=torch.cat(kept) if kept else None,
        sentence_ids=tokenizer(sentences) if tokenizer else None,
        report_ids=tokenizer(reports) if tokenizer else None,
        axes=tuple(own for sample in samples for own in sample.axes),
        faults=tuple(fault for sample in samples for fault in sample.faults),
    )


def deaf_to_signals(worker: int) -> None:
    """For a loader's processes: a scheduler's signal reaches the whole group, but it is the training process that answers it; a loader
    that died of it would take the run along before it has saved."""
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class Chunks:
    """The samples of a step as one packed batch a forward pass; done by the loader's processes, tokenizing included."""

    def __init__(self, tokenizer: Callable[[Sequence[str]], Tensor] | None = None):
        self.tokenizer = tokenizer

    def __call__(self, samples: Sequence[Sample]) -> list[Batch]:
        """Samples in the order of their chunks -> a batch a chunk."""
        return [collate(list(part), self.tokenizer) for _, part in groupby(samples, key=lambda sample: sample.chunk)]


def evaluation_batches(
    store: Store,
    records: Sequence[StudyRecord],
    batch_size: int,
    read: Callable[[Store, StudyRecord], Tensor] | None = None,
    axes: Callable[[Store, StudyRecord], tuple[tuple[int, int, int], ...]] | None = None,
) -> Iterator[Batch]:
    """All scans of each study, in order, or what `read` makes of them, with their `axes` if asked for; nothing random; sentence and report
    are left empty."""
    for first in range(0, len(records), batch_size):
        part = records[first : first + batch_size]
        volumes = [store.volumes(record.study_id) if read is None else read(store, record) for record in part]
        places = [() if axes is None else axes(store, record) for record in part]
        drawn = zip(part, volumes, places, strict=True)
        yield collate([Sample(record.study_id, each, "", "", axes=own) for record, each, own in drawn])
