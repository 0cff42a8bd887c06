"""The names of the official HLIP code and ours: state-dict keys both ways, and what names and shapes say of an architecture.

Only names change: values are copied bit for bit. The official code keeps a second class token as `reg_token`; here both are rows of
one. Its `logit_bias` is the log temperature of the report in models with two class tokens, and SigLIP's bias in models with one.
Attention scopes have no weights, so only a name can tell them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hlip.model import CheckpointError
from hlip.vision import VisionConfig

TRUNK = "visual.trunk."
NORM_EPS = 1e-6
LEVELS = {"multiscan_h2": ("scan", "study"), "multiscan_h3": ("slice", "scan", "study"), "singlescan_h2": ("slice", "scan")}
"""Scopes that a part of the official model names stands for, from narrow to wide."""
_BLOCK = r"blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"
_TRUNK_KEY = re.compile(rf"cls_token|(spatial|sequential)_posemb|(patch_embed\.proj|norm|{_BLOCK})\.(weight|bias)")
_BUFFERS = re.compile(
    r"text\.transformer\.embeddings\.(position_ids|token_type_ids)"
)  # once saved by transformers, now computed
_POOLER = re.compile(r"text\.transformer\.pooler\.")  # BERT's own; weights without use under every other pooling


@dataclass
class KeyReport:
    """What became of each key of an official checkpoint."""

    mapped: dict[str, str] = field(default_factory=dict)
    """Official key -> ours."""
    dropped: list[str] = field(default_factory=list)
    """Official keys that carry nothing: index buffers of old transformers versions, a pooling layer without use."""
    started: dict[str, str] = field(default_factory=dict)
    """Ours -> the official key whose value it starts from: parameters of the report objective in a model with one class token."""
    missing: list[str] = field(default_factory=list)
    """Ours that nothing fills."""
    unexpected: list[str] = field(default_factory=list)
    """Official keys that no part of ours answers to."""
    misshapen: list[str] = field(default_factory=list)
    """`key: shape, expected shape`."""

    @property
    def counts(self) -> str:
        """How many keys found their place, in one line."""
        names = {"missing": self.missing, "unexpected": self.unexpected, "dropped without use": self.dropped}
        counted = [f"{len(keys)} {name}" for name, keys in names.items() if keys or name != "dropped without use"]
        total = len(self.mapped) + len(self.dropped) + len(self.unexpected)
        return ", ".join([f"{len(self.mapped)} of {total} keys mapped", *counted])

    @property
    def complete(self) -> bool:
        """Whether every key found its place."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        lines = [f"{len(self.mapped)} of {len(self.mapped) + len(self.dropped) + len(self.unexpected)} keys mapped"]
        lines += [f"{name}: {', '.join(keys)}" for name, keys in self._kinds() if keys]
        return "; ".join(lines)

    def _kinds(self) -> list[tuple[str, list[str]]]:
        names = ("missing", "unexpected", "misshapen", "dropped", "started")
        return [(name, list(getattr(self, name))) for name in names]

    def check(self, path: str | Path) -> None:
        """Nothing, if the report is complete.

        Raises:
            CheckpointError: a key is missing, unexpected or of another shape; all are named.
        """
        if not self.complete:
            faults = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in self._kinds()[:3] if keys)
            raise CheckpointError(f"{path}: weights of another model than this one; {faults}")


def to_ours(official: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], KeyReport]:
    """An official state dict -> the state dict of an `HLIP`, and what became of each key.

    Args:
        official: the whole model's, without `module.` prefixes.
        own: `HLIP.state_dict()` of the model to be filled: its keys and shapes.
    """
    state: dict[str, Tensor] = {}
    report = KeyReport()
    tokens = [key for key in (f"{TRUNK}cls_token", f"{TRUNK}reg_token") if key in official]
    dual = len(tokens) == 2
    for key, value in official.items():
        name = _our_name(key, dual)
        if _BUFFERS.fullmatch(key) or (_POOLER.match(key) and name not in own):
            report.dropped.append(key)
        elif name not in own:
            report.unexpected.append(key)
        else:
            report.mapped[key] = name
            state[name] = value.reshape(1) if name.startswith("logit_") else value
    if tokens and f"{TRUNK}cls_token" in report.mapped:
        state["visual.cls_token"] = torch.cat([official[key] for key in tokens], dim=1)
    if not dual:
        _start_report(state, own, report)
    report.missing = [name for name in own if name not in state]
    report.misshapen = [
        f"{name}: {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in state.items()
        if value.shape != own[name].shape
    ]
    return state, report


def _our_name(key: str, dual: bool) -> str:
    """Our key of an official one; it need not exist in a model of ours."""
    if key in ("logit_scale", "logit_bias"):
        return {"logit_scale": "logit_scale_sentence", "logit_bias": "logit_scale_report" if dual else "logit_bias_sentence"}[
            key
        ]
    if key == f"{TRUNK}reg_token":
        return "visual.cls_token"
    if key.startswith(TRUNK):
        return f"visual.{key.removeprefix(TRUNK)}"
    if key.startswith("text."):
        return f"text.encoder.{key.removeprefix('text.')}"
    return "visual_proj.weight" if key == "visual.head.proj.weight" else key


