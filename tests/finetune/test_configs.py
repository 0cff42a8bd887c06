"""Every file of configs/finetune: loaded, checked against what is published, and run for its first steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from finetune.settings import FinetuneConfig, doors_beside, mixed_planes
from finetune.train import main
from hlip.config import parse_config
from hlip.files.resources import configs_folder, names
from hlip.volume import VolumeSpec
from hp2l.diagnoser import load
from hp2l.heads import KINDS

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")

RECIPES = ["demo", "mri", "mr_rate", "cnn", "cnn_demo", "leukemia"]
FORMS = {"vit": "prompt_vit"}
"""Files that name a form of another kind of head."""
BASELINES = sorted(set(names("finetune")) - set(RECIPES))
SMALL = ("--head.width", "16", "--head.heads", "2", "--head.blocks", "[2, 2, 2]", "--steps", "2", "--batch_size", "8")
SMALL += ("--workers", "0", "--precision", "no", "--trackers", "[]")


def parsed(*more: str) -> FinetuneConfig:
    given = ["--store", "s", "--out", "o", *more]
    return parse_config(FinetuneConfig, command="finetune", description="", argv=given)


def test_there_is_a_file_for_every_baseline():
    assert sorted([*KINDS, *FORMS]) == sorted([*BASELINES, "hp2l"])
    for kind in BASELINES:
        over = parsed("--config", "mri", "--config", kind, "--encoder", "e")
        assert over.head.kind == FORMS.get(kind, kind)
        assert over.head.width == 768  # the rest of the configuration below stays
        assert over.steps == 5000
        alone = parsed("--config", kind, "--encoder", "e")
        assert (alone.head.kind, alone.steps) == (over.head.kind, 2000)


def test_recipes_hold_the_published_numbers():
    mri, cnn, leukemia = parsed("--config", "mri", "--encoder", "e"), parsed("--config", "cnn"), parsed("--config", "leukemia")
    for recipe in (mri, cnn):
        head, loss = recipe.head, recipe.loss
        assert head.blocks[0] * head.blocks[1] * head.blocks[2] == 32
        assert (head.width, head.heads, head.momentum) == (768, 12, 0.99)
        assert (loss.smoothing, loss.consistency, loss.direction) == (0.1, 0.5, "published")
    assert cnn.cnn.channels == ("T1", "T2", "FLAIR", "DWI", "ADC")
    assert (cnn.encoder, cnn.tuning.encoder, cnn.head.cls, cnn.head.prompt_update) == ("cnn", "all", "learned", "sum")
    assert leukemia.image.name == "vit_small_patch16_384"
    assert leukemia.optimizer.lr * leukemia.tuning.lr_scale == pytest.approx(1e-6)
    assert leukemia.loss.focal_gamma > 0


def test_a_recipe_says_nothing_that_is_not_there():
    for name in names("finetune"):
        content = yaml.safe_load((configs_folder() / "finetune" / f"{name}.yaml").read_text())
        assert set(content) <= set(FinetuneConfig.__dataclass_fields__)


@pytest.mark.parametrize("kind", [*BASELINES, "hp2l"])
def test_each_baseline_runs(kind, tiny_store, tiny_pretrained, tmp_path: Path):
    files = ["--config", "demo", *(["--config", kind] if kind != "hp2l" else [])]
    out = tmp_path / "run"
    main([*files, *SMALL, "--encoder", str(tiny_pretrained), "--store", str(tiny_store), "--out", str(out)])
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any(row["step"] == 2 and "val_auc" in row for row in rows)
    assert load(out).config.kind == FORMS.get(kind, kind)


@pytest.mark.parametrize("recipe", ["cnn", "cnn_demo"])
@pytest.mark.parametrize("kind", ["hp2l", "flat", "cascade"])
def test_the_cnn_recipes_run_with_other_heads(recipe, kind, tiny_store, tmp_path: Path):
    files = ["--config", recipe, *(["--config", kind] if kind != "hp2l" else [])]
    out = tmp_path / "run"
    main([*files, *SMALL, "--cnn.width", "64", "--store", str(tiny_store), "--out", str(out)])
    model = load(out)
    assert (model.config.kind, model.encoder.kind, model.encoder.width) == (kind, "cnn", 64)


def test_an_option_wins_over_a_file_wherever_it_stands(tmp_path):
    (tmp_path / "own.yaml").write_text("taxonomy: brain_mri_flat\nsteps: 7\n")
    needed = ["--store", "s", "--encoder", "e", "--out", "o"]
    for given in (
        ["--taxonomy", "leukemia", "--config", "demo", *needed],
        [*needed, "--config=demo", "--taxonomy=leukemia", f"--config={tmp_path / 'own.yaml'}"],
    ):
        config = parse_config(FinetuneConfig, command="finetune", description="", argv=given)
        assert config.taxonomy == "leukemia"
        assert config.steps == (7 if any("own" in word for word in given) else 200)


def test_a_cascade_under_a_loss_that_moves_its_scores_is_told_of():
    plain, moved = (
        parsed("--config", "cascade", "--encoder", "e", *more) for more in ((), ("--loss.long_tail", "logit_adjusted"))
    )
    assert doors_beside(plain) == ""
    assert "not the doors" in doors_beside(moved)
    assert doors_beside(parsed("--config", "transhp", "--encoder", "e", "--loss.focal_gamma", "2")) == ""


def test_a_cnn_over_scans_in_their_acquired_planes_is_told_of():
    acquired, axial = VolumeSpec.load("mri"), VolumeSpec.load("hp2l")
    assert "--spec hp2l" in mixed_planes(parsed("--config", "cnn"), acquired)
    assert mixed_planes(parsed("--config", "cnn"), axial) == ""
    assert mixed_planes(parsed("--config", "mri", "--encoder", "e"), acquired) == "", "which turns the tokens itself"
