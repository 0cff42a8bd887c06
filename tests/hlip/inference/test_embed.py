"""Features for others: their places, a cohort's shards, and a run that is stopped and goes on."""

from __future__ import annotations

import csv
import json
import warnings
from argparse import Namespace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hlip.inference import embed
from hlip.inference.embed import EmbeddingsError, embed_cohort, embed_command, load_embeddings, patch_centres, study_features
from hlip.model import HLIP, HLIPConfig
from hlip.store import Store, StoreError, StudyRecord, write_index, write_spec, write_study
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec
from hlip.zeroshot import embed_studies

SIZE, PATCH = (8, 16, 16), (2, 8, 8)
SPEC = VolumeSpec.from_dict(VolumeSpec.load("demo").as_dict() | {"size": list(SIZE)})
# steps of 5, 2 and 2 mm along d, h, w, tilted about x by the angle of cosine 0.8 and sine 0.6
TILTED = np.array([[0, 0, -2, 10], [-3, 1.6, 0, 20], [4, 1.2, 0, 30], [0, 0, 0, 1]], float)


def build(folder: Path, seed: int = 0, **vision: object) -> HLIP:
    torch.manual_seed(seed)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=120, context_length=24)
    settings = {"size": SIZE, "patch": PATCH, "width": 24, "heads": 2, "scopes": ["scan", "study"]} | vision
    source = grow_text_source(folder / "bert", ["This study shows: glioma."] * 3, text)
    model = HLIP(HLIPConfig(embed_dim=12, vision=VisionConfig(**settings), text=text), text_source=source)
    model.volume_spec, model.facts = SPEC, {"simulated": True}
    return model.eval()


@pytest.fixture
def model(tmp_path: Path) -> HLIP:
    return build(tmp_path / "model")


def volumes_of(number: int, scans: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (scans, *SIZE), dtype=np.uint8)


