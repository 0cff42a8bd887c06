"""A fine-tuned model: a pretrained HLIP encoder and a hierarchical head, saved as one folder that rebuilds itself.

diagnoser = hp2l.load("runs/demo/finetune")
levels = diagnoser.diagnose(volumes, [3, 1])       # L tensors (B, K_l) of scores in [0, 1]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hlip.folders import whole_folder
from hlip.model import HLIP, CheckpointError, checkpoint_folder, load_weights
from hlip.model import load as load_encoder
from hlip.taxonomy import Taxonomy
from hp2l.baselines import FlatConfig, FlatHead
from hp2l.model import HP2L, HP2LConfig, HP2LOutput
from hp2l.tokens import pool_over_place

FORMAT = "hp2l-1"


@dataclass
class HeadConfig:
    """Which head sits on the encoder's tokens, and how the tokens reach it."""

    kind: str = "hp2l"
    """hp2l, or flat: one linear leaf head, a level's score being the highest below."""
    blocks: tuple[int, int, int] = (2, 4, 4)
    """Token blocks along depth, height and width; their product is N (32 in the paper)."""
    width: int = 768
    """Channels of the head."""
    heads: int = 12
    """Attention heads; must divide `width`."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP over `width`."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    cls: str = "encoder"
    """Start from the encoder's first class token (encoder) or from a learnt one (learned)."""
    prompt_update: str = "residual"
    """sum (eq. 15 of the paper) or residual (projection, residual and norm)."""
    momentum: float = 0.99
    """EMA momentum of the prototypes."""

    def __post_init__(self) -> None:
        self.blocks = tuple(self.blocks)  # type: ignore[assignment]  # YAML and JSON give lists
        if self.kind not in ("hp2l", "flat"):
            raise ValueError(f"head.kind '{self.kind}' is neither hp2l nor flat")


class Tokens(NamedTuple):
    """What a head reads of a batch of studies."""

    patches: Tensor
    """(B, N, C)."""
    cls: Tensor
    """(B, C), the encoder's first class token."""


def build_head(config: HeadConfig, taxonomy: Taxonomy, input_width: int) -> nn.Module:
    """The head that a configuration names."""
    if config.kind == "flat":
        return FlatHead(FlatConfig(input_width=input_width), taxonomy, with_cls=config.cls == "encoder")
    names = ("width", "heads", "mlp_ratio", "dropout", "cls", "prompt_update", "momentum")
    chosen: dict[str, Any] = {name: getattr(config, name) for name in names}
    return HP2L(HP2LConfig(input_width=input_width, **chosen), taxonomy)


class Diagnoser(nn.Module):
    """Encoder, head and taxonomy."""

    def __init__(self, encoder: HLIP, config: HeadConfig, taxonomy: Taxonomy):
        super().__init__()
        self.encoder, self.config, self.taxonomy = encoder, config, taxonomy
        self.head = build_head(config, taxonomy, encoder.config.vision.width)
        self.facts: dict[str, Any] = {}

    def tokens(self, volumes: Tensor, scans_per_study: Sequence[int]) -> Tokens:
        """(S, 1, D, H, W) uint8 of all scans, B counts on the host -> what the head reads."""
        tokens = self.encoder.visual.tokens(volumes, scans_per_study)
        return Tokens(pool_over_place(tokens, self.config.blocks), tokens.cls[:, 0])

    def forward(self, tokens: Tokens, return_attention: bool = False) -> HP2LOutput:
        """Logits of every level."""
        cls = tokens.cls if self.config.cls == "encoder" else None
        output: HP2LOutput = self.head(tokens.patches, cls, return_attention)
        return output

    @torch.no_grad()
    def diagnose(self, volumes: Tensor, scans_per_study: Sequence[int]) -> list[Tensor]:
        """Scores in [0, 1] of every level, (B, K_l) float32 each."""
        return self(self.tokens(volumes, scans_per_study)).probabilities()

    def save(self, folder: str | Path) -> None:
        """Write the checkpoint folder atomically: `config.json`, `head.safetensors`, and the encoder in `encoder/`."""
        description = {
            "format": FORMAT,
            "head": asdict(self.config),
            "taxonomy": self.taxonomy.to_dict(),
            "taxonomy_digest": self.taxonomy.digest,
            "facts": self.facts,
        }
        with whole_folder(folder) as partial:
            self.encoder.save(partial / "encoder")
            tensors = {key: value.detach().contiguous().cpu() for key, value in self.head.state_dict().items()}
            save_file(tensors, partial / "head.safetensors", metadata={"format": "pt"})
            (partial / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load(path: str | Path, device: str | torch.device = "cpu", taxonomy: Taxonomy | None = None) -> Diagnoser:
    """A fine-tuned model from its checkpoint or run folder, in evaluation mode.

    Args:
        path: the folder.
        device: where to put it.
        taxonomy: if given, the tree the caller means; it must be the one the checkpoint was trained on.

    Raises:
        CheckpointError: no such checkpoint, a pretraining checkpoint, damaged weights, or another taxonomy.
    """
    folder = checkpoint_folder(path)
    description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: format '{description.get('format')}' is not '{FORMAT}' (a fine-tuned checkpoint)")
    own = Taxonomy.from_dict(description["taxonomy"])
    if taxonomy is not None and not own.same_tree(taxonomy):
        raise CheckpointError(f"{folder}: trained on taxonomy {_named(own)}, not on {_named(taxonomy)}")
    model = Diagnoser(load_encoder(folder / "encoder"), HeadConfig(**description["head"]), own)
    load_weights(model.head, folder / "head.safetensors")
    model.facts = description["facts"]
    return model.to(device).eval()


def _named(tree: Taxonomy) -> str:
    return f"'{tree.name}' ({' / '.join(map(str, tree.counts))} classes, digest {tree.digest[:12]})"
