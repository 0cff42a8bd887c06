"""The benchmarks run, count FLOPs rightly, and refuse to time wrong results; the language ablation can be resumed and adds up."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score
from torch.utils.flop_counter import FlopCounterMode

from hlip.inference.overlay import ScanEvidence
from hlip.model import HLIP, HLIPConfig
from hlip.store import Store
from hlip.study import Scan, Study, read_manifest, write_manifest
from hlip.text import TextConfig, TextTower, grow_text_source
from hlip.vision import VisionConfig

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"


def script(name: str) -> ModuleType:
    """A script as a module."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))  # where scripts find `measure`
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def encoder() -> ModuleType:
    return script("encoder")


@pytest.fixture(scope="module")
def pretrain_step() -> ModuleType:
    return script("pretrain_step")


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    return script("language_ablation")


@pytest.fixture(scope="module")
def explanations() -> ModuleType:
    return script("explanations")


def as_a_user(name: str, options: list[str], report: Path) -> tuple[dict, str]:
    """Run a script; its report and what it printed."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options, "--threads", "1", "--device", "cpu", "--json", str(report)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(report.read_text()), ran.stdout


def test_the_script_as_a_user_runs_it(tmp_path):
    report, printed = as_a_user("encoder", ["--size", "tiny", "--repeats", "1"], tmp_path / "out.json")
    assert report["packed_equals_alone"] <= 1e-5
    assert [sum(case["counts"]) for case in report["cases"]] == [2] * 4 + [17, 32] * 2
    for case in report["cases"]:
        assert case["seconds"] > 0
        assert 0.05 < case["peak_gb"] < 4
    mixed = report["cases"][4:6]
    ratio = mixed[1]["seconds"] / mixed[0]["seconds"]
    assert report["packing"]["forward"]["ratio"] == pytest.approx(ratio)
    assert f"{ratio:.2f} x" in printed


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
        "hlip.vision.attention.stretches_attention",
        lambda q, k, v, _: torch.nn.functional.scaled_dot_product_attention(q, k, v),
    )
    assert encoder.largest_difference(machine) > 1e-3


@pytest.mark.slow
def test_the_training_step_as_a_user_runs_it(tmp_path):
    options = ["--size", "tiny", "--repeats", "1", "--steps", "2", "--warmup", "1", "--workers", "0", "1"]
    report, printed = as_a_user("pretrain_step", options, tmp_path / "out.json")
    rows = report["cases"]
    assert [(row["workers"], row["chunk"], row["repeated"]) for row in rows] == [
        (0, 0, False),
        (1, 0, False),
        (0, 2, False),
        (0, 0, False),
        (0, 0, True),
    ]
    for row in rows:
        assert len(row["all_step_seconds"]) == 2
        assert min(row["all_step_seconds"]) <= row["step_seconds"] <= max(row["all_step_seconds"])
        assert row["wait_seconds"] > 0
        assert row["studies_per_second"] == pytest.approx(8 / (row["step_seconds"] + row["wait_seconds"]))
        assert row["patch_tokens_per_second"] / row["studies_per_second"] == pytest.approx(
            8 * row["scans"] / 8
        )  # half of 16 a scan
        assert 0.05 < row["peak_gb"] < 4
    # 8 studies of 1 to 8 scans: 2 drawn at most, all, each repeated to 8
    assert [row["scans"] for row in rows] == [15, 15, 15, 36, 64]
    assert report["chunks_equal_whole"] < 1e-5
    assert rows[2]["first_loss"] == pytest.approx(rows[0]["first_loss"], rel=1e-5)
    for text, row, base in (("chunks of 2, against whole", rows[2], rows[0]), ("scans repeated", rows[4], rows[3])):
        (ratio,) = (values for name, values in report["ratios"].items() if text in name)
        assert ratio["seconds"] == pytest.approx(row["step_seconds"] / base["step_seconds"])
        assert f"{ratio['seconds']:.2f} x" in printed


def test_chunks_that_change_the_loss_are_seen(pretrain_step):
    plain = asdict(pretrain_step.Case("whole", 8)) | {"first_loss": 2.0}
    chunked = asdict(pretrain_step.Case("chunks", 8, chunk=2)) | {"first_loss": 2.1}
    assert pretrain_step.largest_gap([plain, chunked]) == pytest.approx(0.05)
    assert pretrain_step.largest_gap([plain]) is None
    assert pretrain_step.largest_gap([plain, chunked | {"error": "out of memory"}]) is None


def test_on_a_gpu_large_batches_are_taken_whole_and_in_chunks(pretrain_step, tmp_path):
    config = pretrain_step.configured(pretrain_step.SETTINGS["base"], tmp_path)
    assert (config.model.vision.width, len(config.model.vision.scopes), config.precision) == (768, 12, "bf16")
    assert (config.model.text.source, config.model.text.width, config.model.text.depth) == (None, 768, 12)
    found = pretrain_step.cases(pretrain_step.SETTINGS["base"], [0, 2], cuda=True)
    assert {(case.batch, case.chunk) for case in found} == {(48, 0), *((b, c) for b in (192, 384, 768) for c in (0, 48))}
    assert [case.checkpoint for case in found if case.checkpoint is not None] == [False]
    assert len({case.name for case in found}) == len(found)


def test_a_repeated_batch_keeps_scans_and_patches_together(pretrain_step):
    volumes = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1, 1)
    batch = pretrain_step.Batch(["a", "b"], volumes, [1, 3], [""] * 2, [""] * 2, kept=torch.arange(4)[:, None])
    found = pretrain_step.repeated(batch)
    assert found.volumes.flatten().tolist() == [0] * 8 + [1, 2, 3, 1, 2, 3, 1, 2]
    assert torch.equal(found.kept.flatten(), found.volumes.flatten().long())
    assert found.scans_per_study == [8, 8]


def test_flops_of_a_step_are_those_that_torch_counts(pretrain_step, tmp_path):
    """Text: all but attention, which is counted on a CPU by no rule of torch's; vision is tested above."""
    setting = pretrain_step.SETTINGS["tiny"]
    config = pretrain_step.configured(setting, tmp_path / "store")
    text = config.model.text
    source = grow_text_source(tmp_path / "text", ["one two three", "four"], text)
    tower = TextTower(text, 8, source, pretrained=False)
    ids = torch.ones(3, 5, dtype=torch.int64)
    batch = pretrain_step.Batch([], torch.empty(0), [], [], [], None, ids, ids)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(ids)
    counted = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    linear = sum(flops for name, flops in counted.items() if name.endswith("addmm"))
    attention = text.depth * 3 * 4 * 5 * 5 * text.width
    assert pretrain_step.step_flops(batch, config) == pytest.approx(3 * 2 * (linear + attention))


