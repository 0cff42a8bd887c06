"""Named models: every published HLIP architecture, and tiny ones for tests, as YAML files in configs/model.

    hlip.list_models()                                                  # names
    model = hlip.create("vit_base_scan_study")                          # random vision tower, published text tower
    model = hlip.create("tiny_scan_study", vision={"patch_dropout": 0.25})

A file has three keys: `official`, the name that the official code gives the vision tower (null where it has none); `volume`, the
VolumeSpec of its studies; `model`, an `HLIPConfig` as in the training configurations, of which only what differs from the defaults
need be said.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from hlip.files import resources
from hlip.model import HLIP, HLIPConfig
from hlip.taxonomy import Taxonomy
from hlip.text import grow_text_source
from hlip.volume import VolumeSpec
from hlip.zeroshot import PromptSet

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


class VariantError(ValueError):
    """A model file or an override has an unknown or impossible setting; the message names it."""


@dataclass
class Variant:
    """One named model."""

    name: str
    config: HLIPConfig
    volume: str | None
    """Name of the VolumeSpec its studies are prepared with."""
    official: str | None
    """What the official code calls its vision tower."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> Variant:
        """A built-in model or a YAML file like those.

        Raises:
            ResourceError: no such name or file. VariantError: unknown or impossible setting.
        """
        path = resources.find("model", name_or_path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not isinstance(content, Mapping) or set(content) != {"official", "volume", "model"}:
                raise VariantError("expected the keys official, volume and model")
            config = override(HLIPConfig(), content["model"])
        except (ValueError, TypeError, yaml.YAMLError) as error:
            raise VariantError(f"{path}: {error}") from error
        return cls(path.name.removesuffix(".yaml"), config, content["volume"], content["official"])


def list_models() -> list[str]:
    """Names that `create` and `Variant.load` take, sorted."""
    return resources.names("model")


def create(name: str | Path, text_source: str | Path | None = None, **overrides: Any) -> HLIP:
    """An untrained model of a named architecture, in training mode.

    Args:
        name: one of `list_models()`, or a YAML file like those in configs/model.
        text_source: folder or hub id of the text tower and its tokenizer, the published one by default; tiny models grow one of
            their own. Its weights are taken where it has any and `text.pretrained` is on; a folder grown from texts
            (`hlip.text.grow_text_source`) has none.
        overrides: settings of `HLIPConfig`, nested ones as mappings: `vision={"patch_dropout": 0.5}`.

    Raises:
        ResourceError: no such model. VariantError: an unknown setting, or the text tower cannot be had.
    """
    variant = Variant.load(name)
    config = override(variant.config, overrides)
    source = text_source or config.text.source
    with tempfile.TemporaryDirectory() as scratch:
        if source is None:
            source = grow_text_source(Path(scratch), _known_phrases(), config.text)
        try:
            model = HLIP(config, source, pretrained_text=config.text.pretrained and _has_weights(source))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise VariantError(
                f"{variant.name}: {reason} (its text tower: '{source}'; text_source=FOLDER gives another)"
            ) from error
    if variant.volume:
        model.volume_spec = VolumeSpec.load(variant.volume)
    return model


def override(config: HLIPConfig, changes: Mapping[str, Any]) -> HLIPConfig:
    """A copy with some settings changed.

    Raises:
        VariantError: a setting is unknown or impossible.
    """
    try:
        return HLIPConfig.from_dict(_merged(asdict(config), changes, "model"))
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, VariantError) else VariantError(str(error)) from error


def _merged(base: dict[str, Any], changes: Mapping[str, Any], place: str) -> dict[str, Any]:
    """`base` with `changes`, mapping by mapping; only keys that `base` has."""
    if not isinstance(changes, Mapping):
        raise VariantError(f"{place}: expected a mapping of settings, got {type(changes).__name__}")
    if unknown := sorted(set(changes) - set(base)):
        raise VariantError(f"{place}: unknown setting(s) {', '.join(unknown)} (known: {', '.join(sorted(base))})")
    new = {
        key: _merged(base[key], value, f"{place}.{key}") if isinstance(base[key], dict) else value
        for key, value in changes.items()
    }
    return base | new


def _known_phrases() -> list[str]:
    """What the built-in trees call their classes, in HLIP's templates: the words of a model that has seen no report yet."""
    prompts = PromptSet.load("hlip")
    trees = [Taxonomy.load(name) for name in resources.names("taxonomy")]
    phrases = [c.prompt for tree in trees for level in range(1, tree.depth + 1) for c in tree.classes(level)]
    return [text for phrase in dict.fromkeys(phrases) for text in prompts.texts(phrase)]


def _has_weights(source: str | Path) -> bool:
    """Whether a text source brings weights: hub ids do, folders if they hold some."""
    return not Path(source).is_dir() or any((Path(source) / name).is_file() for name in WEIGHT_FILES)
