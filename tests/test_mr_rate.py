"""MR-RATE end to end, rehearsed on a simulated copy of its layout: import, prepare, pretrain, ask, score, evaluate, fine-tune, compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import finetune.train
import pretrain.train
from hlip.cli import main
from hlip.files.resources import configs_folder
from hlip.store import Store
from hp2l.diagnoser import load

from .hlip.importing.public.mr_rate_tree import write_tree

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_engine")]

HERE = Path(__file__).parent
ALLOWED = ["--trackers", "[]", "--workers", "0"]


def test_from_zips_to_the_comparison(tmp_path: Path, fresh_engine, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of docs/data/mr_rate.md with tiny models; the trees, the prompts and the protocol are the real ones."""
    store, hlip_run, hp2l_run = tmp_path / "store", tmp_path / "hlip", tmp_path / "hp2l"
    main(["import", "mr-rate", str(write_tree(tmp_path / "set", studies=60)), str(tmp_path / "out"), "--brain"])
    spec = tmp_path / "spec.yaml"
    demo = yaml.safe_load((configs_folder() / "volume" / "demo.yaml").read_text())
    spec.write_text(yaml.safe_dump(demo | {"size": [8, 16, 16], "spacing_mm": [15, 14, 14]}))
    main(["prepare", str(tmp_path / "out/manifest.jsonl"), str(store), "--spec", str(spec), "--workers", "1"])
    prepared = Store(store)
    assert len(prepared) == 61
    assert {record.split for record in prepared.records} == {"train", "val", "test"}

    watched = ["--validation.every", "3", "--validation.taxonomy", "mr_rate"]
    tiny = ["--config", str(HERE / "pretrain" / "tiny.yaml"), *ALLOWED]
    pretrain.train.main([*tiny, "--store", str(store), "--out", str(hlip_run), *watched])
    rows = [json.loads(line) for line in (hlip_run / "metrics.jsonl").read_text().splitlines()]
    assert any("val_auc" in row for row in rows)
    fresh_engine()

    main(["ask", str(hlip_run), "b0", "glioma", "arachnoid cyst", "--store", str(store)])
    assert "glioma" in capsys.readouterr().out
    evaluated = ["--protocol", "mr_rate", "--store", str(store), "--out", str(tmp_path / "evaluation"), "--resamples", "20"]
    main(["evaluate", str(hlip_run), *evaluated])
    tasks = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["tasks"]
    assert tasks["all"]["classes"]["glioma"]["positives"] == 15
    assert "spinal stenosis" in tasks["all"]["left_out"]

    tree = ["--taxonomy", "mr_rate_brain"]
    head = ["--config", "mr_rate", "--config", str(HERE / "finetune" / "tiny.yaml"), "--precision", "no", *ALLOWED, *tree]
    finetune.train.main([*head, "--encoder", str(hlip_run), "--store", str(store), "--out", str(hp2l_run)])
    assert load(hp2l_run).taxonomy.name == "mr_rate_brain"
    fresh_engine()

    tables = [str(tmp_path / name) for name in ("zero_shot.parquet", "hp2l.parquet")]
    main(["score", str(hlip_run), str(store), tables[0], *tree])
    main(["score", str(hp2l_run), str(store), tables[1]])
    main(["compare", *tables, "--store", str(store), "--out", str(tmp_path / "report"), "--resamples", "100"])
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000
    comparison = json.loads((tmp_path / "report" / "comparison.json").read_text())
    assert "glioma" in json.dumps(comparison)
