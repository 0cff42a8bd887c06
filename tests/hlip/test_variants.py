"""Named models: every file is a whole model, and says what was published."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import hlip
from hlip.files.resources import ResourceError
from hlip.official.names import name_of, scopes_of
from hlip.text import grow_text_source
from hlip.variants import Variant, VariantError
from hlip.volume import VolumeSpec

PUBLISHED = {  # study blocks, slice blocks, tokens of a scan, features of a class token, class tokens (arXiv 2505.21862, blog)
    "vit_base_scan_study": ([2, 5, 8, 11], [], 1568, 1536, 2),
    "vit_base_scan_study_one_token": ([2, 5, 8, 11], [], 1568, 1536, 1),
    "vit_base_slice_scan_study": ([2, 5, 8, 11], [0, 3, 6, 9], 1568, 1536, 2),
    "vit_large_scan_study": ([5, 11, 17, 23], [], 1568, 2048, 2),
    "vit_large_slice_scan_study": ([5, 11, 17, 23], [i for i in range(24) if i % 6 < 4], 1568, 2048, 2),
    "paper_vit_base_scan_study_p8": ([2, 5, 8, 11], [], 1176, 768, 1),
    "paper_vit_base_slice_scan_study_p8": ([2, 5, 8, 11], [0, 3, 6, 9], 1176, 768, 1),
    "paper_vit_base_scan_study_p16": ([2, 5, 8, 11], [], 588, 768, 1),
    "chest_ct_vit_base": ([], [0, 1, 3, 4, 6, 7, 9, 10], 2744, 768, 1),
    "chest_ct_vit_base_siglip": ([], [0, 1, 3, 4, 6, 7, 9, 10], 2744, 768, 1),
}


@pytest.fixture(scope="module")
def text_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = ["This study shows: acute infarction.", "This study shows: no hemorrhage."] * 2
    return grow_text_source(tmp_path_factory.mktemp("text"), texts, Variant.load("tiny_scan_study").config.text)


def test_all_models_are_listed():
    assert set(hlip.list_models()) == set(PUBLISHED) | {
        "vit_base_scan_study_rotary",
        "tiny_scan_study",
        "tiny_slice_scan_study",
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_as_published(name):
    variant = Variant.load(name)
    vision = variant.config.vision
    study, slices, tokens, features, class_tokens = PUBLISHED[name]
    assert [index for index, scope in enumerate(vision.scopes) if scope == "study"] == study
    assert [index for index, scope in enumerate(vision.scopes) if scope == "slice"] == slices
    assert (math.prod(vision.grid), vision.features, vision.class_tokens) == (tokens, features, class_tokens)
    assert vision.width == 64 * vision.heads
    assert vision.sequence_positions == (40 if name.startswith("paper") else 0)
    assert VolumeSpec.load(variant.volume).size == vision.size
    assert variant.config.text.locked == name.startswith("chest")


@pytest.mark.parametrize("name", hlip.list_models())
def test_a_model_file_says_what_it_is_and_whence(name):
    path = Path(hlip.__file__).parents[1] / "configs" / "model" / f"{name}.yaml"
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(head) >= 2
    assert name.startswith("tiny") or any(line.startswith("# Source: Zhao et al., arXiv 2505.21862") for line in head)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if Variant.load(name).official])
def test_official_names_and_scopes_agree_both_ways(name):
    variant = Variant.load(name)
    assert scopes_of(variant.official, len(variant.config.vision.scopes)) == variant.config.vision.scopes
    assert name_of(variant.config.vision) == variant.official


@pytest.mark.parametrize("name", ["tiny_scan_study", "tiny_slice_scan_study"])
def test_a_model_is_created_without_a_network(name, text_source):
    torch.manual_seed(0)
    model = hlip.create(name, text_source=text_source).eval()
    volumes = torch.randint(0, 256, (3, 1, 24, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert model.encode_study(volumes, [1, 2]).shape == (2, 2, 40)
        assert model.encode_text(["This study shows: no hemorrhage."]).shape == (1, 40)


def test_a_published_text_tower_is_replaced_by_the_folder_given(text_source):
    """Offline: nothing of the published BERT is asked for; the folder has no weights, so none are read."""
    small = {"width": 96, "heads": 6, "scopes": ["scan", "study"], "size": [8, 32, 32], "patch": [8, 16, 16]}
    model = hlip.create("paper_vit_base_scan_study_p8", text_source=text_source, vision=small, embed_dim=24)
    assert model.text.encoder.transformer.config.hidden_size == 48
    assert model.config.vision.pool == "class"
    assert model.config.prefix == "This MRI study shows: "
    assert model.volume_spec == VolumeSpec.load("mri")


def test_settings_are_overridden_and_the_rest_stays(text_source):
    model = hlip.create("tiny_scan_study", text_source, vision={"patch_dropout": 0.25}, objective="siglip")
    assert model.config.vision.patch_dropout == 0.25
    assert model.config.vision.width == 48
    assert model.logit_bias_sentence.item() == -10
    assert Variant.load("tiny_scan_study").config.vision.patch_dropout == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"vision": {"patchdropout": 0.5}}, r"model.vision: unknown setting\(s\) patchdropout"),
        ({"temperature": 1}, r"model: unknown setting\(s\) temperature"),
        ({"vision": 3}, "model.vision: expected a mapping"),
        ({"vision": {"width": 50}}, "width 50 is not a multiple of heads 3"),
    ],
)
def test_an_impossible_override_is_refused(overrides, message, text_source):
    with pytest.raises(VariantError, match=message):
        hlip.create("tiny_scan_study", text_source, **overrides)


def test_unknown_models_and_absent_text_towers_are_named(tmp_path):
    with pytest.raises(ResourceError, match=r"no built-in model of that name.*tiny_scan_study"):
        hlip.create("vit_huge")
    with pytest.raises(VariantError, match=r"its text tower: .*text_source=FOLDER"):
        hlip.create("vit_base_scan_study", text_source=tmp_path, vision={"width": 24, "heads": 2, "scopes": ["scan"]})


def test_a_tiny_model_needs_nothing():
    """Its text tower knows what the built-in trees call their classes."""
    model = hlip.create("tiny_scan_study", text={"vocabulary": 400})
    assert model.encode_text(["This study shows: glioma."]).shape == (1, model.config.embed_dim)
    assert model.tokenizer.hf.tokenize("glioma") == ["glioma"]


def test_a_file_of_ones_own_is_a_model_too(tmp_path, text_source):
    own = tmp_path / "own.yaml"
    own.write_text(
        "official: null\nvolume: null\nmodel: {vision: {size: [8, 16, 16], patch: [4, 8, 8], width: 12, heads: 1, scopes: [scan]}}\n"
    )
    assert hlip.create(own, text_source).config.vision.grid == (2, 2, 2)
    own.write_text("model: {}\n")
    with pytest.raises(VariantError, match=r"own.yaml: expected the keys official, volume and model"):
        Variant.load(own)
