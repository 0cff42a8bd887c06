"""`accelerate launch`, literally: as a folder, as a module, on two processes, under DeepSpeed; the same losses everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hlip
import hlip.cli

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "pretrain" / "tiny.yaml"
CPU = {"ACCELERATE_USE_CPU": "true"}


def arguments(store: Path, out: Path, *more: str) -> list[str]:
    """Twenty steps with everything that draws: scans, sentences, patches, branches."""
    drops = ["--model.vision.patch_dropout", "0.5", "--model.vision.drop_path", "0.2"]
    rare = ["--save_every", "10", "--validation.every", "20"]
    return [
        "--config",
        str(TINY),
        "--store",
        str(store),
        "--out",
        str(out),
        "--steps",
        "20",
        *drops,
        *rare,
        "--chunk_studies",
        "4",
        *more,
    ]


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def alone(launch, tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, launched as a folder: each batch of 8 in two chunks."""
    out = tmp_path_factory.mktemp("alone") / "run"
    printed = launch(["pretrain", *arguments(tiny_store, out)], **CPU)
    assert "1 process(es)" in printed
    assert len(losses(out)) == 20
    return out


def same_run(run: Path, alone: Path) -> None:
    """Losses of all steps to 1e-5, the measures on validation, and the weights."""
    assert losses(run) == pytest.approx(losses(alone), abs=1e-5)
    one, other = (json.loads((path / "metrics.jsonl").read_text().splitlines()[-1]) for path in (run, alone))
    names = [name for name in other if name.startswith("val_")]
    assert names
    assert [one[name] for name in names] == pytest.approx([other[name] for name in names], abs=1e-5)
    expected = hlip.load(alone).state_dict()
    for name, value in hlip.load(run).state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_two_processes_equal_one(launch, tiny_store, tmp_path, alone):
    """As a module, which an installed package is launched as."""
    printed = launch(["--multi_gpu", "--num_processes", "2", "-m", "pretrain", *arguments(tiny_store, tmp_path / "run")], **CPU)
    assert "2 process(es)" in printed
    same_run(tmp_path / "run", alone)


def test_deepspeed_zero_2_on_two_processes_equals_one(launch, tiny_store, tmp_path, alone):
    file = ROOT / "configs" / "accelerate" / "cpu_2_zero2.yaml"
    printed = launch(["--config_file", str(file), "pretrain", *arguments(tiny_store, tmp_path / "run")])
    assert "2 process(es)" in printed
    same_run(tmp_path / "run", alone)


@pytest.mark.slow  # one process resumed, and two processes, are each held by other tests
def test_a_checkpoint_of_one_process_goes_on_with_two(launch, tiny_store, tmp_path, alone):
    state = alone / "checkpoints" / "step-000000010"
    run = ["pretrain", *arguments(tiny_store, tmp_path / "run", "--resume", str(state), "--log_every", "1")]
    printed = launch(["--multi_gpu", "--num_processes", "2", *run], **CPU)
    assert "continuing after step 10" in printed
    assert losses(tmp_path / "run") == pytest.approx(losses(alone)[10:], abs=1e-5)


@pytest.mark.slow  # four launches; tests/pretrain/test_step.py holds chunks, two processes are held above
@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_chunks_on_two_processes_equal_one_pass(launch, tiny_store, tmp_path, engine):
    """Two chunks a process against whole batches; without stochastic depth, whose draws belong to a chunk."""
    plain = ["--model.vision.drop_path", "0.0"]
    launch(["pretrain", *arguments(tiny_store, tmp_path / "whole", *plain, "--chunk_studies", "0")], **CPU)
    cut = ["pretrain", *arguments(tiny_store, tmp_path / "cut", *plain, "--chunk_studies", "2")]
    if engine == "ddp":
        launch(["--multi_gpu", "--num_processes", "2", *cut], **CPU)
    else:
        launch(["--config_file", str(ROOT / "configs" / "accelerate" / "cpu_2_zero2.yaml"), *cut])
    assert len(losses(tmp_path / "cut")) == 20
    same_run(tmp_path / "cut", tmp_path / "whole")


def test_finetune_and_compare_from_a_pretrained_run(launch, tiny_store, tmp_path, alone, capsys):
    """The second half of the journey, as commands."""
    pretrained, tuned, out = alone, tmp_path / "tuned", tmp_path / "report"
    tiny = ROOT / "tests" / "finetune" / "tiny.yaml"
    more = ["--config", str(tiny), "--store", str(tiny_store), "--encoder", str(pretrained), "--out", str(tuned)]
    launch(["finetune", *more], **CPU)
    hlip_command = str(Path(sys.executable).with_name("hlip"))
    where = ["--store", str(tiny_store), "--out", str(out)]
    command = [hlip_command, "compare", str(pretrained), str(tuned), *where, "--resamples", "100"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    comparison = json.loads((out / "comparison.json").read_text())
    assert set(comparison["levels"]) == {"1", "2", "3"}
    for method in ("zero_shot", "fine_tuned"):
        value = comparison["levels"]["1"][method]["balanced_accuracy"]
        assert set(value) >= {"value", "low", "high"}
    assert comparison["simulated"] is True
    assert (out / "index.html").stat().st_size > 10_000
    table = ran.stdout.partition("\nreport:")[0].partition("Held-out")[2]
    hlip.cli.main(command[1:])
    again = capsys.readouterr().out
    assert "from before" in again
    assert again.partition("\nreport:")[0].partition("Held-out")[2] == table
