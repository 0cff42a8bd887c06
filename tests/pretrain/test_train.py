"""The pretraining loop: it learns, it resumes as if never stopped, and its folder holds what it should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hlip
import pretrain.train
from hlip.config import parse_config
from pretrain.settings import PretrainConfig
from pretrain.train import Run, main

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")
SLOW = pytest.mark.slow

TINY = Path(__file__).with_name("tiny.yaml")


def arguments(store: Path, out: Path, *more: str) -> list[str]:
    return ["--config", str(TINY), "--store", str(store), "--out", str(out), *more]


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_a_checkpoint_that_loads(tiny_store, tmp_path, monkeypatch):
    monkeypatch.undo()  # its picture is looked at
    out = tmp_path / "run"
    more = ("--steps", "120", "--batch_size", "16", "--model.vision.patch_norm", "true", "--save_every", "60")
    main(arguments(tiny_store, out, *more, "--log_every", "10", "--validation.every", "60", "--validation.split", "train"))
    rows = metrics(out)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 12
    assert losses[-1] < 0.6 * losses[0]
    areas = [row for row in rows if "val_auc" in row]
    assert [row["step"] for row in areas] == [60, 120]
    assert areas[-1]["val_auc"] > 0.65
    assert areas[-1]["val_classes"] == 3
    model = hlip.load(out)
    assert model.facts["step"] == 120
    assert model.facts["simulated"] is True
    assert model.volume_spec == hlip.Store(tiny_store).spec
    assert (out / "config.yaml").exists()
    assert (out / "training.png").stat().st_size > 10_000
    assert list((out / "tensorboard").rglob("events.out.*"))
    best = hlip.load(out / "best")
    assert best.facts["chosen_by"] == "val_auc"
    assert best.facts["metrics"]["val_auc"] == max(row["val_auc"] for row in areas)
    for row in areas:
        assert 0 < row["val_recall_1"] <= row["val_recall_5"] <= 1
    assert (
        areas[-1]["val_recall_1"] > areas[0]["val_recall_1"]
    )  # 28 different reports among 24 studies: it learns which is whose
    reported = [row for row in rows if "loss" in row]
    for name in ("studies_per_second", "scans_per_second", "wait_share", "memory_gb", "grad_norm", "lr", "scale_sentence"):
        assert all(row[name] >= 0 for row in reported), name
    assert "val_auc" in (out / "model" / "README.md").read_text()


@pytest.mark.parametrize("at", [pytest.param(2, marks=SLOW), 3, pytest.param(4, marks=SLOW), 5, pytest.param(6, marks=SLOW)])
def test_stopped_and_resumed_equals_never_stopped(tiny_store, tmp_path, stopped_at, at):
    settings = ("--model.vision.patch_dropout", "0.5", "--model.vision.drop_path", "0.2")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main(arguments(tiny_store, whole, *settings))

    # in the middle of a step; step 3 is saved
    stopped_at(pretrain.train, "train_step", at, lambda: main(arguments(tiny_store, cut, *settings)))
    assert [row["step"] for row in metrics(cut) if "loss" in row] == list(range(1, at))
    main(arguments(tiny_store, cut, *settings))

    one, other = (load_file(run / "model" / "model.safetensors") for run in (whole, cut))
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
    assert [(row["step"], row["loss"]) for row in metrics(whole) if "loss" in row] == [
        (row["step"], row["loss"]) for row in metrics(cut) if "loss" in row
    ]


def test_a_finished_run_is_left_alone(tiny_store, tmp_path, capsys):
    out = tmp_path / "run"
    main(arguments(tiny_store, out))
    before = (out / "model" / "model.safetensors").stat().st_mtime_ns
    main(arguments(tiny_store, out))
    assert "is finished (6 steps)" in capsys.readouterr().out
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_temperatures_are_clamped_after_each_step(tiny_store, tmp_path):
    config = parse_config(
        PretrainConfig, command="pretrain", description="", argv=arguments(tiny_store, tmp_path / "run", "--steps", "1")
    )
    run = Run(config)
    with torch.no_grad():
        run.model.logit_scale_sentence.fill_(4.7)
    run.train()
    assert run.model.logit_scale_sentence.item() <= 4.60518


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--model.vision.size", "[8,32,32]"), r"volumes of \(8, 16, 16\)"),
        (("--batch_size", "4000"), "do not fill one batch"),
        (("--chunk_scans", "2"), "chunk_scans 2 is less than the 3 scans"),
        (("--resume", "nowhere"), "--resume nowhere: no checkpoint there"),
        (("--trackers", "[wandb]"), "tracker 'wandb' is not installed; `pip install wandb`"),
        (("--trackers", "[paper]"), "tracker 'paper' is not known; choose from .*tensorboard"),
        (("--save_every", "0"), "save_every 0: at least 1"),
        (("--damaged_share", "5"), "damaged_share 5.0 is not a share"),
        (("--optimizer.warmup_steps", "-1"), "warmup_steps -1 is negative"),
        (("--model.vision.class_tokens", "3"), "class_tokens 3: 2 for sentence and report, or 1"),
        (("--validation.best", "val_acu"), "validation.best 'val_acu' is none of val_auc, val_recall_1"),
        (("--validation.taxonomy", "leukemia"), "study s.*: taxonomy leukemia has no class"),
        (("--model.text.locked", "true"), "grown from the reports knows nothing yet"),
        (("--model.text.source", "/nosuch"), "/nosuch"),
        (("--ema", "1.5"), "ema 1.5 is not between 0 and 1"),
        (("--store", "absent"), "no prepared store here"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(tiny_store, tmp_path, more, words):
    with pytest.raises(SystemExit, match=words):
        main(arguments(tiny_store, tmp_path / "run", *more))


def test_a_run_goes_on_as_it_was_begun(tiny_store, tmp_path, capsys):
    out = tmp_path / "run"
    main(arguments(tiny_store, out))
    before = (out / "config.yaml").read_text()
    with pytest.raises(SystemExit, match=r"begun with model\.embed_dim 16, now 20; choose another --out"):
        main(arguments(tiny_store, out, "--model.embed_dim", "20"))
    with pytest.raises(SystemExit, match=r"begun with ema 0.*, now 0\.9"):
        main(arguments(tiny_store, out, "--ema", "0.9"))
    assert (out / "config.yaml").read_text() == before
    main(arguments(tiny_store, out, "--steps", "8", "--batch_size", "12"))
    printed = capsys.readouterr().out
    assert "note: begun with batch_size 8, now 12" in printed
    assert "note: begun with steps 6, now 8" in printed


def test_the_best_model_survives_a_restart(tiny_store, tmp_path, monkeypatch):
    """Its measure stands in its own folder: 0.9 at step 3 is not beaten by 0.6 after the restart."""
    out, worth = tmp_path / "run", iter([0.9, 0.5, 0.6])
    monkeypatch.setattr(pretrain.train, "validate", lambda *arguments: {"val_recall_1": next(worth)})
    main(arguments(tiny_store, out))
    assert hlip.load(out / "best").facts["step"] == 3
    main(arguments(tiny_store, out, "--steps", "8"))
    assert hlip.load(out / "best").facts["step"] == 3
    assert hlip.load(out / "best").facts["chosen_by"] == "val_recall_1"


def test_excluded_studies_are_not_seen(tiny_store, tmp_path):
    store = hlip.Store(tiny_store)
    left_out = [record.study_id for record in store.split("train")[:10]]
    more = ("--sampling.exclude", str(left_out), "--steps", "1")
    run = Run(
        parse_config(PretrainConfig, command="pretrain", description="", argv=arguments(tiny_store, tmp_path / "run", *more))
    )
    assert len(run.data) == 14
    assert not {record.study_id for record in run.data.records} & set(left_out)


def test_epochs_instead_of_steps(tiny_store, tmp_path):
    """24 training studies in batches of 8: 5 epochs are 15 steps; the tiny configuration's 6 steps are taken back."""
    main(arguments(tiny_store, tmp_path / "run", "--steps", "null", "--epochs", "5", "--validation.every", "0"))
    assert metrics(tmp_path / "run")[-1]["step"] == 15
    with pytest.raises(SystemExit, match=r"steps 6 and epochs 5\.0 are both given: add --epochs null"):
        main(arguments(tiny_store, tmp_path / "run", "--epochs", "5"))


