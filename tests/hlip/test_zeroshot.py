"""Zero-shot: prompts, class vectors, and scores over a tree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hlip.model import HLIP, HLIPConfig
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.zeroshot import (
    NORMAL_PHRASE,
    PromptSet,
    ZeroShotSettings,
    contrast_scores,
    embed_classes,
    embed_studies,
    score_taxonomy,
)

RAGGED = {
    "name": "ragged",
    "classes": [
        {
            "name": "vascular",
            "prompt": "vascular disease",
            "children": [{"name": "infarction", "prompt": "acute infarction", "synonyms": ["stroke", "ischemia"]}],
        },
        {"name": "tumor", "children": [{"name": "glioma"}, {"name": "meningioma"}]},
        {"name": "artifact", "prompt": "motion artifact", "levels": [1]},
        {"name": "normal", "prompt": NORMAL_PHRASE, "normal": True},
    ],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HLIP:
    torch.manual_seed(0)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=200, context_length=32)
    vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["scan", "study"])
    words = [
        "Vascular disease, acute infarction, stroke, ischemia, tumor, glioma, meningioma. No significant abnormalities."
    ] * 2
    source = grow_text_source(tmp_path_factory.mktemp("text"), words, text)
    return HLIP(HLIPConfig(12, vision, text), text_source=source).eval()


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """Five studies, two class tokens each."""
    return F.normalize(torch.randn(5, 2, 12, generator=torch.Generator().manual_seed(3)), dim=-1)


def similarity(model: HLIP, phrases: list[str], prompts: str, features: torch.Tensor) -> torch.Tensor:
    """One class, one text at a time: (N,) cosines with the sentence token."""
    texts = [text for phrase in phrases for text in PromptSet.load(prompts).texts(phrase)]
    with torch.no_grad():
        vectors = [model.encode_text([text])[0] for text in texts]
    return features[:, 0] @ F.normalize(sum(vectors) / len(vectors), dim=0)


def test_the_public_templates():
    prompts = PromptSet.load("hlip")
    texts = prompts.texts("acute stroke")
    assert len(texts) == len(set(texts)) == 18
    assert texts[0] == "This study shows: acute stroke."
    assert texts[4] == "This study shows: new acute stroke."
    assert texts[-1] == "This study shows: compatible with acute stroke."
    assert prompts.texts(NORMAL_PHRASE) == ["This study shows: no significant abnormalities."] * 18
    assert PromptSet.load("plain").texts("x") == ["This study shows: x."]


def test_templates_need_a_place_for_the_phrase(tmp_path):
    for content in ("templates: ['{c}.', 'seen.']", "templates: []"):
        (tmp_path / "own.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"own.yaml: templates must be a list of texts with \{c\} in each"):
            PromptSet.load(tmp_path / "own.yaml")
    (tmp_path / "own.yaml").write_text("templates: ['a {c} b {c}']\nuntemplated: [as it is]")
    own = PromptSet.load(tmp_path / "own.yaml")
    assert (own.name, own.texts("x"), own.texts("as it is")) == ("own", ["a x b x"], ["as it is."])


def test_class_vectors_equal_a_slow_loop(model, features):
    phrases = [["glioma"], ["acute infarction", "stroke", "ischemia"], [NORMAL_PHRASE]]
    made = embed_classes(model, phrases, PromptSet.load("hlip"), batch_size=7)  # a batch ends within a class
    torch.testing.assert_close(made.norm(dim=-1), torch.ones(3))
    slow = torch.stack([similarity(model, names, "hlip", features) for names in phrases], dim=1)
    torch.testing.assert_close(features[:, 0] @ made.T, slow, atol=1e-5, rtol=1e-5)


def test_studies_are_encoded_in_order_whatever_the_batch(model, tiny_store):
    store = Store(tiny_store)
    records = store.split("val")
    made = embed_studies(model, store, records, batch_size=3)
    assert made.shape == (8, 2, 12)
    for record, row in zip(records, made, strict=True):
        with torch.no_grad():
            alone = model.encode_study(store.volumes(record.study_id), [len(record.sequences)])[0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)
    assert embed_studies(model, store, []).shape == (0, 2, 12)


def test_contrast_is_a_softmax_of_two():
    similarities, normal = torch.tensor([[0.3, -0.1], [0.2, 0.2]]), torch.tensor([0.1, 0.2])
    pairs = torch.stack([similarities, normal[:, None].expand(-1, 2)], dim=-1)
    torch.testing.assert_close(contrast_scores(similarities, normal, 14.0), (14.0 * pairs).softmax(dim=-1)[..., 0])


def test_scores_without_contrast_are_similarities_alone(model, features):
    tree = Taxonomy.from_dict(RAGGED)
    for synonyms in (False, True):
        scores = score_taxonomy(model, features, tree, ZeroShotSettings("plain", synonyms=synonyms, contrast=False))
        assert [level.shape for level in scores] == [(5, 4), (5, 4)]
        for level, table in enumerate(scores, start=1):
            assert table.dtype == np.float64
            for item in tree.classes(level):
                phrases = [item.prompt, *(item.synonyms if synonyms else ())]
                expected = (similarity(model, phrases, "plain", features) + 1) / 2
                np.testing.assert_allclose(table[:, item.index], expected.numpy(), atol=1e-6)


def test_scores_with_contrast_are_held_against_normal_and_normal_against_the_nearest_rival(model, features):
    tree = Taxonomy.from_dict(RAGGED)
    scale = model.logit_scale_sentence.exp().item()
    scores = score_taxonomy(model, features, tree, ZeroShotSettings("plain", synonyms=False))
    normal = similarity(model, [NORMAL_PHRASE], "plain", features)
    for level, table in enumerate(scores, start=1):
        cosines = {item.index: similarity(model, [item.prompt], "plain", features) for item in tree.classes(level)}
        place = tree.levels[level - 1].index("normal")
        rival = torch.stack([value for index, value in cosines.items() if index != place]).max(dim=0).values
        for index, value in cosines.items():
            expected = torch.sigmoid(scale * (value - (rival if index == place else normal)))
            np.testing.assert_allclose(table[:, index], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("contrast", [True, False])
def test_a_parent_may_be_its_best_child_and_keeps_its_own_score_where_it_has_none(model, features, contrast):
    tree = Taxonomy.from_dict(RAGGED)
    own = score_taxonomy(model, features, tree, ZeroShotSettings("plain", contrast=contrast))
    children = score_taxonomy(model, features, tree, ZeroShotSettings("plain", contrast=contrast, parents="children"))
    assert np.array_equal(own[1], children[1])
    leaves = {name: children[1][:, index] for index, name in enumerate(tree.levels[1])}
    expected = {
        "vascular": leaves["infarction"],
        "tumor": np.maximum(leaves["glioma"], leaves["meningioma"]),
        "artifact": own[0][:, tree.levels[0].index("artifact")],  # stops above the last level
        "normal": leaves["normal"],
    }
    assert list(expected) == list(tree.levels[0])
    assert np.array_equal(children[0], np.stack(list(expected.values()), axis=1))
    assert not np.array_equal(children[0], own[0])


def test_the_report_token_plays_no_part(model, features):
    tree = Taxonomy.from_dict(RAGGED)
    other = features.clone()
    other[:, 1] = -other[:, 1]
    for one, two in zip(score_taxonomy(model, features, tree), score_taxonomy(model, other, tree), strict=True):
        assert np.array_equal(one, two)
