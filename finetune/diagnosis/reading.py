"""A study as a fine-tuned model reads it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hlip.store import Store, StudyRecord
from hp2l.diagnoser import Diagnoser
from hp2l.head import HP2LOutput
from hp2l.tokens import Axes


def read_scans(model: Diagnoser, store: Store, record: StudyRecord) -> Tensor:
    """(n, 1, D, H, W) uint8 of what the encoder reads.

    Raises:
        ValueError: it reads named scans, and the study has none of them.
    """
    reader = model.encoder.reader
    if not reader.reads(record):
        wanted, there = ", ".join(reader.channels or ()), ", ".join(record.sequences)
        raise ValueError(
            f"{record.study_id}: the model reads {wanted}; the study has {there or 'no usable scan'}. Name its scans in a manifest"
        )
    return reader(store, record)


def channel_notes(model: Diagnoser, record: StudyRecord) -> list[str]:
    """Which named scans were missing."""
    channels = model.encoder.channels or ()
    absent = [name for name, place in zip(channels, model.encoder.reader.places(record), strict=True) if place is None]
    return [f"not in the study, zeros instead: {', '.join(absent)}"] if absent else []


@torch.no_grad()
def read(model: Diagnoser, volumes: Tensor, axes: Sequence[Axes]) -> HP2LOutput:
    """Output of one study's (n, 1, D, H, W) uint8 volumes, with the prompt's attention.

    Args:
        axes: of their grids, as the encoder's `reader` gives them.
    """
    device = next(model.parameters()).device
    return model(model.tokens(volumes.to(device), [len(volumes)], axes), return_attention=True)