# --- the language ablation -------------------------------------------------------------------------------------------


def test_the_ablation_trains_scores_and_goes_on(ablation, tiny_store, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    recipe = str(ROOT / "tests" / "pretrain" / "tiny.yaml")
    arguments = [str(tiny_store), str(out), "--steps", "2", "--seeds", "1", "--batch_size", "8", "--threads", "1"]
    arguments += ["--config", recipe, "--resamples", "50", "--min_positives", "1"]
    ablation.main(arguments)
    printed = capsys.readouterr().out
    result = json.loads((out / "ablation.json").read_text())
    variants = list(result["levels"].values())[-1]["variants"]
    assert list(variants) == ["report_only", "sentence_dropout_only", "dual", "dual_identical_not_matched"]
    for name, entry in variants.items():
        assert 0 <= entry["auc"]["low"] <= entry["auc"]["value"] <= entry["auc"]["high"] <= 1
        assert entry["by_seed"] == [entry["auc"]["value"]]
        if name != "dual":
            assert entry["difference"]["value"] == pytest.approx(entry["auc"]["value"] - variants["dual"]["auc"]["value"])
    assert (out / "ablation.md").read_text() in printed
    assert (out / "ablation.png").stat().st_size > 5000
    seen = {name: yaml.safe_load((out / name / "seed_0" / "config.yaml").read_text()) for name in variants}
    assert [c["model"]["vision"]["class_tokens"] for c in seen.values()] == [1, 1, 2, 2]
    assert [c["sampling"]["sentence_dropout"] for c in seen.values()] == [False, True, True, True]
    assert [(c["loss"]["sentence"], c["loss"]["report"]) for c in seen.values()] == [(1, 0), (1, 0), (0.5, 0.5), (0.5, 0.5)]

    # a second start trains and embeds nothing, and says the same
    monkeypatch.setattr(ablation, "pretrain", None)
    monkeypatch.setattr(ablation, "embed_studies", None)
    ablation.main(arguments)
    assert json.loads((out / "ablation.json").read_text()) == result
    with pytest.raises(SystemExit, match="steps 2, not 3"):
        ablation.main([*arguments, "--steps", "3"])


def test_differences_are_paired_over_resamples_and_seeds(ablation):
    generator = np.random.default_rng(0)
    patients = [str(number) for number in range(60)]
    truth = generator.random((60, 2)) < 0.4
    known = np.ones_like(truth)
    scores = [truth + generator.normal(size=truth.shape) for _ in range(2)]
    areas = np.stack([ablation.macro_areas(table, truth, known, [0, 1], patients, 200) for table in scores])
    assert areas.shape == (2, 201)
    assert areas[0, 0] == pytest.approx(np.mean([roc_auc_score(truth[:, k], scores[0][:, k]) for k in range(2)]))
    same = ablation.described(areas, areas, is_base=False)["difference"]
    assert (same["low"], same["value"], same["high"]) == (0, 0, 0)
    found = ablation.described(areas, areas[::-1], is_base=False)  # the other seed's: the mean difference is zero
    assert found["difference"]["value"] == pytest.approx(0)
    assert found["difference"]["by_seed"] == pytest.approx([areas[0, 0] - areas[1, 0], areas[1, 0] - areas[0, 0]])
    assert found["auc"]["value"] == pytest.approx(areas[:, 0].mean())


# --- explanations against known lesions ------------------------------------------------------------------------------


@pytest.fixture
def lesions(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cohort over the tiny store, a mask in each study's bright corner, and an untrained checkpoint: COHORT STORE CHECKPOINT."""
    store, cohort = Store(tiny_store), tmp_path / "cohort"
    places = np.diag([4.0, 3.0, 3.0, 1.0])[[2, 1, 0, 3]]  # which that store does not have
    monkeypatch.setattr(Store, "affines", lambda self, name: np.stack([places] * len(self.volumes(name))))
    cohort.mkdir()
    (cohort / "scan.nii.gz").write_bytes(b"not read")
    studies = []
    for record in store.records:
        mask = np.zeros(store.volumes(record.study_id).shape[2:], np.uint8)
        row, column = divmod(int(record.study_id[1:]) % 4, 2)
        mask[2:6, 8 * row + 2 : 8 * row + 6, 8 * column + 2 : 8 * column + 6] = 3
        nib.save(nib.Nifti1Image(mask, store.affines(record.study_id)[0]), cohort / f"{record.study_id}.nii.gz")
        count = 2 if record.labels == ("glioma",) else 1
        extra = {"lesions": [{"class": "x", "count": count}], "masks": [f"{record.study_id}.nii.gz"]}
        scans = (Scan(cohort / "scan.nii.gz", "T1"),)
        studies.append(Study(record.study_id, record.patient_id, scans, "", (), record.labels, record.split, extra))
    write_manifest(studies, cohort / "manifest.jsonl")
    (cohort / "classes.json").write_text(
        json.dumps({str(label): code for code, label in enumerate(sorted({r.labels[0] for r in store.records}))})
    )
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24)
    vision = VisionConfig(size=(8, 16, 16), patch=(2, 8, 8), width=24, heads=2, scopes=["scan", "study"])
    torch.manual_seed(0)
    config = HLIPConfig(embed_dim=12, vision=vision, text=text)
    model = HLIP(config, grow_text_source(tmp_path / "text", ["acute infarction seen", "glioma noted"] * 3, text))
    model.volume_spec = store.spec
    model.save(tmp_path / "model")
    return [str(cohort), str(tiny_store), str(tmp_path / "model")]


def test_explanations_are_measured_once(explanations, lesions, tmp_path, monkeypatch, capsys):
    arguments = [*lesions, str(tmp_path / "out"), "--resamples", "50", "--device", "cpu", "--studies", "4"]
    explanations.main(arguments)
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "explanations.json").read_text())
    store = Store(Path(lesions[1]))
    wanted = [r.study_id for r in store.split("test") if r.labels != ("glioma",)][:4]  # those have two lesions
    assert [row["study_id"] for row in result["rows"]] == wanted
    for name, entry in result["maps"].items():
        values = [row[name] for row in result["rows"]]
        assert all(0 <= value <= 1 for value in values)
        assert entry["value"] == pytest.approx(np.mean(values))
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert f"{entry['value']:.3f}" in printed
    assert all(row["other_class"] != row["class"] for row in result["rows"])

    monkeypatch.setattr(explanations, "explain", None)  # a second start explains nothing, and says the same
    explanations.main(arguments)
    assert json.loads((tmp_path / "out" / "explanations.json").read_text()) == result
    with pytest.raises(SystemExit, match="reference mirror, not air"):
        explanations.main([*arguments, "--reference", "air"])


