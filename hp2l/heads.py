"""Which head sits on an encoder's tokens: HP2L or one of its baselines, by one configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from hlip.taxonomy import Taxonomy
from hp2l.baselines import (
    Cascade,
    DecisionTree,
    FlatConfig,
    FlatHead,
    Isolated,
    LevelHeads,
    NearestPrototypes,
    PromptViT,
    TransHP,
)
from hp2l.baselines.prompt_vit import Depth, Readout
from hp2l.blocks import BlockConfig
from hp2l.dependency import DependentHead
from hp2l.head import Head
from hp2l.model import HP2L, HP2LConfig, Prompt
from hp2l.prompts import PromptAttention, PromptUpdate
from hp2l.prototypes import Averaging, Prototypes

Kind = Literal["hp2l", "flat", "linear", "prompt_vit", "transhp", "decision_tree", "cascade", "isolated", "nearest"]
ClassToken = Literal["encoder", "learned"]
PrototypeStart = Literal["normal", "text"]
LevelStart = Literal["fresh", "encoder"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OWN_OPTIONS = {
    "prompt": "hp2l",
    "prototypes": "hp2l",
    "prototype_start": "hp2l",
    "averaging": "hp2l",
    "level_start": "hp2l",
    "prompt_attention": "hp2l",
    "prompt_tokens": "prompt_vit",
    "prompt_depth": "prompt_vit",
    "readout": "prompt_vit",
    "prompt_loss": "transhp",
    "distance_loss": "decision_tree",
    "threshold": "cascade",
    "nearest": "nearest",
}
"""The one kind that reads an option; the others refuse it, so that a run never names a setting that did nothing."""
WITH_BLOCKS = tuple(kind for kind in KINDS if kind not in ("flat", "linear", "nearest"))
SHARED_OPTIONS = {
    **dict.fromkeys(("width", "heads", "mlp_ratio"), WITH_BLOCKS),
    "dropout": (*WITH_BLOCKS, "flat", "linear"),
    "prompt_update": ("hp2l",),
    "momentum": ("hp2l", "nearest"),
}
"""The kinds that read an option which a baseline's file, laid over another configuration, cannot but find there: the others say so."""


