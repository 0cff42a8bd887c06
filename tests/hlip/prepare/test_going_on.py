"""`hlip prepare` again: only what is missing or has changed is made, and a run that was stopped goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hlip.prepare import cohort as every_study
from hlip.prepare import one_study, prepare
from hlip.scans.scan import VolumeError
from hlip.store import Store, StoreError, read_metadata, study_file
from hlip.study import ManifestError
from hlip.volume import VolumeSpec

from .small_cohort import SPEC, manifest, run, scan, study, tree


def test_a_second_run_does_nothing_and_gives_the_same(cohort: Path, tmp_path: Path, made: list[str]) -> None:
    run(cohort, tmp_path / "store")
    before = tree(tmp_path / "store")
    made.clear()
    summary = run(cohort, tmp_path / "store")
    assert made == []
    assert summary.studies_reused == 5
    assert summary.scans_ok == 7
    assert tree(tmp_path / "store") == before


def test_only_what_changed_is_made_again(cohort: Path, tmp_path: Path, made: list[str]) -> None:
    store = tmp_path / "store"
    run(cohort, store)
    made.clear()
    study_file(store, "s0").unlink()  # lost
    scan(tmp_path / "s2_t1.nii.gz", seed=99)  # another scan under the same name
    os.utime(tmp_path / "s2_t1.nii.gz", ns=(1, 1))
    study_file(store, "s3").write_bytes(b"half")  # damaged
    (store / "studies" / "s4.safetensors.77.partial").write_bytes(b"half")  # left by a killed run
    run(cohort, store)
    assert made == ["s0", "s2", "s3"]
    rows = [json.loads(line) for line in cohort.read_text().splitlines()]
    rows[4]["scans"].append({"path": "s1_flair.nii.gz"})
    made.clear()
    run(manifest(tmp_path, rows), store)
    assert made == ["s4"]
    assert Store(store).volumes("s4").shape[0] == 2


def test_a_repaired_scan_joins_and_a_broken_one_leaves(cohort: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    content = (tmp_path / "s0_t1.nii.gz").read_bytes()
    (tmp_path / "s0_t1.nii.gz").write_bytes(b"")
    assert run(cohort, store).studies_ready == 4
    (tmp_path / "s0_t1.nii.gz").write_bytes(content)
    assert run(cohort, store).studies_ready == 5
    (tmp_path / "s0_t1.nii.gz").unlink()
    assert run(cohort, store).studies_ready == 4
    assert "s0" not in Store(store).study_ids


def test_a_scan_lost_to_the_machine_is_tried_again(
    cohort: Path, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = tmp_path / "store", one_study.read_scan

    def full_disk(path: Path, *fill: Any) -> Any:
        if path.name.startswith("s1"):
            raise VolumeError("no_room", f"{path}: the temporary folder is full")
        return real(path, *fill)

    monkeypatch.setattr(one_study, "read_scan", full_disk)
    assert run(cohort, store).studies_ready == 4
    monkeypatch.undo()
    monkeypatch.setattr(
        every_study, "prepare_study", lambda *job: made.append(job[1].study_id) or one_study.prepare_study(*job)
    )
    assert run(cohort, store).studies_ready == 5
    assert made[-1:] == ["s1"]
    assert len(made) == 6  # five before


def test_another_spec_remakes_everything_and_never_mixes(cohort: Path, tmp_path: Path, made: list[str]) -> None:
    store = tmp_path / "store"
    run(cohort, store)
    made.clear()
    other = VolumeSpec.from_dict(SPEC.as_dict() | {"size": (5, 12, 12)})
    run(cohort, store, other)
    assert len(made) == 5
    assert Store(store).spec == other
    assert Store(store).volumes("s0").shape[-3:] == (5, 12, 12)
    assert {read_metadata(study_file(store, f"s{n}"))["spec"] for n in range(5)} == {other.digest()}


def test_a_store_of_another_spec_is_kept_unless_told(cohort: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(cohort, store)
    before = tree(store)
    other = VolumeSpec.from_dict(SPEC.as_dict() | {"size": (5, 12, 12)})
    for shard in (None, (1, 2)):
        with pytest.raises(StoreError, match="--replace"):
            prepare(cohort, store, other, workers=1, progress=False, replace=False, shard=shard)
    assert tree(store) == before
    prepare(cohort, store, SPEC, workers=1, progress=False, replace=False)  # its own spec goes on as ever
    assert tree(store) == before


def test_stopped_runs_cannot_be_opened_and_go_on(
    cohort: Path, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, whole = tmp_path / "store", tmp_path / "whole"
    run(cohort, whole)
    spy = every_study.prepare_study

    def stopped(*job: Any) -> str:
        if job[1].study_id == "s3":
            raise KeyboardInterrupt
        return spy(*job)

    monkeypatch.setattr(every_study, "prepare_study", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(cohort, store)
    with pytest.raises(StoreError, match="not finished"):
        Store(store)
    monkeypatch.setattr(every_study, "prepare_study", spy)
    made.clear()
    run(cohort, store)
    assert made == ["s3", "s4"]
    assert tree(store) == tree(whole)


def test_a_full_disk_stops_cleanly(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(one_study, "write_study", full)
    with pytest.raises(StoreError, match="No space left"):
        run(cohort, tmp_path / "store")


def test_faults_of_the_manifest_come_first(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        run(tmp_path / "none.jsonl", tmp_path / "store")
    path = manifest(tmp_path, [study("a", "x.nii"), study("a", "y.nii")])
    with pytest.raises(ManifestError, match="'a' stands already on line 1"):
        run(path, tmp_path / "store")
    assert not (tmp_path / "store").exists()