def test_a_map_of_the_lesion_ranks_it_first(explanations):
    affine = np.diag([-3.0, 2.0, 2.0, 1.0])
    voxels = np.full((8, 16, 16), 200, np.uint8)
    voxels[:, 0] = 0
    codes = np.zeros((16, 16, 8), np.uint8)  # the same place, axes in another order
    codes[8:, 4:12, 2:4] = 7
    mask = nib.Nifti1Image(codes, affine[:, [2, 1, 0, 3]])
    evidence = np.zeros((4, 4, 4), np.float32)
    evidence[1, 1:3, 2:] = 1
    scan = ScanEvidence("T1", voxels, evidence, affine)
    assert explanations.area(scan, mask) > 0.95
    assert explanations.area(replace(scan, evidence=-evidence), mask) < 0.05
    assert explanations.area(scan, nib.Nifti1Image(codes * 0, mask.affine)) is None
    assert explanations.tissue_share(scan)[0, :, 0] == pytest.approx([0.75, 1, 1, 1], abs=0.13)  # corners are rounded off


# --- preparing -------------------------------------------------------------------------------------------------------


def test_preparing_is_held_against_reading(tmp_path, monkeypatch, capsys):
    preparing = script("preparing")
    monkeypatch.setattr(preparing, "PROTOCOL", (("T1", (40, 44, 30), (5.0, 5.0, 6.0)), ("T2", (44, 44, 20), (5.0, 5.0, 9.0))))
    monkeypatch.setattr(preparing, "apart", lambda function, *arguments, **_: function(*arguments))
    report = tmp_path / "out.json"
    preparing.main(["--studies", "5", "--spec", "demo", "--json", str(report), "--folder", str(tmp_path / "files")])
    found = json.loads(report.read_text())["demo"]
    assert (found["studies"], found["scans"], found["usable"]) == (5, 10, 10)
    assert found["ratio"] == pytest.approx(found["prepare_seconds"] / found["read_seconds"])
    assert 0 < found["again_seconds"] < found["prepare_seconds"]
    assert f"{found['ratio']:.2f} x" in capsys.readouterr().out
    assert len(list((tmp_path / "files").glob("*.nii.gz"))) == 4, "two files of each sequence, linked"


def test_a_cohort_is_taken_as_often_as_needed(tmp_path, monkeypatch):
    preparing = script("preparing")
    monkeypatch.setattr(preparing, "PROTOCOL", (("T1", (40, 44, 30), (5.0, 5.0, 6.0)),))
    cohort = preparing.write_studies(tmp_path / "cohort", 2)
    studies = read_manifest(preparing.repeat_studies(tmp_path / "many", 5, cohort))
    assert [study.study_id for study in studies] == [f"s{number}" for number in range(5)]
    known = read_manifest(cohort)
    for number, study in enumerate(studies):
        (scan,), (original,) = study.scans, known[number % 2].scans
        assert scan.path.read_bytes() == original.path.read_bytes()
        assert scan.sequence == original.sequence
