"""`hlip ask`, as a user types it, on NIfTI files and a tiny checkpoint."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from hlip.cli import main
from hlip.model import HLIP, HLIPConfig, load
from hlip.prepare import prepare
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec
from hlip.zeroshot import NORMAL_PHRASE, PromptSet, ZeroShotSettings, embed_studies, score_taxonomy

SIZE = (8, 16, 16)
SPEC = VolumeSpec.from_dict(VolumeSpec.load("demo").as_dict() | {"size": list(SIZE)})
TEXTS = ["This study shows: acute infarction.", f"This study shows: {NORMAL_PHRASE}.", "This study shows: glioma."] * 3


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=120, context_length=24)
    vision = VisionConfig(size=SIZE, patch=(2, 8, 8), width=24, heads=2, scopes=["scan", "study"])
    model = HLIP(
        HLIPConfig(embed_dim=12, vision=vision, text=text), text_source=grow_text_source(tmp_path / "bert", TEXTS, text)
    )
    model.volume_spec, model.facts = SPEC, {"simulated": True}
    model.save(tmp_path / "run" / "model")
    return tmp_path / "run"


def head(path: Path, seed: int = 0, shape: tuple[int, ...] = (40, 48, 12)) -> Path:
    """Noise in a box on an empty ground, saved as NIfTI."""
    voxels = np.zeros(shape, np.float32)
    voxels[8:-8, 8:-8, 2:-2] = np.random.default_rng(seed).normal(200, 50, voxels[8:-8, 8:-8, 2:-2].shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([4.0, 4.0, 12.0, 1.0])), path)
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two good scans and a 4-D series."""
    head(tmp_path / "study" / "t1.nii.gz", 1)
    head(tmp_path / "study" / "flair.nii.gz", 2)
    head(tmp_path / "study" / "perfusion.nii.gz", 3, (40, 48, 12, 3))
    return tmp_path / "study"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three studies, the last with one bad scan among its two."""
    lines = []
    for number in range(3):
        scans = [{"path": str(head(tmp_path / f"s{number}_{k}.nii.gz", 10 * number + k).name)} for k in range(2)]
        lines.append({"study_id": f"s{number}", "patient_id": f"p{number}", "scans": scans, "split": "test"})
    (tmp_path / "s2_1.nii.gz").write_bytes(b"")
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What `hlip ask` says while it ends with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["ask", *map(str, words)])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    capsys.readouterr()
    main(["ask", *map(str, words), "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_table_names_scans_skipped_series_and_the_warning(checkpoint, study, capsys):
    main(["ask", str(checkpoint), str(study), "glioma", "a [b]lesion[/b]"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 volume(s) used (FLAIR, T1)" in printed
    assert "skipped: series_4d:" in printed
    assert "a [b]lesion[/b]" in printed  # not eaten as markup
    assert "not a probability of disease" in printed
    assert "SIMULATED" in printed


def test_a_checkpoint_of_real_studies_carries_no_warning(checkpoint, study, capsys):
    model = load(checkpoint)
    model.facts = {"simulated": False}
    model.save(checkpoint / "model")
    assert answer(capsys, checkpoint, study, "glioma")["warnings"] == []


def test_json_holds_the_scores_of_the_formula(checkpoint, study, tmp_path, capsys):
    said = answer(capsys, checkpoint, study, "glioma", "acute infarction", "--templates", "plain")
    assert said["scans"] == ["FLAIR", "T1"]
    assert len(said["skipped"]) == len(said["warnings"]) == 1
    assert [row["score"] for row in said["scores"]] == sorted((row["score"] for row in said["scores"]), reverse=True)
    lines = {"study_id": "x", "patient_id": "x", "scans": [{"path": f"study/{name}.nii.gz"} for name in ("flair", "t1")]}
    (tmp_path / "one.jsonl").write_text(json.dumps(lines))
    prepare(tmp_path / "one.jsonl", tmp_path / "one", SPEC, workers=1, progress=False)
    model, store = load(checkpoint), Store(tmp_path / "one")
    image = embed_studies(model, store, store.records)[0, 0]

    def cosine(phrase: str) -> float:
        with torch.no_grad():
            return float(
                torch.nn.functional.cosine_similarity(image, model.encode_text(PromptSet.load("plain").texts(phrase))[0], 0)
            )

    scale = float(model.logit_scale_sentence.detach().exp())
    for row in said["scores"]:
        expected = 1 / (1 + np.exp(-scale * (cosine(row["query"]) - cosine(NORMAL_PHRASE))))
        assert row["score"] == pytest.approx(expected, abs=1e-4)
        assert row["similarity"] == pytest.approx(cosine(row["query"]), abs=1e-4)


def test_a_study_of_a_store_or_a_manifest_gives_the_same_and_names_its_own_scans_only(checkpoint, manifest, tmp_path, capsys):
    prepare(manifest, tmp_path / "store", SPEC, workers=1, progress=False)
    of_store = answer(capsys, checkpoint, "s1", "--store", tmp_path / "store", "glioma")  # words on both sides of an option
    of_manifest = answer(capsys, checkpoint, "s1", "glioma", "--manifest", manifest)
    assert of_store["scores"] == of_manifest["scores"]
    assert of_store["skipped"] == []
    assert [
        "empty_file" in line for line in answer(capsys, checkpoint, "s2", "glioma", "--store", tmp_path / "store")["skipped"]
    ] == [True]


def test_a_cohort_becomes_a_csv_of_score_taxonomys_scores(checkpoint, manifest, tmp_path, capsys):
    prepare(manifest, tmp_path / "store", SPEC, workers=1, progress=False)
    out = tmp_path / "new" / "scores.csv"
    main(["ask", str(checkpoint), "--store", str(tmp_path / "store"), "--taxonomy", "brain_mri", "--out", str(out)])
    assert "SIMULATED" in capsys.readouterr().err
    model, store, tree = load(checkpoint), Store(tmp_path / "store"), Taxonomy.load("brain_mri")
    features = embed_studies(model, store, store.records)
    expected = score_taxonomy(model, features, tree, ZeroShotSettings(prompts="hlip"))
    cosines = score_taxonomy(model, features, tree, ZeroShotSettings(prompts="hlip", contrast=False))
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * sum(map(len, tree.levels))
    assert {(row["study_id"], row["patient_id"], row["split"]) for row in rows} == {
        (f"s{n}", f"p{n}", "test") for n in range(3)
    }
    for row in rows:
        level = int(row["level"]) - 1
        value = expected[level][store.study_ids.index(row["study_id"]), tree.levels[level].index(row["class"])]
        assert float(row["score"]) == pytest.approx(value, abs=2e-6)
        half = cosines[level][store.study_ids.index(row["study_id"]), tree.levels[level].index(row["class"])]
        assert float(row["similarity"]) == pytest.approx(2 * half - 1, abs=2e-6)


def test_what_cannot_be_asked_is_said_in_a_line(checkpoint, study, manifest, tmp_path, capsys):
    assert "neither a file nor a folder" in refused(capsys, checkpoint, "nowhere", "glioma")
    assert "no QUERY" in refused(capsys, checkpoint, study)
    assert "QUERY is empty" in refused(capsys, checkpoint, study, " ")
    assert "no STUDY" in refused(capsys, checkpoint)
    assert "no checkpoint here" in refused(capsys, tmp_path / "none", study, "glioma")
    assert "built in: hlip, plain" in refused(capsys, checkpoint, study, "glioma", "--templates", "none")
    assert "brain_mri" in refused(capsys, checkpoint, study, "--taxonomy", "none")
    assert "no study 'none'" in refused(capsys, checkpoint, "none", "glioma", "--manifest", manifest)
    assert "series_4d" in refused(capsys, checkpoint, study / "perfusion.nii.gz", "glioma")
    assert "unrecognized arguments: --no" in refused(capsys, checkpoint, study, "glioma", "--no")
    assert "--device warp: cannot be used here" in refused(capsys, checkpoint, study, "glioma", "--device", "warp")
    assert "--json > FILE" in refused(capsys, checkpoint, study, "glioma", "--out", tmp_path / "one.csv")
    assert "--json is for one STUDY" in refused(capsys, checkpoint, "--manifest", manifest, "--taxonomy", "brain_mri", "--json")
    (tmp_path / "empty").mkdir()
    assert "no NIfTI or DICOM file" in refused(capsys, checkpoint, tmp_path / "empty", "glioma")
    prepare(manifest, tmp_path / "other", VolumeSpec.load("demo"), workers=1, progress=False)
    assert "another VolumeSpec than the checkpoint was trained on (size:" in refused(
        capsys, checkpoint, "s0", "glioma", "--store", tmp_path / "other"
    )


def test_unknown_words_and_scattered_scans_are_noted(checkpoint, tmp_path, capsys):
    for name in ("a", "b"):
        head(tmp_path / "both" / name / "t1.nii.gz", 1)
    notes = answer(capsys, checkpoint, tmp_path / "both", "glioma", "qwzx flurb")["notes"]
    assert any("2 folders (a, b)" in note for note in notes)
    assert any(note.endswith("qwzx, flurb") for note in notes)
    assert answer(capsys, checkpoint, tmp_path / "both" / "a", "acute infarction")["notes"] == []


def test_templates_are_those_of_the_checkpoint_s_validation(checkpoint, study, capsys):
    assert answer(capsys, checkpoint, study, "glioma")["templates"] == "hlip"
    model = load(checkpoint)
    model.facts = model.facts | {"prompts": "plain"}
    model.save(checkpoint / "model")
    assert answer(capsys, checkpoint, study, "glioma")["templates"] == "plain"
    assert answer(capsys, checkpoint, study, "glioma", "--templates", "hlip")["templates"] == "hlip"
