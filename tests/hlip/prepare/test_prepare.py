"""`hlip prepare`: every scan is a row, bad ones stop nothing, runs go on where they stopped, workers change no byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hlip.prepare import PrepareSummary, one_study, prepare
from hlip.prepare import cohort as every_study
from hlip.scans.scan import VolumeError
from hlip.store import Store, StoreError, read_metadata, study_file
from hlip.study import ManifestError
from hlip.volume import VolumeSpec

SPEC = VolumeSpec(size=(6, 12, 12), spacing_mm=(10, 8, 8), through_plane="axial")


def scan(path: Path, seed: int = 0, data: np.ndarray | None = None) -> str:
    if data is None:
        data = np.random.default_rng(seed).integers(0, 900, (16, 14, 10)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([6.0, 6, 6, 1])), path)
    return path.name


def manifest(folder: Path, studies: list[dict[str, Any]]) -> Path:
    path = folder / "manifest.jsonl"
    rows = [{"patient_id": study["study_id"], "report": "One cm. Two.", "split": "train"} | study for study in studies]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def study(study_id: str, *paths: str, **more: object) -> dict[str, Any]:
    return {"study_id": study_id, "scans": [{"path": path} for path in paths]} | more


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Five good studies of one or two scans."""
    studies = []
    for n in range(5):
        names = [scan(tmp_path / f"s{n}_t1.nii.gz", n)] + ([scan(tmp_path / f"s{n}_flair.nii.gz", 50 + n)] if n % 2 else [])
        studies.append(study(f"s{n}", *names, age=n))
    return manifest(tmp_path, studies)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the studies that are really prepared, in order."""
    ids: list[str] = []
    real: Callable[..., str] = every_study.prepare_study

    def spy(*job: Any) -> str:
        ids.append(job[1].study_id)
        return real(*job)

    monkeypatch.setattr(every_study, "prepare_study", spy)
    return ids


def run(manifest: Path, store: Path, spec: VolumeSpec = SPEC, workers: int = 1) -> PrepareSummary:
    return prepare(manifest, store, spec, workers=workers, progress=False)


def test_good_cohort(cohort: Path, tmp_path: Path) -> None:
    summary = run(cohort, tmp_path / "store")
    assert (summary.studies, summary.studies_ready, summary.scans_ok, summary.scans_skipped) == (5, 5, 7, 0)
    store = Store(tmp_path / "store")
    assert store.study_ids == [f"s{n}" for n in range(5)]
    assert store.record("s1").sequences == ("T1", "FLAIR")
    assert store.record("s1").sentences == ("One cm.", "Two.")
    assert store.record("s1").extra == {"age": 1}
    assert store.volumes("s1").shape == (2, 1, 6, 12, 12)
    row = store.quality[1]
    assert (row["study_id"], row["path"], row["status"], row["shape"], row["spacing_mm"], row["orientation"]) == (
        "s1", "s1_t1.nii.gz", "ok", [16, 14, 10], [6, 6, 6], "RAS",
    )  # fmt: skip
    assert row["prepared_shape"] == [6, 12, 12]
    assert row["low"][0] < row["high"][0]


def test_every_bad_scan_is_a_named_row_and_stops_nothing(tmp_path: Path) -> None:
    good = np.random.default_rng(0).integers(0, 900, (16, 14, 10)).astype(np.int16)
    nan = good.astype(np.float32)
    nan[8, 7, 5] = np.nan
    bad = {
        "truncated": scan(tmp_path / "cut.nii.gz"),
        "empty_file": "zero.nii.gz",
        "missing": "gone.nii.gz",
        "nan": scan(tmp_path / "nan.nii.gz", data=nan),
        "constant": scan(tmp_path / "flat.nii.gz", data=np.full_like(good, 3)),
        "not_3d": scan(tmp_path / "2d.nii.gz", data=good[..., 0]),
        "series_4d": scan(tmp_path / "4d.nii.gz", data=np.stack([good] * 3, -1)),
        "rgb_or_complex": scan(tmp_path / "rgb.nii.gz", data=np.zeros((9, 9, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "label_map": scan(tmp_path / "mask.nii.gz", data=good % 3),
    }
    (tmp_path / "zero.nii.gz").touch()
    content = (tmp_path / "cut.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    fine = scan(tmp_path / "fine.nii.gz")
    path = manifest(
        tmp_path, [study("mixed", *bad.values(), fine), study("bad", *bad.values()), study("good", fine, report="")]
    )
    summary = run(path, tmp_path / "store")
    assert (summary.studies, summary.studies_ready, summary.scans_ok, summary.scans_skipped) == (3, 2, 2, 18)
    assert summary.reasons == dict.fromkeys(bad, 2)
    assert summary.studies_without_report == 1
    store = Store(tmp_path / "store")
    assert store.study_ids == ["mixed", "good"]
    assert store.volumes("mixed").shape[0] == 1
    rows = [row for row in store.quality if row["study_id"] == "mixed"]
    assert [row["reason"] for row in rows] == [*bad, ""]
    assert [row["volumes"] for row in rows] == [[]] * 9 + [[0]]
    assert all(name in row["message"] for name, row in zip(bad.values(), rows, strict=False))
    assert len([row for row in store.quality if row["study_id"] == "bad"]) == 9
    # An empty report keeps its study, and is said.
    assert store.record("good").report == ""
    assert store.record("good").sentences == ()
    assert store.quality[-1]["report"] == "none"


@pytest.mark.parametrize("ct", [False, True])
def test_nan_around_a_scan_is_background(tmp_path: Path, ct: bool) -> None:
    """The store's voxels are those of a copy in which the value stands: the lowest, or under CT windows what a scanner did not see."""
    whole = np.random.default_rng(0).integers(-1000 if ct else 100, 900, (16, 14, 10)).astype(np.float32)
    masked, stood_for = whole.copy(), whole.copy()
    masked[:4], stood_for[:4] = np.nan, -1024 if ct else whole[4:].min()
    paths = [scan(tmp_path / f"{name}.nii.gz", data=data) for name, data in (("masked", masked), ("stood_for", stood_for))]
    path = manifest(tmp_path, [study(name, one) for name, one in zip(("masked", "stood_for"), paths, strict=True)])
    spec = replace(SPEC, windows=(("soft", 40, 400),) if ct else (), percentiles=None if ct else SPEC.percentiles)
    assert run(path, tmp_path / "store", spec).scans_ok == 2
    store = Store(tmp_path / "store")
    assert (store.volumes("masked") == store.volumes("stood_for")).all()
    assert store.volumes("masked").max() > 0
    notes = {row["study_id"]: row["notes"] for row in store.quality}
    value = -1024 if ct else whole[4:].min()
    assert f"25.0% of the voxels were NaN and became background, {value:g}" in notes["masked"]
    assert "NaN" not in notes["stood_for"]
    assert run(path, tmp_path / "strict", replace(spec, nan="refuse")).reasons == {"nan": 1}


