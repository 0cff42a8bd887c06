"""The dual contrastive loss, across processes.

Class token 0 meets one random sentence of the report, class token 1 the whole report; each is a symmetric InfoNCE with its
own learnable temperature, and the total is their mean (HLIP ablation, 2025-11); a model built for siglip has a sigmoid for
each pair instead. Across processes, InfoNCE holds local
rows against gathered columns; the features of both objectives are gathered in one exchange, with gradients. The sigmoid form gathers
nothing: texts are passed round from neighbour to neighbour, and only B x B pairs are held at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from open_clip.loss import neighbour_exchange_with_grad
from torch import Tensor
from torch.nn import functional as F

from hlip.model import REPORT, SENTENCE


@dataclass
class LossConfig:
    """Which texts a study is held against."""

    sentence: float = 0.5
    """Weight of class token 0 against one random sentence."""
    report: float = 0.5
    """Weight of the last class token against the whole report."""
    identical_texts_match: bool = False
    """Count equal texts of a batch (two reports without findings) as positives of each other. With siglip this takes away wrong
    negatives. With clip it changes neither loss nor gradient, because equal texts have equal embeddings: in a study's row the equal
    columns share what one had, and in the text's rows the partners only change places (dropout in the text tower apart). Off by default."""

    def __post_init__(self) -> None:
        if min(self.sentence, self.report) < 0 or self.sentence + self.report == 0:
            raise ValueError("loss weights must not be negative, and one must be above zero")


class Losses(NamedTuple):
    """Scalars; `total` carries the gradient."""

    total: Tensor
    sentence: Tensor
    report: Tensor


def dual_contrastive_loss(
    features: dict[str, Tensor], config: LossConfig, texts: tuple[Sequence[str], Sequence[str]] | None = None
) -> Losses:
    """The loss of one global batch, of which every process holds an equal share.

    Args:
        features: `HLIP.forward`'s output: study (B, P, E), sentence and report (B, E), of unit length, both factors (1,), and
            with siglip both biases (1,).
        config: the objectives' weights.
        texts: the sentences and reports themselves, needed when identical texts match.

    Returns:
        This process's mean over its own rows. The mean over processes is the global loss, and its gradient is what DDP's or
        DeepSpeed's averaging of gradients gives.
    """
    study = features["study"]
    images = torch.stack([study[:, SENTENCE], study[:, min(REPORT, study.shape[1] - 1)]])
    words = torch.stack([features["sentence"], features["report"]])
    same: tuple[Tensor | None, ...] = (None, None)
    if config.identical_texts_match:
        if texts is None:
            raise ValueError("identical_texts_match needs the texts")
        same = tuple(same_text(part, study.device) for part in texts)
    scales = features["sentence_scale"], features["report_scale"]
    if "sentence_bias" in features:
        biases = features["sentence_bias"], features["report_bias"]
        sentence, report = siglip_losses(images, words, scales, biases, same)
    else:
        all_images, all_words = gather(torch.cat([images, words])).chunk(2)
        sentence, report = (clip_loss(*parts) for parts in zip(images, words, all_images, all_words, scales, same, strict=True))
    return Losses(config.sentence * sentence + config.report * report, sentence.detach(), report.detach())


def clip_loss(
    image: Tensor, text: Tensor, all_image: Tensor, all_text: Tensor, scale: Tensor, same: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE of local rows (B, E) against all columns (N, E); row i's partner is column rank * B + i.

    Args:
        scale: (1,) factor of the cosine similarities, exp of the learnt temperature.
        same: (B, N) bool, pairs whose texts are equal; they share the row's probability evenly.
    """
    rows, columns = len(image), len(all_image)
    partners = torch.arange(rows, device=image.device) + rows * _rank()
    targets: Tensor = partners
    if same is not None:
        shared = (same | F.one_hot(partners, columns).bool()).to(image.dtype)
        targets = shared / shared.sum(dim=1, keepdim=True)
    to_text = F.cross_entropy(scale * image @ all_text.T, targets)
    to_image = F.cross_entropy(scale * text @ all_image.T, targets)
    return (to_text + to_image) / 2


def siglip_losses(
    images: Tensor,
    texts: Tensor,
    scales: Sequence[Tensor],
    biases: Sequence[Tensor],
    same: Sequence[Tensor | None] = (None, None),
) -> list[Tensor]:
    """A sigmoid for each pair of an image and a text, both objectives at once; both are passed round in one exchange.

    Args:
        images: (k, B, E) of this process, an objective each.
        texts: (k, B, E) of this process.
        scales: k factors (1,) of the cosine similarities.
        biases: k terms (1,) added to them; they start low, because nearly all pairs are negative.
        same: k times (B, N) bool, pairs whose texts are equal: positives too.

    Source:
        Zhai et al., Sigmoid Loss for Language Image Pre-Training, arXiv 2303.15343, algorithm 1 and section 3.3.
    """
    rank, world = _rank(), dist.get_world_size() if _several() else 1
    rows = images.shape[1]
    own = torch.eye(rows, dtype=torch.bool, device=images.device)
    totals = [images.new_zeros(()) for _ in images]
    for hop in range(world):
        if hop:
            texts = neighbour_exchange_with_grad((rank - 1) % world, (rank + 1) % world, texts)
        holder = (rank - hop) % world  # whose texts these are
        for place, (image, text) in enumerate(zip(images, texts, strict=True)):
            positive = own if hop == 0 else torch.zeros_like(own)
            equal = same[place]
            if equal is not None:
                positive = positive | equal[:, holder * rows : (holder + 1) * rows]
            logits = scales[place] * image @ text.T + biases[place]
            totals[place] = totals[place] - F.logsigmoid(torch.where(positive, logits, -logits)).sum() / rows
    return totals


class _Gather(torch.autograd.Function):
    """Every process's tensor side by side; the backward pass brings each its own gradient, summed over processes."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]


def gather(local: Tensor) -> Tensor:
    """(k, B, E) of this process -> (k, N, E) of all, in the order of ranks, with gradients to each owner."""
    return _Gather.apply(local.contiguous()) if _several() else local


def same_text(texts: Sequence[str], device: torch.device) -> Tensor:
    """(B, N) bool: this process's texts against all texts of the global batch."""
    digests = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") for text in texts]
    local = torch.tensor(digests, device=device)
    columns = local
    if _several():
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local)
        columns = torch.cat(parts)
    return local[:, None] == columns[None]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _rank() -> int:
    return dist.get_rank() if _several() else 0
