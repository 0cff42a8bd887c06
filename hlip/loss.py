"""The dual contrastive loss, across processes.

Class token 0 meets one random sentence of the report, class token 1 the whole report; each is a symmetric InfoNCE with its
own learnable temperature, and the total is their mean (HLIP ablation, 2025-11); a model built for siglip has a sigmoid for
each pair instead. Across processes, local rows meet the
gathered columns, and the features of both objectives are gathered in one exchange, with gradients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
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
    """Count equal texts of a batch (two reports without findings) as positives of each other."""

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
    local = torch.stack(
        [study[:, SENTENCE], features["sentence"], study[:, min(REPORT, study.shape[1] - 1)], features["report"]]
    )
    gathered = gather(local)
    same: list[Tensor | None] = [None, None]
    if config.identical_texts_match:
        if texts is None:
            raise ValueError("identical_texts_match needs the texts")
        same = [same_text(part, study.device) for part in texts]

    def objective(name: str, place: int) -> Tensor:
        rows = local[place], local[place + 1], gathered[place], gathered[place + 1], features[f"{name}_scale"]
        bias = features.get(f"{name}_bias")
        if bias is None:
            return clip_loss(*rows, same[place // 2])
        return siglip_loss(rows[0], rows[3], rows[4], bias, same[place // 2])

    sentence, report = objective("sentence", 0), objective("report", 2)
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


def siglip_loss(image: Tensor, all_text: Tensor, scale: Tensor, bias: Tensor, same: Tensor | None = None) -> Tensor:
    """A sigmoid for each pair of local images (B, E) and all texts (N, E); row i's partner is column rank * B + i.

    Args:
        scale: (1,) factor of the cosine similarities.
        bias: (1,) added to them; starts low, because nearly all pairs are negative.
        same: (B, N) bool, pairs whose texts are equal: positives too.

    Source:
        Zhai et al., Sigmoid Loss for Language Image Pre-Training, arXiv 2303.15343, algorithm 1.
    """
    rows, columns = len(image), len(all_text)
    positive = F.one_hot(torch.arange(rows, device=image.device) + rows * _rank(), columns).bool()
    if same is not None:
        positive = positive | same
    logits = scale * image @ all_text.T + bias
    return -F.logsigmoid(torch.where(positive, logits, -logits)).sum() / rows


def gather(local: Tensor) -> Tensor:
    """(k, B, E) of this process -> (k, N, E) of all, in the order of ranks, with gradients to each owner."""
    if not _several():
        return local
    return torch.cat(all_gather(local.contiguous()), dim=1)


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
