"""A vision tower that starts from a 2-D ViT, as the published models start from MAE's ViT-B/16.

    from hlip.vision.inflate import start_from
    start_from(model.visual, "vit_base_patch16_224.mae")     # a timm model, or a file of weights

The colour kernels are summed (a scan has one channel) and spread evenly over a patch's depth, so that a stack of equal slices gives
what one slice gave. The class token takes in its own position; the patches' positions are the resampled 2-D table plus a
sine-cosine of depth. Blocks and norms stay as they are.

Source: Zhao et al., arXiv 2505.21862; average inflation is Carreira and Zisserman's, arXiv 1705.07750.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import functional as F

from hlip.model import CheckpointError
from hlip.vision import StudyEncoder, VisionConfig
from hlip.vision.position import sine_cosine


def inflate(state_2d: Mapping[str, Tensor], config: VisionConfig) -> dict[str, Tensor]:
    """A timm ViT's state dict -> what it says of a `StudyEncoder`'s, for `load_state_dict`.

    Keys that a vision tower has no use for (a classifier, MAE's decoder) are left out. All class tokens start alike; their
    objectives part them.

    Args:
        state_2d: keys of a timm `VisionTransformer`; `pos_embed` (1, T, C) with or without the class token's place.
        config: the tower to be filled.

    Raises:
        CheckpointError: no 2-D ViT, or one of another width.
    """
    absent = [key for key in ("cls_token", "pos_embed", "patch_embed.proj.weight") if key not in state_2d]
    if absent:
        raise CheckpointError(f"not the weights of a 2-D ViT: {', '.join(absent)} missing")
    width = state_2d["cls_token"].shape[-1]
    if width != config.width:
        raise CheckpointError(f"a 2-D ViT of width {width} cannot start a vision tower of width {config.width}")
    token, plane = split_positions(state_2d["cls_token"], state_2d["pos_embed"])
    state = {
        key: value for key, value in state_2d.items() if key.startswith(("blocks.", "norm.")) or key == "patch_embed.proj.bias"
    }
    return state | {
        "cls_token": repeat(token, "1 1 C -> 1 P C", P=config.class_tokens),
        "spatial_posemb": spatial_table(plane, config.grid),
        "patch_embed.proj.weight": inflate_kernel(state_2d["patch_embed.proj.weight"], config.patch),
    }


def split_positions(token: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 1, C) class token, (1, [1 +] h w, C) positions -> the class token with its own position, the patches' positions.

    A table of a square number of places has none for the class token.
    """
    if math.isqrt(table.shape[1]) ** 2 == table.shape[1]:
        return token, table
    return token + table[:, :1], table[:, 1:]


def spatial_table(plane: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """(1, side * side, C) positions of a 2-D ViT -> (1, d, h, w, C): resampled to h x w (bicubic, anti-aliased), plus depth."""
    from timm.layers import resample_abs_pos_embed

    depth, height, width = grid
    flat = resample_abs_pos_embed(plane, new_size=[height, width], num_prefix_tokens=0)
    depths = sine_cosine(torch.arange(depth), plane.shape[-1])
    return rearrange(depths, "d C -> 1 d 1 1 C") + rearrange(flat, "1 (h w) C -> 1 1 h w C", h=height)


def inflate_kernel(kernel: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(C, colours, p, q) -> (C, 1, *patch): colours summed, bicubic where the plane's size differs, spread over the depth."""
    if kernel.shape[2:] != patch[1:]:
        kernel = F.interpolate(kernel, size=patch[1:], mode="bicubic")
    grey = reduce(kernel, "C colours p q -> C 1 1 p q", "sum")
    return grey.expand(-1, -1, patch[0], -1, -1) / patch[0]


def start_from(encoder: StudyEncoder, source: str | Path) -> list[str]:
    """Fill a vision tower from a 2-D ViT.

    Args:
        encoder: changed in place.
        source: a file (.safetensors, or .pt / .pth / .bin of tensors alone), else the name of a pretrained timm model.

    Returns:
        Keys of the source that were left out.

    Raises:
        CheckpointError: unreadable, or some of the tower's weights are not in it (another depth, another MLP).
    """
    state_2d = _read(source)
    try:
        state = inflate(state_2d, encoder.config)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    own = encoder.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    wanted = {key for key in own if key != "sequential_posemb"}
    if faults := sorted(wanted - set(fitting)) + sorted(key for key in state if key not in own):
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(f"{source}: another architecture than this vision tower's; {', '.join(faults[:5])}{more} differ")
    encoder.load_state_dict(fitting, strict=False)
    return sorted(set(state_2d) - set(fitting) - {"pos_embed"})


def _read(source: str | Path) -> dict[str, Tensor]:
    """The state dict of a file, or of a timm model."""
    if Path(source).is_file():
        from hlip.official import read

        return read(source).state
    import timm

    try:
        return timm.create_model(str(source), pretrained=True).state_dict()
    except (RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{source}: neither a file nor a pretrained timm model to be had ({str(error).splitlines()[0]})"
        ) from error
