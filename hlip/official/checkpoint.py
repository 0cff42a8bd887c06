"""Official HLIP checkpoints, read and written.

    model = hlip.load("chestct_clip_vit_base_singlescan_h2_token2744.pt", text_source="cxr-bert/")
    model = hlip.load("checkpoint.pt", variant="vit_base_scan_study")
    model = hlip.load("hf-hub:owner/name")
    hlip.official.export(model, "folder")                              # after `import hlip.official`

An official model comes as a training checkpoint (.pt) or as a Hugging Face snapshot with an `open_clip_config.json`. Files are read
as tensors only; no code of a snapshot is run and nothing is unpickled. What the architecture is follows from keys and shapes; the
attention scopes, which have no weights, from a name: `variant`, the configuration, the training run's name or the file's.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hlip.files.folders import recover, whole_folder
from hlip.hub.conventions import local
from hlip.model import HLIP, INITIAL_SCALE, SIGLIP_BIAS, CheckpointError, HLIPConfig, NoTokenizer, lacks_tokenizer
from hlip.official.names import (
    KeyReport,
    Shapes,
    foreign_parts,
    name_of,
    scopes_of,
    to_official,
    to_ours,
    vision_config,
    vision_state,
)
from hlip.text import TextConfig
from hlip.variants import Variant, list_models
from hlip.vision import MEAN, STD, VisionConfig
from hlip.volume import VolumeSpec

if TYPE_CHECKING:
    from transformers import BertConfig, PreTrainedTokenizerBase

__all__ = [
    "KeyReport",
    "Official",
    "export",
    "is_official",
    "load_with_report",
    "read",
    "vision_config",
    "vision_state",
]

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
WEIGHT_FILES = (WEIGHTS, "model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
# what an exported folder holds; other names in it are somebody's
OURS = {CONFIG, WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"}
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
CUSTOM = "hlip_custom"
NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
_scalar: Any = np.float64().__reduce__()[0]
# what a number of numpy's is written with, such as the loss that a training run keeps; under numpy 1 from a module of another name
SCALARS: list[Any] = [
    _scalar,
    (_scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in NUMBERS),
]

log = logging.getLogger("hlip")


@dataclass
class Official:
    """An official checkpoint as it was found."""

    path: Path
    state: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    """open_clip's `model_cfg`; empty for a bare state dict."""
    ours: dict[str, Any] = field(default_factory=dict)
    """What `export` adds to the configuration: our own description of the model."""
    name: str = ""
    """Name of the training run."""

    @property
    def names(self) -> list[str]:
        """All that may tell the model's name, the surest first."""
        return [self.config.get("vision_cfg", {}).get("timm_model_name") or "", self.name, self.path.name]

    @property
    def text(self) -> dict[str, Any]:
        """open_clip's `text_cfg`."""
        return self.config.get("text_cfg", {})


def is_official(path: Path) -> bool:
    """A file of weights, or a folder with an open_clip configuration."""
    recover(path)
    return (path.is_file() and path.suffix in SUFFIXES) or (path / CONFIG).is_file()


def load_with_report(
    path: str | Path,
    device: str | torch.device = "cpu",
    variant: str | Path | None = None,
    text_source: str | Path | None = None,
) -> tuple[HLIP, KeyReport]:
    """An official model in evaluation mode, and what became of each key; the summary also stands in the model's `facts`, and its counts
    go to the log `hlip`.

    Arguments as in `hlip.load`.

    Raises:
        CheckpointError: unreadable, of unknown scopes, or with keys that are missing, unexpected or of another shape.
    """
    found = read(local(path))
    config, known = _config(found, variant)
    with tempfile.TemporaryDirectory() as scratch:
        _write_text_source(found, config.text, text_source, Path(scratch))
        model = HLIP(config, scratch, need_tokenizer=False)
    state, report = to_ours(found.state, model.state_dict())
    log.info("%s: %s", path, report.counts)
    report.check(found.path)
    model.load_state_dict(state)
    volume = found.ours.get("volume_spec")
    if volume:
        model.volume_spec = VolumeSpec.from_dict(volume)
    elif known and known.volume:
        model.volume_spec = VolumeSpec.load(known.volume)
    model.facts = found.ours.get("facts") or {"kind": "official", "source": str(path), "keys": str(report)}
    return model.to(device).eval(), report


