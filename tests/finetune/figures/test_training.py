"""The run's picture: its curves are the log's, the best step is the run's own choice, and it never costs a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import finetune.figures.training
import finetune.train
from finetune.figures.training import best_step, draw_run, draw_runs, draw_safely, mean_of
from finetune.train import main
from hp2l.diagnoser import load

TINY = Path(__file__).parents[1] / "tiny.yaml"


def log(folder: Path, shift: float = 0.0, steps: int = 4) -> Path:
    """A run of two levels with two validations; one more loss of the head's own."""
    rows = []
    for step in range(1, steps + 1):
        losses = {
            "loss": 2.0 / step + shift,
            "bce_1": 1.0 / step,
            "bce_2": 0.5 / step + shift,
            "consistency": 0.1,
            "distance": 0.2,
        }
        rows.append({"step": step, "seconds": 1.0, **losses, "lr": 1e-3})
        if step % 2 == 0:
            rows.append(
                {
                    "step": step,
                    "seconds": 1.0,
                    "val_auc_level_1": 0.8 + shift,
                    "val_auc_level_2": 0.6,
                    "val_auc": 0.7 + shift / 2,
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Figures as they are saved."""
    figures, save = [], finetune.figures.training.save_figure

    def keep(figure, path):
        figures.append(figure)
        return save(figure, path)

    monkeypatch.setattr(finetune.figures.training, "save_figure", keep)
    return figures


def panel(figure: Figure, title: str):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(title))


def curves(axes) -> dict[str, list[list[float]]]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines if not line.get_label().startswith("_")}


def test_every_measure_of_the_log_is_in_its_panel(tmp_path, drawn):
    assert draw_run(log(tmp_path / "run")).read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert curves(panel(figure, "loss by level")) == {
        "level 1": [[step, 1.0 / step] for step in range(1, 5)],
        "level 2": [[step, 0.5 / step] for step in range(1, 5)],
    }
    assert curves(panel(figure, "loss, weighted"))["loss"] == [[step, 2.0 / step] for step in range(1, 5)]
    assert set(curves(panel(figure, "consistency and"))) == {"consistency", "distance"}
    assert curves(panel(figure, "learning rate"))["lr"] == [[step, 1e-3] for step in range(1, 5)]
    areas = curves(panel(figure, "validation AUC"))
    assert areas == {
        "level 1": [[2, 0.8], [4, 0.8]],
        "level 2": [[2, 0.6], [4, 0.6]],
        "mean of the levels": [[2, 0.7], [4, 0.7]],
    }
    colours = [
        {line.get_label(): line.get_color() for line in panel(figure, title).lines} for title in ("loss by", "validation")
    ]
    assert colours[0]["level 2"] == colours[1]["level 2"] != colours[0]["level 1"]


def test_the_best_step_is_marked_the_first_of_equals(tmp_path, drawn):
    draw_run(log(tmp_path / "run"))
    axes = panel(drawn[0], "validation AUC: best mean 0.700 at step 2")
    marks = [line.get_xydata()[:, 0].tolist() for line in axes.lines if line.get_label().startswith("_")]
    assert marks == [[2, 2], [2]]
    assert best_step([{"step": 1, "val_auc": 0.5}, {"step": 5, "val_auc": 0.9}, {"step": 9, "val_auc": 0.8}]) == (5, 0.9)
    assert best_step([{"step": 1, "loss": 2.0}]) is None


def test_a_run_without_validation_yet_is_drawn(tmp_path, drawn):
    draw_run(log(tmp_path / "run", steps=1))
    assert panel(drawn[0], "validation AUC").get_title(loc="left") == "validation AUC"
    assert curves(panel(drawn[0], "loss by level"))["level 1"] == [[1, 1.0]]


def test_a_run_whose_validations_have_no_auc_says_so(tmp_path, drawn):
    rows = [{"step": step, "seconds": 1.0, "val_auc_level_1": None, "val_auc": None} for step in (2, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_run(tmp_path)
    axes = panel(drawn[0], "validation AUC")
    assert axes.get_title(loc="left") == "validation AUC: not defined"
    assert not axes.lines
    assert best_step([*rows, {"step": 6, "val_auc": 0.5}]) == (6, 0.5)


def test_several_runs_are_thin_lines_and_their_mean_over_common_steps(tmp_path, drawn):
    runs = [log(tmp_path / "seed_0"), log(tmp_path / "seed_1", shift=0.1), log(tmp_path / "seed_2", shift=0.2, steps=3)]
    assert draw_runs(tmp_path, runs) == tmp_path / "training.png"
    axes = panel(drawn[0], "loss by level")
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    assert len(thin) == 2 * 3
    assert thin[-1].get_xydata().tolist() == [[step, pytest.approx(0.5 / step + 0.2)] for step in (1, 2, 3)]
    assert {line.get_marker() for line in axes.lines} == {"None"}
    mean = curves(axes)["level 2"]
    assert mean == [[step, pytest.approx(0.5 / step + 0.1)] for step in (1, 2, 3)]  # the third run ended there
    rings = panel(drawn[0], "validation AUC of 3 runs").lines[-1].get_xydata().tolist()
    assert rings == [[2, pytest.approx(0.7 + shift / 2)] for shift in (0.0, 0.1, 0.2)]
    assert mean_of([[{"step": 1, "a": 1.0}], [{"step": 1, "b": 1.0}]], "a") == []
    draw_runs(tmp_path, [log(tmp_path / "seed_0", steps=1), log(tmp_path / "seed_1", steps=1)])
    assert {line.get_marker() for line in panel(drawn[1], "loss, weighted").lines} == {"."}


def test_what_goes_wrong_with_a_picture_is_said(tmp_path):
    said = []
    draw_safely(lambda: draw_run(tmp_path / "absent"), said.append)
    assert len(said) == 1
    assert "training.png was not drawn" in said[0]
    with pytest.raises(KeyboardInterrupt):
        draw_safely(lambda: (_ for _ in ()).throw(KeyboardInterrupt()), said.append)


@pytest.mark.usefixtures("fresh_engine")
def test_a_run_draws_at_every_validation_and_outlives_a_broken_picture(
    tiny_store, tiny_pretrained, tmp_path, monkeypatch, capsys
):
    drawn = []

    def broken(out):
        drawn.append(finetune.figures.training.read_log(out)[-1]["step"])
        if len(drawn) == 2:
            raise OSError("no space left")
        return draw_run(out)

    monkeypatch.setattr(finetune.train, "draw_run", broken)
    monkeypatch.setattr(finetune.train, "draw_movement", lambda *more: [][0])
    out = tmp_path / "run"
    more = ["--steps", "5", "--validate_every", "2", "--trackers", "[]"]
    main(["--config", str(TINY), "--store", str(tiny_store), "--encoder", str(tiny_pretrained), "--out", str(out), *more])
    assert drawn == [2, 4, 5]  # the validation's own line is in the picture
    said = capsys.readouterr().out
    assert "training.png was not drawn: no space left" in said
    assert "prototypes.png was not drawn: list index out of range" in said
    assert (out / "training.png").stat().st_size > 10_000
    assert load(out).facts["val_auc"] > 0
