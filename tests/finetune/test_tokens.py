"""The cache of tokens: each study is encoded once, whoever asks and in whatever order, and nothing that others read goes."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune.tokens as tokens
from finetune.feed import Scans
from finetune.tokens import encode, encode_once
from hlip.model import load as load_pretrained
from hlip.store import Store, study_file
from hlip.taxonomy import Taxonomy
from hlip.training.augment import AugmentConfig
from hlip.training.batches import Place
from hp2l.diagnoser import Diagnoser
from hp2l.heads import HeadConfig


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """Studies in the order in which they are encoded."""
    found: list[str] = []

    def counted(model, store, records, *more):
        found.extend(record.study_id for record in records)
        return encode(model, store, records, *more)

    monkeypatch.setattr(tokens, "encode", counted)
    return found


def diagnoser(encoder: Path, blocks=(2, 2, 2), **head) -> Diagnoser:
    return Diagnoser(
        load_pretrained(encoder), HeadConfig(blocks=blocks, width=16, heads=2, **head), Taxonomy.load("brain_mri")
    ).eval()


def ask(model: Diagnoser, store: Store, studies, folder: Path, name: str = "train", precision: str = "no"):
    return encode_once(model, store, [store.record(f"s{n}") for n in studies], folder, name, 8, precision, False)


def test_a_study_is_encoded_once_and_rows_follow_who_asks(tiny_store, tiny_pretrained, tmp_path, encoded):
    model, store = diagnoser(tiny_pretrained), Store(tiny_store)
    for studies in ([3, 1, 2], [9, 2, 5], [3, 1, 2], [3, 1, 2, 9], [5, 1], [3, 1], [2, 9, 3, 11, 1, 5]):
        found = ask(model, store, studies, tmp_path)
        expected = encode(model, store, [store.record(f"s{n}") for n in studies], 8)
        torch.testing.assert_close(found.patches, expected.patches, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.cls, expected.cls, atol=1e-5, rtol=1e-5)
    assert encoded == ["s3", "s1", "s2", "s9", "s5", "s11"]
    assert len(list(tmp_path.iterdir())) == 3  # parts, and nothing half written beside them
    ask(diagnoser(tiny_pretrained, dropout=0.5), store, [11, 3], tmp_path, "val")  # the head's business alone, another split
    assert len(encoded) == 6


def test_other_blocks_precision_or_weights_stand_beside_in_a_shared_folder(tiny_store, tiny_pretrained, tmp_path, encoded):
    model, store = diagnoser(tiny_pretrained), Store(tiny_store)
    ask(model, store, [0, 1], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = diagnoser(tiny_pretrained)
    with torch.no_grad():
        other.encoder.visual.norm.weight[0] += 1e-3
    for one, precision in ((diagnoser(tiny_pretrained, (1, 2, 2)), "no"), (model, "bf16"), (other, "no")):
        ask(one, store, [0, 1], tmp_path, precision=precision)
    assert encoded == ["s0", "s1"] * 4
    assert before.items() <= {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()
    ask(model, store, [1, 0], tmp_path)
    assert len(encoded) == 8


def test_other_heads_over_the_same_weights_are_another_encoder(tiny_store, tiny_pretrained, tmp_path, encoded):
    model, store = diagnoser(tiny_pretrained), Store(tiny_store)
    ask(model, store, [0], tmp_path)
    config = model.encoder.model.config
    model.encoder.model.config = replace(config, vision=replace(config.vision, heads=2 * config.vision.heads))
    ask(model, store, [0], tmp_path)
    assert encoded == ["s0", "s0"]


def test_tokens_are_made_in_the_precision_they_are_kept_under(tiny_store, tiny_pretrained, tmp_path):
    model, store = diagnoser(tiny_pretrained), Store(tiny_store)
    whole, low = (ask(model, store, [0, 1], tmp_path, precision=precision).cls for precision in ("no", "bf16"))
    torch.testing.assert_close(whole, encode(model, store, [store.record("s0"), store.record("s1")], 8).cls)
    assert 0 < (whole - low).abs().max() < 0.1


def test_a_killed_run_loses_the_part_it_encodes_and_no_more(tiny_store, tiny_pretrained, tmp_path, encoded, monkeypatch):
    model, store = diagnoser(tiny_pretrained), Store(tiny_store)
    monkeypatch.setattr(tokens, "PART", 2)
    counted, calls = tokens.encode, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return counted(*arguments)

    monkeypatch.setattr(tokens, "encode", dying)
    with pytest.raises(KeyboardInterrupt):
        ask(model, store, range(5), tmp_path)
    assert encoded == ["s0", "s1", "s2", "s3"]
    found = ask(model, store, range(5), tmp_path)
    assert encoded[4:] == ["s4"]
    torch.testing.assert_close(found.cls, encode(model, store, [store.record(f"s{n}") for n in range(5)], 8).cls)


def test_runs_that_encode_side_by_side_leave_one_another_whole(tiny_store, tiny_pretrained, tmp_path, monkeypatch):
    """While a run encodes, another encodes and writes an overlapping cohort: both read what they asked for."""
    model, store, beside = diagnoser(tiny_pretrained), Store(tiny_store), []

    def meanwhile(*arguments):
        made = encode(*arguments)
        monkeypatch.setattr(tokens, "encode", encode)
        beside.append(ask(model, store, [2, 0, 7], tmp_path))
        return made

    monkeypatch.setattr(tokens, "encode", meanwhile)
    mine = ask(model, store, [0, 1, 2], tmp_path)
    for found, studies in ((mine, [0, 1, 2]), (beside[0], [2, 0, 7]), (ask(model, store, [7, 1], tmp_path), [7, 1])):
        expected = encode(model, store, [store.record(f"s{n}") for n in studies], 8)
        torch.testing.assert_close(found.patches, expected.patches, atol=1e-5, rtol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_study_that_was_prepared_anew_is_encoded_anew(tiny_store, tiny_pretrained, tmp_path, encoded):
    shutil.copytree(tiny_store, tmp_path / "store")
    model, store = diagnoser(tiny_pretrained), Store(tmp_path / "store")
    ask(model, store, [0, 1], tmp_path / "tokens")
    os.utime(study_file(store.path, "s1"), ns=(1, 1))
    ask(model, store, [0, 1], tmp_path / "tokens")
    assert encoded == ["s0", "s1", "s1"]


def test_a_damaged_part_is_named(tiny_store, tiny_pretrained, tmp_path):
    model, store = diagnoser(tiny_pretrained), Store(tiny_store)
    ask(model, store, [0], tmp_path)
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes()[:20])
    with pytest.raises(ValueError, match=rf"{part.name}: cached tokens, damaged .* delete the file"):
        ask(model, store, [0], tmp_path)


def test_scans_in_their_acquired_planes_are_turned_before_they_are_averaged(tiny_store, tiny_pretrained, tmp_path, monkeypatch):
    """Encoded for the cache or read for a training step; a store whose scans are all axial is not asked."""
    model, store = diagnoser(tiny_pretrained, (4, 2, 2)), Store(tiny_store)
    store.spec = replace(store.spec, through_plane="acquired")
    record = next(record for record in store.records if len(record.sequences) == 2)
    sagittal = np.eye(4)[[0, 2, 1, 3]]
    monkeypatch.setattr(Store, "affines", lambda self, study: np.stack([np.eye(4)[[2, 1, 0, 3]], sagittal]))
    volumes = store.volumes(record.study_id)
    found = encode(model, store, [record], 8)
    with torch.no_grad():
        turned, plain = (model.tokens(volumes, [2], axes) for axes in ([(0, 1, 2), (1, 2, 0)], ()))
    assert torch.equal(found.patches, turned.patches)
    assert torch.equal(found.cls, plain.cls)
    assert not torch.allclose(found.patches, plain.patches, atol=1e-3)
    scans = Scans(store, [record] * 8, model.encoder.reader, 2, AugmentConfig(), 0)
    drawn = [scans[Place(0, study)] for study in range(8)]
    assert {sample.axes for sample in drawn} == {((0, 1, 2), (1, 2, 0)), ((1, 2, 0), (0, 1, 2))}
    for sample in drawn:
        assert torch.equal(sample.volumes[sample.axes.index((0, 1, 2))], volumes[0])
    store.spec = replace(store.spec, through_plane="axial")
    assert torch.equal(encode(model, store, [record], 8).patches, plain.patches)
