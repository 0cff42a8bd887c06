"""The vision tower: a ViT whose attention follows radiology's hierarchy of slice, scan and study.

Notable choices
- Studies are packed: `volumes (S, 1, D, H, W)` holds all scans of a batch, `scans_per_study` says whose they are. No scan is
  repeated and no padding is computed; studies of 1 and of 20 scans share a batch.
- Scope is data: one of `slice | scan | study` a block. Slice and scan scope are dense over all scans; study scope is attention
  within each study's own tokens, of variable length.
- Kept patches are chosen first; only they are normalised and embedded.
- Parameter names are those of a timm ViT, so that checkpoints convert key by key.

Source: Zhao et al., Towards Scalable Language-Image Pre-training for 3D Medical Imaging, arXiv 2505.21862, and the authors'
    ablation blog of 2025-11 ("updated version"); "paper version" choices are options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hlip.vision.attention import Block, Grouping
from hlip.vision.position import depth_plane_table, rotary_angles, sequence_table, space_table

Scope = Literal["slice", "scan", "study"]

MEAN, STD = 0.449, 0.226  # of voxels / 255, as in the official preparation


def default_scopes(depth: int = 12) -> list[str]:
    """Scan, scan, study, repeated: the released ViT-B scan+study model at depth 12."""
    return ["study" if index % 3 == 2 else "scan" for index in range(depth)]


@dataclass
class VisionConfig:
    """What a vision tower is made of."""

    size: tuple[int, int, int] = (48, 224, 224)
    """Voxels of a prepared volume (D, H, W)."""
    patch: tuple[int, int, int] = (6, 16, 16)
    """Voxels of a patch (D, H, W); must divide `size`."""
    width: int = 768
    """Channels C of a token."""
    heads: int = 12
    """Attention heads; must divide `width`."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP over `width`."""
    scopes: list[str] = field(default_factory=default_scopes)
    """One of slice | scan | study a block; its length is the depth."""
    class_tokens: int = 2
    """Prefix tokens: 2 for the dual objective (sentence, report), 1 otherwise."""
    pool: Literal["dinotxt", "class"] = "dinotxt"
    """dinotxt joins each class token with the mean patch token (updated version); class takes it alone (paper version)."""
    position: Literal["depth_plane", "space", "rotary"] = "depth_plane"
    """Fixed sine-cosine table: depth 1-D plus plane 2-D (updated version), or a third of the width an axis (paper version). rotary: no
    table; queries and keys are turned by their place on three axes, in every scope (after RoFormer, Su et al., arXiv 2104.09864)."""
    sequence_positions: int = 0
    """Places in the study with an embedding of their own: 40 in the paper version, 0 in the updated one."""
    patch_norm: bool = False
    """Standardise each patch, subtract the training set's mean patch of its place, and normalise the embedding (after Dual PatchNorm,
    Kumar et al., arXiv 2302.01327): learns several times sooner from few studies. The grid is then fixed. Not in the published models."""
    patch_dropout: float = 0.0
    """Share of patches left out in training, the same in every scan (in every slice if the first block has slice scope)."""
    drop_air_first: bool = False
    """Patch dropout takes patches of air before any with tissue (what is said of the head is not in the air around it)."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; grows linearly from 0."""
    checkpoint_blocks: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        for name in ("size", "patch"):
            setattr(self, name, tuple(getattr(self, name)))
        unknown = sorted(set(self.scopes) - {"slice", "scan", "study"})
        if unknown or not self.scopes:
            raise ValueError(f"scopes: each block needs one of slice | scan | study, not {unknown or 'nothing'}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.class_tokens not in (1, 2):
            raise ValueError(f"class_tokens {self.class_tokens}: 2 for sentence and report, or 1")
        if not 0.0 <= self.patch_dropout < 1.0:
            raise ValueError(f"patch_dropout {self.patch_dropout} is not in [0, 1)")
        if self.position == "rotary" and (self.width // self.heads) % 2:
            raise ValueError(f"rotary positions need an even number of channels a head, not {self.width // self.heads}")
        grid_of(self.size, self.patch)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches of a scan along D, H, W."""
        return grid_of(self.size, self.patch)

    @property
    def features(self) -> int:
        """Channels of a pooled class token."""
        return self.width * (2 if self.pool == "dinotxt" else 1)


def grid_of(size: Sequence[int], patch: Sequence[int]) -> tuple[int, int, int]:
    """Patches along each axis.

    Raises:
        ValueError: a patch does not divide the volume; voxels would be lost without a word.
    """
    if any(voxels % step for voxels, step in zip(size, patch, strict=True)):
        raise ValueError(f"volume {tuple(size)} is not a multiple of patch {tuple(patch)}: choose another size or patch")
    depth, height, width = (voxels // step for voxels, step in zip(size, patch, strict=True))
    return depth, height, width


class StudyTokens(NamedTuple):
    """Tokens of a batch after the final norm."""

    cls: Tensor
    """(B, P, C) class tokens at study level."""
    patches: Tensor
    """(S, T, C) kept patch tokens, scans in the order of the batch."""
    scans_per_study: tuple[int, ...]
    kept: Tensor | None
    """(S, T) place of each kept patch in the scan's grid (d h w, row-major); None when all are kept."""
    grid: tuple[int, int, int]


class PatchEmbed(nn.Module):
    """A convolution with kernel = stride = patch, applied to the kept patches alone."""

    centre: Tensor

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.patch, self.normed = config.patch, config.patch_norm
        self.proj = nn.Conv3d(1, config.width, kernel_size=config.patch, stride=config.patch)
        if self.normed:
            self.norm = nn.LayerNorm(config.width)
            self.register_buffer("centre", torch.zeros(1, math.prod(config.grid), math.prod(config.patch)))

    def forward(self, volumes: Tensor, kept: Tensor | None) -> Tensor:
        """(S, 1, D, H, W) uint8, or float already normalised -> (S, T, C)."""
        patches = self.patches(volumes)
        if kept is not None:
            patches = patches.take_along_dim(kept[..., None], dim=1)
        weight = rearrange(self.proj.weight, "C 1 p q r -> C (p q r)")
        patches = normalise(patches, weight.dtype)
        if not self.normed:
            return F.linear(patches, weight, self.proj.bias)
        centre = self.centre if kept is None else self.centre[0, kept]
        return self.norm(F.linear(self.standardise(patches) - centre, weight, self.proj.bias))

    def patches(self, volumes: Tensor) -> Tensor:
        """(S, 1, D, H, W) -> (S, T, voxels of a patch)."""
        return patches_of(volumes, self.patch)

    @staticmethod
    def standardise(patches: Tensor) -> Tensor:
        """Each patch with mean 0 and variance 1."""
        return F.layer_norm(patches, patches.shape[-1:])

    @torch.no_grad()
    def set_centre(self, volumes: Tensor) -> None:
        """Take the mean of these volumes' standardised patches, place by place, as what is subtracted from now on."""
        self.centre.copy_(self.standardise(normalise(self.patches(volumes))).mean(dim=0, keepdim=True))


def patches_of(volumes: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(S, 1, D, H, W) -> (S, T, voxels of a patch), row-major in the grid."""
    p, q, r = patch
    return rearrange(volumes, "S 1 (d p) (h q) (w r) -> S (d h w) (p q r)", p=p, q=q, r=r)


def normalise(voxels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 0..255 -> (voxels / 255 - mean) / std; floats are taken as already normalised."""
    if voxels.dtype == torch.uint8:
        return (voxels.to(dtype) / 255 - MEAN) / STD
    return voxels.to(dtype)


class StudyEncoder(nn.Module):
    """Packed scans -> tokens -> one pooled feature a class token and study."""

    spatial_posemb: Tensor
    sequential_posemb: Tensor

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        width, depth = config.width, len(config.scopes)
        self.cls_token = nn.Parameter(torch.empty(1, config.class_tokens, width))
        self.patch_embed = PatchEmbed(config)
        if config.position != "rotary":
            table = depth_plane_table if config.position == "depth_plane" else space_table
            self.register_buffer("spatial_posemb", table(config.grid, width)[None])
        if config.sequence_positions:
            self.register_buffer("sequential_posemb", sequence_table(config.sequence_positions, width)[None])
        self.blocks = nn.ModuleList(Block(width, config.heads, config.mlp_ratio) for _ in range(depth))
        self.spread_drop_path()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self._tables: dict[tuple, Tensor] = {}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, as in the original ViT and MAE (a fixed std of 0.02 suits width 768 alone); zero biases;
        class tokens 0.02."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def spread_drop_path(self) -> None:
        """Give each block its rate of stochastic depth, as the configuration now says."""
        rates = torch.linspace(0, self.config.drop_path, len(self.blocks)).tolist()
        for block, rate in zip(self.blocks, rates, strict=True):
            block.drop_path = rate

    def forward(self, volumes: Tensor, scans_per_study: Sequence[int], kept: Tensor | None = None) -> Tensor:
        """Pooled features.

        Args:
            volumes: (S, 1, D, H, W) uint8 voxels of all scans, study after study.
            scans_per_study: B counts on the host, summing to S.
            kept: (S, T) patches to keep; by default drawn in training when `patch_dropout` > 0.

        Returns:
            (B, P, 2C), or (B, P, C) with `pool="class"`.
        """
        return self.pool(self.tokens(volumes, scans_per_study, kept))

    def tokens(self, volumes: Tensor, scans_per_study: Sequence[int], kept: Tensor | None = None) -> StudyTokens:
        """Tokens after the final norm; arguments as in `forward`.

        Raises:
            ValueError: the counts do not sum to S, a study has no scan, or the volume is not a multiple of the patch.
        """
        counts = tuple(int(count) for count in scans_per_study)
        if sum(counts) != len(volumes) or min(counts, default=0) < 1:
            raise ValueError(f"scans_per_study {counts} does not describe {len(volumes)} scans (each study needs at least 1)")
        config = self.config
        grid = grid_of(volumes.shape[2:], config.patch)
        if config.patch_norm and grid != config.grid:
            raise ValueError(f"with patch_norm the grid is fixed: volumes of {config.size}, not {tuple(volumes.shape[2:])}")
        if kept is None and self.training and config.patch_dropout:
            kept = draw_patches(volumes, config)
        patches = self.patch_embed(volumes, kept)
        patches = self._add_positions(patches, grid, counts, kept)
        slices = grid[0] if "slice" in config.scopes else 1
        grouping = Grouping(counts, patches.shape[1], slices, config.class_tokens, patches.device)
        prefix = repeat(self.cls_token.to(patches.dtype), "1 P C -> B P C", B=len(counts))
        angles = self._angles(grid, kept, patches) if config.position == "rotary" else None
        prefix, patches = self._run_blocks(prefix, patches, grouping, angles)
        return StudyTokens(self.norm(prefix), self.norm(patches), counts, kept, grid)

    def pool(self, tokens: StudyTokens) -> Tensor:
        """Class tokens, each joined with the study's mean patch token (dino.txt pooling) unless `pool="class"`."""
        if self.config.pool == "class":
            return tokens.cls
        mean = torch.stack([part.mean(dim=(0, 1)) for part in tokens.patches.split(tokens.scans_per_study)])
        return torch.cat([tokens.cls, repeat(mean, "B C -> B P C", P=tokens.cls.shape[1])], dim=-1)

    def _run_blocks(
        self, prefix: Tensor, patches: Tensor, grouping: Grouping, angles: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """All blocks; tokens are regrouped only where the scope changes."""
        rotations = {s: grouping.rotation(angles, s) for s in set(self.config.scopes)} if angles is not None else {}
        scope = "study"
        packed = grouping.join(prefix, patches, scope)
        for block, target in zip(self.blocks, self.config.scopes, strict=True):
            if target != scope:
                prefix, patches = grouping.split(packed, scope)
                packed = grouping.join(grouping.move(prefix, scope, target), patches, target)
                scope = target
            lengths = grouping.study_lengths if scope == "study" else None
            if self.config.checkpoint_blocks and self.training:
                packed = checkpoint(block, packed, lengths, rotations.get(scope), use_reentrant=False)
            else:
                packed = block(packed, lengths, rotations.get(scope))
        prefix, patches = grouping.split(packed, scope)
        return grouping.move(prefix, scope, "study"), patches

    def _add_positions(self, patches: Tensor, grid: tuple[int, int, int], counts: Sequence[int], kept: Tensor | None) -> Tensor:
        """(S, T, C) kept patches with the embeddings of their place in the scan and of the scan's place in the study."""
        if self.config.position != "rotary":
            patches = patches + _kept(self._table(grid, patches), kept)
        if self.config.sequence_positions:
            places = torch.cat([torch.arange(count, device=patches.device) for count in counts])
            patches = patches + rearrange(self.sequential_posemb[0, places], "S C -> S 1 C").to(patches.dtype)
        return patches

    def _angles(self, grid: tuple[int, int, int], kept: Tensor | None, like: Tensor) -> Tensor:
        """(S, T, c / 2) float32 rotary angles of the kept patches; cached per grid."""
        key = (grid, like.device, "rotary")
        if key not in self._tables:
            pairs = self.config.width // self.config.heads // 2
            self._tables = {key: rotary_angles(grid, self.config.grid, pairs)[None].to(like.device)}
        return _kept(self._tables[key], kept).expand(len(like), -1, -1)

    def _table(self, grid: tuple[int, int, int], like: Tensor) -> Tensor:
        """The (1, d h w, C) table, trilinearly resampled when the grid differs from the trained one; cached per grid."""
        key = (grid, like.device, like.dtype, self.spatial_posemb._version)
        if key not in self._tables:
            table = self.spatial_posemb
            if grid != tuple(table.shape[1:4]):
                channels_first = rearrange(table.float(), "1 d h w C -> 1 C d h w")
                resampled = F.interpolate(channels_first, size=grid, mode="trilinear", align_corners=False)
                table = rearrange(resampled, "1 C d h w -> 1 d h w C")
            self._tables = {key: rearrange(table, "1 d h w C -> 1 (d h w) C").to(like.device, like.dtype)}
        return self._tables[key]


def _kept(table: Tensor, kept: Tensor | None) -> Tensor:
    """(1, d h w, C) -> (1, d h w, C), or the rows of the kept patches (S, T, C)."""
    return table if kept is None else table.expand(len(kept), -1, -1).take_along_dim(kept[..., None], dim=1)


def has_tissue(patches: Tensor) -> Tensor:
    """(S, T, voxels) -> (S, T) bool: more than a tenth of the patch's voxels are above a tenth of the range."""
    level = 0.1 * 255 if patches.dtype == torch.uint8 else (0.1 - MEAN) / STD
    return (patches > level).float().mean(dim=-1) > 0.1


def draw_study_patches(volumes: Tensor, config: VisionConfig, key: Sequence[int]) -> Tensor | None:
    """The patches (n, T) that patch dropout keeps of one study's scans (n, 1, D, H, W), drawn from a generator with this key;
    None where nothing is dropped."""
    if not config.patch_dropout:
        return None
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return draw_patches(volumes, config, torch.Generator(volumes.device).manual_seed(seed))


def draw_patches(volumes: Tensor, config: VisionConfig, generator: torch.Generator | None = None) -> Tensor:
    """(S, 1, D, H, W) -> (S, T) random patches to keep, as the configuration's patch dropout says."""
    tissue = has_tissue(patches_of(volumes, config.patch)) if config.drop_air_first else None
    grid, by_slice = grid_of(volumes.shape[2:], config.patch), config.scopes[0] == "slice"
    return draw_kept(len(volumes), grid, config.patch_dropout, by_slice, volumes.device, tissue, generator)


def draw_kept(
    scans: int,
    grid: tuple[int, int, int],
    dropout: float,
    by_slice: bool,
    device: torch.device,
    tissue: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(S, T) random patches to keep, the same number in every scan, or in every slice.

    At least one patch a scan (or slice) is kept; those without `tissue` (S, T) are the first to go.
    """
    depth, plane = grid[0], grid[1] * grid[2]
    groups, size = (scans * depth, plane) if by_slice else (scans, depth * plane)
    keep = max(1, int(size * (1 - dropout)))
    order = torch.rand(groups, size, device=device, generator=generator)
    if tissue is not None:
        order = order + (~tissue.reshape(groups, size)).float()
    kept = order.argsort(dim=1)[:, :keep]
    if not by_slice:
        return kept
    kept = rearrange(kept, "(S d) k -> S d k", d=depth) + torch.arange(depth, device=device)[None, :, None] * plane
    return rearrange(kept, "S d k -> S (d k)")