def build_store(folder: Path, studies: int = 7) -> Store:
    """Studies of 1 to 3 scans, each scan at a place of its own."""
    (folder / "studies").mkdir(parents=True)
    write_spec(folder, SPEC)
    records = []
    for number in range(studies):
        scans = 1 + number % 3
        moved = [np.array([[0, 0, 0, 100 * number + scan]] * 3 + [[0] * 4]) for scan in range(scans)]
        affines = [TILTED + move for move in moved]
        metadata = {"affines": [affine.tolist() for affine in affines]}
        write_study(folder, f"s{number}", list(volumes_of(number, scans)), metadata)
        split = "test" if number else None
        records.append(StudyRecord(f"s{number}", f"p{number // 2}", ("T1", "FLAIR", "T2")[:scans], split=split))
    write_index(folder, records)
    return Store(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return build_store(tmp_path / "store")


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_places_of_tilted_scans_by_hand():
    """Centres at voxels (0.5, 3.5, 3.5), then 8 voxels on along w, then along h, and (6.5, 11.5, 11.5) at last."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an axis name that einops will refuse warned here
        places = patch_centres(np.stack([TILTED, np.eye(4)]), grid=(4, 2, 2), patch=PATCH)
    assert places.shape == (2, 16, 3)
    expected = [[3.0, 24.1, 36.2], [-13.0, 24.1, 36.2], [3.0, 36.9, 45.8], [-13.0, 18.9, 69.8]]
    np.testing.assert_allclose(places[0, [0, 1, 2, -1]], expected, atol=1e-5)
    np.testing.assert_allclose(places[1, [0, -1]], [[0.5, 3.5, 3.5], [6.5, 11.5, 11.5]])


def test_a_patch_has_one_voxel_and_the_centre_is_that_voxel():
    places = patch_centres(TILTED[None], grid=(1, 2, 3), patch=(1, 1, 1))
    np.testing.assert_allclose(places[0, -1], (TILTED @ [0, 1, 2, 1])[:3], atol=1e-6)


@torch.no_grad()
def test_features_are_those_of_the_model_and_each_studys_own(model):
    volumes = torch.from_numpy(volumes_of(0, 4))[:, None]
    affines = np.stack([TILTED, np.eye(4), np.eye(4), TILTED])
    features = study_features(model, volumes, affines, [1, 3])
    torch.testing.assert_close(features.study, model.encode_study(volumes, [1, 3]))
    torch.testing.assert_close(features.study.norm(dim=-1), torch.ones(2, 2))
    assert features.patch.shape == (4, 16, 24)
    torch.testing.assert_close(features.patch, model.visual.tokens(volumes, [1, 3]).patches)
    torch.testing.assert_close(features.scan, features.patch.mean(dim=1))
    torch.testing.assert_close(features.place[3], features.place[0])
    alone = study_features(model, volumes[1:], affines[1:], [3])
    for packed, own in zip(features, alone, strict=True):
        torch.testing.assert_close(packed[1:], own, atol=1e-5, rtol=0)


def test_encode_study_returns_them_on_request(model):
    volumes = torch.from_numpy(volumes_of(1, 3))[:, None]
    affines = np.stack([TILTED] * 3)
    features = model.encode_study(volumes, [1, 2], return_tokens=True, affines=affines)
    torch.testing.assert_close(features.study, model.encode_study(volumes, [1, 2]))
    torch.testing.assert_close(features.place, patch_centres(affines, model.config.vision.grid, PATCH))
    assert features.patch.shape[:2] == features.place.shape[:2]


def test_places_are_those_of_the_kept_patches(tmp_path):
    model = build(tmp_path, patch_dropout=0.5).train()
    volumes = torch.from_numpy(volumes_of(0, 2))[:, None]
    torch.manual_seed(1)
    features = study_features(model, volumes, np.stack([TILTED, TILTED]), [2])
    torch.manual_seed(1)
    kept = model.visual.tokens(volumes, [2]).kept
    whole = patch_centres(TILTED[None], (4, 2, 2), PATCH)[0]
    assert kept is not None
    assert features.place.shape == (2, 8, 3)
    torch.testing.assert_close(features.place, whole[kept])


def test_one_affine_a_scan(model):
    with pytest.raises(ValueError, match=r"expected \(2, 4, 4\)"):
        study_features(model, torch.zeros(2, 1, *SIZE, dtype=torch.uint8), [TILTED], [2])


@torch.no_grad()
@pytest.mark.parametrize("tokens", [False, True])
def test_a_cohort(model, store, tmp_path, tokens):
    summary = embed_cohort(model, store, tmp_path / "out", tokens=tokens, batch_size=2, shard_scans=4, progress=False)
    assert summary == (7, 13, 4, 0)  # studies of 1 2 | 3 1 | 2 | 3 1 scans
    ids, features = load_embeddings(tmp_path / "out")
    assert ids == store.study_ids
    torch.testing.assert_close(features, embed_studies(model, store, store.records), atol=1e-6, rtol=0)
    with (tmp_path / "out" / "index.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    row = rows[3]
    assert list(row.values()) == ["s3", "p1", "test", "embeddings-00001.safetensors", "1", "3", "1", "T1"]
    assert (rows[0]["split"], rows[2]["sequences"]) == ("", "T1|FLAIR|T2")
    shard = load_file(tmp_path / "out" / row["shard"])
    assert set(shard) == {"study", "scan", "scans"} | ({"patch", "place"} if tokens else set())
    assert shard["scans"].tolist() == [3, 1]
    own = study_features(model, store.volumes("s3"), store.affines("s3"), [1])
    torch.testing.assert_close(shard["scan"][3:], own.scan, atol=1e-6, rtol=0)
    if tokens:
        assert shard["patch"].dtype == torch.float16
        torch.testing.assert_close(shard["patch"][3:].float(), own.patch, atol=2e-3, rtol=0)
        np.testing.assert_allclose(shard["place"][3, 0], [303.0, 324.1, 336.2], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "call"),
    [("study_features", 1), ("study_features", 4), ("write_atomically", 1), ("write_atomically", 3), ("_index", 1)],
)
def test_stopped_and_resumed_equals_never_stopped(model, store, tmp_path, stopped_at, name, call):
    def run(out: str) -> embed.EmbedSummary:
        return embed_cohort(model, store, tmp_path / out, tokens=True, batch_size=1, shard_scans=4, progress=False)

    run("never")
    stopped_at(embed, name, call, lambda: run("stopped"))
    with pytest.raises(EmbeddingsError, match="run `hlip embed` again"):
        load_embeddings(tmp_path / "stopped")
    (tmp_path / "stopped").mkdir(exist_ok=True)
    (tmp_path / "stopped" / "embeddings-00002.safetensors.77.partial").write_bytes(b"half")  # of a killed process
    assert run("stopped").reused == {("study_features", 4): 1, ("write_atomically", 3): 1, ("_index", 1): 4}.get(
        (name, call), 0
    )
    assert everything(tmp_path / "stopped") == everything(tmp_path / "never")


def test_only_what_changed_is_made_anew(model, store, tmp_path):
    out = tmp_path / "out"

    def run() -> int:
        return embed_cohort(model, store, out, shard_scans=4, progress=False).reused

    run()
    before = everything(out)
    assert run() == 4
    (out / "embeddings-00003.safetensors").write_bytes(b"damaged")
    with pytest.raises(EmbeddingsError, match="only this shard is made anew"):
        load_embeddings(out)
    assert run() == 3
    assert everything(out) == before
    write_study(store.path, "s3", list(volumes_of(99, 1)), {"affines": [TILTED.tolist()], "sources": "another file"})
    assert run() == 3
    changed = {name for name, content in everything(out).items() if content != before[name]}
    assert changed == {"embeddings-00001.safetensors"}


def test_a_folder_of_something_else_is_refused(model, store, tmp_path):
    out = tmp_path / "out"
    embed_cohort(model, store, out, progress=False)
    before = everything(out)
    with pytest.raises(EmbeddingsError, match="by another checkpoint; choose another folder"):
        embed_cohort(build(tmp_path / "other", seed=1), store, out, progress=False)
    with pytest.raises(EmbeddingsError, match="from other studies"):
        embed_cohort(model, build_store(tmp_path / "fewer", 6), out, progress=False)
    with pytest.raises(EmbeddingsError, match="with another choice of --tokens"):
        embed_cohort(model, store, out, tokens=True, progress=False)
    assert everything(out) == before
    scopes = build(tmp_path / "scopes", scopes=["study", "study"])  # the same weights, another architecture
    assert embed.checkpoint_digest(scopes) != embed.checkpoint_digest(model)
    assert embed.checkpoint_digest(build(tmp_path / "again")) == embed.checkpoint_digest(model)
    model.save(tmp_path / "checkpoint")
    with pytest.raises(EmbeddingsError, match="belongs to something else"):
        embed_cohort(model, store, tmp_path / "checkpoint", progress=False)
    model.volume_spec = VolumeSpec.load("demo")
    with pytest.raises(ValueError, match="another VolumeSpec"):
        embed_cohort(model, store, tmp_path / "new", progress=False)


def test_a_damaged_study_stops_the_run_and_keeps_the_rest(model, store, tmp_path):
    good = (store.path / "studies" / "s4.safetensors").read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    (store.path / "studies" / "s4.safetensors").write_bytes(good[: header + 5])
    with pytest.raises(StoreError, match=r"s4\.safetensors: missing or damaged"):
        embed_cohort(model, store, tmp_path / "out", shard_scans=4, progress=False)
    (store.path / "studies" / "s4.safetensors").write_bytes(good)
    assert embed_cohort(model, store, tmp_path / "out", shard_scans=4, progress=False).reused == 2


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three studies: two good scans, a good and an empty one, an empty one."""
    voxels = np.zeros((40, 48, 12), np.float32)
    voxels[8:-8, 8:-8, 2:-2] = np.random.default_rng(0).normal(200, 50, (24, 32, 8))
    lines = []
    for number, good in enumerate([(True, True), (True, False), (False,)]):
        scans = [{"path": f"scans/s{number}_{scan}.nii.gz"} for scan in range(len(good))]
        for scan, whole in zip(scans, good, strict=True):
            path = tmp_path / scan["path"]
            path.parent.mkdir(exist_ok=True)
            if whole:
                nib.save(nib.Nifti1Image(voxels + number, np.diag([4.0, 4.0, 12.0, 1.0])), path)
            else:
                path.write_bytes(b"")
        lines.append({"study_id": f"s{number}", "patient_id": f"p{number}", "scans": scans})
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_the_command_takes_a_manifest_or_a_store(model, store, manifest, tmp_path, capsys, monkeypatch):
    model.save(tmp_path / "run" / "model")

    def run(source: Path, out: Path, **other: object) -> str:
        options = {"tokens": False, "batch_size": 4, "workers": 1, "device": "cpu"} | other
        embed_command(Namespace(checkpoint=tmp_path / "run", source=source, out=out, **options))
        printed = capsys.readouterr()
        assert "SIMULATED" in printed.err
        return printed.out + printed.err

    assert "7 studies, 13 scans in 1 shards" in run(store.path, tmp_path / "of_store")
    out = tmp_path / "of_manifest"
    with monkeypatch.context() as patch:
        patch.setattr(embed, "study_features", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(manifest, out)
    assert (out / "prepared" / "index.jsonl").is_file()  # nothing is prepared twice
    capsys.readouterr()
    said = run(manifest, out)
    assert "2 studies, 3 scans in 1 shards" in said
    assert "1 without a usable scan" in said
    assert "not embedded: study 's2' has no usable scan" in said
    assert said.count("skipped: empty_file") == 2
    assert load_embeddings(out)[0] == ["s0", "s1"]
    assert set(everything(out)) == {"config.json", "embeddings-00000.safetensors", "index.csv", "quality.parquet"}
    before = everything(out)
    assert "complete, made from this manifest" in run(manifest, out)
    assert everything(out) == before
    (out / "embeddings-00000.safetensors").unlink()
    run(manifest, out)
    assert everything(out) == before
    with pytest.raises(EmbeddingsError, match="--tokens"):
        run(manifest, out, tokens=True)
    with pytest.raises(EmbeddingsError, match="from another manifest, or from a store"):
        run(manifest, tmp_path / "of_store")
    assert not (tmp_path / "of_store" / "prepared").exists()  # refused before preparing