def test_an_unknown_key_is_refused(tiny_store, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(arguments(tiny_store, tmp_path / "run", "--model.vision.widht", "8"))
    assert "widht" in capsys.readouterr().err


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "Optimizer steps in all",
        "--model.vision.patch_dropout",
        "Share of patches left out in training",
        "--config",
    ):
        assert words in shown


def test_training_starts_from_another_run(tiny_store, tmp_path):
    """The weights are those of the first run; what they are not is how they were trained: dropout, depth."""
    first, second = tmp_path / "first", tmp_path / "second"
    main(arguments(tiny_store, first))
    more = ("--init", str(first), "--model.vision.patch_dropout", "0.0", "--model.vision.drop_path", "0.3")
    run = Run(parse_config(PretrainConfig, command="pretrain", description="", argv=arguments(tiny_store, second, *more)))
    expected = load_file(first / "model" / "model.safetensors")
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert run.model.config.vision.patch_dropout == 0.0
    assert run.model.visual.blocks[-1].drop_path == pytest.approx(0.3)
    run.train()
    assert hlip.load(second).config.vision.drop_path == 0.3


def test_the_vision_tower_starts_from_a_2d_vit(tiny_store, tmp_path):
    """Blocks as they are; the kernel's colours summed and spread over the patch's depth."""
    from timm.models.vision_transformer import VisionTransformer

    flat = VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=0)
    save_file(flat.state_dict(), tmp_path / "vit.safetensors")
    more = (
        "--init_vision",
        str(tmp_path / "vit.safetensors"),
        "--optimizer.layer_decay",
        "0.5",
        "--optimizer.text_lr_scale",
        "0.1",
    )
    run = Run(
        parse_config(PretrainConfig, command="pretrain", description="", argv=arguments(tiny_store, tmp_path / "run", *more))
    )
    state = run.model.visual.state_dict()
    assert torch.equal(state["blocks.1.attn.qkv.weight"], flat.state_dict()["blocks.1.attn.qkv.weight"])
    kernel = flat.state_dict()["patch_embed.proj.weight"].sum(dim=1) / 2
    torch.testing.assert_close(state["patch_embed.proj.weight"][:, 0, 0], kernel)
    scales = {group["lr_scale"] for group in run.optimizer.param_groups}
    # vision: norm 1, three blocks and the embeddings; text: one layer, embeddings and projection at a tenth
    assert sorted(scales) == pytest.approx(sorted({1.0, 0.5, 0.25, 0.125, 0.0625, 0.1, 0.05, 0.025}))


def test_half_precision_learns_the_same(tiny_store, tmp_path, fresh_engine):
    main(arguments(tiny_store, tmp_path / "whole"))
    fresh_engine()
    main(arguments(tiny_store, tmp_path / "half", "--precision", "bf16"))
    one, other = ([row["loss"] for row in metrics(tmp_path / name) if "loss" in row] for name in ("whole", "half"))
    assert one != other
    assert one == pytest.approx(other, abs=0.03)
    assert {value.dtype for value in load_file(tmp_path / "half" / "model" / "model.safetensors").values()} == {torch.float32}


def test_another_architecture_is_no_start(tiny_store, tmp_path):
    first = tmp_path / "first"
    main(arguments(tiny_store, first))
    with pytest.raises(SystemExit, match=r"the model differs from that of init: .*embed_dim"):
        main(arguments(tiny_store, tmp_path / "second", "--init", str(first), "--model.embed_dim", "20"))
