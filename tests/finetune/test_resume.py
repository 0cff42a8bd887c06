"""A run that goes on: as if never stopped, and with nothing but the settings, studies, tree and encoder that it began with."""

from __future__ import annotations

import os
import re
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from finetune.train import Run, main
from hlip.model import load as load_pretrained

from .made import CNN, arguments, changed_store, metrics

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")


SETTINGS = [
    ("--head.dropout", "0.3"),
    ("--cohort.folds", "4", "--cohort.fold", "2"),
    ("--head.dependency", "0.1", "--loss.long_tail", "class_balanced"),
    ("--loss.long_tail", "logit_adjusted", "--head.prototype_start", "text"),
    ("--tuning.encoder", "all"),
    ("--tuning.encoder", "lora", "--optimizer.layer_decay", "0.8"),
    (*CNN, "--augmentation.rotate", "5", "--augmentation.noise", "0.02"),
]
MORE_SETTINGS = [
    ("--head.cls", "learned"),
    ("--head.kind", "flat"),
    ("--cohort.balance", "0.5", "--cohort.fraction", "0.7"),
    ("--head.prompt", "prototypes", "--head.prototypes", "learnable"),
    ("--tuning.encoder", "last", "--tuning.max_scans", "2", "--workers", "0"),
    ("--head.averaging", "corrected"),
]


@pytest.mark.parametrize(
    "more", [*SETTINGS, *(pytest.param(more, marks=pytest.mark.slow) for more in MORE_SETTINGS)], ids=" ".join
)
def test_stopped_and_resumed_equals_never_stopped(tiny_store, pretrained, tmp_path, stopped_at, more):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main(arguments(tiny_store, pretrained, whole, *more))
    # after the save of step 3, in the middle of step 5
    stopped_at(Run, "step", 5, lambda: main(arguments(tiny_store, pretrained, cut, *more)))
    assert [row["step"] for row in metrics(cut) if "loss" in row] == [1, 2, 3, 4]
    main(arguments(tiny_store, pretrained, cut, *more))

    for name in (
        "model/head.safetensors",
        "checkpoints/step-000000006/model.safetensors",
    ):  # the best one, and the last one with its prototypes
        one, other = load_file(whole / name), load_file(cut / name)
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert torch.equal(value, other[key]), (name, key)
    timeless = [[{**row, "seconds": 0} for row in metrics(run)] for run in (whole, cut)]
    assert timeless[0] == timeless[1]


def test_a_finished_run_is_left_alone(tiny_store, pretrained, tmp_path, capsys):
    out = tmp_path / "run"
    main(arguments(tiny_store, pretrained, out))
    files = [path for path in (*out.glob("model/*"), *out.glob("checkpoints/*/*"), out / "metrics.jsonl") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    changed = (out / "model" / "head.safetensors").stat().st_mtime_ns
    main(arguments(tiny_store, pretrained, out))
    assert "is finished (6 steps)" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in files} == before
    assert (out / "model" / "head.safetensors").stat().st_mtime_ns == changed


def test_a_run_goes_on_only_with_the_studies_it_began_with(tiny_store, pretrained, tmp_path):
    """Training and validation studies exchanged, a label changed in place; the same cohort at another place goes on."""
    out = tmp_path / "run"
    main(arguments(tiny_store, pretrained, out, "--steps", "2"))
    other = {"train": "val", "val": "train"}
    swapped = changed_store(tiny_store, tmp_path / "swapped", lambda r: replace(r, split=other.get(r.split, r.split)))
    relabelled = changed_store(
        tiny_store, tmp_path / "relabelled", lambda r: replace(r, labels=("normal",)) if r.study_id == "s0" else r
    )
    for store in (swapped, relabelled):
        with pytest.raises(SystemExit, match="begun with other studies, labels or splits than those of this store"):
            main(arguments(store, pretrained, out, "--steps", "4"))
    moved = changed_store(tiny_store, tmp_path / "moved", lambda record: record)
    main(arguments(moved, pretrained, out, "--steps", "4"))
    assert metrics(out)[-1]["step"] == 4