def _start_report(state: dict[str, Tensor], own: Mapping[str, Tensor], report: KeyReport) -> None:
    """A model with one class token has one temperature; the report's starts from it."""
    origins = {name: official for official, name in report.mapped.items()}
    for kind in ("scale", "bias"):
        report_name, sentence_name = f"logit_{kind}_report", f"logit_{kind}_sentence"
        if report_name in own and sentence_name in state:
            state[report_name] = state[sentence_name].clone()
            report.started[report_name] = origins[sentence_name]


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`: the state dict of an `HLIP` with exactly the official keys.

    A model with one class token loses its report temperature (and bias), for which the official code has no name.

    Raises:
        CheckpointError: the model has parts that the official architecture lacks.
    """
    tokens, biased = state["visual.cls_token"], "logit_bias_sentence" in state
    dual = tokens.shape[1] > 1
    if dual and biased:
        raise CheckpointError(
            "two class tokens with a SigLIP bias: the official code keeps the report's temperature in logit_bias"
        )
    official = {"logit_scale": state["logit_scale_sentence"].reshape(())}
    if dual or biased:
        official["logit_bias"] = state["logit_scale_report" if dual else "logit_bias_sentence"].reshape(())
    foreign = []
    for key, value in state.items():
        trunk_key = key.removeprefix("visual.")
        if key == "visual.cls_token":
            official[f"{TRUNK}cls_token"] = tokens[:, :1]
            if dual:
                official[f"{TRUNK}reg_token"] = tokens[:, 1:]
        elif key.startswith("visual.") and _TRUNK_KEY.fullmatch(trunk_key):
            official[TRUNK + trunk_key] = value
        elif key == "visual_proj.weight":
            official["visual.head.proj.weight"] = value
        elif key.startswith("text.encoder."):
            official[f"text.{key.removeprefix('text.encoder.')}"] = value
        elif not key.startswith("logit_"):
            foreign.append(key)
    if foreign:
        raise CheckpointError(f"the official architecture has no place for {', '.join(foreign)}")
    return official


def vision_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a vision trunk (keys without the `visual.trunk.` prefix) -> state of `StudyEncoder`."""
    state = {key: value for key, value in official.items() if key not in ("cls_token", "reg_token")}
    tokens = [official[key] for key in ("cls_token", "reg_token") if key in official]
    return state | {"cls_token": torch.cat(tokens, dim=1)}


def vision_config(arguments: Mapping[str, Any]) -> VisionConfig:
    """The trunk's constructor arguments -> `VisionConfig`.

    Raises:
        ValueError: the block lists leave a block without a scope or name one twice; or the norms' epsilon is not ours.
    """
    if not math.isclose(arguments.get("norm_eps") or NORM_EPS, NORM_EPS):
        raise ValueError(f"norm_eps {arguments['norm_eps']}: the layer norms here have {NORM_EPS}")
    scopes: list[str | None] = [None] * arguments["depth"]
    for scope in ("slice", "scan", "study"):
        for index in arguments.get(f"{scope}_attn_indexes") or ():
            if scopes[index] is not None:
                raise ValueError(f"block {index} is listed as {scopes[index]} and as {scope}")
            scopes[index] = scope
    gaps = [index for index, scope in enumerate(scopes) if scope is None]
    if gaps:
        raise ValueError(f"blocks {gaps} are in no attention list")
    places = arguments.get("max_num_scans") or 0
    in_thirds = arguments["embed_dim"] % 6 == 0  # else no table of three axes can be built; the weights bring their own
    return VisionConfig(
        size=tuple(arguments["img_size"]),
        patch=tuple(arguments["patch_size"]),
        width=arguments["embed_dim"],
        heads=arguments["num_heads"],
        mlp_ratio=arguments.get("mlp_ratio", 4.0),
        scopes=[scope for scope in scopes if scope],
        class_tokens=1 + (arguments.get("reg_tokens") or 0),
        pool="dinotxt" if arguments.get("global_pool_dinotxt") else "class",
        position="space" if places and in_thirds else "depth_plane",
        sequence_positions=places if places > 1 else 0,  # single-scan models say 1 and have no such embedding
    )


def scopes_of(name: str, depth: int) -> list[str] | None:
    """The scope of each block, as official model names tell it; None if this is none.

    `multiscan_h2` is scan + study, `multiscan_h3` slice + scan + study, `singlescan_h2` slice + scan. The blocks fall into four
    equal groups; the last of a group has the widest scope, with three scopes the one before it the middle one.

    Raises:
        CheckpointError: so many blocks do not make four such groups.
    """
    found = re.search("|".join(LEVELS), name)
    if not found:
        return None
    chosen = LEVELS[found.group()]
    if depth % 4 or depth < 4 * len(chosen):
        raise CheckpointError(
            f"'{name}' names {len(chosen)} scopes for each of four equal groups of blocks, not for {depth} blocks"
        )
    group = [chosen[0]] * (depth // 4 - len(chosen) + 1) + list(chosen[1:])
    return group * 4


def foreign_parts(config: VisionConfig) -> list[str]:
    """What of a vision tower the official code has no place for, whatever its weights are called."""
    parts = {
        f"position {config.position} (there: fixed tables)": config.position == "rotary",
        f"{config.class_tokens} class tokens with pool class (there: one)": config.pool == "class" and config.class_tokens > 1,
        f"{config.class_tokens} class tokens (there: one or two)": config.class_tokens > 2,
    }
    return [part for part, has in parts.items() if has]


def name_of(config: VisionConfig) -> str:
    """The name the official code would give a vision tower; `hlip_custom` where its names do not reach."""
    depth, tokens = len(config.scopes), config.grid[0] * config.grid[1] * config.grid[2]
    size = {(768, 12): "base", (1024, 24): "large"}.get((config.width, depth), f"w{config.width}d{depth}")
    pool = "token" if config.pool == "class" else "dinotxt" if config.class_tokens == 1 else "dualdinotxt"
    for kind, levels in LEVELS.items():
        if depth % 4 == 0 and depth >= 4 * len(levels) and scopes_of(kind, depth) == config.scopes:
            ablated = "" if config.sequence_positions or kind.startswith("single") else "ablate_seqposemb_"
            return f"{ablated}vit_{size}_{kind}_{pool}{tokens}"
    return "hlip_custom"


@dataclass(frozen=True)
class Shapes:
    """What keys and shapes alone say of an official model."""

    grid: tuple[int, int, int]
    patch: tuple[int, int, int]
    width: int
    depth: int
    mlp_ratio: float
    class_tokens: int
    pool: Literal["dinotxt", "class"]
    sequence_positions: int
    embed_dim: int

    @classmethod
    def of(cls, official: Mapping[str, Tensor], path: str | Path) -> Shapes:
        """Read off a state dict without `module.` prefixes; values are not looked at.

        Raises:
            CheckpointError: keys of the vision tower are absent, or its head fits neither pooling.
        """
        keys = {"patch_embed.proj.weight", "spatial_posemb", "cls_token", "blocks.0.mlp.fc1.weight"}
        absent = [key for key in [*(TRUNK + key for key in sorted(keys)), "visual.head.proj.weight"] if key not in official]
        if absent:
            raise CheckpointError(f"{path}: not an official HLIP state dict ({', '.join(absent)} missing)")
        shape = {key: official[TRUNK + key].shape for key in keys}
        width, (embed_dim, features) = shape["cls_token"][-1], official["visual.head.proj.weight"].shape
        if features not in (width, 2 * width):
            raise CheckpointError(
                f"{path}: visual.head.proj takes {features} channels, neither {width} (class token) nor twice (dino.txt)"
            )
        blocks = {match.group(1) for key in official if (match := re.match(rf"{re.escape(TRUNK)}blocks\.(\d+)\.", key))}
        extra, sequence = official.get(f"{TRUNK}reg_token"), official.get(f"{TRUNK}sequential_posemb")
        return cls(
            grid=_three(shape["spatial_posemb"][1:4]),
            patch=_three(shape["patch_embed.proj.weight"][2:]),
            width=width,
            depth=len(blocks),
            mlp_ratio=shape["blocks.0.mlp.fc1.weight"][0] / width,
            class_tokens=1 + (0 if extra is None else extra.shape[1]),
            pool="class" if features == width else "dinotxt",
            sequence_positions=0 if sequence is None else sequence.shape[1],
            embed_dim=embed_dim,
        )

    @property
    def version(self) -> str:
        """paper | updated | dual."""
        return "paper" if self.pool == "class" else "dual" if self.class_tokens > 1 else "updated"

    def differences(self, vision: VisionConfig) -> list[str]:
        """`what a, not b` for all that a configuration says otherwise; the volume's size may differ."""
        said = {
            "patch": vision.patch,
            "width": vision.width,
            "depth": len(vision.scopes),
            "class_tokens": vision.class_tokens,
            "pool": vision.pool,
            "sequence_positions": vision.sequence_positions,
        }
        return [f"{key} {getattr(self, key)}, not {value}" for key, value in said.items() if getattr(self, key) != value]

    def vision(self, scopes: list[str], heads: int | None, path: str | Path) -> VisionConfig:
        """The configuration with these scopes.

        Raises:
            CheckpointError: the number of heads is not stated and 64 channels a head do not divide the width.
        """
        if heads is None and self.width % 64:
            raise CheckpointError(
                f"{path}: {self.width} channels are not whole heads of 64; name the heads by variant=, a model file"
            )
        depth, height, breadth = (places * step for places, step in zip(self.grid, self.patch, strict=True))
        return VisionConfig(
            size=(depth, height, breadth),
            patch=self.patch,
            width=self.width,
            heads=heads or self.width // 64,
            mlp_ratio=self.mlp_ratio,
            scopes=scopes,
            class_tokens=self.class_tokens,
            pool=self.pool,
            position="space" if self.pool == "class" and self.width % 6 == 0 else "depth_plane",
            sequence_positions=self.sequence_positions,
        )


def _three(sizes: torch.Size) -> tuple[int, int, int]:
    depth, height, width = sizes
    return depth, height, width
