"""HLIP: the study encoder, the text tower, and one temperature for each of the two objectives.

    model = hlip.load("runs/demo/pretrain")            # a run folder, a checkpoint folder, or an official checkpoint
    features = model.encode_study(volumes, [3, 1])     # (B, 2, E): [sentence, report] tokens, normalised
    classes = model.encode_text(["This study shows: glioma."])

A checkpoint is a folder: `config.json` (model, VolumeSpec, what it has seen), `model.safetensors`, `text/` (the tower's
configuration and tokenizer), `README.md` (the model card). It needs nothing else to rebuild itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from hlip.files.folders import recover, whole_folder
from hlip.hub.card import model_card
from hlip.hub.conventions import HubCheckpoint, local
from hlip.text import TextConfig, TextTower, Tokenizer
from hlip.vision import StudyEncoder, VisionConfig
from hlip.volume import VolumeSpec

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from hlip.inference.features import StudyFeatures

SENTENCE, REPORT = 0, 1  # which class token answers to which text
INITIAL_SCALE = math.log(1 / 0.07)
SIGLIP_SCALE, SIGLIP_BIAS = math.log(10), -10.0
LARGEST_SCALE = math.log(100)
FORMAT = "hlip-1"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")


class CheckpointError(ValueError):
    """A checkpoint folder is missing, damaged, or of another shape; the message names the file and what differs."""


class NoTokenizer(Tokenizer):
    """Stands where a checkpoint came without its tokenizer: texts cannot become ids, all else works."""

    def __init__(self, config: TextConfig):
        self.context_length = config.context_length
        self.source = config.source or "the folder or hub id of its BERT"

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Always an error that names the remedy."""
        raise self._fault()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copies and pickles ask for these
            raise AttributeError(name)
        raise self._fault()

    def _fault(self) -> CheckpointError:
        remedy = f"load it with text_source={self.source!r}, or pass token ids to encode_tokens"
        return CheckpointError(f"this checkpoint came without a tokenizer, so texts cannot be read: {remedy}")


def lacks_tokenizer(source: str | Path) -> bool:
    """A folder without any tokenizer file."""
    return Path(source).is_dir() and not any((Path(source) / name).is_file() for name in TOKENIZER_FILES)


@dataclass
class HLIPConfig:
    """What a model is made of."""

    embed_dim: int = 768
    """Channels E of the joint space."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    objective: Literal["clip", "siglip"] = "clip"
    """clip: InfoNCE, a softmax over the batch. siglip: a sigmoid for each pair with a learnable bias (Zhai et al., arXiv 2303.15343)."""
    prefix: str = "This study shows: "
    """Begins every text, in training and in queries."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HLIPConfig:
        """The inverse of `dataclasses.asdict`."""
        parts = {"vision": VisionConfig(**values["vision"]), "text": TextConfig(**values["text"])}
        return cls(**(values | parts))


