"""A fine-tuned model: a pretrained HLIP encoder and a hierarchical head, saved as one folder that rebuilds itself.

diagnoser = hp2l.load("runs/demo/finetune")
levels = diagnoser.diagnose(volumes, [3, 1])       # L tensors (B, K_l) of scores in [0, 1]

A checkpoint is a folder: `config.json` (head, tree, what the encoder is, what it has seen, how scores become probabilities),
`head.safetensors`, `encoder/` (an HLIP checkpoint, or an encoder of `hp2l.encoders`), `README.md` (the model card).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hlip.files.folders import whole_folder
from hlip.files.jsonable import jsonable
from hlip.hub.conventions import HubCheckpoint, local
from hlip.model import HLIP, CheckpointError, checkpoint_folder, load_weights
from hlip.taxonomy import Taxonomy
from hp2l.baselines import Cascade
from hp2l.card import diagnoser_card
from hp2l.dependency import DependentHead
from hp2l.encoders import Encoder, HLIPEncoder, ImageEncoder, load_encoder
from hp2l.head import Head, HP2LOutput
from hp2l.heads import HeadConfig, build_head
from hp2l.model import HP2L
from hp2l.scaling import Scaling
from hp2l.text_prototypes import text_prototypes
from hp2l.tokens import Axes, Tokens

__all__ = ["Diagnoser", "HeadConfig", "load"]

FORMAT = "hp2l-1"
PRETRAINING = ("kind", "step", "studies", "simulated", "data", "license", "official", "source")
"""What a pretrained encoder's own facts say that a fine-tuned model's config.json repeats."""


class Diagnoser(nn.Module, HubCheckpoint):
    """Encoder, head and taxonomy.

    Args:
        encoder: of `hp2l.encoders`, or a pretrained HLIP.
        config: of the head.
        taxonomy: the disease tree.
    """

    files: ClassVar[frozenset[str]] = frozenset({"config.json", "head.safetensors", "encoder", "README.md"})

    def __init__(self, encoder: Encoder | HLIP, config: HeadConfig, taxonomy: Taxonomy):
        super().__init__()
        self.encoder = HLIPEncoder(encoder) if isinstance(encoder, HLIP) else encoder
        self.config, self.taxonomy = config, taxonomy
        self.head: Head = build_head(config, taxonomy, self.encoder.width)
        self.facts: dict[str, Any] = {}
        self.scaling: Scaling | None = None

    def tokens(self, volumes: Tensor, scans_per_study: Sequence[int], axes: Sequence[Axes] = ()) -> Tokens:
        """(S, 1, D, H, W) uint8 of all scans (as `encoder.reader` reads them), B counts on the host -> what the head reads.

        Args:
            axes: of each scan's grid in the patient (`encoder.reader.axes`); empty: all scans are axial.
        """
        return self.encoder.read(self.encoder.visual, volumes, scans_per_study, self.config.blocks, axes)

    def forward(self, tokens: Tokens, return_attention: bool = False) -> HP2LOutput:
        """Logits of every level."""
        cls = tokens.cls if self.config.cls == "encoder" else None
        output: HP2LOutput = self.head(tokens.patches, cls, return_attention)
        return output

    @torch.no_grad()
    def diagnose(self, volumes: Tensor, scans_per_study: Sequence[int], axes: Sequence[Axes] = ()) -> list[Tensor]:
        """Scores in [0, 1] of every level, (B, K_l) float32 each; arguments as of `tokens`."""
        return self(self.tokens(volumes, scans_per_study, axes)).probabilities()

    def comparable(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Scores (B, K_l) of `diagnose` made such that a study's classes can be held against one another, float32 on the host.

        Probabilities, where the checkpoint knows its scaling (`hp2l.scaling`); as they are, where it was written without.
        """
        return [level.float().cpu() for level in scores] if self.scaling is None else self.scaling.apply(scores)

    def start(self, targets: Sequence[Tensor], masks: Sequence[Tensor], seed: int = 0, smoothing: float = 0.1) -> None:
        """What a head learns of the training set before its first step: where prototypes begin, which classes go together, how frequent
        they are.

        Args:
            targets, masks: (N, K_l) of the training studies, a level each.
            seed: of the prototypes' place.
            smoothing: of the loss's targets.
        """
        if isinstance(self.head, DependentHead):
            self.head.dependency.observe(targets, masks)
        head = self.head.head if isinstance(self.head, DependentHead) else self.head
        if isinstance(head, Cascade):
            head.observe(targets, masks, smoothing)
        if isinstance(head, HP2L):
            head.draw_prototypes(seed)
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

    def describe(self) -> dict[str, Any]:
        """What config.json holds."""
        return {
            "format": FORMAT,
            "head": asdict(self.config),
            "taxonomy": self.taxonomy.to_dict(),
            "taxonomy_digest": self.taxonomy.digest,
            "encoder": _described(self.encoder),
            "facts": self.facts,
            **({} if self.scaling is None else {"scaling": self.scaling.to_dict()}),
        }

    def card(self) -> str:
        """The model card (`hp2l.card`)."""
        return diagnoser_card(self.describe())

    @classmethod
    def _open(cls, path: str | Path, device: str | torch.device, **settings: Any) -> Diagnoser:
        return load(path, device, **settings)

    def save(self, folder: str | Path, head: dict[str, Tensor] | None = None) -> None:
        """Write the checkpoint folder atomically.

        Args:
            folder: its place; an older one there is replaced only when the new one is complete.
            head: the head's weights gathered by an engine; its own by default.
        """
        with whole_folder(folder, self.files) as partial:
            self.encoder.save(partial / "encoder")
            tensors = {key: value.detach().contiguous().cpu() for key, value in (head or self.head.state_dict()).items()}
            save_file(tensors, partial / "head.safetensors", metadata={"format": "pt"})
            described = json.dumps(jsonable(self.describe()), indent=2)  # what is not defined is null: NaN is no JSON
            (partial / "config.json").write_text(described + "\n", encoding="utf-8")
            (partial / "README.md").write_text(self.card(), encoding="utf-8")


