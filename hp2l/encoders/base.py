"""What every encoder answers: which scans of a study it reads, and the tokens it makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hlip.store import Store, StudyRecord
from hlip.volume import VolumeSpec
from hp2l.tokens import Axes, Blocks, Tokens, axes_of


@dataclass(frozen=True)
class ScanReader:
    """Which scans of a study are read, and as what; light enough to travel to loader processes."""

    channels: tuple[str, ...] | None = None
    """Names of scans in order, upper and lower case alike; None: all scans, whatever they are called."""

    def reads(self, record: StudyRecord) -> bool:
        """Whether a study has any scan that is read."""
        return bool(record.sequences) if self.channels is None else any(place is not None for place in self.places(record))

    def places(self, record: StudyRecord) -> list[int | None]:
        """For each channel the study's first scan of that name, None where it has none."""
        names = [name.casefold() for name in record.sequences]
        wanted = [name.casefold() for name in self.channels or ()]
        return [names.index(name) if name in names else None for name in wanted]

    def count(self, record: StudyRecord) -> int:
        """Volumes that a study comes to."""
        return len(record.sequences) if self.channels is None else len(self.channels)

    def axes(self, store: Store, record: StudyRecord, order: Sequence[int] | None = None) -> tuple[Axes, ...]:
        """Where the grids of the scans that are read lie in the patient; empty where all of the store are axial, or channels of one image.

        Args:
            order: as of a call.
        """
        if self.channels is not None or store.spec.through_plane == "axial":
            return ()
        affines = store.affines(record.study_id)
        return tuple(axes_of(affine) for affine in (affines if order is None else affines[list(order)]))

    def __call__(self, store: Store, record: StudyRecord, order: Sequence[int] | None = None) -> Tensor:
        """(n, 1, D, H, W) uint8, a channel that the study lacks as zeros.

        Args:
            order: which scans and in which order, all by default; channels have an order of their own.

        Raises:
            StoreError: a damaged file.
        """
        if self.channels is None:
            return store.volumes(record.study_id, order)
        places = self.places(record)
        present = [channel for channel, place in enumerate(places) if place is not None]
        found = store.volumes(record.study_id, [place for place in places if place is not None])
        stacked = torch.zeros((len(places), *found.shape[1:]), dtype=found.dtype)
        stacked[present] = found
        return stacked


class Encoder(nn.Module, ABC):
    """Scans of a study -> tokens for a head."""

    kind: ClassVar[str]
    channels: tuple[str, ...] | None = None
    """Names of the scans that are read, in order, an absent one as zeros; None: all scans, whatever they are called."""
    volume_spec: VolumeSpec | None = None

    @property
    @abstractmethod
    def visual(self) -> nn.Module:
        """What fine-tuning may train."""

    @property
    @abstractmethod
    def width(self) -> int:
        """C, channels of the tokens."""

    @abstractmethod
    def read(
        self, visual: nn.Module, volumes: Tensor, scans_per_study: Sequence[int], blocks: Blocks, axes: Sequence[Axes] = ()
    ) -> Tokens:
        """Tokens of packed studies.

        Args:
            visual: this encoder's, or what an engine or low-rank additions made of it.
            volumes: (S, 1, D, H, W) uint8, study after study, as `reader` gives them.
            scans_per_study: B counts on the host.
            blocks: token blocks along depth, height and width.
            axes: of each scan's grid, as `reader.axes` gives them; empty: all are axial.
        """

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The trunk's blocks or stages, from the input on."""

    @abstractmethod
    def norm(self) -> nn.Module | None:
        """What normalises the last block's output, if anything does."""

    def pooling(self) -> list[nn.Module]:
        """What makes the class token and nothing else."""
        return []

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write what `load_encoder` reads."""

    @property
    def device(self) -> torch.device:
        """Where the trunk is."""
        return next(self.visual.parameters()).device

    @property
    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """What decides its tokens beside its weights."""

    @property
    def reader(self) -> ScanReader:
        """Which scans it reads."""
        return ScanReader(self.channels)