def test_a_start_that_fails_binds_nothing(tiny_store, pretrained, tmp_path, monkeypatch):
    """The first start dies while it encodes; a label is corrected, and the second begins."""

    def dying(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "make_feed", dying)
        with pytest.raises(KeyboardInterrupt):
            main(arguments(tiny_store, pretrained, tmp_path / "run"))
    corrected = changed_store(
        tiny_store, tmp_path / "store", lambda r: replace(r, labels=("normal",)) if r.study_id == "s0" else r
    )
    main(arguments(corrected, pretrained, tmp_path / "run", "--steps", "1"))
    assert metrics(tmp_path / "run")[-1]["step"] == 1


def test_told_to_stop_a_run_validates_no_more_than_one_never_stopped(tiny_store, pretrained, tmp_path, monkeypatch):
    """SIGTERM in step 2 of 6, with validations at 3 and 6: log and weights are those of the whole run."""
    main(arguments(tiny_store, pretrained, tmp_path / "whole"))
    step, calls = Run.step, []

    def stopping(self, *given):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *given)

    monkeypatch.setattr(Run, "step", stopping)
    assert not main(arguments(tiny_store, pretrained, tmp_path / "cut"))
    assert [row["step"] for row in metrics(tmp_path / "cut")] == [1, 2]
    assert main(arguments(tiny_store, pretrained, tmp_path / "cut"))
    timeless = [[{**row, "seconds": 0} for row in metrics(tmp_path / name)] for name in ("whole", "cut")]
    assert timeless[0] == timeless[1]
    weights = [load_file(tmp_path / name / "model" / "head.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_run_goes_on_only_with_the_settings_it_began_with(tiny_store, pretrained, tmp_path, capsys):
    """Another head, loss or cohort is refused by name and leaves the record as it was; more steps are no other run."""
    out = tmp_path / "run"
    main(arguments(tiny_store, pretrained, out))
    record = (out / "config.yaml").read_text()
    for more, said in (
        (("--head.width", "32"), "head.width 16, now 32"),
        (
            ("--loss.consistency", "0", "--cohort.fraction", "0.5"),
            "cohort.fraction 1.0, now 0.5; loss.consistency 0.5, now 0.0",
        ),
        (("--tuning.encoder", "lora"), "tuning.encoder frozen, now lora"),
    ):
        with pytest.raises(SystemExit, match=re.escape(said)):
            main(arguments(tiny_store, pretrained, out, *more))
    assert (out / "config.yaml").read_text() == record
    capsys.readouterr()
    main(arguments(tiny_store, pretrained, out, "--steps", "8", "--log_every", "2"))
    assert "continuing after step 6" in capsys.readouterr().out


def test_another_encoder_is_refused_in_the_same_run_folder(tiny_store, pretrained, tmp_path):
    out = tmp_path / "run"
    main(arguments(tiny_store, pretrained, out, "--steps", "3"))
    shutil.copytree(pretrained / "model", tmp_path / "other" / "model")
    other = load_pretrained(tmp_path / "other")
    with torch.no_grad():
        other.visual.norm.weight[0] += 1e-3
    other.save(tmp_path / "other" / "model")
    with pytest.raises(SystemExit, match="begun with another encoder"):
        main(arguments(tiny_store, tmp_path / "other", out))


def test_another_tree_in_the_same_folder_is_refused(tiny_store, pretrained, tmp_path):
    out = tmp_path / "run"
    main(arguments(tiny_store, pretrained, out, "--steps", "1"))
    with pytest.raises(
        SystemExit, match=r"holds a model for taxonomy 'brain_mri' .4 . 6 . 16 classes., not 'brain_mri_2level'"
    ):
        main(arguments(tiny_store, pretrained, out, "--taxonomy", "brain_mri_2level"))