def test_nan_within_a_scan_is_background_only_where_the_spec_says_so(tmp_path: Path) -> None:
    holes = np.random.default_rng(0).integers(100, 900, (16, 14, 10)).astype(np.float32)
    holes[:4], holes[8, 7, 5] = np.nan, np.nan
    path = manifest(tmp_path, [study("a", scan(tmp_path / "holes.nii.gz", data=holes), scan(tmp_path / "fine.nii.gz"))])
    assert run(path, tmp_path / "store").reasons == {"nan": 1}
    assert "1 of the NaN voxels lie within it" in Store(tmp_path / "store").quality[0]["message"]
    assert run(path, tmp_path / "told", replace(SPEC, nan="background")).scans_ok == 2


def test_an_unexpected_error_costs_one_scan(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = one_study.read_scan

    def fragile(path: Path, *fill: Any) -> Any:
        if path.name == "s1_t1.nii.gz":
            raise ZeroDivisionError("oh")
        return real(path, *fill)

    monkeypatch.setattr(one_study, "read_scan", fragile)
    summary = run(cohort, tmp_path / "store")
    assert summary.reasons == {"unexpected": 1}
    assert summary.studies_ready == 5
    assert "ZeroDivisionError: oh" in Store(tmp_path / "store").quality[1]["message"]


def test_same_bytes_from_any_number_of_workers(cohort: Path, tmp_path: Path) -> None:
    run(cohort, tmp_path / "one")
    summary = run(cohort, tmp_path / "many", workers=3)
    assert summary.scans_ok == 7
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


def test_ct_windows_are_volumes_of_their_own(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1500, (16, 14, 10)).astype(np.int16)
    path = manifest(tmp_path, [study("a", scan(tmp_path / "ct.nii.gz", data=hu), scan(tmp_path / "ct2.nii.gz", data=hu[::-1]))])
    spec = VolumeSpec.from_dict(SPEC.as_dict() | {"windows": {"brain": (40, 80), "bone": (600, 2800)}})
    summary = run(path, tmp_path / "store", spec)
    store = Store(tmp_path / "store")
    assert summary.scans_ok == 2
    assert store.record("a").sequences == ("CT brain", "CT bone", "CT brain", "CT bone")
    assert [row["volumes"] for row in store.quality] == [[0, 1], [2, 3]]
    assert all((row["low"], row["high"]) == ([0, -800], [80, 2000]) for row in store.quality)


# --- going on ----------------------------------------------------------------------------------------------------------------


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


# --- at scale ----------------------------------------------------------------------------------------------------------------


def with_copy_and_gap(cohort: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in cohort.read_text().splitlines()]
    manifest(tmp_path, [*rows, study("bad", "gone.nii.gz"), study("copy", "s1_t1.nii.gz")])


def test_same_bytes_from_one_and_four_workers(cohort: Path, tmp_path: Path) -> None:
    with_copy_and_gap(cohort, tmp_path)
    run(cohort, tmp_path / "one")
    prepare(cohort, tmp_path / "four", SPEC, workers=4, progress=False, time_limit=60, memory_gb=2)
    assert tree(tmp_path / "four") == tree(tmp_path / "one")


def test_same_bytes_from_two_shards_put_together(cohort: Path, tmp_path: Path, made: list[str]) -> None:
    with_copy_and_gap(cohort, tmp_path)
    run(cohort, tmp_path / "one")
    for number in (2, 1):
        made.clear()
        summary = prepare(cohort, tmp_path / "shards", SPEC, workers=1, progress=False, shard=(number, 2))
        assert summary.studies == len(made) == {1: 4, 2: 3}[number]
        assert "without --shard" in str(summary)
        with pytest.raises(StoreError, match="not finished"):
            Store(tmp_path / "shards")
    made.clear()
    merged = run(cohort, tmp_path / "shards")
    assert made == []
    assert (merged.studies_reused, merged.studies_ready) == (7, 6)
    assert merged.flags["duplicate-voxels"] == 2
    whole = tree(tmp_path / "one")
    assert {"index.jsonl", "quality.parquet", "quality.html", "checksums.txt"} < whole.keys()
    assert tree(tmp_path / "shards") == whole


def test_a_shard_that_is_none(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shards 1/2 to 2/2"):
        prepare(cohort, tmp_path / "store", SPEC, shard=(0, 2))


def test_what_a_shard_left_undone_is_made_by_the_last_run(cohort: Path, tmp_path: Path, made: list[str]) -> None:
    prepare(cohort, tmp_path / "store", SPEC, workers=1, progress=False, shard=(1, 2))
    made.clear()
    assert run(cohort, tmp_path / "store").studies_ready == 5
    assert made == ["s1", "s3"]


def run_trapped(cohort: Path, store: Path, monkeypatch: pytest.MonkeyPatch, trap: str, **limits: Any) -> Any:
    """With a scan at which workers are killed or hang: `sitecustomize` changes what they import, as they are started anew."""
    place = cohort.parent / "trap"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(
        "import builtins, os, signal, time\n"
        "real = open\n"
        "def trapped(path, *more, **named):\n"
        "    if str(path).endswith('s1_flair.nii.gz'):\n"
        f"        {trap}\n"
        "    return real(path, *more, **named)\n"
        "builtins.open = trapped\n"
    )
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(place))
        return prepare(cohort, store, SPEC, workers=2, progress=False, **limits)


@pytest.mark.parametrize(
    ("trap", "reason", "limits"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "killed", {}), ("time.sleep(600)", "timeout", {"time_limit": 6.0})],
)
def test_a_scan_that_kills_or_hangs_its_process_is_a_row(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str, reason: str, limits: dict[str, float]
) -> None:
    summary = run_trapped(cohort, tmp_path / "store", monkeypatch, trap, **limits)
    assert summary.reasons == {reason: 1}
    assert (summary.studies_ready, summary.scans_ok) == (5, 6)
    store = Store(tmp_path / "store")
    (row,) = (row for row in store.quality if row["status"] != "ok")
    assert (row["study_id"], row["scan"], row["path"]) == ("s1", 1, "s1_flair.nii.gz")
    assert "s1_flair.nii.gz" in row["message"]
    # the next run tries it again, and then the store is as if nothing had been
    assert run(cohort, tmp_path / "store").scans_ok == 7
    run(cohort, tmp_path / "whole")
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")