def _described(encoder: Encoder) -> dict[str, Any]:
    """What an encoder is and how its scans are prepared, for a reader of config.json; `load` reads `encoder/` itself."""
    spec = encoder.volume_spec
    told: dict[str, Any] = {
        "kind": encoder.kind,
        "channels": None if encoder.channels is None else list(encoder.channels),
        "volume_spec": None if spec is None else spec.as_dict(),
    }
    if isinstance(encoder, HLIPEncoder):
        told["facts"] = {name: encoder.model.facts[name] for name in PRETRAINING if name in encoder.model.facts}
    if isinstance(encoder, ImageEncoder):
        told |= {"backbone": encoder.settings.name, "pretrained": encoder.settings.pretrained}
    return told


def load(path: str | Path, device: str | torch.device = "cpu", taxonomy: Taxonomy | None = None) -> Diagnoser:
    """A fine-tuned model from its checkpoint or run folder, in evaluation mode.

    Args:
        path: the folder; or its hub id, `owner/name` or `hf-hub:owner/name`, with `@revision` if one is meant.
        device: where to put it.
        taxonomy: if given, the tree the caller means; it must be the one the checkpoint was trained on.

    Raises:
        CheckpointError: no such checkpoint, a pretraining checkpoint, damaged weights, or another taxonomy.
    """
    folder = checkpoint_folder(local(path))
    description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: format '{description.get('format')}' is not '{FORMAT}' (a fine-tuned checkpoint)")
    own = Taxonomy.from_dict(description["taxonomy"])
    if taxonomy is not None and not own.same_tree(taxonomy):
        raise CheckpointError(f"{folder}: trained on taxonomy {_named(own)}, not on {_named(taxonomy)}")
    model = Diagnoser(load_encoder(folder / "encoder"), HeadConfig.from_dict(description["head"]), own)
    load_weights(model.head, folder / "head.safetensors")
    model.facts = description["facts"]
    if "scaling" in description:
        model.scaling = Scaling.from_dict(description["scaling"])
    return model.to(device).eval()


def _named(tree: Taxonomy) -> str:
    return f"'{tree.name}' ({' / '.join(map(str, tree.counts))} classes, digest {tree.digest[:12]})"