def read(path: str | Path) -> Official:
    """A training checkpoint, a file of weights, or a snapshot folder.

    Raises:
        CheckpointError: nothing to read, or not tensors alone.
    """
    path = Path(path)
    if path.is_file():
        content = _tensors(path)
        return Official(path, _state(content, path), name=str(content.get("name") or ""))
    weights = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{path}: no weights here (looked for {', '.join(WEIGHT_FILES)})")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path / CONFIG}: cannot be read ({error})") from error
    return Official(path, _state(_tensors(weights), weights), config.get("model_cfg", config), config.get("hlip", {}))


def _tensors(path: Path) -> dict[str, Any]:
    """The content of a file of weights; memory-mapped where it can be, as optimizers' states are not needed."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        remedy = "ask its owner for safetensors, or for the state dict alone"
        raise CheckpointError(f"{path}: holds more than tensors, and running what it holds is not safe; {remedy}") from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return content


def _state(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, without the prefixes of wrappers."""
    inner = content.get("state_dict") or content.get("model") or content
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"{path}: its state_dict is a {type(inner).__name__}")
    state = {re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path}: holds no state dict")
    return state


def _config(found: Official, name: str | Path | None) -> tuple[HLIPConfig, Variant | None]:
    """The model's configuration, and the named model it is if it is one."""
    if found.ours:
        return HLIPConfig.from_dict(found.ours["model"]), None
    shapes = Shapes.of(found.state, found.path)
    scopes, known = _scopes(found, name, shapes, _fitting(shapes))
    vision = shapes.vision(scopes, known.config.vision.heads if known else None, found.path)
    vision.drop_path = found.config.get("vision_cfg", {}).get("timm_drop_path") or 0.0
    text = TextConfig(
        source=found.text.get("hf_tokenizer_name")
        or found.text.get("hf_model_name")
        or (known.config.text.source if known else None),
        context_length=found.text.get("context_length") or (known.config.text.context_length if known else 256),
        pooler=found.text.get("hf_pooler_type") or "cls_last_hidden_state_pooler",
        pretrained=False,
    )
    biased = "logit_bias" in found.state and shapes.class_tokens == 1
    prefix = known.config.prefix if known else HLIPConfig.prefix
    return HLIPConfig(shapes.embed_dim, vision, text, "siglip" if biased else "clip", prefix), known


def _fitting(shapes: Shapes) -> list[Variant]:
    """Built-in models of these shapes, but those with parts that no official one has."""
    variants = (Variant.load(name) for name in list_models())
    return [v for v in variants if not shapes.differences(v.config.vision) and not foreign_parts(v.config.vision)]


def _scopes(
    found: Official, name: str | Path | None, shapes: Shapes, fitting: list[Variant]
) -> tuple[list[str], Variant | None]:
    """The scope of each block, and the named model if that is known.

    Raises:
        CheckpointError: no name tells the scopes, or the one given is of a model of other shapes.
    """
    if name and (Path(name).is_file() or str(name) in list_models()):
        variant = Variant.load(name)
        if differences := shapes.differences(variant.config.vision):
            raise CheckpointError(f"{found.path}: not the model '{name}' ({'; '.join(differences)})")
        if foreign := foreign_parts(variant.config.vision):
            raise CheckpointError(f"{found.path}: not the model '{name}', no official model has {'; '.join(foreign)}")
        _compare(found, name, variant.config.vision.scopes)
        return variant.config.vision.scopes, variant
    for candidate in [str(name)] if name else found.names:
        scopes = scopes_of(candidate, shapes.depth)
        if scopes:
            if name:
                _compare(found, name, scopes)
            return scopes, next((variant for variant in fitting if variant.config.vision.scopes == scopes), None)
    known = official_names()
    choices = (
        ", ".join(v.name for v in fitting if name_of(v.config.vision) in known)
        or "none built in: give a model file like those in configs/model"
    )
    why = f"variant '{name}' is no model" if name else "weights do not tell the attention scopes, and no name in it does"
    raise CheckpointError(f"{found.path}: {why}; say variant=... or --variant (of these shapes: {choices})")


