"""`accelerate launch finetune` on two processes and under DeepSpeed: the same losses, scores and weights as on one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hp2l.diagnoser import load

ROOT = Path(__file__).parents[2]
CPU = {"ACCELERATE_USE_CPU": "true"}
ENGINES = {
    "ddp": ["--multi_gpu", "--num_processes", "2"],
    "zero2": ["--config_file", str(ROOT / "configs" / "accelerate" / "cpu_2_zero2.yaml")],
}
CASES = {
    "frozen": [],
    "all": ["--tuning.encoder", "all", "--workers", "1"],
    "lora": ["--tuning.encoder", "lora", "--workers", "0"],
    "cnn": ["--encoder", "cnn", "--cnn.channels", "[T1]", "--cnn.width", "64", "--tuning.encoder", "all", "--workers", "0"],
}


def arguments(case: str, store: Path, encoder: Path, out: Path) -> list[str]:
    files = ["--config", str(Path(__file__).with_name("tiny.yaml")), "--store", str(store), "--out", str(out)]
    return ["finetune", *files, "--encoder", str(encoder), "--trackers", "[]", *CASES[case]]


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(
    launch: Callable[..., str], tiny_store: Path, tiny_pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The run of one process of a case, made once."""
    made: dict[str, Path] = {}

    def run(case: str) -> Path:
        if case not in made:
            made[case] = tmp_path_factory.mktemp(case) / "run"
            launch(arguments(case, tiny_store, tiny_pretrained, made[case]), **CPU)
        return made[case]

    return run


SLOW = pytest.mark.slow
PAIRS = [
    pytest.param("all", "ddp", marks=SLOW),
    pytest.param("cnn", "zero2", marks=SLOW),
    pytest.param("lora", "ddp", marks=SLOW),
    pytest.param("cnn", "ddp", marks=SLOW),
]


@pytest.mark.parametrize(("case", "engine"), PAIRS)
def test_two_processes_equal_one(case, engine, launch, alone, tiny_store, tiny_pretrained, tmp_path):
    one, two = alone(case), tmp_path / "two"
    environment = CPU if engine == "ddp" else {}
    launch([*ENGINES[engine], *arguments(case, tiny_store, tiny_pretrained, two)], **environment)
    same_run(two, one)


def same_run(two: Path, one: Path) -> None:
    """Losses and validation to 1e-5, and the weights."""
    for ours, theirs in zip(log(two), log(one), strict=True):
        for name in theirs.keys() - {"seconds"}:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5), (ours["step"], name)
    expected = load(one).state_dict()
    for name, value in load(two).state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("engine", [pytest.param("ddp", marks=SLOW), "zero2"])
def test_several_runs_on_two_processes(engine, launch, alone, tiny_store, tiny_pretrained, tmp_path):
    """The first is the run of one process; the second meets the processes of the first, and its words are printed once."""
    words = arguments("frozen", tiny_store, tiny_pretrained, tmp_path / "runs")
    printed = launch([*ENGINES[engine], *words, "--seeds", "2"], **(CPU if engine == "ddp" else {}))
    assert printed.count("run 2 of 2") == 1
    assert json.loads((tmp_path / "runs" / "summary.json").read_text())["over"] == "seeds"
    same_run(tmp_path / "runs" / "seed_0", alone("frozen"))
