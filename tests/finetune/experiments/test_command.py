"""The command: each run once, and a page that can be made again."""

from __future__ import annotations

import json

import pytest

from finetune.experiments import measures, training

from .small import QUICK, TINY, command, write_experiment

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")


def test_the_command_trains_each_run_once_and_writes_its_page(tiny_store, encoder, tmp_path, monkeypatch, capsys):
    rows = " - {name: hp2l, label: HP2L, published: {bacc_3: 88.43}}\n - {name: d, label: Flat, depth: 1, published: {bacc_3: 74.23}}\n"
    one = write_experiment(tmp_path / "one.yaml", rows)
    two = write_experiment(tmp_path / "two.yaml", " - {name: hp2l, label: Again}\n")
    out = tmp_path / "out"
    words = [encoder, tiny_store, out, "--config", TINY, "--seeds", 2, *QUICK, "--only", one, two]
    command(*words, "--plan")
    assert not out.exists()
    assert capsys.readouterr().out.splitlines()[-1] == "4 of 4 runs are left"
    command(*words)
    said = capsys.readouterr().out
    assert "2 of them distinct" in said
    assert "run 4 of 4" in said
    folders = sorted((out / "runs").glob("*/seed_*"))
    assert len(folders) == 4
    assert all((folder / "result.json").is_file() and not (folder / "checkpoints").exists() for folder in folders)
    assert sorted(path.name.split("-")[0] for path in (out / "tokens").iterdir()) == ["test", "train", "val"]
    page = (out / "index.html").read_text()
    assert "SIMULATED" in page
    assert "88.43" in page
    assert "http" not in page.replace("http://www.w3.org", "")

    command(*words, "--plan")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].endswith("HP2L  2 of 2 seeds there  one, two")
    assert lines[-2].endswith("Flat  2 of 2 seeds there  one")
    assert lines[-1] == "0 of 4 runs are left"
    monkeypatch.setattr(training, "finetune", lambda argv, watched: pytest.fail("trained again"))
    monkeypatch.setattr(measures, "MINIMUM", 1)  # two studies a class
    command(*words)
    results = json.loads((out / "results.json").read_text())
    hp2l, flat = results["experiments"][0]["variants"]
    assert len(hp2l["measures"]["bacc_3"]["seeds"]) == 2
    assert 0 <= hp2l["measures"]["bacc_3"]["low"] <= hp2l["measures"]["bacc_3"]["high"] <= 1
    assert "recovery" in hp2l["measures"]
    assert "recovery" not in flat["measures"]
    assert set(flat["difference"]) == {"auc_3", "bacc_3", "distance", "wrong_last"}
    assert results["experiments"][0]["order"]["bacc_3"]["published"] == ["HP2L", "Flat"]
    assert "| HP2L |" in (out / "results.md").read_text()


def test_another_call_adds_to_the_page_and_says_its_overrides(tiny_store, encoder, tmp_path, capsys):
    out = tmp_path / "out"
    words = [encoder, tiny_store, out, "--config", TINY, "--seeds", 1, *QUICK, "--steps", 2]
    words += ["--taxonomy", "brain_mri", "--override", "head.momentum=0.5", "head.dropout=0.1", "--only"]
    command(*words, "prompt_update", "taxonomy")
    assert "Left out of 'Another tree'" in capsys.readouterr().out
    one = write_experiment(tmp_path / "one.yaml", " - {name: sum, label: Sum, overrides: {head.prompt_update: sum}}\n", "sum")
    command(*words, one)
    assert "1 of 1 runs are there already" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert [experiment["name"] for experiment in results["experiments"]] == ["prompt_update", "one"]
    assert results["overrides"] == {"head.momentum": "0.5", "head.dropout": "0.1"}
    assert "recovered" in results["experiments"][0]["variants"][0]
    for name in ("index.html", "results.md"):
        assert (
            "head.momentum=0.5, head.dropout=0.1 for all variants, tree brain_mri (4 / 6 / 16 classes)"
            in (out / name).read_text()
        )


def test_a_failing_variant_is_named_and_the_others_go_on(tiny_store, encoder, tmp_path):
    one = write_experiment(
        tmp_path / "one.yaml",
        " - {name: hp2l, label: HP2L}\n - {name: bad, label: Bad, overrides: {head.level_start: encoder}}\n",
    )
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="1 of 2 variants failed"):
        command(encoder, tiny_store, out, "--config", TINY, "--seeds", 1, *QUICK, "--only", one)
    results = json.loads((out / "results.json").read_text())
    assert list(results["failed"]) == ["Bad"]
    assert [row["label"] for row in results["experiments"][0]["variants"]] == ["HP2L"]
    assert "Failed" in (out / "index.html").read_text()