class HLIP(nn.Module, HubCheckpoint):
    """Studies and texts in one space.

    Args:
        config: the architecture.
        text_source: folder or hub id of the text tower, `config.text.source` by default.
        pretrained_text: read the tower's weights from the source (a checkpoint brings its own instead).
        need_tokenizer: False accepts a source without tokenizer files; then only `encode_text` is missing.
    """

    files: ClassVar[frozenset[str]] = frozenset({"config.json", "model.safetensors", "text", "README.md"})

    def __init__(
        self,
        config: HLIPConfig,
        text_source: str | Path | None = None,
        pretrained_text: bool = False,
        need_tokenizer: bool = True,
    ):
        super().__init__()
        source = text_source or config.text.source
        if source is None:
            raise ValueError("text.source is None: grow a text source from reports first (hlip.text.grow_text_source)")
        self.config = config
        self.visual = StudyEncoder(config.vision)
        self.visual_proj = nn.Linear(config.vision.features, config.embed_dim, bias=False)
        nn.init.normal_(self.visual_proj.weight, std=config.vision.features**-0.5)
        self.text = TextTower(config.text, config.embed_dim, source, pretrained_text)
        # shape (1,): DeepSpeed cannot partition a parameter without dimensions
        start = SIGLIP_SCALE if config.objective == "siglip" else INITIAL_SCALE
        self.logit_scale_sentence = nn.Parameter(torch.full((1,), start))
        self.logit_scale_report = nn.Parameter(torch.full((1,), start))
        if config.objective == "siglip":
            self.logit_bias_sentence = nn.Parameter(torch.full((1,), SIGLIP_BIAS))
            self.logit_bias_report = nn.Parameter(torch.full((1,), SIGLIP_BIAS))
        absent = not need_tokenizer and lacks_tokenizer(source)
        self.tokenizer = NoTokenizer(config.text) if absent else Tokenizer(source, config.text.context_length)
        self.volume_spec: VolumeSpec | None = None
        self.facts: dict[str, Any] = {}

    @overload
    def encode_study(self, volumes: Tensor, scans_per_study: Sequence[int]) -> Tensor: ...

    @overload
    def encode_study(
        self, volumes: Tensor, scans_per_study: Sequence[int], *, return_tokens: bool, affines: ArrayLike | None = None
    ) -> StudyFeatures: ...

    def encode_study(
        self,
        volumes: Tensor,
        scans_per_study: Sequence[int],
        *,
        return_tokens: bool = False,
        affines: ArrayLike | None = None,
    ) -> Tensor | StudyFeatures:
        """(S, 1, D, H, W) uint8 of all scans, B counts on the host -> (B, P, E), unit length.

        With `return_tokens`: study, scan and patch features (`hlip.inference.features.StudyFeatures`), and where each patch lies in RAS mm if
        `affines` (S, 4, 4) of the prepared volumes are given.
        """
        if return_tokens:
            from hlip.inference.features import study_features

            return study_features(self, volumes, affines, scans_per_study)
        return F.normalize(self.visual_proj(self.visual(volumes, scans_per_study)), dim=-1)

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """(N, T) int64 token ids -> (N, E), unit length."""
        return F.normalize(self.text(ids), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Full texts, prefix included -> (N, E), unit length."""
        return self.encode_tokens(self.tokenizer(texts).to(self.device))

    def forward(
        self,
        volumes: Tensor,
        scans_per_study: Sequence[int],
        sentences: Tensor,
        reports: Tensor,
        kept: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """One training batch -> `study (B, P, E)`, `sentence (B, E)`, `report (B, E)`, both temperatures' factors (1,), and with
        siglip both biases (1,).

        A single call, so that DDP and DeepSpeed see every parameter used once. `kept` (S, T) are the patches that patch dropout keeps,
        drawn here if it is not given.
        """
        features = {
            "study": F.normalize(self.visual_proj(self.visual(volumes, scans_per_study, kept)), dim=-1),
            "sentence": self.encode_tokens(sentences),
            "report": self.encode_tokens(reports),
            "sentence_scale": self.logit_scale_sentence.exp(),
            "report_scale": self.logit_scale_report.exp(),
        }
        if self.config.objective == "siglip":
            features |= {"sentence_bias": self.logit_bias_sentence, "report_bias": self.logit_bias_report}
        return features

    @torch.no_grad()
    def clamp_temperatures(self) -> None:
        """Keep both factors within [1, 100], after each optimizer step."""
        for scale in (self.logit_scale_sentence, self.logit_scale_report):
            scale.clamp_(0, LARGEST_SCALE)

    @property
    def device(self) -> torch.device:
        return self.logit_scale_sentence.device

    def describe(self) -> dict[str, Any]:
        """What config.json holds."""
        return {
            "format": FORMAT,
            "model": asdict(self.config),
            "volume_spec": self.volume_spec.as_dict() if self.volume_spec else None,
            "facts": self.facts,
        }

    def card(self) -> str:
        """The model card (`hlip.hub.card`)."""
        return model_card(self.describe() | {"parameters": sum(parameter.numel() for parameter in self.parameters())})

    @classmethod
    def _open(cls, path: str | Path, device: str | torch.device, **settings: Any) -> HLIP:
        return load(path, device, **settings)

    def save(self, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
        """Write a checkpoint folder atomically.

        Args:
            folder: its place; an older one there is replaced only when the new one is complete.
            state: weights gathered by an engine; the module's own by default.
        """
        tensors = {key: value.detach().contiguous().cpu() for key, value in (state or self.state_dict()).items()}
        with whole_folder(folder, self.files) as partial:
            save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
            if not isinstance(self.tokenizer, NoTokenizer):
                self.tokenizer.hf.save_pretrained(str(partial / "text"))
            self.text.encoder.config.save_pretrained(str(partial / "text"))
            (partial / "config.json").write_text(json.dumps(self.describe(), indent=2) + "\n", encoding="utf-8")
            (partial / "README.md").write_text(self.card(), encoding="utf-8")


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    variant: str | Path | None = None,
    text_source: str | Path | None = None,
) -> HLIP:
    """A model in evaluation mode, from its checkpoint folder, the run folder that holds it, or an official checkpoint.

    Args:
        path: a folder of ours; or, of the official code, a training checkpoint (.pt), a Hugging Face snapshot folder; or the hub id
            of either, `owner/name` or `hf-hub:owner/name`, with `@revision` if one is meant.
        device: where the model goes.
        variant: official checkpoints whose files do not say their attention scopes: a name of `hlip.list_models()`, a YAML file like
            those, or the official name of the model.
        text_source: official checkpoints without tokenizer: folder or hub id of the text tower.

    Raises:
        CheckpointError: no checkpoint there, or its weights do not fit its configuration.
    """
    from hlip import official

    place = local(path)
    if official.is_official(place):
        return official.load_with_report(place, device, variant, text_source)[0]
    if variant or text_source:
        raise CheckpointError(f"{path}: a checkpoint of ours brings its variant and text source; leave both out")
    folder = checkpoint_folder(place)
    description = read_description(folder)
    model = HLIP(HLIPConfig.from_dict(description["model"]), text_source=folder / "text", need_tokenizer=False)
    load_weights(model, folder / "model.safetensors")
    if description["volume_spec"]:
        model.volume_spec = VolumeSpec.from_dict(description["volume_spec"])
    model.facts = description["facts"]
    return model.to(device).eval()


def checkpoint_folder(path: str | Path) -> Path:
    """`path` itself if it is a checkpoint, else `path/model`.

    Raises:
        CheckpointError: neither holds a config.json.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        recover(folder)
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointError(
        f"{path}: no checkpoint here (expected config.json in this folder or in its folder 'model', or an official checkpoint)"
        + _runs_inside(path)
    )


def _runs_inside(path: Path) -> str:
    """Of a folder that holds runs, their names, for an error; empty if there are none."""
    configs = [*path.glob("*/config.json"), *path.glob("*/model/config.json")]
    found = sorted({config.relative_to(path).parts[0] for config in configs})
    more = f" and {len(found) - 12} more" if len(found) > 12 else ""
    return f". It holds {', '.join(found[:12])}{more}: name one of them" if found else ""


def read_description(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder, checked for its format."""
    try:
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{folder / 'config.json'}: not JSON ({error}); the checkpoint is damaged") from error
    if description.get("format") != FORMAT:
        hint = "; this is a fine-tuned model, the pretrained one is wanted" if "taxonomy" in description else ""
        raise CheckpointError(f"{folder}: format '{description.get('format')}' is not '{FORMAT}' (an HLIP checkpoint){hint}")
    return description


def load_weights(module: nn.Module, path: Path) -> None:
    """Strictly load a safetensors file.

    Raises:
        CheckpointError: unreadable, or keys or shapes differ; the first few are named.
    """
    try:
        state = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    own = module.state_dict()
    wrong = [f"{key}: missing" for key in own if key not in state]
    wrong += [f"{key}: not part of this model" for key in state if key not in own]
    wrong += [
        f"{key}: shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"{path}: weights of another model; " + "; ".join(wrong[:5]) + more)
    module.load_state_dict(state)
