"""`hlip import bids`: which files are scans and what they are called, what sidecars and tables say, and why the rest is left out."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlip.importing.bids import import_bids
from hlip.importing.bids_layout import BidsName, Sidecars, why_not
from hlip.importing.options import Options
from hlip.importing.outcome import ImportingError
from hlip.importing.tables import Tables
from hlip.store import Store
from hlip.study import read_manifest

from .nifti_trees import deny, reasons, run, scan, small_spec, table, touch


def bids(folder: Path, *names: str) -> Path:
    """A data set of empty files: ANAT is sub-XX[/ses-Y]/anat/sub-XX[_ses-Y]."""
    touch(folder, *names)
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    return folder


def imported(root: Path, out: Path, **tables: Path) -> dict:
    import_bids(root, out, Options(Tables(**tables)), progress=False)
    return {study.study_id: study for study in read_manifest(out / "manifest.jsonl")}


def sequences(study) -> dict[str, str]:
    return {scan.path.name: scan.sequence for scan in study.scans}


# --- names -------------------------------------------------------------------------------------------------------------------


def test_a_name_taken_apart() -> None:
    name = BidsName.of("sub-01_ses-2_acq-tse_run-03_T2w")
    assert name == BidsName({"sub": "01", "ses": "2", "acq": "tse", "run": "03"}, "T2w")
    for other in ("T2w", "sub-01", "sub-01_T2w.old", "sub-0-1_T2w", "brain mask", "sub-01__T2w"):
        assert BidsName.of(other) is None, other


@pytest.mark.parametrize(
    ("stem", "folder", "sequence"),
    [
        ("sub-1_T1w", "anat", "T1"),
        ("sub-1_ce-gad_T1w", "anat", "T1 contrast"),
        ("sub-1_ce-gad_FLAIR", "anat", "FLAIR contrast"),
        ("sub-1_T2w", "anat", "T2"),
        ("sub-1_acq-sag_run-2_FLAIR", "anat", "FLAIR"),
        ("sub-1_PDw", "anat", "PD"),
        ("sub-1_T2starw", "anat", "SWI"),
        ("sub-1_angio", "anat", "MRA"),
        ("sub-1_ce-gad_angio", "anat", "MRA"),
        ("sub-1_part-mag_swi", "swi", "SWI"),
        ("sub-1_dwi", "dwi", "DWI"),
        ("sub-1_ADC", "dwi", "ADC"),
        ("sub-1_UNIT1", "anat", "T1"),
    ],
)
def test_scans_and_their_sequences(stem: str, folder: str, sequence: str) -> None:
    name = BidsName.of(stem)
    assert name is not None
    assert why_not(name, folder) is None
    assert name.sequence == sequence


@pytest.mark.parametrize(
    ("stem", "folder", "reason"),
    [
        ("sub-1_task-rest_bold", "func", "functional"),
        ("sub-1_task-rest_sbref", "func", "functional"),
        ("sub-1_dir-AP_sbref", "dwi", "functional"),
        ("sub-1_asl", "perf", "perfusion"),
        ("sub-1_m0scan", "perf", "perfusion"),
        ("sub-1_magnitude1", "fmap", "fieldmap"),
        ("sub-1_dir-AP_epi", "fmap", "fieldmap"),
        ("sub-1_T1w", "fmap", "fieldmap"),
        ("sub-1_defacemask", "anat", "mask"),
        ("sub-1_space-orig_dseg", "anat", "mask"),
        ("sub-1_T1map", "anat", "map"),
        ("sub-1_T2starmap", "anat", "map"),
        ("sub-1_FA", "dwi", "map"),
        ("sub-1_PDT2", "anat", "double_echo"),
        ("sub-1_minIP", "swi", "map"),
        ("sub-1_inv-1_MP2RAGE", "anat", "part"),
        ("sub-1_echo-2_MEGRE", "anat", "part"),
        ("sub-1_part-phase_swi", "swi", "not_magnitude"),
        ("sub-1_space-MNI_T1w", "anat", "derivative"),
        ("sub-1_desc-preproc_T1w", "anat", "derivative"),
        ("sub-1_trc-18FFDG_pet", "pet", "other_modality"),
        ("sub-1_photo", "anat", "unknown_suffix"),
        ("T1w", "anat", "not_bids"),
    ],
)
def test_what_is_no_scan_has_its_reason(stem: str, folder: str, reason: str) -> None:
    found = why_not(BidsName.of(stem), folder)
    assert found is not None
    assert found[0] == reason


# --- a data set --------------------------------------------------------------------------------------------------------------


def test_a_session_is_a_study_and_runs_are_kept(tmp_path: Path) -> None:
    root = bids(
        tmp_path / "set",
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_ce-gad_acq-3d_T1w.nii",
        "sub-02/anat/sub-02_FLAIR.nii.gz",
        "derivatives/fs/sub-01/anat/sub-01_T1w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_T2w.nii.gz",
        "sub-02/anat/.sub-02_T1w.nii.gz",
    )
    studies = imported(root, tmp_path / "out")
    assert {name: study.patient_id for name, study in studies.items()} == {
        "sub-01_ses-a": "sub-01",
        "sub-01_ses-b": "sub-01",
        "sub-02": "sub-02",
    }
    assert sequences(studies["sub-01_ses-a"]) == {
        "sub-01_ses-a_run-1_T1w.nii.gz": "T1",
        "sub-01_ses-a_run-2_T1w.nii.gz": "T1",
    }
    assert studies["sub-01_ses-a"].extra["entities"] == [{"run": "1"}, {"run": "2"}]
    assert studies["sub-01_ses-b"].extra["entities"] == [{"ce": "gad", "acq": "3d"}]
    assert studies["sub-01_ses-b"].extra["session"] == "b"
    assert "session" not in studies["sub-02"].extra
    assert sequences(studies["sub-02"]) == {"sub-02_FLAIR.nii.gz": "FLAIR"}
    assert studies["sub-01_ses-a"].split == studies["sub-01_ses-b"].split
    assert reasons(tmp_path / "out") == {"derivatives": "not_raw", "sourcedata": "not_raw"}
    before = (tmp_path / "out/manifest.jsonl").read_bytes()
    imported(root, tmp_path / "out")
    assert (tmp_path / "out/manifest.jsonl").read_bytes() == before


def test_misplaced_missing_and_stray_files_are_named(tmp_path: Path) -> None:
    root = bids(
        tmp_path / "set",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-02_ses-1_T2w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-2_PDw.nii.gz",
        "sub-01/ses-1/anat/scan.nii.gz",
        "sub-01/anat/sub-01_FLAIR.nii.gz",
    )
    (root / "sub-01/ses-1/anat/sub-01_ses-1_angio.nii.gz").symlink_to("../../../.git/annex/objects/gone")
    studies = imported(root, tmp_path / "out")
    assert sequences(studies["sub-01_ses-1"]) == {"sub-01_ses-1_T1w.nii.gz": "T1"}
    assert reasons(tmp_path / "out") == {
        "sub-02_ses-1_T2w.nii.gz": "misplaced",
        "sub-01_ses-2_PDw.nii.gz": "misplaced",
        "scan.nii.gz": "not_bids",
        "sub-01_FLAIR.nii.gz": "misplaced",
        "sub-01_ses-1_angio.nii.gz": "missing",
    }


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
    )
    root = bids(tmp_path / "set", *names)
    deny(monkeypatch, root / "sub-01/ses-2/anat", root / "sub-02")
    assert set(imported(root, tmp_path / "out")) == {"sub-01_ses-1"}
    assert reasons(tmp_path / "out") == {"anat": "no_permission", "sub-02": "no_permission"}


def test_a_data_set_without_a_usable_scan_says_why(tmp_path: Path) -> None:
    root = bids(tmp_path / "set", "sub-01/func/sub-01_task-rest_bold.nii.gz")
    with pytest.raises(ImportingError, match=r"no usable study .*functional 1"):
        imported(root, tmp_path / "out")
    assert reasons(tmp_path / "out") == {"sub-01_task-rest_bold.nii.gz": "functional"}


def test_a_data_set_without_a_file_says_what_was_looked_for(tmp_path: Path) -> None:
    root = bids(tmp_path / "set", "sub-01/anat/readme.txt", "derivatives/fs/sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(ImportingError, match=r"no \*\.nii or \*\.nii\.gz in sub-\*/\[ses-\*/\]anat.* of 1 folders sub-\*"):
        imported(root, tmp_path / "out")


def test_what_is_no_raw_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportingError, match="no such folder"):
        imported(tmp_path / "gone", tmp_path / "out")
    touch(tmp_path / "plain", "study/a.nii.gz")
    with pytest.raises(ImportingError, match="hlip import folders"):
        imported(tmp_path / "plain", tmp_path / "out")
    bids(tmp_path / "outer" / "rawdata", "sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(ImportingError, match="rawdata does: name that"):
        imported(tmp_path / "outer", tmp_path / "out")
    root = bids(tmp_path / "fs", "sub-01/anat/sub-01_T1w.nii.gz")
    (root / "dataset_description.json").write_text('{"DatasetType": "derivative"}')
    with pytest.raises(ImportingError, match="a derivative"):
        imported(root, tmp_path / "out")


# --- sidecars and participants -----------------------------------------------------------------------------------------------


def test_sidecars_are_inherited_and_the_nearest_wins(tmp_path: Path) -> None:
    file = tmp_path / "sub-01/ses-1/anat/sub-01_ses-1_acq-tse_T1w.nii.gz"
    touch(tmp_path, str(file.relative_to(tmp_path)))
    levels = {
        "T1w.json": {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0},
        "acq-tse_T1w.json": {"b": 1, "c": 1, "d": 1, "e": 1},  # same folder, more entities
        "acq-other_T1w.json": {"a": 9},
        "T2w.json": {"a": 9},
        "sub-01/sub-01_T1w.json": {"c": 2, "d": 2, "e": 2},
        "sub-01/ses-1/sub-01_ses-1_T1w.json": {"d": 3, "e": 3},
        "sub-01/ses-1/anat/sub-01_ses-1_acq-tse_T1w.json": {"e": 4},
        "sub-01/ses-1/anat/sub-01_ses-1_acq-tse_run-2_T1w.json": {"a": 9},
    }
    for name, content in levels.items():
        (tmp_path / name).write_text(json.dumps(content))
    name = BidsName.of("sub-01_ses-1_acq-tse_T1w")
    assert name is not None
    assert Sidecars(tmp_path).fields(file, name) == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}


def test_vendor_and_field_of_most_scans(tmp_path: Path) -> None:
    root = bids(tmp_path / "set", *[f"sub-01/anat/sub-01_{kind}.nii.gz" for kind in ("T1w", "T2w", "FLAIR")])
    (root / "T1w.json").write_text('{"Manufacturer": "SIEMENS", "MagneticFieldStrength": 2.89}')
    (root / "T2w.json").write_text('{"Manufacturer": "GE MEDICAL SYSTEMS", "MagneticFieldStrength": "1.5"}')
    (root / "sub-01/anat/sub-01_FLAIR.json").write_text('{"Manufacturer": "Siemens Healthineers", "MagneticFieldStrength": 3}')
    study = imported(root, tmp_path / "out")["sub-01"]
    assert (study.extra["vendor"], study.extra["field_strength"]) == ("Siemens", 3.0)


def test_a_broken_sidecar_is_named_and_stops_nothing(tmp_path: Path) -> None:
    root = bids(tmp_path / "set", "sub-01/anat/sub-01_T1w.nii.gz")
    (root / "sub-01/anat/sub-01_T1w.json").write_text("{broken")
    assert "vendor" not in imported(root, tmp_path / "out")["sub-01"].extra
    assert reasons(tmp_path / "out") == {"sub-01_T1w.json": "sidecar"}


def test_participants_and_sessions(tmp_path: Path) -> None:
    root = bids(
        tmp_path / "set",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        *[f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in (2, 3)],
    )
    table(
        root / "participants.tsv",
        "participant_id\tage\tSex\tgroup\tsplit",
        "sub-01\t34\t1\tpatient\tx",
        "02\tn/a\tF\tn/a\t",
        "sub-09\t5\tM\tpatient\t",
    )
    (root / "participants.json").write_text('{"Sex": {"Levels": {"1": "male", "2": "female"}}, "group": "text"}')
    table(root / "sub-01/sub-01_sessions.tsv", "session_id\tage\tacq_time\tedss", "ses-2\t36\t2019-03-01\t2.5")
    notes = import_bids(root, tmp_path / "out", progress=False).notes
    assert "participants.tsv: 1 of 3 rows meet no folder sub-*" in notes
    studies = {study.study_id: study for study in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    about = {name: {k: v for k, v in s.extra.items() if k not in ("entities", "imported")} for name, s in studies.items()}
    first = {"age": 34, "sex": "M", "group": "patient", "participant_split": "x"}
    assert about == {
        "sub-01_ses-1": first | {"session": "1"},
        "sub-01_ses-2": first | {"session": "2", "age": 36, "edss": "2.5"},
        "sub-02": {"sex": "F"},
        "sub-03": {},
    }


def test_a_participants_table_with_faults_is_told_and_not_used(tmp_path: Path) -> None:
    root = bids(tmp_path / "set", "sub-01/anat/sub-01_T1w.nii.gz")
    table(root / "participants.tsv", "id\tage", "sub-01\t3")
    made = import_bids(root, tmp_path / "out", progress=False)
    assert any("no column participant_id" in note and "not used" in note for note in made.notes)
    assert "age" not in made.studies[0].extra


def test_tables_call_a_patient_with_and_without_sub(tmp_path: Path) -> None:
    root = bids(tmp_path / "set", *[f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in (1, 2, 3)])
    labels = table(tmp_path / "labels.csv", "patient_id,label", "01,glioma", "sub-02,normal")
    reports = table(tmp_path / "reports.csv", "study_id,report", "sub-03,Normal.")
    studies = imported(root, tmp_path / "out", labels=labels, reports=reports)
    assert [studies[f"sub-0{n}"].labels for n in (1, 2, 3)] == [("glioma",), ("normal",), None]
    assert [studies[f"sub-0{n}"].report for n in (1, 2, 3)] == ["", "", "Normal."]


# --- diffusion ---------------------------------------------------------------------------------------------------------------


def test_diffusion_is_split_once(tmp_path: Path) -> None:
    root = bids(tmp_path / "set", "sub-01/anat/sub-01_T1w.nii.gz")
    source = scan(root / "sub-01/dwi/sub-01_dwi.nii.gz", (8, 7, 6, 4))
    (root / "dwi.bval").write_text("0 1000 1000 1000\n")  # inherited from the root
    study = imported(root, tmp_path / "out")["sub-01"]
    parts = [part for part in study.scans if part.path.is_relative_to(tmp_path / "out/scans/sub-01")]
    assert [part.sequence for part in parts] == ["DWI b0", "DWI", "ADC"]
    assert study.extra["entities"] == [{}] * 4
    series = nib.load(source).get_fdata()
    np.testing.assert_allclose(nib.load(parts[0].path).get_fdata(), series[..., 0], rtol=1e-5)
    trace = np.exp(np.log(series[..., 1:]).mean(-1))
    np.testing.assert_allclose(nib.load(parts[1].path).get_fdata(), trace, rtol=1e-5)
    np.testing.assert_array_equal(nib.load(parts[1].path).affine, nib.load(source).affine)

    times = [part.path.stat().st_mtime_ns for part in parts]
    imported(root, tmp_path / "out")
    assert [part.path.stat().st_mtime_ns for part in parts] == times, "a second run must not touch them"
    content = [part.path.read_bytes() for part in parts]
    parts[2].path.unlink()
    imported(root, tmp_path / "out")
    assert [part.path.read_bytes() for part in parts] == content
    (root / "dwi.bval").write_text("0 500 500 500\n")
    imported(root, tmp_path / "out")
    assert parts[2].path.read_bytes() != content[2], "other b-values give another ADC"


@pytest.mark.parametrize(
    ("shape", "b_values", "reason"),
    [
        ((8, 7, 6, 3), None, "series_4d"),
        ((8, 7, 6, 3), "0 1000", "b_values"),
        ((8, 7, 6, 3), "0 1000 abc", "b_values"),
        ((8, 7, 6, 3), "", "b_values"),
        ((8, 7, 6, 3, 2), "0 1000 1000", "not_3d"),
    ],
)
def test_diffusion_that_cannot_be_split(tmp_path: Path, shape: tuple[int, ...], b_values: str | None, reason: str) -> None:
    root = bids(tmp_path / "set", "sub-01/anat/sub-01_T1w.nii.gz")
    scan(root / "sub-01/dwi/sub-01_dwi.nii.gz", shape)
    if b_values is not None:
        (root / "sub-01/dwi/sub-01_dwi.bval").write_text(b_values)
    assert len(imported(root, tmp_path / "out")["sub-01"].scans) == 1
    assert reasons(tmp_path / "out") == {"sub-01_dwi.nii.gz": reason}


def test_damaged_and_complex_diffusion(tmp_path: Path) -> None:
    root = bids(tmp_path / "set", "sub-01/anat/sub-01_T1w.nii.gz")
    cut = scan(root / "sub-01/dwi/sub-01_run-1_dwi.nii.gz", (8, 7, 6, 3), [0, 1000, 1000])
    cut.write_bytes(cut.read_bytes()[:-3])  # only the check sum at the very end is hurt
    touch(root, "sub-01/dwi/sub-01_run-2_dwi.nii.gz")
    volumes = np.ones((8, 7, 6, 2), np.complex64)
    nib.save(nib.Nifti1Image(volumes, np.eye(4)), root / "sub-01/dwi/sub-01_run-3_dwi.nii")
    scan(root / "sub-01/dwi/sub-01_run-4_dwi.nii.gz", (8, 7, 6))  # one volume: a scan itself
    study = imported(root, tmp_path / "out")["sub-01"]
    assert sequences(study) == {"sub-01_T1w.nii.gz": "T1", "sub-01_run-4_dwi.nii.gz": "DWI"}
    found = reasons(tmp_path / "out")
    assert found.pop("sub-01_run-2_dwi.nii.gz") in ("not_an_image", "truncated", "empty_file")
    assert found == {"sub-01_run-1_dwi.nii.gz": "truncated", "sub-01_run-3_dwi.nii": "rgb_or_complex"}


# --- the command line --------------------------------------------------------------------------------------------------------


def test_from_the_command_line_to_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = bids(tmp_path / "set")
    for number in (1, 2, 3):
        scan(root / f"sub-{number}/anat/sub-{number}_T1w.nii.gz", seed=number)
        scan(root / f"sub-{number}/dwi/sub-{number}_dwi.nii.gz", (12, 11, 10, 3), [0, 1000, 1000], seed=number)
    scan(root / "sub-3/anat/sub-3_T2w.nii.gz", (12, 11, 10, 2))  # 4-D under a name that promises one volume
    table(tmp_path / "r.csv", "patient_id,findings", "1,Normal.", "2,Glioma.", "3,Normal.")
    words = ["bids", root, tmp_path / "out", "--reports", tmp_path / "r.csv", "--splits", 0.4, 0.3, 0.3, "--seed", 1]
    run(*words, "--prepare", small_spec(tmp_path), "--workers", 1)
    said = capsys.readouterr().out
    assert "3 studies of 3 patients, 13 scans, 3 with a report" in said
    assert "splits: test 1, train 1, val 1" in said
    assert "series_4d 1" in said
    store = Store(tmp_path / "out/store")
    assert store.record("sub-3").sequences == ("T1", "DWI b0", "DWI", "ADC")
    assert store.record("sub-2").report == "FINDINGS: Glioma."
    with pytest.raises(ImportingError, match="not written by this command"):
        run("folders", touch(tmp_path / "f", "s/a.nii.gz"), tmp_path / "out")