def test_a_really_full_disk_stops_cleanly_and_goes_on(cohort: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it; in a process of its own."""
    code = (
        "import resource, sys\n"
        "from hlip.prepare import prepare\n"
        "from hlip.volume import VolumeSpec\n"
        "from tests_spec import SPEC\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "prepare(sys.argv[1], sys.argv[2], SPEC, workers=int(sys.argv[3]), progress=False, time_limit=60)\n"
    ).replace("from tests_spec import SPEC\n", f"SPEC = VolumeSpec.from_dict({SPEC.as_dict()!r})\n")
    store = tmp_path / "store"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(cohort), str(store), "2"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "StoreError" in ran.stderr
    assert "run the command again" in ran.stderr
    assert not list(store.rglob("*.partial"))
    assert run(cohort, store).studies_ready == 5
    run(cohort, tmp_path / "whole")
    assert tree(store) == tree(tmp_path / "whole")


def test_a_fault_of_one_study_beside_its_scans_stops_nothing(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = one_study.write_study

    def fragile(store: Path, study_id: str, volumes: Any, metadata: Any, pictures: Any = None) -> None:
        if study_id == "s3" and volumes:
            raise MemoryError
        real(store, study_id, volumes, metadata, pictures)

    monkeypatch.setattr(one_study, "write_study", fragile)
    summary = run(cohort, tmp_path / "store")
    assert (summary.studies_ready, summary.reasons) == (4, {"unexpected": 2})
    monkeypatch.undo()
    assert run(cohort, tmp_path / "store").studies_ready == 5
