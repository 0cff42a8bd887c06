"""`hlip check`: whatever is damaged, missing or foreign is named, and the remedy works."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hlip.cli import main
from hlip.prepare import prepare
from hlip.quality.check import check_store, delete_damaged
from hlip.store import Store, StoreError, skipped_file, study_file
from hlip.volume import VolumeSpec

SPEC = VolumeSpec(size=(6, 12, 12), spacing_mm=(30, 20, 20), through_plane="axial")


def again(folder: Path) -> None:
    prepare(folder / "manifest.jsonl", folder / "store", SPEC, workers=1, progress=False)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_good_store_is_good(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(made / "store")])
    assert "6 studies, all as they were written" in capsys.readouterr().out


def test_two_sites_with_the_same_data_have_the_same_contents(folder: Path) -> None:
    mine = check_store(folder / "store", progress=False).contents
    assert mine is not None
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    other = folder / "other"
    for number, file in enumerate(sorted(folder.glob("*.nii*"))):
        os.utime(file, ns=(number, number))  # copied on another day
    (folder / "turned.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    prepare(folder / "turned.jsonl", other, SPEC, workers=1, progress=False)
    assert study_file(other, "s1").read_bytes() != study_file(folder / "store", "s1").read_bytes()
    assert check_store(other, progress=False).contents == mine
    row = json.loads(lines[0])
    row["report"] = "Another finding."
    row.pop("sentences", None)
    (folder / "turned.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    prepare(folder / "turned.jsonl", other, SPEC, workers=1, progress=False)
    changed = check_store(other, progress=False)
    assert changed.ok
    assert changed.contents != mine


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("place", [-1, -300, 500, 1200, 3, 40])
def test_one_flipped_bit_is_found_wherever_it_lies(folder: Path, place: int) -> None:
    """In voxels or pictures (at the end), in the metadata, in the header."""
    flip(study_file(folder / "store", "s2"), place)
    assert set(check_store(folder / "store", progress=False).damaged) == {"s2"}


def inside(file: Path, tensor: str) -> int:
    """Where a byte of a tensor lies in a study's file."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return start + json.loads(data[8:start])[tensor]["data_offsets"][0] + 5


def test_what_is_known_of_the_voxels_is_said(folder: Path) -> None:
    file = study_file(folder / "store", "s2")
    whole = file.read_bytes()
    hashes = Store(folder / "store").quality[4]["hashes"]
    cases = {
        "metadata or pictures are not what was written; the voxels of all its volumes are)": [inside(file, "before.1")],
        "voxels of volume 1 are not what was written; all else is)": [inside(file, "1")],
        "do not fit their hashes": [inside(file, "before.1"), inside(file, "0")],
        "which are metadata, too": [whole.index(hashes[0].encode())],
    }
    for said, places in cases.items():
        for place in places:
            flip(file, place)
        assert said in check_store(folder / "store", progress=False).damaged["s2"]
        file.write_bytes(whole)


def test_every_byte_of_a_study_is_covered(folder: Path) -> None:
    file = study_file(folder / "store", "s4")
    whole = file.read_bytes()
    missed = []
    for place in np.random.default_rng(0).choice(len(whole), 150, replace=False):
        flip(file, int(place))
        if not check_store(folder / "store", progress=False).damaged:
            missed.append(int(place))
        file.write_bytes(whole)
    assert not [whole[place - 30 : place + 30] for place in missed if whole[place : place + 1] != b" "], "padding may change"


def damage(kind: str, folder: Path) -> None:
    store = folder / "store"
    file = study_file(store, "s1")
    match kind:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-700])
        case "empty":
            file.write_bytes(b"")
        case "missing":
            file.unlink()
        case "another's":
            file.write_bytes(study_file(store, "s2").read_bytes())


