"""Parity of the dual loss, the defaults, the zero-shot metrics and the preparation of volumes with the official code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from hlip.files.resources import names
from hlip.inference.protocol import Protocol, ProtocolClass, Task, evaluate_protocol
from hlip.loss import LossConfig, dual_contrastive_loss
from hlip.model import HLIP
from hlip.scans.scan import LoadedScan
from hlip.training.optimizer import OptimizerConfig
from hlip.vision import MEAN, STD
from hlip.volume import VolumeSpec, fitting, prepare_volume, resample
from hlip.zeroshot import PromptSet

from .golden import close, described, each

# --- the dual loss ---

LEAVES = {
    "study": "image_features",
    "sentence": "text_features_sentence",
    "report": "text_features_report",
    "sentence_scale": "logit_scale",
    "report_scale": "logit_bias",
}
INPUTS = {"sentence_scale": "logit_scale_log", "report_scale": "logit_bias_log_report_scale"}


@each("loss")
def test_dual_loss(file):
    """Losses and gradients; accumulation changes neither, but multiplies the official temperatures' gradients by its count."""
    golden, notes = load_file(file), described(file)
    cases = {key.split(".")[0] for key in golden if ".grad." in key}
    assert cases == {case for case, values in notes.items() if isinstance(values, dict)}
    for case in sorted(cases):
        single = f"{case}.grad.text_features_report" not in golden
        leaves = {name: golden[f"in.{INPUTS.get(name, key)}"].clone().requires_grad_() for name, key in LEAVES.items()}
        parts = {name: value.exp().reshape(1) if "scale" in name else value for name, value in leaves.items()}
        if single:
            parts["study"] = parts["study"][:, :1]
        losses = dual_contrastive_loss(parts, LossConfig(1.0, 0.0) if single else LossConfig())
        numbers = {"train/loss": losses.total, "train/loss_sentence": losses.sentence}
        numbers |= {"train/scale (sentence)": parts["sentence_scale"]}
        if not single:
            numbers |= {"train/loss_report": losses.report, "train/scale (report)": parts["report_scale"]}
        for key, value in numbers.items():
            assert value.item() == pytest.approx(notes[case][key], abs=1e-5), f"{case}: {key}"
        losses.total.backward()
        times = int(case.partition("freq")[2] or 1)
        for name, key in LEAVES.items():
            if f"{case}.grad.{key}" in golden:
                expected = golden[f"{case}.grad.{key}"] / (times if "scale" in name else 1)
                gradient = leaves[name].grad
                close(gradient[:, : expected.shape[1]] if name == "study" else gradient, expected, f"{case}: {key}")


@each("loss")
def test_clamped_temperatures(file):
    clamped = {key: value for key, value in described(file).items() if key.startswith("clamp from ")}
    assert clamped
    for key, expected in clamped.items():
        start = [torch.tensor([float(part.split("=")[1])]) for part in key.removeprefix("clamp from ").split(", ")]
        model = SimpleNamespace(logit_scale_sentence=start[0], logit_scale_report=start[1])
        HLIP.clamp_temperatures(model)  # type: ignore[arg-type]
        assert [scale.item() for scale in start] == pytest.approx(expected, abs=1e-6)


@each("defaults")
def test_defaults_of_the_optimizer(file):
    """Ours are the official defaults, but for what the published brain-MRI recipe sets itself."""
    listed = json.loads(file.read_text())
    defaults, ours = listed["all_hlip"] | listed["hlip_default_params"], OptimizerConfig()
    recipe = {"lr": 3e-4, "beta2": 0.95, "warmup": 1600}
    expected = {key: defaults[key] for key in ("lr", "beta1", "beta2", "eps", "wd", "warmup")} | recipe
    made = {"lr": ours.lr, "beta1": ours.betas[0], "beta2": ours.betas[1], "eps": ours.eps, "wd": ours.weight_decay}
    assert made | {"warmup": ours.warmup_steps} == expected


# --- zero-shot metrics ---


def protocol_of(expected: dict[str, float | None], classes: int) -> Protocol:
    """The built-in protocol whose classes the metrics name; else one AUC for each class, whatever their names."""
    if any("pubbrain5_" in key for key in expected):
        return Protocol.load("pub_brain_5")
    named = {key.removeprefix("auc (").rstrip(")").lower() for key in expected}
    for name in names("protocol"):
        protocol = Protocol.load(name)
        phrases = {entry.phrase for entry in protocol.classes}
        same_tasks = [task.kind for task in protocol.tasks] == ["each"]
        if len(protocol.classes) == classes and same_tasks and len(named - phrases) == 1:
            return protocol
    columns = tuple(f"class {k}" for k in range(classes))
    prompts = PromptSet("golden", "", ("{c}",))
    return Protocol("golden", prompts, tuple(map(ProtocolClass, columns)), (Task("all", "each", columns),))


def place_of(key: str, found: dict[str, dict[str, Any]], protocol: Protocol) -> float | None:
    """Our number for an official `metric (name)`."""
    metric, _, name = key.rstrip(")").partition(" (")
    metric = {"balanced_acc": "balanced_accuracy"}.get(metric, metric)
    if name.startswith("pubbrain5_"):
        task, _, column = name.removeprefix("pubbrain5_").partition("_")
        entry = found[task]["classes"][column.capitalize()] if column else found[task]
    else:
        column_of = {entry.phrase: entry.name for entry in protocol.classes}
        entry = found["all"]["classes"][column_of[name.lower()]] if name.lower() in column_of else found["all"]
    if metric != "auc" and entry.get("left_out") and entry["accuracies_of"] == "mean":
        # the official mean counts a class that no study has; ours leaves it out, so theirs is made of our classes' numbers
        return float(np.mean([part[metric] for part in entry["classes"].values()]))
    value = entry[metric]
    return value["value"] if isinstance(value, dict) else value


