"""`hlip import folders`: both layouts, what lies outside of them, masks, series, and how tables may call a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from hlip.importing.options import Options
from hlip.importing.outcome import Imported, ImportingError
from hlip.importing.study_folders import LEAK, import_folders
from hlip.importing.tables import Tables
from hlip.store import Store
from hlip.study import read_manifest

from .nifti_trees import deny, reasons, run, scan, small_spec, table, touch


def imported(root: Path, out: Path, **tables: Path) -> Imported:
    return import_folders(root, out, Options(Tables(**tables)), progress=False)


def studies(out: Path) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    return {
        study.study_id: (study.patient_id, [(found.path.name, found.sequence) for found in study.scans])
        for study in read_manifest(out / "manifest.jsonl")
    }


def test_a_folder_a_study(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "s1/t1.nii.gz", "s1/flair.mgz", "s1/notes.txt", "s2/T2.NII", "s2/.hidden.nii.gz")
    made = imported(root, tmp_path / "out")
    assert studies(tmp_path / "out") == {
        "s1": ("s1", [("flair.mgz", "FLAIR"), ("t1.nii.gz", "T1")]),
        "s2": ("s2", [("T2.NII", "T2")]),
    }
    assert made.notes == (f"2 of 2 studies have no patient's folder: {LEAK}",)
    assert not (tmp_path / "out/left_out.csv").exists()


def test_a_folder_a_patient(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "p1/base/t1.nii.gz", "p1/month 6/t1.nii.gz", "p2/base/swi.nii.gz", "alone/ct.nii.gz")
    made = imported(root, tmp_path / "out")
    assert studies(tmp_path / "out") == {
        "alone": ("alone", [("ct.nii.gz", "CT")]),
        "p1__base": ("p1", [("t1.nii.gz", "T1")]),
        "p1__month 6": ("p1", [("t1.nii.gz", "T1")]),
        "p2__base": ("p2", [("swi.nii.gz", "SWI")]),
    }
    home = {study.patient_id: study.split for study in made.studies}
    assert all(study.split == home[study.patient_id] for study in made.studies)
    assert made.notes[0].startswith("1 of 4 studies have no patient's folder")


def test_folders_that_may_be_series_are_said(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", *[f"p{n}/{kind}/a.nii.gz" for n in (1, 2) for kind in ("t1", "t2", "flair")])
    assert any("is a series and not a study" in note for note in imported(root, tmp_path / "out").notes)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["a.nii.gz", "b.nii.gz"], "a.nii.gz lies in ROOT itself; if ROOT is one study, name the folder above it"),
        (["p/s/anat/a.nii.gz", "p/s/dwi/a.nii.gz"], "2 folders .*\n  p/s/anat: too deep\n  p/s/dwi: too deep"),
        (["p/a.nii.gz", "p/s/a.nii.gz"], "p: holds scans, and folders with scans"),
    ],
)
def test_scans_outside_of_the_layout_are_all_named(tmp_path: Path, names: list[str], word: str) -> None:
    with pytest.raises(ImportingError, match=word):
        imported(touch(tmp_path / "in", *names), tmp_path / "out")
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_a_stray_scan_in_root_is_named_and_the_rest_is_imported(tmp_path: Path) -> None:
    imported(touch(tmp_path / "in", "stray.nii.gz", "s1/t1.nii.gz", "s2/t1.nii.gz"), tmp_path / "out")
    assert set(studies(tmp_path / "out")) == {"s1", "s2"}
    assert reasons(tmp_path / "out") == {"stray.nii.gz": "stray"}


def test_every_folder_gives_a_study_or_is_named(tmp_path: Path) -> None:
    """Forty studies; pairs, other packing, archives, other formats, folders called like files, other files, nothing, masks alone."""
    others = {
        "pair": ("img_hdr", ["t1.img", "t1.hdr"]),
        "bz2": ("packed", ["t1.nii.bz2"]),
        "zip": ("archive", ["scans.zip"]),
        "nrrd": ("other_format", ["t1.nrrd"]),
        "pictures": ("no_scan", ["a.png", "b.png"]),
        "notes": ("no_scan", ["a.txt"]),
        "deep": ("no_scan", ["/".join("abcdefgh") + "/t1.nii.gz"]),
        "p1/without": ("no_scan", ["a.txt"]),
    }
    names = [f"{folder}/{name}" for folder, (_, held) in others.items() for name in held]
    root = touch(tmp_path / "in", *[f"s{n}/t1.nii.gz" for n in range(40)], "p1/base/t1.nii.gz", *names)
    (root / "empty").mkdir()
    touch(root, "inside/t1.nii.gz/t1.nii", "masked/brain_mask.nii.gz", "s0/t2.img", "s0/t2.hdr")
    made = imported(root, tmp_path / "out")
    assert len(made.studies) == 41
    named = {Path(row.path).relative_to(root).as_posix(): (row.reason, row.message) for row in made.left_out}
    rest = {"empty": "no_scan", "inside/t1.nii.gz": "folder", "masked/brain_mask.nii.gz": "mask", "s0": "img_hdr"}
    assert {path: reason for path, (reason, _) in named.items()} == {
        path: reason for path, (reason, _) in others.items()
    } | rest
    assert "t1.hdr and 1 more, pairs of .img and .hdr, are not read; make them .nii.gz: nib-convert" in named["pair"][1]
    assert "its files: .png 2); if it is a study, put its scans there" in named["pictures"][1]
    assert "move the scan in it out" in named["inside/t1.nii.gz"][1]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = touch(tmp_path / "in", "s1/t1.nii.gz", "s2/t1.nii.gz", "p/s3/t1.nii.gz", "p/s4/t1.nii.gz")
    deny(monkeypatch, root / "s2", root / "p/s4")
    made = imported(root, tmp_path / "out")
    assert set(studies(tmp_path / "out")) == {"s1", "p__s3"}
    assert reasons(tmp_path / "out") == {"s2": "no_permission", "s4": "no_permission"}
    assert f"no permission to read 2 folders, nothing in them is imported: {root / 'p/s4'}, {root / 's2'}" in made.notes


def test_other_trees_are_sent_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ImportingError, match="no such folder"):
        imported(tmp_path / "gone", tmp_path / "out")
    touch(tmp_path / "bids", "dataset_description.json", "sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(ImportingError, match="hlip import bids"):
        imported(tmp_path / "bids", tmp_path / "out")
    (tmp_path / "dicom/s1").mkdir(parents=True)
    (tmp_path / "dicom/s1/IM0001").write_bytes(bytes(128) + b"DICM" + bytes(50))
    with pytest.raises(ImportingError, match=r"no usable study .*dicom 1"):
        imported(tmp_path / "dicom", tmp_path / "out")
    assert reasons(tmp_path / "out") == {"s1": "dicom"}


def test_masks_are_left_out_by_name(tmp_path: Path) -> None:
    masks = ["brain_mask.nii.gz", "BraTS-GLI-00000-seg.nii.gz", "seg.nii", "x_dseg.nii.gz", "lesion.mgz", "labels2.nii.gz"]
    scans = ["t1_masked.nii.gz", "segmented_t1.nii.gz", "t1.nii.gz", "t2_unlabelled.nii.gz"]
    imported(touch(tmp_path / "in", *[f"s/{name}" for name in masks + scans]), tmp_path / "out")
    assert [name for name, _ in studies(tmp_path / "out")["s"][1]] == sorted(scans)
    assert reasons(tmp_path / "out") == dict.fromkeys(masks, "mask")


def test_series_with_b_values_are_split_and_links_to_nowhere_named(tmp_path: Path) -> None:
    root = tmp_path / "in"
    scan(root / "s1/ep2d.nii.gz", (8, 7, 6, 3), [0, 1000, 1000])
    scan(root / "s1/rest.nii.gz", (8, 7, 6, 3))  # 4-D without b-values: not opened here, refused when prepared
    scan(root / "s2/dti.nii.gz", (8, 7, 6, 3), [0, 1000])
    (root / "s1/t1.nii.gz").symlink_to("nowhere.nii.gz")
    scan(root / "s2/t1.nii.gz")
    imported(root, tmp_path / "out")
    found = studies(tmp_path / "out")
    assert [sequence for _, sequence in found["s1"][1]] == ["DWI b0", "DWI", "ADC", ""]
    assert found["s2"][1] == [("t1.nii.gz", "T1")]
    assert reasons(tmp_path / "out") == {"t1.nii.gz": "missing", "dti.nii.gz": "b_values"}


def test_tables_may_say_patient_and_study_or_the_study_alone(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "p1/A/t1.nii.gz", "p1/B/t1.nii.gz", "p2/A/t1.nii.gz", "p2/C/t1.nii.gz")
    rows = ["study_id,label", "p1__A,one", "B,two", "C,three", "A,nobody knows whose"]
    made = imported(root, tmp_path / "out", labels=table(tmp_path / "l.csv", *rows))
    assert {study.study_id: study.labels for study in made.studies} == {
        "p1__A": ("one",),
        "p1__B": ("two",),
        "p2__A": None,
        "p2__C": ("three",),
    }
    assert "l.csv: 1 of 4 rows meet no study" in made.notes


def test_patients_of_a_table_keep_splits_together(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", *[f"s{n}/t1.nii.gz" for n in range(20)])
    rows = ["study_id,patient_id,sex", *[f"s{n},p{n // 4},F" for n in range(20)]]
    made = imported(root, tmp_path / "out", metadata=table(tmp_path / "m.csv", *rows))
    homes = {(study.patient_id, study.split) for study in made.studies}
    assert len(homes) == len({patient for patient, _ in homes}) == 5
    assert not any(LEAK in note for note in made.notes)


@pytest.mark.parametrize("place", [".", "made"])
def test_written_among_its_data_it_does_not_read_itself(tmp_path: Path, place: str) -> None:
    root = tmp_path / "in"
    scan(root / "s1/dwi.nii.gz", (12, 11, 10, 3), [0, 1000, 1000])
    scan(root / "s1/t1.nii.gz")
    scan(root / "s2/t1.nii.gz", (12, 11, 10, 2))
    scan(root / "s2/t2.nii.gz")
    for _ in range(2):
        run("folders", root, root / place, "--prepare", small_spec(tmp_path), "--workers", 1)
        assert set(studies(root / place)) == {"s1", "s2"}
    store = Store(root / place / "store")
    assert store.record("s1").sequences == ("DWI b0", "DWI", "ADC", "T1")
    assert store.record("s2").sequences == ("T2",)


def test_what_no_reader_looks_at_is_left_out_by_name_or_sidecar(tmp_path: Path) -> None:
    root = tmp_path / "in"
    bad = {
        "T1_sub": "subtraction", "T2_map": "derived_map", "SWI_QSM": "derived_map", "ep2d_diff_FA": "derived_map", "exp_ADC": "derived_map",
        "localizer": "localizer", "3_scout": "localizer", "rCBV": "derived_map", "9": "localizer",
    }  # fmt: skip
    good = {"sub-01_ses-02_T1w": "T1", "sub_01_dark-fluid": "FLAIR", "5": "T2", "6": "", "ADC": "ADC"}
    touch(root / "s1", *[f"{name}.nii.gz" for name in [*bad, *good]])
    for number, text in (
        ("9", '{"SeriesDescription": "AAHScout"}'),
        ("5", '{"ProtocolName": "t2_tse_tra"}'),
        ("6", '{"Kernel": "Br40f\\",'),
    ):
        (root / "s1" / f"{number}.json").write_text(text)
    imported(root, tmp_path / "out")
    found = studies(tmp_path / "out")
    assert {name.removesuffix(".nii.gz"): sequence for name, sequence in found["s1"][1]} == good
    assert reasons(tmp_path / "out") == {f"{name}.nii.gz": reason for name, reason in bad.items()}