@pytest.mark.parametrize("kind", ["truncated", "empty", "missing", "another's"])
def test_the_bad_study_is_named_and_the_remedy_works(folder: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(folder / "store")
    damage(kind, folder)
    with pytest.raises(SystemExit) as status:
        main(["check", str(folder / "store"), "--delete"])
    assert status.value.code == 1
    said = capsys.readouterr().out
    assert "s1: " in said
    assert "1 of 6 studies are bad" in said
    assert "hlip prepare" in said
    again(folder)
    assert content(folder / "store") == before
    assert check_store(folder / "store", progress=False).ok


def test_a_skipped_study_is_checked_too(folder: Path) -> None:
    file = skipped_file(folder / "store", "s5")
    file.write_text(file.read_text().replace("missing", "missinG"))
    assert set(check_store(folder / "store", progress=False).damaged) == {"s5"}
    file.unlink()
    assert set(check_store(folder / "store", progress=False).damaged) == {"s5"}


@pytest.mark.parametrize("name", ["index.jsonl", "quality.parquet", "quality.html", "volume_spec.json"])
def test_files_beside_the_studies_are_checked(folder: Path, name: str) -> None:
    file = folder / "store" / name
    file.write_bytes(file.read_bytes()[:-9] + b"\n" * 9)
    checked = check_store(folder / "store", progress=False)
    assert not checked.ok
    assert name in checked.faults[0]
    assert not checked.damaged


def test_files_of_no_study_are_named_and_no_fault(folder: Path) -> None:
    shutil.copy(study_file(folder / "store", "s1"), study_file(folder / "store", "withdrawn"))
    (folder / "store" / "studies" / "s1.safetensors.7.partial").write_bytes(b"half")
    checked = check_store(folder / "store", progress=False)
    assert checked.ok
    assert set(checked.strangers) == {"studies/withdrawn.safetensors", "studies/s1.safetensors.7.partial"}
    assert delete_damaged(checked) == []


def test_an_unfinished_store_cannot_be_checked(folder: Path) -> None:
    (folder / "store" / "index.jsonl").unlink()
    with pytest.raises(StoreError, match="not finished"):
        check_store(folder / "store")


@pytest.mark.parametrize(
    "broken", [("index.jsonl",), ("quality.parquet",), ("index.jsonl", "quality.parquet", "volume_spec.json")]
)
def test_every_study_on_disk_is_checked_though_index_table_and_spec_are_broken(
    folder: Path, broken: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    store = folder / "store"
    whole = study_file(store, "s2").read_bytes()
    for name in broken:
        (store / name).write_bytes(b"\xff{" + (store / name).read_bytes()[:-40])
    study_file(store, "s0").unlink()
    flip(study_file(store, "s2"), -1)
    flip(skipped_file(store, "s5"), 30)
    checked = check_store(store, progress=False)
    lost = set() if len(broken) > 1 else {"s0"}
    assert set(checked.damaged) == {"s2", "s5"} | lost
    assert checked.studies == 5 + len(lost)
    assert ("whether a study is missing was not found out" in str(checked)) is (len(broken) > 1)
    with pytest.raises(SystemExit):
        main(["check", str(store), "--delete"])
    said = capsys.readouterr().out
    assert f"{2 + len(lost)} of {5 + len(lost)} studies are bad, files beside them are bad, too" in said
    assert "the studies are good" not in said
    assert not study_file(store, "s2").exists()
    assert not skipped_file(store, "s5").exists()
    prepare(folder / "manifest.jsonl", store, SPEC, workers=1, progress=False, replace=False)
    assert study_file(store, "s2").read_bytes() == whole, "the remedy works"
    assert check_store(store, progress=False).ok


def test_good_studies_beside_a_broken_index_were_looked_at(folder: Path) -> None:
    (folder / "store" / "index.jsonl").write_text("{")
    checked = check_store(folder / "store", progress=False)
    assert (checked.studies, checked.damaged) == (6, {})
    assert "the 6 studies are good, files beside them are not" in str(checked)


def test_a_study_that_only_the_index_forgot_is_not_called_missing(folder: Path) -> None:
    index = folder / "store" / "index.jsonl"
    index.write_text("".join(line for line in index.read_text().splitlines(keepends=True) if '"s3"' not in line))
    checked = check_store(folder / "store", progress=False)
    assert checked.damaged == {}
    assert any("s3: prepared and in the quality table, but not in the index" in fault for fault in checked.faults)
    assert delete_damaged(checked) == []
