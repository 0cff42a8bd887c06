"""Official checkpoints: written and loaded again, recognised by names and shapes, refused where wrong."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hlip
from hlip.model import CheckpointError
from hlip.official import checkpoint as official
from hlip.official.names import Shapes, name_of, scopes_of, to_official, vision_config
from hlip.text import TextConfig, grow_text_source
from hlip.variants import Variant
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec

TEXTS = ["This study shows: acute infarction.", "This study shows: no hemorrhage, no mass."] * 2
TINY = {"size": [8, 16, 16], "patch": [4, 8, 8], "width": 24, "heads": 2, "scopes": ["slice", "scan", "study"]}


@pytest.fixture(scope="module")
def text_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = TextConfig(width=48, depth=1, heads=4, vocabulary=80, context_length=24)
    return grow_text_source(tmp_path_factory.mktemp("text"), TEXTS, text)


def made(text_source: Path, objective: str = "clip", **vision) -> hlip.HLIP:
    """An untrained model whose parameters all matter."""
    torch.manual_seed(0)
    model = hlip.create("tiny_scan_study", text_source, vision=TINY | vision, objective=objective).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def volumes(scans: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (scans, 1, 8, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def outputs(model: hlip.HLIP) -> list[torch.Tensor]:
    return [model.encode_study(volumes(), [3, 1]), model.encode_text(TEXTS)]


# --- export and load again: every kind of model ---

KINDS = {
    "dual": ("clip", {}),
    "one class token": ("clip", {"class_tokens": 1}),
    "one class token, siglip": ("siglip", {"class_tokens": 1}),
    "paper": ("clip", {"class_tokens": 1, "pool": "class", "position": "space", "sequence_positions": 5}),
    "study scope alone": ("clip", {"scopes": ["study", "study"]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_is_the_same_model(kind, text_source, tmp_path):
    objective, vision = KINDS[kind]
    model = made(text_source, objective, **vision)
    model.volume_spec, model.facts = VolumeSpec.load("demo"), {"simulated": True}
    official.export(model, tmp_path / "out")
    again, report = official.load_with_report(tmp_path / "out")
    for ours, theirs in zip(outputs(model), outputs(again), strict=True):
        assert torch.equal(ours, theirs)
    assert again.config == model.config
    assert again.volume_spec == model.volume_spec
    assert again.facts == {"simulated": True}
    keys = load_file(tmp_path / "out" / "open_clip_model.safetensors").keys()
    assert ("logit_bias" in keys) == (kind in ("dual", "one class token, siglip", "study scope alone"))
    assert ("visual.trunk.reg_token" in keys) == (model.config.vision.class_tokens == 2)
    assert ("visual.trunk.sequential_posemb" in keys) == (kind == "paper")
    started = {"one class token": 1, "paper": 1, "one class token, siglip": 2}.get(kind, 0)
    assert len(report.started) == started
    if kind == "one class token, siglip":
        assert torch.equal(again.logit_bias_sentence, model.logit_bias_sentence)


def test_what_the_official_code_has_no_place_for_is_refused(text_source, tmp_path):
    with pytest.raises(CheckpointError, match=r"no place for visual.patch_embed.centre, visual.patch_embed.norm.weight"):
        official.export(made(text_source, patch_norm=True), tmp_path / "out")
    with pytest.raises(CheckpointError, match="two class tokens with a SigLIP bias"):
        official.export(made(text_source, "siglip"), tmp_path / "out")
    for vision, part in (
        ({"position": "rotary"}, "position rotary"),
        ({"pool": "class", "class_tokens": 2}, "2 class tokens with pool class"),
    ):
        with pytest.raises(CheckpointError, match=f"no place for {part}"):
            official.export(made(text_source, **vision), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def cfg_of(folder: Path) -> dict:
    return json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]


def test_an_export_that_the_official_code_cannot_build_warns(text_source, tmp_path):
    model = made(text_source, scopes=["scan", "scan", "study", "study"])
    with pytest.warns(UserWarning, match="attention scopes or sizes .* and a text tower .*: only hlip.load opens this export"):
        official.export(model, tmp_path / "out")
    assert cfg_of(tmp_path / "out")["vision_cfg"]["timm_model_name"] == "hlip_custom"
    with pytest.warns(
        UserWarning, match="'ablate_seqposemb_vit_w64d8_multiscan_h2_dualdinotxt8' that is none of its published"
    ):
        official.export(wide(text_source, SCOPES["multiscan_h2"]), tmp_path / "out")


def test_official_names_are_for_the_official_towers_alone():
    named = official.official_names()
    assert len(named) == 9
    for name, vision in named.items():
        assert official._official_name(vision) == name
    base = named["ablate_seqposemb_vit_base_multiscan_h2_dualdinotxt1568"]
    assert official._official_name(replace(base, heads=8)) == "hlip_custom"  # weights of the same shapes, another function
    assert official._official_name(replace(base, patch=(6, 8, 32), size=(48, 112, 448))) == "hlip_custom"
    config = hlip.HLIPConfig(vision=base)
    config.text.source = "owner/bert"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        official._warn(config)


# --- recognition ---


def state_of(model: hlip.HLIP) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in to_official(model.state_dict()).items()}


def wide(text_source: Path, scopes: list[str], **vision) -> hlip.HLIP:
    """Width 64: whole heads of the published size, so that nothing but the scopes has to be named."""
    return made(text_source, width=64, heads=1, scopes=scopes, **vision)


SCOPES = {
    "multiscan_h2": ["scan", "study"] * 4,
    "singlescan_h2": ["slice", "scan"] * 4,
    "multiscan_h3": ["slice", "scan", "study"] * 4,
}


@pytest.mark.parametrize("kind", SCOPES)
@pytest.mark.parametrize("place", ["run name", "file name", "variant"])
def test_names_tell_the_scopes(kind, place, text_source, tmp_path):
    model = wide(text_source, SCOPES[kind], class_tokens=1, pool="class")
    name = f"2025_08_26-model_clip_vit_base_{kind}_token8-lr_0.0002"
    path = tmp_path / (f"brainmri_{name}.pt" if place == "file name" else "epoch_20.pt")
    torch.save({"state_dict": state_of(model), "name": name if place == "run name" else "run"}, path)
    again = hlip.load(path, variant=f"clip_vit_base_{kind}_token8" if place == "variant" else None, text_source=text_source)
    assert again.config.vision.scopes == SCOPES[kind]
    assert again.config.vision.heads == 1
    for ours, theirs in zip(outputs(model), outputs(again), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_without_a_name_ask_for_one(text_source, tmp_path):
    path = tmp_path / "epoch_20.pt"
    torch.save(state_of(hlip.create("tiny_scan_study", text_source)), path)
    with pytest.raises(
        CheckpointError, match=r"say variant=... or --variant \(of these shapes: none built in: give a model file"
    ):
        hlip.load(path, text_source=text_source)  # tiny ones are not official
    with pytest.raises(CheckpointError, match="variant 'vit_huge' is no model"):
        hlip.load(path, variant="vit_huge", text_source=text_source)
    with pytest.raises(CheckpointError, match=r"not the model 'vit_large_scan_study' .*width 48, not 1024; depth 12, not 24"):
        hlip.load(path, variant="vit_large_scan_study", text_source=text_source)
    with pytest.raises(CheckpointError, match="48 channels are not whole heads of 64"):
        hlip.load(path, variant="tiny_scan_study")
    assert hlip.load(path, variant="tiny_scan_study", text_source=text_source).config.vision.heads == 3


def test_offered_are_official_models_alone_and_a_contradiction_warns(tmp_path):
    found = official.Official(tmp_path / "epoch_20.pt", {})
    base = official.official_names()["ablate_seqposemb_vit_base_multiscan_h2_dualdinotxt1568"]
    shapes = Shapes((8, 14, 14), (6, 16, 16), 768, 12, 4.0, 2, "dinotxt", 0, 768)
    variants = official._fitting(shapes)
    with pytest.raises(CheckpointError, match=r"\(of these shapes: vit_base_scan_study, vit_base_slice_scan_study\)"):
        official._scopes(found, None, shapes, variants)
    tiny = Variant.load("tiny_scan_study").config.vision
    shapes_of_tiny = Shapes(tiny.grid, tiny.patch, tiny.width, len(tiny.scopes), 4.0, tiny.class_tokens, tiny.pool, 0, 32)
    assert [v.name for v in official._fitting(shapes_of_tiny)] == ["tiny_scan_study", "tiny_slice_scan_study"]
    with pytest.raises(CheckpointError, match="of these shapes: none built in"):
        official._scopes(found, None, shapes_of_tiny, official._fitting(shapes_of_tiny))
    with pytest.raises(CheckpointError, match="no official model has position rotary"):
        official._scopes(found, "vit_base_scan_study_rotary", shapes, variants)
    found.config = {"vision_cfg": {"timm_model_name": "ablate_seqposemb_vit_base_multiscan_h2_dualdinotxt1568"}}
    with pytest.warns(UserWarning, match="variant 'vit_base_slice_scan_study' has other attention scopes .* 'ablate_seqposemb"):
        official._scopes(found, "vit_base_slice_scan_study", shapes, variants)
    with pytest.warns(UserWarning, match="variant 'vit_base_multiscan_h3' has other attention scopes"):
        official._scopes(found, "vit_base_multiscan_h3", shapes, variants)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert official._scopes(found, "vit_base_scan_study", shapes, variants)[0] == base.scopes


def test_numbers_of_numpy_are_read_and_keys_are_counted_in_the_log(text_source, tmp_path, caplog):
    model = wide(text_source, SCOPES["multiscan_h2"])
    path = tmp_path / "multiscan_h2.pt"
    torch.save({"epoch": np.int64(20), "loss": np.float64(3), "best": np.bool_(True), "state_dict": state_of(model)}, path)
    with caplog.at_level(logging.INFO, "hlip"):
        again = hlip.load(path, text_source=text_source)
    assert torch.equal(again.encode_study(volumes(), [4]), model.encode_study(volumes(), [4]))
    total = len(state_of(model))
    assert [record.getMessage() for record in caplog.records if record.name == "hlip"] == [
        f"{path}: {total} of {total} keys mapped, 0 missing, 0 unexpected"
    ]
    torch.save({"array": np.zeros(3, dtype=object), "state_dict": state_of(model)}, path)  # may hold anything
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        hlip.load(path, text_source=text_source)


def test_single_scan_arguments_have_no_sequence_embedding():
    """The official single-scan models say max_num_scans 1 and keep no such parameter."""
    arguments = {
        "depth": 2,
        "img_size": (8, 16, 16),
        "patch_size": (4, 8, 8),
        "embed_dim": 12,
        "num_heads": 1,
        "max_num_scans": 1,
    }
    config = vision_config(arguments | {"slice_attn_indexes": (0,), "scan_attn_indexes": (1,)})
    assert (config.scopes, config.sequence_positions, config.position) == (["slice", "scan"], 0, "space")
    with pytest.raises(ValueError, match="in no attention list"):
        vision_config(arguments | {"scan_attn_indexes": (1,)})
    with pytest.raises(ValueError, match="listed as slice and as scan"):
        vision_config(arguments | {"slice_attn_indexes": (0, 1), "scan_attn_indexes": (1,)})


def test_names_of_scopes():
    assert scopes_of("vit_large_multiscan_h3_x", 24) == (["slice"] * 4 + ["scan", "study"]) * 4
    assert scopes_of("my model", 12) is None
    with pytest.raises(CheckpointError, match="not for 8 blocks"):
        scopes_of("vit_base_multiscan_h3", 8)
    assert name_of(VisionConfig(scopes=["study"] * 12)) == "hlip_custom"


# --- what is missing or wrong ---


def test_without_a_tokenizer_all_but_texts_works(text_source, tmp_path):
    model = wide(text_source, SCOPES["multiscan_h2"])
    torch.save(state_of(model), tmp_path / "vit_base_multiscan_h2.pt")
    only_bert = tmp_path / "bert"
    only_bert.mkdir()
    (only_bert / "config.json").write_bytes((text_source / "config.json").read_bytes())
    again = hlip.load(tmp_path / "vit_base_multiscan_h2.pt", text_source=only_bert)
    ids = model.tokenizer(TEXTS)
    assert torch.equal(again.encode_study(volumes(), [4]), model.encode_study(volumes(), [4]))
    assert torch.equal(again.encode_tokens(ids), model.encode_tokens(ids))
    with pytest.raises(CheckpointError, match=r"came without a tokenizer.*text_source="):
        again.encode_text(TEXTS)
    again.save(tmp_path / "saved")  # as a checkpoint of ours, it still lacks one
    assert torch.equal(hlip.load(tmp_path / "saved").encode_tokens(ids), model.encode_tokens(ids))


def test_a_tokenizer_that_names_code_is_read_without_it(text_source, tmp_path):
    """As CXR-BERT's does: its classes stand in a file of the repository, which is never run."""
    from transformers import AutoTokenizer

    model = wide(text_source, SCOPES["singlescan_h2"])
    torch.save(state_of(model), tmp_path / "vit_base_singlescan_h2.pt")
    source = tmp_path / "cxr"
    source.mkdir()
    words = AutoTokenizer.from_pretrained(str(text_source)).get_vocab()
    (source / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n")
    code = {"AutoTokenizer": ["configuration_cxrbert.CXRBertTokenizer", None]}
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CXRBertTokenizer", "auto_map": code}))
    bert = json.loads((text_source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(bert | {"model_type": "cxr-bert", "auto_map": {"AutoConfig": "x.Y"}}))
    (source / "configuration_cxrbert.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(CheckpointError, match="48 channels are not whole heads of 64"):  # the description needs code too
        hlip.load(tmp_path / "vit_base_singlescan_h2.pt", text_source=source)
    (source / "config.json").write_text(json.dumps(bert))
    again = hlip.load(tmp_path / "vit_base_singlescan_h2.pt", text_source=source)
    assert torch.equal(again.encode_text(TEXTS), model.encode_text(TEXTS))


def test_missing_unexpected_and_misshapen_keys_are_all_named(text_source, tmp_path):
    state = state_of(wide(text_source, SCOPES["multiscan_h2"]))
    state["visual.trunk.attn_pool.latent"] = torch.zeros(1, 1, 64)
    state["text.proj.weight"] = torch.zeros(7, 48)
    del state["visual.trunk.norm.bias"]
    torch.save(state, tmp_path / "multiscan_h2.pt")
    message = (
        r"missing: visual.norm.bias; unexpected: visual.trunk.attn_pool.latent; "
        r"misshapen: text.encoder.proj.weight: \(7, 48\), expected \(40, 48\)"
    )
    with pytest.raises(CheckpointError, match=message):
        hlip.load(tmp_path / "multiscan_h2.pt", text_source=text_source)


def test_nothing_is_unpickled_and_damage_is_named(tmp_path):
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "objects.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        hlip.load(tmp_path / "objects.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"cut.pt: (cannot be read|holds more)"):
        hlip.load(tmp_path / "cut.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"cut.safetensors: cannot be read"):
        hlip.load(tmp_path / "cut.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not an official HLIP state dict"):
        hlip.load(tmp_path / "other.pt")
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="holds a Tensor, not a state dict"):
        hlip.load(tmp_path / "tensor.pt")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weights here"):
        hlip.load(tmp_path / "snapshot")


def test_a_tokenizer_of_another_model_is_refused(text_source, tmp_path):
    torch.save(state_of(wide(text_source, SCOPES["multiscan_h2"])), tmp_path / "multiscan_h2.pt")
    other = grow_text_source(
        tmp_path / "other", ["many more letters: quick brown fox jumps over a lazy dog, vexing"], TextConfig()
    )
    with pytest.raises(CheckpointError, match=r"a tokenizer of \d+ entries, and the text tower knows \d+"):
        hlip.load(tmp_path / "multiscan_h2.pt", text_source=other)


def test_our_own_checkpoints_bring_all_themselves(text_source, tmp_path):
    made(text_source).save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="leave both out"):
        hlip.load(tmp_path / "model", variant="tiny_scan_study")


@pytest.mark.parametrize("place", ["hf-hub:owner/name", "owner/name", "owner/name@v1.0"])
def test_a_hub_id_is_fetched_without_code(place, text_source, tmp_path, monkeypatch):
    model = made(text_source)
    official.export(model, tmp_path / "snapshot")
    asked = []

    def snapshot_download(repo_id, revision=None, allow_patterns=None):
        asked.append((repo_id, revision, allow_patterns))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    again = hlip.load(place)
    assert torch.equal(again.encode_study(volumes(), [4]), model.encode_study(volumes(), [4]))
    assert asked == [("owner/name", "v1.0" if "@" in place else None, ["*.json", "*.txt", "*.safetensors"])]


def test_the_hub_is_asked_for_bin_files_last_and_its_refusal_is_named(tmp_path, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot_download(repo_id, revision=None, allow_patterns=None):
        asked.append(allow_patterns[-1])
        if asked.count("*.bin"):
            raise LocalEntryNotFoundError("the hub cannot be reached")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"owner/name: no such folder here, and not to be had from the hub \(the hub cannot"
    ):
        hlip.load("owner/name")
    assert asked == ["*.safetensors", "*.bin"]
    (tmp_path / "owner").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint here"):  # a mistyped folder is no hub id
        hlip.load("owner/name")
    assert asked == ["*.safetensors", "*.bin"]
