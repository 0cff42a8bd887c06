"""`accelerate launch`, literally: as a folder, as a module, on two processes, under DeepSpeed; the same losses everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hlip

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "pretrain" / "tiny.yaml"
CPU = {"ACCELERATE_USE_CPU": "true"}


def arguments(store: Path, out: Path) -> list[str]:
    return ["--config", str(TINY), "--store", str(store), "--out", str(out), "--steps", "3"]


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def alone(launch, tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of one process, launched as a folder."""
    out = tmp_path_factory.mktemp("alone") / "run"
    printed = launch(["pretrain", *arguments(tiny_store, out)], **CPU)
    assert "1 process(es)" in printed
    return losses(out)


def test_as_a_module(launch, tiny_store, tmp_path, alone):
    launch(["-m", "pretrain", *arguments(tiny_store, tmp_path / "run")], **CPU)
    assert losses(tmp_path / "run") == alone


def test_two_processes_equal_one(launch, tiny_store, tmp_path, alone):
    printed = launch(["--multi_gpu", "--num_processes", "2", "pretrain", *arguments(tiny_store, tmp_path / "run")], **CPU)
    assert "2 process(es)" in printed
    assert losses(tmp_path / "run") == pytest.approx(alone, abs=1e-5)


def test_deepspeed_zero_2_on_two_processes_equals_one(launch, tiny_store, tmp_path, alone):
    file = ROOT / "configs" / "accelerate" / "cpu_2_zero2.yaml"
    printed = launch(["--config_file", str(file), "pretrain", *arguments(tiny_store, tmp_path / "run")])
    assert "2 process(es)" in printed
    assert losses(tmp_path / "run") == pytest.approx(alone, abs=1e-4)
    assert hlip.load(tmp_path / "run").facts["step"] == 3


def test_finetune_and_compare_from_a_pretrained_run(launch, tiny_store, tmp_path):
    """The second half of the journey, as commands."""
    pretrained, tuned, out = tmp_path / "pretrained", tmp_path / "tuned", tmp_path / "report"
    launch(["pretrain", *arguments(tiny_store, pretrained)], **CPU)
    tiny = ROOT / "tests" / "finetune" / "tiny.yaml"
    more = ["--config", str(tiny), "--store", str(tiny_store), "--encoder", str(pretrained), "--out", str(tuned)]
    launch(["finetune", *more], **CPU)
    hlip_command = str(Path(sys.executable).with_name("hlip"))
    command = [hlip_command, "compare", str(pretrained), str(tuned), str(tiny_store), str(out), "--resamples", "50"]
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
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "from before" in again.stdout
    assert again.stdout.partition("\nreport:")[0].partition("Held-out")[2] == table
    changed = subprocess.run([*command, "--seed", "1"], capture_output=True, text=True, check=False)
    assert changed.returncode == 0
    assert "from before" not in changed.stdout
