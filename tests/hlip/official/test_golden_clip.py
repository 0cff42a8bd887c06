"""Parity of whole CLIPs with the official code, loaded from every form they come in; and the key lists of true-size ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, PreTrainedTokenizerFast

import hlip
from hlip.model import HLIP, HLIPConfig
from hlip.official import checkpoint as official
from hlip.official.names import Shapes, scopes_of, to_official, to_ours
from hlip.text import TextConfig
from hlip.variants import Variant
from hlip.vision import VisionConfig
from hlip.zeroshot import PromptSet, embed_classes

from .golden import GOLDEN, close, described, each

POSITION_IDS = "text.transformer.embeddings.position_ids"


def text_source(description: dict[str, Any], folder: Path) -> PreTrainedTokenizerFast:
    """Write the text tower's configuration and tokenizer as files; returns the tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {token: index for index, token in enumerate(description["vocab"])}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    tokenizer.save_pretrained(str(folder))
    BertConfig(**description["text_config"]).save_pretrained(str(folder))
    return tokenizer


def possible_trunks(state: dict[str, Tensor], description: dict[str, Any]) -> list[VisionConfig]:
    """What the trunk may be: heads and scopes have no shapes, so they are those of the model's name or of models.json's entries."""
    shapes = Shapes.of(state, "golden")
    entries = json.loads((GOLDEN / "models.json").read_text(encoding="utf-8")).values()
    known = [official.vision_config(entry["config"]) for entry in entries if "config" in entry]
    known = [config for config in known if len(config.scopes) == shapes.depth and shapes.width % config.heads == 0]
    named = scopes_of(description["model_cfg"]["vision_cfg"]["timm_model_name"], shapes.depth)
    choices = {(tuple(named or config.scopes), config.heads) for config in known}
    return [shapes.vision(list(scopes), heads, "golden") for scopes, heads in sorted(choices)]


