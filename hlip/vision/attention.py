"""Attention inside groups of tokens, and the moves of tokens between slice, scan and study.

Slices and scans are groups of equal size: plain dense attention. Studies differ in size: their tokens lie one after another
in one row, and attention runs within each stretch; on CUDA by the variable-length flash kernel, elsewhere by a loop over
studies, which is also the reference the kernel is held to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F


class Lengths:
    """Tokens of each study in a packed row: counts on the host, offsets on the device, made once a forward pass."""

    def __init__(self, counts: Sequence[int], device: torch.device):
        self.counts = list(counts)
        self.longest = max(self.counts)
        self.equal = len(set(self.counts)) == 1
        offsets = torch.tensor([0, *accumulate(self.counts)], dtype=torch.int32)
        self.offsets = offsets.to(device, non_blocking=True)


class Grouping:
    """How the tokens of one batch are grouped at each scope.

    A study's prefix (class) tokens are copied to its parts going down, and are the mean over its parts going up. Layouts:
    slice (S * d, P + T / d, C), scan (S, P + T, C), study (1, sum of all tokens, C) in which each study's prefix comes first.
    """

    def __init__(self, scans_per_study: Sequence[int], patches: int, slices: int, prefix: int, device: torch.device):
        if patches % slices:
            raise ValueError(f"{patches} kept patches a scan cannot be shared evenly by {slices} slices")
        self.counts = list(scans_per_study)
        self.slices, self.prefix = slices, prefix
        self.study_lengths = Lengths([prefix + count * patches for count in self.counts], device)
        counts = torch.tensor(self.counts)
        self.study_of_scan = torch.repeat_interleave(torch.arange(len(self.counts)), counts).to(device, non_blocking=True)

    def join(self, prefix: Tensor, patches: Tensor, scope: str) -> Tensor:
        """Prefix tokens (groups, P, C) of that scope and patches (S, T, C) -> the scope's layout."""
        if scope == "slice":
            patches = rearrange(patches, "S (d k) C -> (S d) k C", d=self.slices)
        if scope != "study":
            return torch.cat([prefix, patches], dim=1)
        parts = []
        for own, scans in zip(prefix, patches.split(self.counts), strict=True):
            parts += [own, rearrange(scans, "n T C -> (n T) C")]
        return torch.cat(parts)[None]

    def split(self, packed: Tensor, scope: str) -> tuple[Tensor, Tensor]:
        """The inverse of `join`."""
        if scope != "study":
            prefix, patches = packed[:, : self.prefix], packed[:, self.prefix :]
            if scope == "slice":
                patches = rearrange(patches, "(S d) k C -> S (d k) C", d=self.slices)
            return prefix, patches
        studies = packed[0].split(self.study_lengths.counts)
        prefix = torch.stack([study[: self.prefix] for study in studies])
        pairs = zip(studies, self.counts, strict=True)
        return prefix, torch.cat([rearrange(study[self.prefix :], "(n T) C -> n T C", n=count) for study, count in pairs])

    def rotation(self, angles: Tensor, scope: str) -> Rotation:
        """Angles (S, T, c / 2) of the patches -> the rotation of a scope's layout, with no turn for prefix tokens."""
        groups = {"slice": len(angles) * self.slices, "scan": len(angles), "study": len(self.counts)}[scope]
        still = angles.new_zeros(groups, self.prefix, angles.shape[-1])
        packed = rearrange(self.join(still, angles, scope), "G N a -> G 1 N a")
        return Rotation(packed.cos(), packed.sin())

    def move(self, prefix: Tensor, source: str, target: str) -> Tensor:
        """Prefix tokens of one scope's groups as those of another's."""
        if source == target:
            return prefix
        if source == "slice":
            prefix = reduce(prefix, "(S d) P C -> S P C", "mean", d=self.slices)
        elif source == "study":
            prefix = prefix[self.study_of_scan]
        # here `prefix` is at scan level
        if target == "slice":
            return repeat(prefix, "S P C -> (S d) P C", d=self.slices)
        if target == "study":
            return torch.stack([scans.mean(dim=0) for scans in prefix.split(self.counts)])
        return prefix


class Rotation(NamedTuple):
    """Cosines and sines (G, 1, N, c / 2) by which the queries and keys of a layout are turned; prefix tokens are not turned."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(G, heads, N, c) -> the same, each pair (x[i], x[i + c / 2]) turned by its angle."""
        first, second = x.chunk(2, dim=-1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def rows(self, length: int) -> Rotation:
        """Of a packed row whose stretches are all of one length, as a dense batch."""
        return Rotation(*(rearrange(part, "1 1 (B n) a -> B 1 n a", n=length) for part in self))


class Attention(nn.Module):
    """Multi-head self-attention within groups: rows of a dense batch, or stretches of a packed row."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, lengths: Lengths | None = None, rotation: Rotation | None = None) -> Tensor:
        """(G, N, C) -> (G, N, C); with `lengths`, G = 1 and attention stays within each stretch."""
        if lengths is not None and lengths.equal:
            rows = rearrange(x, "1 (B n) C -> B n C", n=lengths.longest)
            turned = self.forward(rows, None, rotation.rows(lengths.longest) if rotation else None)
            return rearrange(turned, "B n C -> 1 (B n) C")
        q, k, v = rearrange(self.qkv(x), "G N (three h c) -> three G h N c", three=3, h=self.heads)
        if rotation is not None:
            q, k = rotation(q), rotation(k)
        mixed = F.scaled_dot_product_attention(q, k, v) if lengths is None else stretches_attention(q, k, v, lengths)
        return self.proj(rearrange(mixed, "G h N c -> G N (h c)"))


def stretches_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> Tensor:
    """Attention within stretches of a packed row, (1, heads, N, c) each."""
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (rearrange(part, "1 h N c -> N h c") for part in (q, k, v))
        mixed = varlen_attn(q, k, v, lengths.offsets, lengths.offsets, lengths.longest, lengths.longest)
        assert isinstance(mixed, Tensor)  # a pair only when the log-sum-exp is asked for
        return rearrange(mixed, "N h c -> 1 h N c")
    stretches = zip(*(part.split(lengths.counts, dim=2) for part in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*stretch) for stretch in stretches], dim=2)


class Block(nn.Module):
    """Pre-norm transformer block; stochastic depth drops a branch for a whole group (slice, scan or study)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor, lengths: Lengths | None = None, rotation: Rotation | None = None) -> Tensor:
        """(G, N, C) -> (G, N, C)."""
        x = x + self._drop(self.attn(self.norm1(x), lengths, rotation), lengths)
        return x + self._drop(self.mlp(self.norm2(x)), lengths)

    def _drop(self, branch: Tensor, lengths: Lengths | None) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        groups = len(branch) if lengths is None else len(lengths.counts)
        keep = torch.rand(groups, device=branch.device) >= self.drop_path
        keep = keep.to(branch.dtype) / (1 - self.drop_path)
        if lengths is None:
            return branch * keep[:, None, None]
        repeats = lengths.offsets.diff()
        return branch * keep.repeat_interleave(repeats, output_size=branch.shape[1])[None, :, None]
