"""The prepared store: what is written is read back, only what is asked for is read, and every fault is said."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hlip import store as store_module
from hlip.files import folders
from hlip.prepare.montage import montage, sides
from hlip.quality.table import write_table
from hlip.store import Store, StoreError, StudyRecord, study_file, write_index, write_spec, write_study
from hlip.volume import PreparedVolume, VolumeSpec

SPEC = VolumeSpec(size=(4, 6, 8), spacing_mm=(6, 4, 4))


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SPEC.size).astype(np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three studies of 1, 2 and 12 volumes."""
    folder = tmp_path / "store"
    (folder / "studies").mkdir(parents=True)
    write_spec(folder, SPEC)
    records = []
    for study, (count, split) in enumerate(((1, "train"), (2, "val"), (12, "train"))):
        affines = [np.diag([n + 1.0, 2, 3, 1]).tolist() for n in range(count)]
        write_study(folder, f"s{study}", [volume(100 * study + n) for n in range(count)], {"affines": affines, "quality": []})
        records.append(
            StudyRecord(f"s{study}", f"p{study}", tuple(f"T{n}" for n in range(count)), "One. Two.", ("One.", "Two."),
                        ("glioma",) if study else None, split, {"age": 40 + study})
        )  # fmt: skip
    write_index(folder, records)
    write_table(folder, [{"study_id": "s0", "scan": 0, "status": "ok"}])
    return folder


def test_written_is_read_back(path: Path) -> None:
    store = Store(path)
    assert (len(store), store.study_ids, store.spec) == (3, ["s0", "s1", "s2"], SPEC)
    assert store.record("s1") == StudyRecord(
        "s1", "p1", ("T0", "T1"), "One. Two.", ("One.", "Two."), ("glioma",), "val", {"age": 41}
    )
    assert store.record("s0").labels is None, "unlabelled is not the same as no label"
    assert [record.study_id for record in store.split("train")] == ["s0", "s2"]
    read = store.volumes("s2")
    assert read.shape == (12, 1, 4, 6, 8)
    assert read.dtype == torch.uint8
    for n in range(12):  # tensor "10" must not come before "2"
        np.testing.assert_array_equal(read[n, 0].numpy(), volume(200 + n))
    np.testing.assert_allclose(store.affines("s1")[:, 0, 0], [1, 2])
    assert store.quality[0]["status"] == "ok"


def test_only_what_is_asked_for_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Spy:
        def __init__(self, *args: object, **keywords: object) -> None:
            self.file = real(*args, **keywords)

        def __enter__(self) -> Spy:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def get_tensor(self, key: str) -> torch.Tensor:
            asked.append(key)
            return self.file.get_tensor(key)

    real = store_module.safe_open
    store = Store(path)
    monkeypatch.setattr(store_module, "safe_open", Spy)
    read = store.volumes("s2", [11, 3, 3])
    assert asked == ["11", "3", "3"]
    for place, n in enumerate((11, 3, 3)):
        np.testing.assert_array_equal(read[place, 0].numpy(), volume(200 + n))
    assert store.volumes("s2", []).shape == (0, 1, 4, 6, 8)


class Means(Dataset):
    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, place: int) -> float:
        return float(self.store.volumes(self.store.study_ids[place]).float().mean())


def test_store_goes_to_loader_processes(path: Path) -> None:
    store = Store(path)
    store.volumes("s0")  # opened before the fork
    assert pickle.loads(pickle.dumps(store)).study_ids == store.study_ids
    wanted = [Means(store)[n] for n in range(3)]
    read = [float(item) for item in DataLoader(Means(store), batch_size=None, num_workers=1)]
    assert read == pytest.approx(wanted)


def test_faults_are_said(path: Path, tmp_path: Path) -> None:
    store = Store(path)
    with pytest.raises(StoreError, match="no study 'x'"):
        store.volumes("x")
    with pytest.raises(StoreError, match="volumes 0 to 1, not 2"):
        store.volumes("s1", [0, 2])
    with pytest.raises(StoreError, match="hlip prepare"):
        Store(tmp_path / "nowhere")
    study_file(path, "s1").write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"s1.safetensors.*damaged"):
        store.volumes("s1")
    (path / "index.jsonl").write_text('{"study_id": "s0"}\n')
    with pytest.raises(StoreError, match="line 1"):
        Store(path)
    (path / "index.jsonl").unlink()
    with pytest.raises(StoreError, match="not finished"):
        Store(path)


def test_another_format_version_is_refused(path: Path) -> None:
    content = json.loads((path / "volume_spec.json").read_text())
    (path / "volume_spec.json").write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        Store(path)


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = study_file(path, "s0").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.os, "replace", full)
    with pytest.raises(OSError, match="space"):
        write_study(path, "s0", [volume(9)], {})
    assert study_file(path, "s0").read_bytes() == before
    assert not list(path.rglob("*.partial"))


def test_sides_of_a_slice_follow_from_its_affine() -> None:
    """Columns are (d, h, w) -> RAS mm: the third says where a slice's columns go."""
    down, back, right = (np.array(step, dtype=float) for step in ((0, 0, -5), (0, -1, 0), (1, 0, 0)))

    def affine(d: np.ndarray, h: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.vstack([np.column_stack([d, h, w, np.zeros(3)]), [0, 0, 0, 1]])

    assert sides(affine(down, back, right)) == ("L", "R")
    assert sides(affine(down, back, -right)) == ("R", "L")
    assert sides(affine(right, down, back)) == ("A", "P")
    assert sides(affine(right, back, -down + 0.3 * right)) == ("I", "S")
    assert sides(None) == ("", "")


def test_montage_draws_stores_and_volumes(path: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    bright = PreparedVolume(np.full((5, 20, 20), 255, np.uint8), np.eye(4), "brain")
    for name, source in (("store", path), ("volumes", [bright]), ("pairs", [("T1", volume(0))])):
        picture = imread(montage(source, tmp_path / f"{name}.png", slices=3))
        assert picture.shape[0] > 50
        assert picture[..., :3].max() > 0.5
    with pytest.raises(StoreError, match="nothing to draw"):
        montage([], tmp_path / "none.png")
