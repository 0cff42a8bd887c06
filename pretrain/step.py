"""One training step: encode, gather, dual loss, backward, clip, step, clamp temperatures.

A process's share of the global batch comes in chunks, each what one forward pass holds. With one chunk the step is the plain one.
With several, the contrastive loss over all of them is still exact (gradient caching, Gao et al., arXiv 2101.06983): features of all
chunks without a graph, the loss and its gradient with respect to them, then each chunk again with a graph, on which the cached
gradient is put. The random numbers of a chunk are seeded before either pass, so that both drop the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from hlip.data import Batch
from hlip.loss import LossConfig, Losses, dual_contrastive_loss
from hlip.training.engine import accumulating, clamp_temperatures


class Step(NamedTuple):
    """What a step was like."""

    losses: Losses
    norm: float
    """Of the gradient over all processes, before clipping; NaN where the engine does not say."""


class BadStepError(FloatingPointError):
    """The loss or its gradient is not a number; raised on every process alike, before the weights change (under DeepSpeed a bad
    gradient is seen only after its step)."""

    def __init__(self, what: str, study_ids: list[str] | None = None):
        super().__init__(what)
        self.study_ids = study_ids or []
        """Of this process, those whose features are not finite."""


def train_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    chunks: Sequence[Batch],
    loss: LossConfig,
    clip_norm: float,
    seed: Sequence[int],
) -> Step:
    """One step on this process's share of a global batch.

    Args:
        chunks: equally many on every process; with their texts' ids.
        loss: the objectives' weights.
        clip_norm: largest gradient norm.
        seed: of this run and step.

    Raises:
        BadStepError: a loss, or a gradient outside mixed precision, is not finite.
    """
    texts = [text for chunk in chunks for text in chunk.sentences], [text for chunk in chunks for text in chunk.reports]

    def encode(number: int) -> dict[str, Tensor]:
        place = number * accelerator.num_processes + accelerator.process_index  # in the global batch, whoever holds the chunk
        torch.manual_seed(int(np.random.SeedSequence([*seed, place]).generate_state(1)[0]))
        return features_of(accelerator, model, chunks[number])

    if len(chunks) == 1:
        features = encode(0)
        losses = checked(dual_contrastive_loss(features, loss, texts), features, chunks)
        accelerator.backward(losses.total)
    else:
        with torch.no_grad():
            features = joined([encode(number) for number in range(len(chunks))])
        leaves = {name: value.detach().requires_grad_() for name, value in features.items()}  # a bias is the parameter itself
        losses = checked(dual_contrastive_loss(leaves, loss, texts), features, chunks)
        losses.total.backward()
        for number in range(len(chunks)):
            with accumulating(accelerator, model, last=number == len(chunks) - 1):
                accelerator.backward(surrogate(encode(number), leaves, number, len(chunks)))
    norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm)
    norm = float("nan") if norm is None else float(norm)
    scaled = accelerator.mixed_precision == "fp16"  # whose scaler leaves out such a step by itself, and finds a smaller factor
    if (np.isnan(norm) and not scaled and accelerator.distributed_type != DistributedType.DEEPSPEED) or (
        np.isinf(norm) and not scaled
    ):
        raise BadStepError(f"the norm of the gradient is {norm}")
    optimizer.step()
    optimizer.zero_grad()
    clamp_temperatures(accelerator, model)
    return Step(losses, norm)


def features_of(accelerator: Accelerator, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`HLIP.forward` of one packed batch, on the device; float32."""
    assert batch.sentence_ids is not None
    assert batch.report_ids is not None
    volumes, sentences, reports = (
        part.to(accelerator.device, non_blocking=True) for part in (batch.volumes, batch.sentence_ids, batch.report_ids)
    )
    kept = None if batch.kept is None else batch.kept.to(accelerator.device, non_blocking=True)
    with accelerator.autocast():
        features = model(volumes, batch.scans_per_study, sentences, reports, kept)
    return {name: value.float() for name, value in features.items()}


def joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Features of all chunks, one below the other; factors and biases are the same in each."""
    return {name: torch.cat([part[name] for part in parts]) if value.ndim > 1 else value for name, value in parts[0].items()}


def surrogate(features: dict[str, Tensor], leaves: dict[str, Tensor], number: int, chunks: int) -> Tensor:
    """A scalar whose gradient is the loss's by way of this chunk: its features times the cached gradient."""
    total = torch.zeros((), device=features["study"].device)
    for name, value in features.items():
        gradient = leaves[name].grad
        if gradient is None:  # this objective has no weight
            continue
        shared = value.ndim == 1  # a factor or bias: one parameter, met in every chunk
        total = total + (value * (gradient / chunks if shared else gradient.chunk(chunks)[number])).sum()
    return total


def checked(losses: Losses, features: dict[str, Tensor], chunks: Sequence[Batch]) -> Losses:
    """The losses, if they are finite.

    Raises:
        BadStepError: they are not; it names the studies whose features are not.
    """
    if torch.isfinite(losses.total):
        return losses
    studies = [study for chunk in chunks for study in chunk.study_ids]
    rows = [features[name].detach().flatten(1) for name in ("study", "sentence", "report")]
    bad = (~torch.isfinite(torch.cat(rows, dim=1))).any(dim=1).tolist()
    raise BadStepError(f"the loss is {losses.total.item()}", [s for s, is_bad in zip(studies, bad, strict=True) if is_bad])
