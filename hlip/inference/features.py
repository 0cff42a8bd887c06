"""What a model makes of a study, for other people's models: study, scan and patch features, and where each patch lies in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from hlip.model import HLIP


class StudyFeatures(NamedTuple):
    """A batch of studies, from the whole to its parts."""

    study: Tensor
    """(B, P, E) in the joint space, unit length."""
    scan: Tensor
    """(S, C) mean of each scan's patch tokens."""
    patch: Tensor
    """(S, T, C) patch tokens after the final norm, row-major over the grid (d, h, w)."""
    place: Tensor | None
    """(S, T, 3) float32, each patch's centre in RAS millimetres; None without affines."""


def study_features(model: HLIP, volumes: Tensor, affines: ArrayLike | None, scans_per_study: Sequence[int]) -> StudyFeatures:
    """Study, scan and patch features of packed studies.

    Args:
        model: on the device of `volumes`; call within `torch.no_grad()` unless gradients are wanted.
        volumes: (S, 1, D, H, W) uint8 voxels of all scans, study after study.
        affines: (S, 4, 4), voxel index (d, h, w, 1) -> RAS mm of each prepared volume (`Store.affines`).
        scans_per_study: B counts on the host, summing to S.

    Raises:
        ValueError: the counts do not sum to S, or there is not one affine a scan.
    """
    tokens = model.visual.tokens(volumes, scans_per_study)
    study = F.normalize(model.visual_proj(model.visual.pool(tokens)), dim=-1)
    place = None
    if affines is not None:
        matrices = np.asarray(affines, dtype=np.float64)
        if matrices.shape != (len(volumes), 4, 4):
            raise ValueError(f"affines of shape {matrices.shape} for {len(volumes)} scans: expected ({len(volumes)}, 4, 4)")
        place = patch_centres(matrices, tokens.grid, model.config.vision.patch).to(volumes.device)
        if tokens.kept is not None:
            place = place.take_along_dim(tokens.kept[..., None], dim=1)
    return StudyFeatures(study, tokens.patches.mean(dim=1), tokens.patches, place)


def patch_centres(affines: np.ndarray, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Where patches lie: (S, 4, 4), patches along (D, H, W), voxels of one -> (S, T, 3) float32, RAS mm.

    Patch i of p voxels holds the voxels i * p to i * p + p - 1, so its centre is at i * p + (p - 1) / 2.
    """
    axes = [np.arange(count) * step + (step - 1) / 2 for count, step in zip(grid, patch, strict=True)]
    voxels = rearrange(np.stack(np.meshgrid(*axes, indexing="ij")), "xyz d h w -> (d h w) xyz")
    places = np.einsum("s r a, t a -> s t r", affines[:, :3, :3], voxels) + affines[:, None, :3, 3]
    return torch.from_numpy(places.astype(np.float32))
