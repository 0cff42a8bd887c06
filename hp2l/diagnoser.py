"""A fine-tuned model: a pretrained HLIP encoder and a hierarchical head, saved as one folder that rebuilds itself.

diagnoser = hp2l.load("runs/demo/finetune")
levels = diagnoser.diagnose(volumes, [3, 1])       # L tensors (B, K_l) of scores in [0, 1]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hlip.folders import whole_folder
from hlip.model import HLIP, CheckpointError, checkpoint_folder, load_weights
from hlip.taxonomy import Taxonomy
from hp2l.dependency import DependentHead
from hp2l.encoders import Encoder, HLIPEncoder, load_encoder
from hp2l.head import Head, HP2LOutput
from hp2l.heads import HeadConfig, build_head
from hp2l.model import HP2L
from hp2l.text_prototypes import text_prototypes
from hp2l.tokens import Tokens

__all__ = ["Diagnoser", "HeadConfig", "load"]

FORMAT = "hp2l-1"
FILES = {"config.json", "head.safetensors", "encoder"}


class Diagnoser(nn.Module):
    """Encoder, head and taxonomy.

    Args:
        encoder: of `hp2l.encoders`, or a pretrained HLIP.
        config: of the head.
        taxonomy: the disease tree.
    """

    def __init__(self, encoder: Encoder | HLIP, config: HeadConfig, taxonomy: Taxonomy):
        super().__init__()
        self.encoder = HLIPEncoder(encoder) if isinstance(encoder, HLIP) else encoder
        self.config, self.taxonomy = config, taxonomy
        self.head: Head = build_head(config, taxonomy, self.encoder.width)
        self.facts: dict[str, Any] = {}

    def tokens(self, volumes: Tensor, scans_per_study: Sequence[int]) -> Tokens:
        """(S, 1, D, H, W) uint8 of all scans (as `encoder.reader` reads them), B counts on the host -> what the head reads."""
        return self.encoder.read(self.encoder.visual, volumes, scans_per_study, self.config.blocks)

    def forward(self, tokens: Tokens, return_attention: bool = False) -> HP2LOutput:
        """Logits of every level."""
        cls = tokens.cls if self.config.cls == "encoder" else None
        output: HP2LOutput = self.head(tokens.patches, cls, return_attention)
        return output

    @torch.no_grad()
    def diagnose(self, volumes: Tensor, scans_per_study: Sequence[int]) -> list[Tensor]:
        """Scores in [0, 1] of every level, (B, K_l) float32 each."""
        return self(self.tokens(volumes, scans_per_study)).probabilities()

    def start(self, targets: Sequence[Tensor], masks: Sequence[Tensor], seed: int = 0) -> None:
        """What a head learns of the training set before its first step: where prototypes begin, which classes go together.

        Args:
            targets, masks: (N, K_l) of the training studies, a level each.
            seed: of the prototypes' place.
        """
        if isinstance(self.head, DependentHead):
            self.head.dependency.observe(targets, masks)
        head = self.head.head if isinstance(self.head, DependentHead) else self.head
        if self.config.prototype_start == "text":
            assert isinstance(head, HP2L)
            if not isinstance(self.encoder, HLIPEncoder):
                raise ValueError(
                    f"head.prototype_start text needs a pretrained HLIP; an encoder of kind {self.encoder.kind} has no text tower"
                )
            head.begin_at(text_prototypes(self.encoder.model, self.taxonomy, self.config.width, seed))
        if self.config.level_start == "encoder":
            assert isinstance(head, HP2L)
            head.start_levels(self.encoder.blocks())

    def save(self, folder: str | Path, head: dict[str, Tensor] | None = None) -> None:
        """Write the checkpoint folder atomically: `config.json`, `head.safetensors`, and the encoder in `encoder/`.

        Args:
            folder: its place; an older one there is replaced only when the new one is complete.
            head: the head's weights gathered by an engine; its own by default.
        """
        description = {
            "format": FORMAT,
            "head": asdict(self.config),
            "taxonomy": self.taxonomy.to_dict(),
            "taxonomy_digest": self.taxonomy.digest,
            "facts": self.facts,
        }
        with whole_folder(folder, FILES) as partial:
            self.encoder.save(partial / "encoder")
            tensors = {key: value.detach().contiguous().cpu() for key, value in (head or self.head.state_dict()).items()}
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
