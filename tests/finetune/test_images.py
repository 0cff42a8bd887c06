"""The leukemia setting: from a folder of images to a diagnosis and its picture, with several heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import hlip.cli
from finetune.train import main
from hlip.files.resources import configs_folder
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import load

pytestmark = pytest.mark.usefixtures("fresh_engine")

CLASSES = ["normal", "reactive", "ALL", "AML", "CLL"]


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small images of twenty patients, a class known by the colour of its one cell."""
    folder, draws = tmp_path_factory.mktemp("smears"), np.random.default_rng(0)
    colours = {
        "normal": (250, 40, 40),
        "reactive": (40, 250, 40),
        "ALL": (40, 40, 250),
        "AML": (250, 250, 40),
        "CLL": (40, 250, 250),
    }
    for number in range(60):
        patient = number // 3
        name = CLASSES[patient % 5]
        pixels = draws.integers(100, 140, (40, 48, 3), dtype=np.uint8)
        top, left = draws.integers(0, 20, 2)
        pixels[top : top + 16, left : left + 16] = colours[name]
        path = folder / "images" / name / f"patient_{patient}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    spec = yaml.safe_load((configs_folder() / "volume" / "image.yaml").read_text()) | {"size": [1, 32, 32], "resize": [32, 32]}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    splits = ["--splits", "0.6", "0.2", "0.2", "--taxonomy", "leukemia"]
    hlip.cli.main(["import", "images", str(folder / "images"), str(folder / "manifest.jsonl"), *splits])
    arguments = ["--spec", str(folder / "spec.yaml"), "--workers", "1"]
    hlip.cli.main(["prepare", str(folder / "manifest.jsonl"), str(folder / "store"), *arguments])
    return folder


def test_a_folder_becomes_a_store_by_patient(smears):
    store = Store(smears / "store")
    assert len(store) == 60
    assert store.volumes(store.study_ids[0]).shape == (3, 1, 1, 32, 32)
    assert {record.sequences for record in store.records} == {("red", "green", "blue")}
    splits: dict[str, set[str | None]] = {}
    for record in store.records:
        splits.setdefault(record.patient_id, set()).add(record.split)
    assert len(splits) == 20
    assert all(len(found) == 1 for found in splits.values())
    tree = Taxonomy.load("leukemia")
    assert {record.labels for record in store.records} == {(tree.meant_by(name),) for name in CLASSES}
    assert ("acute lymphoblastic leukemia",) in {record.labels for record in store.records}  # the folder is called ALL


@pytest.mark.parametrize("kind", ["hp2l", "cascade", "isolated"])
def test_it_learns_and_is_looked_at(kind, smears, tmp_path, capsys):
    out = tmp_path / "run"
    own = ["--image.name", "convnext_atto", "--image.pretrained", "false", "--head.blocks", "[1, 1, 1]", "--head.width", "32"]
    own += [
        "--head.heads",
        "2",
        "--steps",
        "60",
        "--batch_size",
        "18",
        "--validate_every",
        "30",
        "--optimizer.lr",
        "3e-3",
        "--trackers",
        "[]",
    ]
    own += [
        "--tuning.lr_scale",
        "1.0",
        "--optimizer.warmup_steps",
        "10",
        "--workers",
        "0",
        "--precision",
        "no",
        "--head.kind",
        kind,
    ]
    main(["--config", "leukemia", *own, "--store", str(smears / "store"), "--out", str(out)])
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    model = load(out)
    assert model.encoder.kind == "image"
    image = sorted((smears / "images" / "ALL").rglob("*.png"))[0]
    hlip.cli.main(["diagnose", str(out), str(image), "--out", str(tmp_path / "looked"), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "Grad-CAM" in printed or "grad_cam" in printed
    assert (tmp_path / "looked" / "image.png").stat().st_size > 5000
    assert (tmp_path / "looked" / "levels.png").stat().st_size > 5000
    for level in range(1, model.taxonomy.depth + 1):  # in the image's own pixels, which fill less than the prepared square
        stem = f"level_{level}_grad_cam"
        assert np.load(tmp_path / "looked" / f"{stem}.npy").shape == (40, 48)
        assert Image.open(tmp_path / "looked" / f"{stem}.png").size == (48, 40)