def _compare(found: Official, name: str | Path, scopes: list[str]) -> None:
    """Warn where the checkpoint's own name tells other scopes than the variant that was asked for."""
    for own in found.names:
        try:
            said = scopes_of(own, len(scopes))
        except CheckpointError:  # a name of other depth, which says nothing here
            continue
        if said:
            if said != scopes:
                warnings.warn(
                    f"{found.path}: variant '{name}' has other attention scopes than the checkpoint's own name, '{own}', tells; "
                    "the variant is taken",
                    stacklevel=2,
                )
            return


def official_names() -> dict[str, VisionConfig]:
    """What the official code calls its vision towers -> the tower."""
    variants = map(Variant.load, list_models())
    return {variant.official: variant.config.vision for variant in variants if variant.official}


def _write_text_source(found: Official, config: TextConfig, given: str | Path | None, folder: Path) -> None:
    """Fill a folder that the text tower can be built from: its configuration, and its tokenizer if one is to be had."""
    tokenizer = _tokenizer(found, config, given)
    if tokenizer is not None:
        words = found.state.get("text.transformer.embeddings.word_embeddings.weight")
        vocabulary = len(tokenizer) if words is None else len(words)
        if len(tokenizer) > vocabulary:
            raise CheckpointError(
                f"{given or found.path}: a tokenizer of {len(tokenizer)} entries, and the text tower knows {vocabulary}"
            )
        tokenizer.save_pretrained(str(folder))
    description = _text_description(given) or _text_description(found.path)
    if description:
        (folder / "config.json").write_bytes(description.read_bytes())
    else:
        pad = getattr(tokenizer, "pad_token_id", None) or 0
        bert_config(found.state, found.path, pad).save_pretrained(str(folder))