@dataclass
class HeadConfig:
    """Which head sits on the encoder's tokens, and how the tokens reach it."""

    kind: Kind = "hp2l"
    """hp2l; or a baseline: flat (one linear leaf head, a level's score being the highest below), linear (one linear head a level: the
    linear probe), prompt_vit, transhp, decision_tree (our reading of HPDT), cascade (one model a node), isolated (losses stay in their
    level), nearest (k nearest prototypes)."""
    blocks: tuple[int, int, int] = (2, 4, 4)
    """Token blocks along the patient's z, y and x (of a 2-D image: depth 1, height, width); their product is N (32 in the paper). The
    tokens of all scans of a study are averaged place by place: which sequence one came from is gone, and two scans of one kind weigh
    double. Encoder cnn stacks named scans as channels instead."""
    width: int = 768
    """Channels of the head."""
    heads: int = 12
    """Attention heads; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP over the width."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    cls: ClassToken = "encoder"
    """Start from the encoder's first class token (encoder) or from a learnt one (learned)."""
    prompt_update: PromptUpdate = "residual"
    """sum (eq. 15 of the paper) or residual (projection, residual and norm)."""
    momentum: float = 0.99
    """EMA momentum of the prototypes."""
    prompt: Prompt = "prototypes"
    """hp2l, ablation: none, one_hot, learnable or prototypes; the first three go with prototypes none."""
    prototypes: Prototypes = "ema"
    """hp2l, ablation: none, one_hot, learnable or ema."""
    prototype_start: PrototypeStart = "normal"
    """hp2l: where averaged prototypes begin: normal, N(0, 1) as in the paper; or text, the pretrained text tower's view of the classes'
    prompts and synonyms (ours)."""
    averaging: Averaging = "plain"
    """hp2l: plain (the paper: from the random start on), first (a class's first mean is its start) or corrected (the start has no part
    in the average)."""
    level_start: LevelStart = "fresh"
    """hp2l: every level's two blocks begin at random (fresh), or as the last two of the encoder; then width, heads and mlp_ratio
    must be the encoder's."""
    prompt_attention: PromptAttention = "vit"
    """hp2l: how the prompt's attention over prototypes begins: with a ViT's small weights, nearly even (vit, the usual start), or between
    normalised prompt and prototypes with logits of size 1, choosing from the first step (unit, ours)."""
    dependency: float | None = None
    """Any kind: classes pass what they know to classes they go with (a label-dependency prior over the tree, ours); the number is the
    weight that keeps the learnt part small, 0.1 say; null: no such prior. What it has learnt is in dependency.csv of `hlip diagnose --out`."""
    prompt_tokens: int = 8
    """prompt_vit: number of prompt tokens; 0 is a flat ViT as large as HP2L."""
    prompt_depth: Depth = "shallow"
    """prompt_vit: one set of prompts through all blocks (shallow), or a new one before each (deep)."""
    readout: Readout = "leaves"
    """prompt_vit: one linear layer for the last level, the maximum below for the others (leaves), or one a level (levels)."""
    prompt_loss: float = 1.0
    """transhp: weight of the loss on each coarse level's prompts."""
    distance_loss: float = 0.1
    """decision_tree: weight of the term that matches distances between prototypes to those in the tree."""
    threshold: float | None = None
    """cascade: score from which a class opens the models below it; null: its share of the training studies that have its parent."""
    nearest: int = 3
    """nearest: k, prototypes that a class's score averages."""

    def __post_init__(self) -> None:
        self.blocks = tuple(self.blocks)  # type: ignore[assignment]  # YAML and JSON give lists
        if self.kind not in KINDS:
            raise ValueError(f"head.kind '{self.kind}' is neither {' nor '.join(KINDS)}")
        usual = {option.name: option.default for option in fields(self)}
        for name, kind in OWN_OPTIONS.items():
            if self.kind != kind and getattr(self, name) != usual[name]:
                raise ValueError(f"head.{name} is an option of kind {kind}, not of {self.kind}: leave it out")
        self._check_options()

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> HeadConfig:
        """Of a checkpoint: options of other kinds, whose defaults may have moved since, say nothing."""
        kind = saved.get("kind", cls.kind)
        return cls(**{name: value for name, value in saved.items() if OWN_OPTIONS.get(name, kind) == kind})

    def unread(self) -> dict[str, str]:
        """Options that decide nothing with this kind of head, and why."""
        found = {name: f"not read by head {self.kind}" for name, kinds in SHARED_OPTIONS.items() if self.kind not in kinds}
        if self.kind == "hp2l" and self.prototypes != "ema":
            found["momentum"] = f"of averaged prototypes, not of head.prototypes {self.prototypes}"
        if self.kind == "hp2l" and self.prototypes == "none":
            found |= dict.fromkeys(("prompt_update", "prompt_attention"), "no prompt reads prototypes")
        return found

    def _check_options(self) -> None:
        """Values within their range."""
        for name, values in (
            ("prompt_depth", get_args(Depth)),
            ("readout", get_args(Readout)),
            ("cls", get_args(ClassToken)),
            ("prototype_start", get_args(PrototypeStart)),
            ("level_start", get_args(LevelStart)),
            ("prompt_attention", get_args(PromptAttention)),
        ):
            if getattr(self, name) not in values:
                raise ValueError(f"head.{name} '{getattr(self, name)}' is neither {' nor '.join(values)}")
        if self.dependency is not None and self.dependency < 0:
            raise ValueError(f"head.dependency must be at least 0, not {self.dependency}")
        for name, least in (("prompt_tokens", 0), ("prompt_loss", 0.0), ("distance_loss", 0.0), ("nearest", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"head.{name} must be at least {least}, not {getattr(self, name)}")
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise ValueError(f"head.threshold must be between 0 and 1, not {self.threshold}")
        if self.prototype_start == "text" and self.prototypes != "ema":
            raise ValueError("head.prototype_start text is for averaged prototypes: head.prototypes must be ema")
        if self.prototype_start == "text" and self.averaging != "plain":
            raise ValueError(f"head.averaging {self.averaging} forgets the start: leave it out, or head.prototype_start text")
        if self.averaging != "plain" and self.prototypes != "ema":
            raise ValueError("head.averaging is for averaged prototypes: head.prototypes must be ema")
        if self.prompt_tokens == 0 and self.prompt_depth == "deep":
            raise ValueError("head.prompt_depth deep needs prompts: head.prompt_tokens is 0")
        if self.kind == "hp2l":
            self.hp2l()  # its own checks

    def hp2l(self, input_width: int | None = None) -> HP2LConfig:
        """The configuration of an HP2L head with these options."""
        names = (
            "width",
            "heads",
            "mlp_ratio",
            "dropout",
            "cls",
            "prompt_update",
            "momentum",
            "averaging",
            "prompt_attention",
            "prompt",
            "prototypes",
        )
        chosen: dict[str, Any] = {name: getattr(self, name) for name in names}
        return HP2LConfig(input_width=input_width, **chosen)


def build_head(config: HeadConfig, taxonomy: Taxonomy, input_width: int) -> Head:
    """The head that a configuration names.

    Args:
        input_width: of the encoder's tokens.

    Raises:
        ValueError: widths and heads that do not fit, or a tree that the kind cannot score.
    """
    head = _head_of_kind(config, taxonomy, input_width)
    return head if config.dependency is None else DependentHead(head, taxonomy, config.dependency)


def _head_of_kind(config: HeadConfig, taxonomy: Taxonomy, input_width: int) -> Head:
    with_cls = config.cls == "encoder"
    match config.kind:
        case "hp2l":
            return HP2L(config.hp2l(input_width), taxonomy)
        case "flat" | "linear":
            linear = FlatHead if config.kind == "flat" else LevelHeads
            return linear(FlatConfig(input_width=input_width, dropout=config.dropout), taxonomy, with_cls=with_cls)
        case "nearest":
            return NearestPrototypes(input_width, taxonomy, nearest=config.nearest, momentum=config.momentum, with_cls=with_cls)
    return _with_blocks(config, taxonomy, input_width)


def _with_blocks(config: HeadConfig, taxonomy: Taxonomy, input_width: int) -> Head:
    """A baseline with transformer blocks, as large as HP2L's."""
    names = ("width", "heads", "mlp_ratio", "dropout", "cls")
    chosen: dict[str, Any] = {name: getattr(config, name) for name in names}
    blocks = BlockConfig(input_width=input_width, **chosen)
    match config.kind:
        case "prompt_vit":
            depth, readout = config.prompt_depth, config.readout
            return PromptViT(blocks, taxonomy, prompts=config.prompt_tokens, depth=depth, readout=readout)
        case "transhp":
            return TransHP(blocks, taxonomy, prompt_loss=config.prompt_loss)
        case "decision_tree":
            return DecisionTree(blocks, taxonomy, distance_loss=config.distance_loss)
        case "cascade":
            return Cascade(blocks, taxonomy, threshold=config.threshold)
        case "isolated":
            return Isolated(blocks, taxonomy)
    raise ValueError(f"head.kind '{config.kind}' is neither {' nor '.join(KINDS)}")
