"""Samples and batches: the same whoever draws them, nothing lost, nothing repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hlip.data import Chunks, SamplingConfig, StudyDataset, collate, evaluation_batches, sentence_chances
from hlip.store import Store, StoreError, StudyRecord, write_index, write_spec, write_study
from hlip.training.batches import GlobalBatches, Place
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Seven studies of 1 to 4 scans; voxels name study and scan. The last has no report."""
    spec = VolumeSpec.load("demo")
    (tmp_path / "studies").mkdir()
    write_spec(tmp_path, spec)
    records = []
    for study in range(7):
        scans = 1 + study % 4
        volumes = [np.full(spec.size, 10 * study + scan, np.uint8) for scan in range(scans)]
        write_study(tmp_path, f"s{study}", volumes, {})
        report = f"Finding {study} is seen. No hemorrhage. Ventricles are normal." if study < 6 else ""
        records.append(StudyRecord(f"s{study}", f"p{study}", ("T1",) * scans, report=report, split="train"))
    write_index(tmp_path, records)
    return Store(tmp_path)


def dataset(store: Store, **changes) -> StudyDataset:
    return StudyDataset(store, "train", SamplingConfig(**({"max_scans": 2} | changes)), seed=5, prefix="This study shows: ")


def test_a_sample_depends_on_seed_epoch_and_index_alone(store):
    data = dataset(store)
    one, again, later = data[3, 2], data[3, 2], data[4, 2]
    assert torch.equal(one.volumes, again.volumes)
    assert (one.sentence, one.report) == (again.sentence, again.report)
    draws = {
        (data[epoch, 2].sentence, data[epoch, 2].report, tuple(data[epoch, 2].volumes[:, 0, 0, 0, 0].tolist()))
        for epoch in range(20)
    }
    assert len(draws) > 5
    assert later.study_id == one.study_id


def test_scans_are_drawn_without_repeats_and_cut(store):
    data = dataset(store)
    for epoch in range(10):
        drawn = data[epoch, 3].volumes[:, 0, 0, 0, 0].tolist()
        assert len(drawn) == 2
        assert len(set(drawn)) == 2
        assert set(drawn) <= {30, 31, 32, 33}
    assert dataset(store, max_scans=8)[0, 3].volumes.shape == (4, 1, 24, 64, 64)


def test_sentence_and_report_come_from_the_report(store):
    data = dataset(store)
    sentences = {"Finding 1 is seen.", "No hemorrhage.", "Ventricles are normal."}
    seen = set()
    for epoch in range(40):
        sample = data[epoch, 1]
        assert sample.report.startswith("This study shows: ")
        assert all(sentence in sample.report for sentence in sentences)
        seen.add(sample.sentence.removeprefix("This study shows: "))
    assert seen == sentences
    whole = dataset(store, sentence_dropout=False)[0, 1]
    assert whole.sentence == whole.report


def test_a_study_without_a_report_is_left_out_by_name(store):
    data = dataset(store)
    assert len(data) == 6
    assert data.without_report == ["s6"]


def test_rare_sentences_can_be_drawn_more_often():
    reports = [["a", "b"], ["a", "c"], ["a", "d"]]
    assert sentence_chances(reports, 0.0)[0].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(sentence_chances(reports, 1.0)[0], [0.25, 0.75])


def test_a_batch_packs_studies(store):
    data = dataset(store, max_scans=8)
    batch = collate([data[0, 0], data[0, 3]])
    assert batch.scans_per_study == [1, 4]
    assert batch.volumes.shape == (5, 1, 24, 64, 64)
    assert batch.volumes.dtype == torch.uint8
    assert batch.volumes[0, 0, 0, 0, 0] == 0
    assert sorted(batch.volumes[1:, 0, 0, 0, 0].tolist()) == [30, 31, 32, 33]


def test_patch_dropout_is_drawn_study_by_study(store):
    """The same patches whatever batch a study stands in; as many in every scan."""
    vision = VisionConfig(size=(24, 64, 64), patch=(6, 16, 16), width=24, heads=2, scopes=["scan"], patch_dropout=0.5)
    data = StudyDataset(store, "train", SamplingConfig(), seed=5, prefix="", vision=vision)
    kept = data[0, 3].kept
    assert kept.shape == (4, 32)
    assert all(len(set(scan.tolist())) == 32 for scan in kept)
    assert not torch.equal(kept, data[1, 3].kept)
    batch = collate([data[0, 1], data[0, 3]])
    assert torch.equal(batch.kept[2:], kept)


def test_a_damaged_study_is_replaced_and_named(store):
    (store.path / "studies" / "s2.safetensors").write_bytes(b"no tensors here")
    data = dataset(store)
    sample = data[0, 2]
    assert sample.study_id != "s2"
    assert [study for study, _ in sample.faults] == ["s2"]
    assert "damaged" in sample.faults[0][1]
    assert data[0, 2].study_id == sample.study_id  # the same replacement for whoever draws
    batch = collate([data[0, 0], sample, data[0, 1]])
    assert [study for study, _ in batch.faults] == ["s2"]
    for study in range(6):
        (store.path / "studies" / f"s{study}.safetensors").unlink(missing_ok=True)
    with pytest.raises(StoreError, match="one after another"):
        data[0, 0]


def test_chunks_of_a_step_come_as_batches_with_their_ids(store):
    data = dataset(store)
    chunks = Chunks(lambda texts: torch.tensor([[len(text)] for text in texts]))
    batches = chunks([data[Place(0, 4, 0)], data[Place(0, 1, 0)], data[Place(0, 2, 1)]])
    assert [batch.study_ids for batch in batches] == [["s4", "s1"], ["s2"]]
    assert [batch.report_ids.shape for batch in batches] == [(2, 1), (1, 1)]
    assert batches[1].sentence_ids.item() == len(batches[1].sentences[0])


def test_loader_processes_change_nothing(store):
    def batches(workers: int) -> list:
        sampler = GlobalBatches(6, 2, seed=3, steps=4)
        return list(DataLoader(dataset(store), batch_sampler=sampler, num_workers=workers, collate_fn=collate))

    for one, other in zip(batches(0), batches(2), strict=True):
        assert torch.equal(one.volumes, other.volumes)
        assert (one.study_ids, one.scans_per_study, one.sentences, one.reports) == (
            other.study_ids, other.scans_per_study, other.sentences, other.reports,
        )  # fmt: skip


def test_evaluation_takes_every_scan_in_order(store):
    batches = list(evaluation_batches(store, store.records, 4))
    assert [batch.scans_per_study for batch in batches] == [[1, 2, 3, 4], [1, 2, 3]]
    assert [study for batch in batches for study in batch.study_ids] == store.study_ids