def _tokenizer(found: Official, config: TextConfig, given: str | Path | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the source given, else of the snapshot, else of the official source if this machine has it already."""
    snapshot = found.path.is_dir() and not lacks_tokenizer(found.path)
    source = given or (found.path if snapshot else config.source)
    if not source or lacks_tokenizer(source):
        return None
    try:
        return _read_tokenizer(str(source), cached=not given)
    except (OSError, ValueError) as error:
        if not given and not snapshot:
            return None
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{source}: its tokenizer cannot be read ({reason}); give another text_source") from error


def _read_tokenizer(source: str, cached: bool) -> PreTrainedTokenizerBase:
    """A folder's or hub id's tokenizer, without running code of its own; `cached` asks no hub."""
    from transformers import AutoTokenizer, BertTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=cached)
    except ValueError:  # it names code of its own, as CXR-BERT does, whose words are BERT's
        return BertTokenizer.from_pretrained(source, local_files_only=cached)


def _text_description(source: str | Path | None) -> Path | None:
    """The text tower's configuration in a folder, if it has one that needs no code of its own."""
    file = Path(source or "") / "config.json"
    if not source or not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return file if "model_type" in content and "auto_map" not in content else None


def bert_config(state: Mapping[str, Tensor], path: str | Path, pad_token_id: int = 0) -> BertConfig:
    """The configuration that the text tower's shapes tell, with BERT's 64 channels a head.

    Raises:
        CheckpointError: this is no BERT, or of a width that is not whole heads.
    """
    from transformers import BertConfig

    embeddings, layer = "text.transformer.embeddings.", "text.transformer.encoder.layer."
    try:
        words, places, types = (
            state[f"{embeddings}{part}_embeddings.weight"].shape for part in ("word", "position", "token_type")
        )
        hidden = state[f"{layer}0.intermediate.dense.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(
            f"{path}: no BERT in it ({error.args[0]} is missing); give text_source, a folder with its config.json"
        ) from error
    if words[1] % 64:
        remedy = "give text_source, a folder with its config.json"
        raise CheckpointError(f"{path}: the text tower's {words[1]} channels are not whole heads of 64; {remedy}")
    layers = {key.removeprefix(layer).split(".")[0] for key in state if key.startswith(layer)}
    return BertConfig(
        vocab_size=words[0],
        hidden_size=words[1],
        num_hidden_layers=len(layers),
        num_attention_heads=words[1] // 64,
        intermediate_size=hidden,
        max_position_embeddings=places[0],
        type_vocab_size=types[0],
        pad_token_id=pad_token_id,
    )


def export(model: HLIP, folder: str | Path) -> None:
    """Write a snapshot folder as the official code and open_clip know it; `hlip.load` of it gives the same model.

    A model with one class token loses its report temperature, for which the official code has no name. Warns where the official code
    has no model of this kind, so that only `hlip.load` opens the folder: unknown scopes or sizes, a text tower grown from reports.

    Args:
        model: any model whose parts the official architecture has.
        folder: its place; an older one there is replaced only when the new one is complete.

    Raises:
        CheckpointError: the model has parts that the official architecture lacks; they are named.
    """
    if foreign := foreign_parts(model.config.vision):
        raise CheckpointError(
            f"the official architecture has no place for {'; '.join(foreign)}; model.save keeps all of a model"
        )
    state = to_official({key: value.detach().cpu() for key, value in model.state_dict().items()})
    _warn(model.config)
    config = {
        "model_cfg": _model_cfg(model),
        "preprocess_cfg": {"mean": [MEAN], "std": [STD]},
        "hlip": {
            "model": asdict(model.config),
            "volume_spec": model.volume_spec.as_dict() if model.volume_spec else None,
            "facts": model.facts,
        },
    }
    with whole_folder(folder, OURS) as partial:
        save_file({key: value.contiguous() for key, value in state.items()}, partial / WEIGHTS, metadata={"format": "pt"})
        if not isinstance(model.tokenizer, NoTokenizer):
            model.tokenizer.hf.save_pretrained(str(partial))
        model.text.encoder.config.save_pretrained(str(partial))
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _warn(config: HLIPConfig) -> None:
    """Say what keeps the official code from building this model."""
    name, ours = _official_name(config.vision), []
    if name == CUSTOM:
        ours.append("attention scopes or sizes that none of its models has")
    elif name not in official_names():
        ours.append(f"a vision tower '{name}' that is none of its published models")
    if not config.text.source:
        ours.append("a text tower that is on no hub, grown from reports")
    if ours:
        warnings.warn(f"the official code cannot build {' and '.join(ours)}: only hlip.load opens this export", stacklevel=3)


def _official_name(config: VisionConfig) -> str:
    """The official code's name; `hlip_custom` where what it builds under that name differs."""
    name = name_of(config)
    same = official_names().get(name, config)
    built = ("size", "patch", "heads", "mlp_ratio", "position", "sequence_positions")
    return name if all(getattr(same, key) == getattr(config, key) for key in built) else CUSTOM


def _model_cfg(model: HLIP) -> dict[str, Any]:
    """open_clip's configuration of a model."""
    config = model.config
    dual = config.vision.class_tokens > 1
    source = config.text.source or "."
    return {
        "embed_dim": config.embed_dim,
        # open_clip makes the parameter logit_bias where this is given
        **({"init_logit_bias": INITIAL_SCALE if dual else SIGLIP_BIAS} if dual or config.objective == "siglip" else {}),
        "vision_cfg": {
            "timm_model_name": _official_name(config.vision),
            "timm_model_pretrained": False,
            "timm_drop_path": config.vision.drop_path,
            "timm_pool": "token",
            "timm_proj": "linear",
        },
        "text_cfg": {
            "hf_model_name": source,
            "hf_tokenizer_name": source,
            "hf_pooler_type": config.text.pooler,
            "hf_proj_type": "linear",
            "context_length": config.text.context_length,
        },
    }
