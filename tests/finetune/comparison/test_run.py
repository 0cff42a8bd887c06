"""`hlip score` and `hlip compare` as commands: tables and models in, the same numbers whichever way they come."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import hlip
import hlip.cli
from finetune.comparison.cohort import labelled, level_aucs
from finetune.comparison.robustness import robustness
from finetune.comparison.scoring import open_method, score
from hlip.model import HLIP
from hlip.store import Store, WithoutSequence, write_index
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import ZeroShotSettings, embed_studies, score_taxonomy
from hp2l.comparison.compare import compare_tables
from hp2l.comparison.scores import CompareError, Scores
from hp2l.comparison.slices import LEAST_CASES, LEAST_STUDIES
from hp2l.diagnoser import Diagnoser
from hp2l.heads import HeadConfig

TREE = Taxonomy.load("brain_mri")
pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def models(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pretrained and a fine-tuned checkpoint, both untrained."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vision = {"size": [8, 16, 16], "patch": [2, 8, 8], "scopes": ["scan", "study"]}
    model: HLIP = hlip.create("tiny_scan_study", vision=vision, text={"vocabulary": 600}).eval()
    model.volume_spec = Store(tiny_store).spec
    model.save(folder / "pretrained" / "model")
    diagnoser = Diagnoser(model, HeadConfig(blocks=(2, 2, 2), width=16, heads=2), TREE).eval()
    diagnoser.facts = {"studies": 24}
    diagnoser.save(folder / "tuned" / "model")
    return folder / "pretrained", folder / "tuned"


def compare(*words: object) -> None:
    hlip.cli.main(["compare", *map(str, words), "--resamples", "100", "--device", "cpu"])


def read(out: Path) -> dict:
    return json.loads((out / "comparison.json").read_text())


def areas(comparison: dict, method: str) -> list[float]:
    """AUC of every class that has one (macro means want more test studies than these stores hold)."""
    levels = comparison["levels"].values()
    found = [entry["auc"]["value"] for level in levels for entry in level[method]["per_class"].values()]
    known = [value for value in found if value is not None]
    assert len(known) > 5
    return known


def test_tables_and_models_give_the_same_comparison(models, tiny_store, tmp_path, capsys):
    pretrained, tuned = models
    for model, name in ((pretrained, "a"), (tuned, "b")):
        words = ["score", str(model), str(tiny_store), str(tmp_path / f"{name}.parquet"), "--device", "cpu"]
        hlip.cli.main([*words, *(["--taxonomy", "brain_mri"] if name == "a" else [])])
    assert "test: 8 studies, macro AUC level 1" in capsys.readouterr().out
    compare(tmp_path / "a.parquet", tmp_path / "b.parquet", "--out", tmp_path / "tables")
    compare(pretrained, tuned, "--store", tiny_store, "--out", tmp_path / "models")
    tables, whole = read(tmp_path / "tables"), read(tmp_path / "models")
    assert tables["methods"] == whole["methods"] == ["zero_shot", "fine_tuned"]
    assert areas(tables, "zero_shot") == areas(whole, "zero_shot")
    assert areas(tables, "fine_tuned") == areas(whole, "fine_tuned")
    assert areas(whole, "zero_shot") != areas(whole, "fine_tuned")
    assert [check["check"] for check in whole["checks"]] == ["patients", "images", "metadata", "prompts"]
    states = [(check["check"], check["state"]) for check in tables["checks"]]
    assert states == [("patients", "ok"), *((name, "not checked") for name in ("images", "metadata", "prompts"))]
    again = tmp_path / "a.parquet", tmp_path / "b.parquet", "--out", tmp_path / "tables"
    for more, made_anew in (((), False), (("--seed", "1"), True), (("--seed", "1", "--title", "T"), True)):
        capsys.readouterr()
        compare(*again, *more)
        assert ("from before" not in capsys.readouterr().out) == made_anew
    provenance = whole["provenance"]["zero_shot"]
    assert provenance["kind"] == "zero_shot"
    assert len(provenance["checkpoint"]) == 64
    assert len(provenance["prompts"]["spread"]) == 32


def test_any_number_of_inputs_with_names_of_their_own(models, tiny_store, tmp_path):
    pretrained, tuned = models
    shutil.copytree(tuned, tmp_path / "other-run")
    given = [pretrained, tuned, tmp_path / "other-run", f"third={tuned}"]
    compare(*given, "--store", tiny_store, "--out", tmp_path / "out", "--mean")
    found = read(tmp_path / "out")
    assert found["methods"] == ["zero_shot", "tuned", "other_run", "third", "mean"]
    assert areas(found, "tuned") == areas(found, "other_run") == areas(found, "third")
    compare(pretrained, "--store", tiny_store, "--out", tmp_path / "one", "--taxonomy", "brain_mri")
    assert read(tmp_path / "one")["methods"] == ["zero_shot"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["PRE", "TUNED"], "is a model: --store names"),
        (["PRE", "--store", "STORE"], "--taxonomy names it"),
        (["nothing", "--store", "STORE"], "nothing"),
        (["TUNED", "--store", "STORE", "--taxonomy", "leukemia"], "leukemia has no class"),
        (["TUNED", "--store", "STORE", "--taxonomy", "brain_mri_flat"], "trained on taxonomy brain_mri, not on"),
    ],
)
def test_what_cannot_be_compared_is_refused(words, said, models, tiny_store, tmp_path, capsys):
    places = {"PRE": str(models[0]), "TUNED": str(models[1]), "STORE": str(tiny_store)}
    with pytest.raises(SystemExit) as caught:
        compare(*(places.get(word, word) for word in words), "--out", tmp_path / "out")
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_an_external_cohort_is_tested_with_the_own_cohorts_settings(models, tiny_store, tmp_path, capsys):
    tuned = models[1]
    shutil.copytree(tiny_store, tmp_path / "clash")
    words = ["score", str(tuned), str(tiny_store), str(tmp_path / "t.parquet"), "--device", "cpu", "--external"]
    with pytest.raises(SystemExit):
        hlip.cli.main([*words, str(tmp_path / "clash")])
    assert "studies of the same id" in capsys.readouterr().err
    shutil.copytree(tiny_store, tmp_path / "other")
    records = Store(tmp_path / "other").records
    for record in records[:10]:
        shutil.copy(
            tmp_path / "other" / "studies" / f"{record.study_id}.safetensors",
            tmp_path / "other" / "studies" / f"x{record.study_id}.safetensors",
        )
    mine = Store(tiny_store).split("val")[0].patient_id  # another patient, of the same number
    others = [mine, *(f"x{record.patient_id}" for record in records[1:10])]
    write_index(
        tmp_path / "other",
        [
            replace(r, study_id=f"x{r.study_id}", patient_id=patient, split="train")
            for r, patient in zip(records, others, strict=False)
        ],
    )
    hlip.cli.main([*words, str(tmp_path / "other")])
    table = Scores.load(tmp_path / "t.parquet")
    own = [record.study_id for record in Store(tiny_store).split("val")]
    assert [study for study, split in zip(table.study_ids, table.split, strict=True) if split == "val"] == own
    assert [study for study, split in zip(table.study_ids, table.split, strict=True) if split == "test"] == [
        f"xs{n}" for n in range(10)
    ]
    assert table.patient_ids[len(own) :] == [f"{mine}@external", *others[1:]]
    assert table.provenance["external"] == "other"
    compare(tmp_path / "t.parquet", "--out", tmp_path / "report", "--resamples", 100)
    page = (tmp_path / "report" / "comparison.md").read_text()
    assert "of an external cohort" in page
    assert "**Leak" not in page
    inside = score(open_method(tuned, torch.device("cpu")), labelled(Store(tiny_store), TREE))
    np.testing.assert_allclose(table.levels[2][: len(own)], inside.levels[2][: len(own)], atol=1e-6)


def test_a_fixed_way_of_asking_needs_no_validation(models, tiny_store, tmp_path, capsys):
    shutil.copytree(tiny_store, tmp_path / "store")
    write_index(tmp_path / "store", [replace(r, split="test") for r in Store(tiny_store).records])
    words = [models[0], tmp_path / "store", tmp_path / "t.parquet", "--taxonomy", "brain_mri", "--device", "cpu"]
    with pytest.raises(SystemExit):
        hlip.cli.main(["score", *map(str, words)])
    assert "zero-shot with --prompts" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        hlip.cli.main(["score", *map(str, words), "--parents", "own"])
    assert "--parents is of a setting that --prompts fixes" in capsys.readouterr().err
    hlip.cli.main(["score", *map(str, words), "--prompts", "plain"])
    assert "val: no labelled study" in capsys.readouterr().out
    table = Scores.load(tmp_path / "t.parquet")
    told = table.provenance["prompts"]
    assert (told["prompts"], told["synonyms"], told["contrast"], told["parents"]) == ("plain", True, True, "children")
    method = open_method(models[0], torch.device("cpu"))
    features = embed_studies(method.model, Store(tmp_path / "store"), Store(tmp_path / "store").records)
    expected = score_taxonomy(method.model, features, TREE, ZeroShotSettings("plain", True, True, "children"))
    for level, own in zip(table.levels, expected, strict=True):
        np.testing.assert_allclose(level, own[[r.labels is not None for r in Store(tmp_path / "store").records]], atol=1e-6)
    with pytest.raises(SystemExit):
        hlip.cli.main(["score", str(models[1]), *map(str, words[1:]), "--prompts", "plain"])
    assert "not asked by prompts" in capsys.readouterr().err


def test_a_sequence_that_was_not_scanned(models, tiny_store, tmp_path, monkeypatch):
    """Against scores of a store in which it really is not there."""
    shutil.copytree(tiny_store, tmp_path / "store")
    records = [replace(r, sequences=("T1", "FLAIR", "T2")[: len(r.sequences)]) for r in Store(tiny_store).records]
    write_index(tmp_path / "store", records)
    store = Store(tmp_path / "store")
    without = WithoutSequence(store, "FLAIR")
    two = next(record for record in records if len(record.sequences) == 3).study_id
    assert torch.equal(without.volumes(two), store.volumes(two, [0, 2]))
    assert torch.equal(without.volumes(two, [1]), store.volumes(two, [2]))
    assert without.record(two).sequences == ("T1", "T2")
    assert len(WithoutSequence(store, "T1")) == sum(len(r.sequences) > 1 for r in records)
    monkeypatch.setattr("finetune.comparison.robustness.LEAST_STUDIES", 2)
    monkeypatch.setattr("hp2l.comparison.slices.LEAST_CASES", 1)
    cohort = labelled(store, TREE)
    methods = [open_method(path, torch.device("cpu")) for path in models]
    tables = {method.name: score(method, cohort) for method in methods}
    rows = robustness(methods, tables, cohort, resamples=10)
    assert [row["sequence"] for row in rows] == ["FLAIR", "T1", "T2"]
    row = rows[0]
    asked = [r for r in cohort.records if r.split == "test" and "FLAIR" in r.sequences]
    assert row["studies"] == len(asked)
    part = labelled(without, TREE)
    chosen = [
        place
        for place, record in enumerate(part.records)
        if record.study_id in {r.study_id for r in asked} and record.split == "test"
    ]
    again = score(methods[1], part)
    expected = level_aucs([level[chosen] for level in again.levels], part, np.array(chosen))[-1]
    assert row["methods"]["fine_tuned"]["without"]["value"] == pytest.approx(expected, abs=1e-6)
    assert row["methods"]["fine_tuned"]["difference"]["p_holm"] >= row["methods"]["fine_tuned"]["difference"]["p"]
    assert (LEAST_STUDIES, LEAST_CASES) == (20, 3)


def test_fewer_labels(models, tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.comparison.run.compare_tables", partial(compare_tables, min_positives=1))  # few test studies
    pretrained, tuned = models
    few = tmp_path / "few"
    shutil.copytree(tuned, few)
    path = few / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"facts": {"studies": 3}}))
    compare(pretrained, tuned, "--store", tiny_store, "--out", tmp_path / "out", "--efficiency", few)
    found = read(tmp_path / "out")["efficiency"]
    assert [point["studies"] for point in found["3"]["points"]] == [3, 24]
    assert set(found["3"]["flat"]) == {"zero_shot"}
    assert found["1"]["validation_studies"] == 8
    whole = read(tmp_path / "out")["levels"]
    for key, entry in found.items():  # the same classes and the same resamples as the levels' own table
        assert entry["flat"]["zero_shot"] == whole[key]["zero_shot"]["macro_auc"]
        assert entry["points"][1]["differences"]["zero_shot"] == whole[key]["differences"]["fine_tuned"]["macro_auc"]


def test_a_table_without_truth_is_no_comparison(tmp_path):
    table = Scores("x", ["a"], ["a"], ["test"], [np.zeros((1, 2))])
    with pytest.raises(CompareError, match=re.escape("Scores.with_truth")):
        table.save(tmp_path / "x.parquet")
