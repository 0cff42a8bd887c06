"""Official HLIP state dicts as ours.

The official code keeps a second class token as `reg_token` and the report's temperature as `logit_bias`; here both have a
name of their own. Only names change: values are copied bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hlip.vision import VisionConfig


def vision_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a vision trunk (keys without the `visual.trunk.` prefix) -> state of `StudyEncoder`."""
    state = {key: value for key, value in official.items() if key not in ("cls_token", "reg_token")}
    tokens = [official[key] for key in ("cls_token", "reg_token") if key in official]
    return state | {"cls_token": torch.cat(tokens, dim=1)}


def vision_config(arguments: Mapping[str, Any]) -> VisionConfig:
    """The trunk's constructor arguments -> `VisionConfig`.

    Raises:
        ValueError: the block lists leave a block without a scope or name one twice.
    """
    scopes: list[str | None] = [None] * arguments["depth"]
    for scope in ("slice", "scan", "study"):
        for index in arguments.get(f"{scope}_attn_indexes") or ():
            if scopes[index] is not None:
                raise ValueError(f"block {index} is listed as {scopes[index]} and as {scope}")
            scopes[index] = scope
    gaps = [index for index, scope in enumerate(scopes) if scope is None]
    if gaps:
        raise ValueError(f"blocks {gaps} are in no attention list")
    sequence_positions = arguments.get("max_num_scans") or 0
    return VisionConfig(
        size=tuple(arguments["img_size"]),
        patch=tuple(arguments["patch_size"]),
        width=arguments["embed_dim"],
        heads=arguments["num_heads"],
        mlp_ratio=arguments.get("mlp_ratio", 4.0),
        scopes=[scope for scope in scopes if scope],
        class_tokens=1 + (arguments.get("reg_tokens") or 0),
        pool="dinotxt" if arguments.get("global_pool_dinotxt") else "class",
        position="space" if sequence_positions else "depth_plane",
        sequence_positions=sequence_positions,
    )
