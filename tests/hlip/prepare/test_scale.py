"""`hlip prepare` by several processes and shards: the same bytes, and no lost worker or full disk stops the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hlip.prepare import one_study, prepare
from hlip.store import Store, StoreError

from .small_cohort import SPEC, manifest, run, study, tree


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
