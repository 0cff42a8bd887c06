"""`hlip import table`: rows to studies, columns of studies and of scans, every fault at once with its line, files that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hlip.files.resources import ResourceError
from hlip.importing.long_table import import_table
from hlip.importing.options import Options
from hlip.importing.outcome import Imported, ImportingError
from hlip.importing.tables import Tables
from hlip.store import Store
from hlip.study import read_manifest
from hlip.taxonomy import Taxonomy

from .nifti_trees import reasons, run, scan, small_spec, table, touch


def imported(csv: Path, out: Path, root: Path | None = None, **tables) -> Imported:
    return import_table(csv, out, Options(Tables(**tables)), root, progress=False)


def test_rows_become_studies(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a/t1.nii.gz", "a/x.mgz", "b/flair.nii")
    csv = table(
        tmp_path / "in/scans.csv",
        "\ufeffstudy_id, path ,sequence,patient_id,split,label,report,sex",
        "A,a/t1.nii.gz,T1 post,P1,train,glioma; oedema ,,F",
        'B,b/flair.nii,,P2,valid,,"Normal, for age.",',
        "A,./a/x.mgz,FLAIR,,,,Glioma.,F",
    )
    made = imported(csv, tmp_path / "out")
    first, second = read_manifest(tmp_path / "out/manifest.jsonl")
    assert [(s.study_id, s.patient_id, s.split, s.labels, s.report) for s in (first, second)] == [
        ("A", "P1", "train", ("glioma", "oedema"), "Glioma."),
        ("B", "P2", "val", None, "Normal, for age."),
    ]
    assert [(s.path, s.sequence) for s in first.scans] == [
        (tmp_path / "in/a/t1.nii.gz", "T1 contrast"),
        (tmp_path / "in/a/x.mgz", "FLAIR"),
    ]
    assert second.scans[0].sequence == "FLAIR"  # guessed from its name
    assert (first.extra, second.extra) == ({"sex": "F", "imported": "table"}, {"imported": "table"})
    assert made.notes == ("sequences that are spelled otherwise here: T1 post -> T1 contrast (1)",)


def test_columns_may_be_called_as_others_call_them(tmp_path: Path) -> None:
    touch(tmp_path, "1.nii.gz")
    csv = table(
        tmp_path / "t.csv",
        "StudyInstanceUID;path;PatientID;Befund;Beurteilung",
        "1.2.3;1.nii.gz;P1;Unauffällig.;Keine Blutung.",
    )
    imported(csv, tmp_path / "out")
    (study,) = read_manifest(tmp_path / "out/manifest.jsonl")
    assert (study.study_id, study.patient_id) == ("1.2.3", "P1")
    assert study.report == "FINDINGS: Unauffällig.\nIMPRESSION: Keine Blutung."
    assert study.extra == {"imported": "table"}


def test_columns_that_differ_between_scans_become_lists(tmp_path: Path) -> None:
    touch(tmp_path, "1.nii.gz", "2.nii.gz", "3.nii.gz")
    rows = ["study_id,path,echo_time,site,note", "A,1.nii.gz,10,X,", "A,2.nii.gz,90,X,late", "B,3.nii.gz,20,Y,"]
    imported(table(tmp_path / "t.csv", *rows), tmp_path / "out")
    first, second = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert (first["echo_time"], first["site"], first["note"]) == (["10", "90"], "X", "late")
    assert (second["echo_time"], second["site"]) == (["20"], "Y")
    assert "note" not in second


def test_sex_and_age_have_one_spelling_whatever_the_letters_of_their_column(tmp_path: Path) -> None:
    touch(tmp_path, "1.nii.gz", "2.nii.gz", "3.nii.gz", "4.nii.gz")
    rows = ["study_id;path;SEX;Age", "A;1.nii.gz;w;61,5", "A;2.nii.gz;F;61.5", "B;3.nii.gz;männlich;045Y", "C;4.nii.gz;?;"]
    made = imported(table(tmp_path / "t.csv", *rows), tmp_path / "out")
    found = [{name: value for name, value in study.extra.items() if name != "imported"} for study in made.studies]
    assert found == [{"sex": "F", "age": 61.5}, {"sex": "M", "age": 45}, {"sex": "?"}]


def test_paths_of_windows_are_read_where_they_can_be_and_told_where_not(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.nii.gz")
    windows = ["C,b\\1.nii.gz", "D,D:\\data\\2.nii.gz"]
    made = imported(table(tmp_path / "t.csv", "study_id,path", "A,a\\1.nii.gz", *windows), tmp_path / "out")
    assert [scan.path for study in made.studies for scan in study.scans] == [tmp_path / "a" / "1.nii.gz"]
    assert "2 files are not there: paths with \\ are those of Windows; write / instead, and no drive letter" in made.notes
    with pytest.raises(ImportingError, match=r"no file is there, e.g. .*b\\1.nii.gz; paths with . are those of Windows"):
        imported(table(tmp_path / "u.csv", "study_id,path", *windows), tmp_path / "other", tmp_path)


def test_a_patient_in_two_splits_is_named_with_its_table_and_lines(tmp_path: Path) -> None:
    touch(tmp_path, "1.nii.gz", "2.nii.gz", "3.nii.gz")
    rows = ["study_id,path,patient_id,split", "A,1.nii.gz,P,", "A,2.nii.gz,P,train", "B,3.nii.gz,P,test"]
    with pytest.raises(ImportingError, match=r"t.csv: 1 patients are in several splits[\s\S]*P: test .line 4., train .line 3."):
        imported(table(tmp_path / "t.csv", *rows), tmp_path / "out")


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    touch(tmp_path, *[f"{n}.nii.gz" for n in range(9)])
    csv = table(
        tmp_path / "t.csv",
        "study_id,path,patient_id,split,label,findings",
        ",0.nii.gz,,,,",  # left out, and no fault
        "A/1,1.nii.gz,,,,",
        "B,,,,,",
        'C,2.nii.gz,P1,train,,"one,',
        'line"',
        "C,3.nii.gz,P2,test,,other",
        "D,./2.nii.gz,,,,",
        "E,4.nii.gz,,fold_3,,",
        "F,5.nii.gz,,,glyoma,",
        "G,6.nii.gz,,fold_3,,",
    )
    with pytest.raises(ImportingError) as error:
        imported(csv, tmp_path / "out", taxonomy=Taxonomy.load("brain_mri"))
    said = str(error.value)
    for text in (
        "line 3: study_id 'A/1' holds a path separator",
        "line 7: study 'C' has patient_id 'P1' on line 5, but 'P2' here",
        "line 7: study 'C' has split 'train' on line 5, but 'test' here",
        "line 7: study 'C' has findings 'one, line' on line 5, but 'other' here",
        "line 8: ./2.nii.gz stands already on line 5",
        "line 9 and 1 more: split 'fold_3' is none of",
        "line 10: taxonomy",
        "7 problem(s)",
    ):
        assert text in said, (text, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ("study,path", "no column study_id; its columns are study, path"),
        ("study_id|path|sequence", r"no column study_id and path; its columns are study_id\|path"),
        ("study_id,path,path", "column path stands there twice"),
        ("study_id,path,labels", "column labels would overwrite"),
        ("study_id,path,imported", "column imported would overwrite"),
    ],
)
def test_columns_that_cannot_be(tmp_path: Path, header: str, word: str) -> None:
    row = ",".join("x" * (header.count(",") + 1))
    with pytest.raises(ImportingError, match=word):
        imported(table(tmp_path / "t.csv", header, row), tmp_path / "out")


def test_files_that_are_not_there_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "notes.txt", "folder/IM1")
    rows = ["study_id,path", "A,a.nii.gz", "A,gone.nii.gz", "B,also_gone.nii.gz", "C,folder", "D,notes.txt"]
    made = imported(table(tmp_path / "t.csv", *rows), tmp_path / "out")
    assert [study.study_id for study in made.studies] == ["A", "C"]
    assert reasons(tmp_path / "out") == {
        "gone.nii.gz": "missing",
        "also_gone.nii.gz": "missing",
        "notes.txt": "not_a_scan",
    }
    assert "line 3: no file" in (tmp_path / "out/left_out.csv").read_text()


def test_rows_of_no_study_or_no_file_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    csv = table(tmp_path / "t.csv", "study_id;path", "A;a.nii.gz", ";b.nii.gz", "B;", ";;")
    made = imported(csv, tmp_path / "out")
    assert [(study.study_id, len(study.scans)) for study in made.studies] == [("A", 1)]
    assert reasons(tmp_path / "out") == {"b.nii.gz": "no_study_id", "t.csv": "no_path"}
    text = (tmp_path / "out/left_out.csv").read_text()
    assert "line 3: no study_id" in text
    assert "line 4: no path" in text
    assert "left out: no_study_id 1, no_path 1" in str(made)
    with pytest.raises(ImportingError, match=r"no usable study \(left out: no_study_id 1"):
        imported(table(tmp_path / "u.csv", "study_id,path", ",b.nii.gz"), tmp_path / "other")


def test_paths_count_from_root(tmp_path: Path) -> None:
    touch(tmp_path / "data", "a.nii.gz")
    csv = table(tmp_path / "t.csv", "study_id,path", "A,a.nii.gz", f"B,{touch(tmp_path, 'b.nii.gz') / 'b.nii.gz'}")
    made = imported(csv, tmp_path / "out", tmp_path / "data")
    assert [study.scans[0].path for study in made.studies] == [tmp_path / "data/a.nii.gz", tmp_path / "b.nii.gz"]
    alone = table(tmp_path / "u.csv", "study_id,path", "A,a.nii.gz")
    with pytest.raises(ImportingError, match=r"no file is there, e\.g\. .*a\.nii\.gz; .*--root"):
        imported(alone, tmp_path / "other")


def test_unknown_patients_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    csv = table(tmp_path / "t.csv", "study_id,path,patient_id", "A,a.nii.gz,P", "B,b.nii.gz,")
    assert "the patient of 1 of 2 studies is not said" in imported(csv, tmp_path / "out").notes[0]


def test_splits_stated_for_some_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    csv = table(tmp_path / "t.csv", "study_id,path,patient_id,split", "A,a.nii.gz,P,test", "B,b.nii.gz,Q,")
    made = imported(csv, tmp_path / "out")
    assert [study.split for study in made.studies] == ["test", "train"]
    assert made.notes[0].startswith("1 of 2 studies state no split: 0 take")
    whole = table(tmp_path / "w.csv", "study_id,path,split", "A,a.nii.gz,test", "B,b.nii.gz,train")
    with pytest.raises(ImportingError, match="leave --splits out"):
        run("table", whole, tmp_path / "other", "--splits", 0.5, 0.2, 0.3)


def test_a_row_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    rows = ["study_id,path,patient_id,site", "A,a.nii.gz,P,x", "A,a.nii.gz,P,x"]
    made = imported(table(tmp_path / "t.csv", *rows), tmp_path / "out")
    assert [len(study.scans) for study in made.studies] == [1]
    assert made.notes == ("1 rows of t.csv are the same as an earlier one in every cell, and not counted",)
    with pytest.raises(ImportingError, match=r"line 4: a\.nii\.gz stands already on line 2"):
        imported(table(tmp_path / "t.csv", *rows, "A,a.nii.gz,P,y"), tmp_path / "out")


def test_its_own_columns_are_as_it_says_now_and_others_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    imported(table(tmp_path / "t.csv", "study_id,path,label,report,site", "A,a.nii.gz,x,Old.,s"), tmp_path / "out")
    made = imported(table(tmp_path / "t.csv", "study_id,path,label", "A,a.nii.gz,"), tmp_path / "out")
    assert [(study.labels, study.report, study.extra["site"]) for study in made.studies] == [(None, "Old.", "s")]


def test_from_the_command_line_to_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        scan(tmp_path / f"{number}.nii.gz", seed=number)
    scan(tmp_path / "ep2d.nii.gz", (12, 11, 10, 3), [0, 1000, 1000])
    scan(tmp_path / "bold.nii.gz", (12, 11, 10, 3))
    rows = [f"s{n}\t{n}.nii.gz\tT1\tp{n}" for n in range(3)]
    more = ["s0\tep2d.nii.gz\tDTI\tp0", "s1\tbold.nii.gz\tEPI\tp1"]
    csv = table(tmp_path / "scans.tsv", "study_id\tpath\tsequence\tpatient_id", *rows, *more)
    labels = table(tmp_path / "l.csv", "study_id,Glioma,normal", "s0,1,0", "s1,0,1", "s2,0,0")
    words = [csv, tmp_path / "out", "--labels", labels, "--taxonomy", "brain_mri"]
    run("table", *words, "--prepare", small_spec(tmp_path), "--workers", 1)
    assert "3 studies of 3 patients, 7 scans, 0 with a report, 3 with labels" in capsys.readouterr().out
    store = Store(tmp_path / "out/store")
    assert store.record("s0").sequences == ("T1", "DWI b0", "DWI", "ADC")
    assert store.record("s1").sequences == ("T1",)  # the 4-D series is refused, and named
    assert [store.record(f"s{n}").labels for n in range(3)] == [("glioma",), ("normal",), ()]
    with pytest.raises(ResourceError, match="nosuch"):
        run("table", csv, tmp_path / "other", "--prepare", "nosuch")
    assert not (tmp_path / "other").exists()