@each("metrics")
def test_zero_shot_metrics(file):
    """Every metric of every case. Where a class has no study, the official means hide or lose it; ours name what is left out."""
    golden, expected = load_file(file), described(file)
    assert {key.split(".")[0] for key in golden} == set(expected)
    for case, metrics in expected.items():
        logits, targets = golden[f"{case}.logits"].numpy(), golden[f"{case}.target"].numpy()
        protocol = protocol_of(metrics, logits.shape[1])
        found = evaluate_protocol(protocol, logits, targets, [str(n) for n in range(len(logits))], resamples=20)
        for task in found.values():
            assert math.isnan(task["auc"]["value"]) or task["auc"]["low"] < task["auc"]["value"] < task["auc"]["high"]
        absent = [entry.name for k, entry in enumerate(protocol.classes) if not targets[:, k].any()]
        left_out = 0
        for key, value in metrics.items():
            actual = place_of(key, found, protocol)
            if value is None:
                assert absent, f"{case}: {key}"
                left_out += 1
            else:
                assert actual == pytest.approx(value, abs=1e-5), f"{case}: {key}"
        assert bool(left_out) <= bool(absent)
        assert all(set(absent) & set(task.classes) <= set(found[task.name]["left_out"]) for task in protocol.tasks)
        assert left_out < len(metrics) / 5


# --- preparation ---


def unrounded(monkeypatch) -> None:
    """Keep what is stored as uint8 in float32, so that the arithmetic before it can be held to 1e-5."""
    monkeypatch.setattr(fitting, "_bytes", lambda values: values)


def scan_of(hu: np.ndarray, spacing: tuple[float, float, float]) -> LoadedScan:
    """(d, h, w) in RPI order with a spacing (d, h, w) in mm."""
    d, h, w = spacing
    return LoadedScan(hu.transpose(2, 1, 0).astype(np.float32), np.diag([w, -h, -d, 1.0]), Path("scan.nii.gz"))


@each("square")
def test_square_preparation(file, monkeypatch):
    """Through the front door, unrounded; the golden values are float16."""
    golden, spec = load_file(file), VolumeSpec.load("mri").as_dict() | {"percentiles": (0, 100)}
    unrounded(monkeypatch)
    cases = [key for key in golden if ".in." in key]
    assert cases
    for key in cases:
        wanted = golden[key.replace(".in.", ".out_sub.")].numpy()
        [volume] = prepare_volume(scan_of(golden[key].numpy(), (5.0, 1.0, 1.0)), VolumeSpec.from_dict(spec))
        made = (volume.voxels[::5, 3::13, 5::11] / 255 - MEAN) / STD
        half_step = np.spacing(np.abs(wanted)).astype(np.float32) / 2
        assert (np.abs(made - wanted.astype(np.float32)) <= half_step + 1e-5).all(), key


CHEST_FORMULA = "HU[d,h,w] = ((d*131 + h*17 + w*29 + (d*h*w) % 797) % 2400) - 1400, float32"


@each("chest ct")
def test_chest_ct_preparation(file, monkeypatch):
    golden, notes = load_file(file), described(file)
    assert notes["volume_formula"] == CHEST_FORMULA
    assert notes["subsample"] == "out[0,0,::9,5::23,2::19]"
    unrounded(monkeypatch)
    spec = VolumeSpec.load("chest_ct")
    for key, wanted in golden.items():
        size, _, way = key.partition(".")
        shape = tuple(int(count) for count in size.split("x"))
        d, h, w = np.ogrid[: shape[0], : shape[1], : shape[2]]
        hu = ((d * 131 + h * 17 + w * 29 + (d * h * w) % 797) % 2400 - 1400).astype(np.float32)
        if way == "crop":
            [volume] = prepare_volume(scan_of(hu, (3.0, 1.0, 1.0)), spec)
            made = (volume.voxels / 255 - MEAN) / STD
        else:
            made = stretched(hu, spec.size)
        assert list(made.shape) == notes["output_shape"][2:]
        close(torch.from_numpy(made[::9, 5::23, 2::19].astype(np.float32)), wanted, key)
        for name, value in (("mean", made.mean(dtype=np.float64)), ("std", made.std(dtype=np.float64))):
            assert value == pytest.approx(notes["cases"][key][name], abs=1e-5), f"{key}: {name}"
        assert [made.min(), made.max()] == pytest.approx([notes["cases"][key][name] for name in ("min", "max")], abs=1e-5)


def stretched(hu: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """The other official way, which no spec of ours takes. Its float32 coordinates cost torch more than 1e-5 here, so our arithmetic is
    held to torch's in float64, and torch's in float32 is returned."""
    windowed = torch.from_numpy(np.clip((hu + 1150) / 1500, 0, 1))[None, None]
    rows = [resample.linear_matrix(n, m, n / m, n / m / 2 - 0.5) for n, m in zip(hu.shape, size, strict=True)]
    ours = torch.from_numpy(resample.apply(windowed[0, 0].numpy(), rows))
    close(
        (ours - MEAN) / STD,
        ((F.interpolate(windowed.double(), size, mode="trilinear")[0, 0] - MEAN) / STD).float(),
        "stretched",
    )
    return ((F.interpolate(windowed, size, mode="trilinear")[0, 0] - MEAN) / STD).numpy()