def write_forms(state: dict[str, Tensor], description: dict[str, Any], folder: Path) -> None:
    """The CLIP in each form that an official checkpoint comes in, and its text source."""
    tokenizer = text_source(description, folder / "bert")
    training = {"epoch": 3, "name": "run", "state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(training | {"optimizer": {"state": {0: {"step": torch.tensor(5.0)}}}}, folder / "module.pt")
    torch.save(state | {POSITION_IDS: torch.arange(64)[None]}, folder / "plain.pt")
    for snapshot, weights in (("safetensors", "open_clip_model.safetensors"), ("bin", "open_clip_pytorch_model.bin")):
        place = folder / snapshot
        tokenizer.save_pretrained(str(place))
        (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": description["model_cfg"], "preprocess_cfg": {}}))
        (torch.save if snapshot == "bin" else save_file)(state, place / weights)


@pytest.fixture(scope="module")
def clip(request, tmp_path_factory) -> SimpleNamespace:
    """A golden CLIP: its outputs, its description, its checkpoint in every form, and the model file that fits it."""
    golden, description = load_file(request.param), described(request.param)
    folder = tmp_path_factory.mktemp("clip")
    state = {key.removeprefix("w."): value for key, value in golden.items() if key.startswith("w.")}
    write_forms(state, description, folder)
    image, errors = golden["in.image"], {}
    for number, vision in enumerate(possible_trunks(state, description)):
        settings = {"vision": json.loads(json.dumps(vars(vision))), "text": {"context_length": len(description["ids"][0])}}
        model_file = folder / f"{number}.yaml"
        model_file.write_text(yaml.safe_dump({"official": None, "volume": None, "model": settings}))
        with torch.no_grad():
            model = hlip.load(folder / "plain.pt", variant=model_file, text_source=folder / "bert")
            study = model.encode_study(image.flatten(0, 1), [image.shape[1]] * len(image))
        expected = golden["out.encode_image_normalized"]
        errors[model_file] = (study.reshape(expected.shape) - expected).abs().max().item()
    assert errors, "no trunk in models.json has the depth of this CLIP's"
    best = min(errors, key=lambda file: errors[file])
    return SimpleNamespace(golden=golden, description=description, state=state, folder=folder, model_file=best)


def each_clip(function):
    mark = each("clip")
    return pytest.mark.parametrize("clip", mark.args[1], indirect=True)(function)


def loaded(clip: SimpleNamespace, form: str) -> HLIP:
    return hlip.load(clip.folder / form, variant=clip.model_file, text_source=clip.folder / "bert")


@each_clip
@pytest.mark.parametrize("form", ["module.pt", "plain.pt", "safetensors", "bin"])
@torch.no_grad()
def test_clip_from_every_form(clip, form):
    model, golden, description = loaded(clip, form), clip.golden, clip.description
    assert not model.training
    image = golden["in.image"]
    pooled = model.visual_proj(model.visual(image.flatten(0, 1), [image.shape[1]] * len(image)))
    close(pooled.reshape(golden["out.encode_image"].shape), golden["out.encode_image"], "encode_image")
    study = model.encode_study(image.flatten(0, 1), [image.shape[1]] * len(image))
    expected = golden["out.encode_image_normalized"]
    close(study.reshape(expected.shape), expected, "encode_image_normalized")

    ids = model.tokenizer(description["texts"])
    assert ids.tolist() == [row[: ids.shape[1]] for row in description["ids"]]
    assert golden["in.text_ids"].tolist() == description["ids"]
    close(model.text(golden["in.text_ids"]), golden["out.encode_text"], "encode_text")
    close(model.encode_tokens(golden["in.text_ids"]), golden["out.encode_text_normalized"], "encode_text_normalized")
    close(model.encode_text(description["texts"]), golden["out.encode_text_normalized"], "from words")

    classifier = class_vectors(model, description, golden)
    close(classifier.T, golden["zeroshot.classifier"], "classifier")
    logits = model.logit_scale_sentence.exp() * study[:, 0] @ classifier.T
    close(logits, golden["zeroshot.logits_image"], "logits", floor=1e-5 * model.logit_scale_sentence.exp().item())
    close(model.logit_scale_sentence.exp()[0], golden["out.forward.logit_scale"])
    if "out.forward.logit_bias_raw" in golden:
        bias = model.logit_scale_report if model.config.vision.class_tokens > 1 else model.logit_bias_sentence
        assert bias.item() == golden["out.forward.logit_bias_raw"].item()


def class_vectors(model: HLIP, description: dict[str, Any], golden: dict[str, Tensor]) -> Tensor:
    """(K, E), by `embed_classes`; its words and their ids must be the official ones."""
    templates = description["templates"]
    prefix = templates[0].split("{}")[0]
    prompts = PromptSet("golden", prefix, tuple(t.removeprefix(prefix).replace("{}", "{c}") for t in templates))
    official_texts = np.reshape(description["zeroshot_texts"], (-1, len(templates))).tolist()
    plain = [name for name, texts in zip(description["classes"], official_texts, strict=True) if len(set(texts)) == 1]
    prompts = PromptSet("golden", prefix, prompts.templates, untemplated=tuple(plain))
    assert [prompts.texts(name) for name in description["classes"]] == official_texts
    ids = model.tokenizer(description["zeroshot_texts"])
    assert torch.equal(ids, golden["zeroshot.template_ids"][:, : ids.shape[1]])
    return embed_classes(model, [[name] for name in description["classes"]], prompts)


@each_clip
def test_clip_keys_are_all_accounted_for_and_go_out_as_they_came(clip, tmp_path):
    place, keys = clip.folder / "plain.pt", clip.description["keys"]
    model, report = official.load_with_report(place, variant=clip.model_file, text_source=clip.folder / "bert")
    assert set(report.mapped) == set(keys)
    assert report.dropped == [POSITION_IDS]
    assert (report.missing, report.unexpected, report.misshapen, report.started) == ([], [], [], {})
    assert str(report).startswith(f"{len(keys)} of {len(keys) + 1} keys mapped; dropped: {POSITION_IDS}")
    official.export(model, tmp_path / "out")
    written = load_file(tmp_path / "out" / "open_clip_model.safetensors")
    assert set(written) == set(clip.state)
    assert all(torch.equal(value, clip.state[key]) for key, value in written.items())
    config = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]
    start = clip.description["model_cfg"].get("init_logit_bias")
    assert config.get("init_logit_bias") == (start if start is None else pytest.approx(start))


@each("key list")
def test_a_true_size_key_list_maps_whole(file, tmp_path):
    """Every key and shape, both ways, for the built-in model of that name."""
    listed = json.loads(file.read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in listed["keys"].items()}
    shapes, name = Shapes.of(state, file.name), listed["open_clip_config"]["vision_cfg"]["timm_model_name"]
    vision = shapes.vision(scopes_of(name, shapes.depth), None, file.name)
    text = official.bert_config(state, file.name)
    text.save_pretrained(str(tmp_path))
    model = HLIP(HLIPConfig(shapes.embed_dim, vision, TextConfig()), tmp_path, need_tokenizer=False)
    own = model.state_dict()
    converted, report = to_ours(state, own)
    report.check(file.name)
    assert len(report.mapped) == listed["n_keys"] == len(listed["keys"])
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}
    assert {key: list(value.shape) for key, value in to_official(own).items()} == listed["keys"]
    # the report's own temperature of a model with one class token has no official name
    ours = sum(parameter.numel() for key, parameter in model.named_parameters() if key not in report.started)
    assert ours == listed["n_trainable"]
    built_in = [Variant.load(known) for known in hlip.list_models()]
    [known] = [variant for variant in built_in if variant.official == name]
    assert vision == type(vision)(**(vars(known.config.vision) | {"patch_dropout": 0.0, "drop_path": 0.0}))
    assert text.to_dict() == BertConfig(vocab_size=text.vocab_size).to_dict()
