"""`hlip prepare`: every scan is a row, bad ones stop nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hlip.prepare import one_study
from hlip.store import Store
from hlip.volume import VolumeSpec

from .small_cohort import SPEC, manifest, run, scan, study, tree


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
    assert f"25.0% of the voxels were NaN and became background, with the value {value:g}" in notes["masked"]
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
