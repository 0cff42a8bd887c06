"""The encoder benchmark runs, counts FLOPs rightly, and refuses to time wrong results."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "encoder.py"


@pytest.fixture(scope="module")
def encoder() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_encoder", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_script_as_a_user_runs_it(tmp_path):
    options = ["--size", "tiny", "--repeats", "1", "--threads", "1", "--device", "cpu", "--json", str(tmp_path / "out.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *options], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["packed_equals_alone"] <= 1e-5
    assert [sum(case["counts"]) for case in report["cases"]] == [2] * 4 + [17, 32] * 2
    for case in report["cases"]:
        assert case["seconds"] > 0
        assert 0.05 < case["peak_gb"] < 4
    mixed = report["cases"][4:6]
    ratio = mixed[1]["seconds"] / mixed[0]["seconds"]
    assert report["packing"]["forward"]["ratio"] == pytest.approx(ratio)
    assert f"{ratio:.2f} x" in ran.stdout


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("scopes", [["scan", "study"], ["slice", "scan", "study"]])
def test_model_flops_are_those_that_torch_counts(encoder, dropout, scopes):
    machine = encoder.Machine("tiny", "cpu", 1)
    model = encoder.build(machine, dropout)
    config = replace(model.config, scopes=scopes)
    model = encoder.StudyEncoder(config).train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(encoder.scans(machine, (1, 3)), (1, 3))
    # CPU attention is counted by no rule of torch's, so the rest is compared and attention by its own sum
    tokens = 4 * 4 * 4 * (1 - dropout)
    groups = {"slice": [2 + tokens / 4] * 16, "scan": [2 + tokens] * 4, "study": [2 + tokens, 2 + 3 * tokens]}
    attention = sum(4 * size**2 * config.width for scope in scopes for size in groups[scope])
    counted = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    expected = encoder.model_flops(config, (1, 3))
    without = sum(flops for name, flops in counted.items() if "attention" not in name)
    assert without == pytest.approx(expected - attention)


def test_scans_are_repeated_in_turn(encoder):
    machine = encoder.Machine("tiny", "cpu", 1)
    own, repeated = encoder.scans(machine, (1, 3)), encoder.scans(machine, (4, 4), repeated=(1, 3))
    assert torch.equal(repeated, own[[0, 0, 0, 0, 1, 2, 3, 1]])


def test_wrong_results_are_not_timed(encoder, monkeypatch):
    monkeypatch.setattr(encoder, "fresh", lambda *_: 1e-3)
    with pytest.raises(SystemExit, match="differs from each study alone"):
        encoder.main(["--size", "tiny", "--device", "cpu"])


def test_the_largest_difference_sees_attention_across_studies(encoder, monkeypatch):
    machine = encoder.Machine("tiny", "cpu", 1)
    assert encoder.largest_difference(machine) < 1e-5
    monkeypatch.setattr(
        "hlip.attention.stretches_attention", lambda q, k, v, _: torch.nn.functional.scaled_dot_product_attention(q, k, v)
    )
    assert encoder.largest_difference(machine) > 1e-3
