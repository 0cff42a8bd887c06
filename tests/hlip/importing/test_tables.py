"""Tables beside the scans: read strictly, joined by study or patient, every fault of all of them at once."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from hlip.importing.outcome import ImportingError
from hlip.importing.table_files import read_columns, read_table
from hlip.importing.tables import Tables, add_tables, check_tables, join, put_together, tables_of
from hlip.study import Scan, Study
from hlip.taxonomy import Taxonomy

from .nifti_trees import table

TREE = Taxonomy.load("brain_mri")


def cohort() -> list[Study]:
    """s0, s1 of p0; s2, s3 of p1."""
    return [Study(f"s{n}", f"p{n // 2}", (Scan(Path("a.nii.gz")),)) for n in range(4)]


def joined(folder: Path, **lines: list[str]) -> tuple[list[Study], list[str]]:
    """With tables of these lines; `tree` is the taxonomy."""
    return join(cohort(), Tables(**{name: table(folder / f"{name}.csv", *text) for name, text in lines.items()}))


# --- reading -----------------------------------------------------------------------------------------------------------------


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    file = table(tmp_path / "t.csv", "\ufeffkey , text", 'a,"one', "", 'two, three"', "", "b, x ,", ",", "c")
    assert read_table(file) == [
        (2, {"key": "a", "text": "one\n\ntwo, three"}),
        (6, {"key": "b", "text": "x"}),
        (8, {"key": "c", "text": ""}),
    ]


def test_tabs_in_a_tsv(tmp_path: Path) -> None:
    assert read_table(table(tmp_path / "t.TSV", "a\tb", "1,5\t2")) == [(2, {"a": "1,5", "b": "2"})]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_what_parts_the_cells_is_read_from_the_header(tmp_path: Path, mark: str, name: str) -> None:
    """As German spreadsheets write them: the comma is theirs for decimals, and stands in free text."""
    text = '"a; b, c\td"'
    file = table(
        tmp_path / name,
        mark.join(["\ufeffstudy_id", "report", "Alter, Jahre" if mark == ";" else "age"]),
        mark.join(["s0", text, "61"]),
    )
    ((line, row),) = read_table(file, ["study_id"])
    assert (line, list(row.values())) == (2, ["s0", "a; b, c\td", "61"])
    assert read_columns(file) == list(row)


def test_needed_columns_decide_what_parts_the_cells(tmp_path: Path) -> None:
    file = table(tmp_path / "t.csv", "path,label (a;b;c;d)", "x.png,a")
    assert read_table(file, ["path"]) == [(2, {"path": "x.png", "label (a;b;c;d)": "a"})]


def test_a_table_of_one_column_is_one(tmp_path: Path) -> None:
    assert read_table(table(tmp_path / "t.csv", "study_id", "s;0")) == [(2, {"study_id": "s;0"})]


@pytest.mark.parametrize("first", ["sep=;", "\ufeffsep=;", '"sep=;"', "SEP=\t"])
def test_excels_first_line_says_what_parts_the_cells(tmp_path: Path, first: str) -> None:
    mark = first.strip('"')[-1]
    file = table(tmp_path / "t.csv", first, f"study_id{mark}a, b", "", f"s0{mark}1,5", f"s1{mark}2{mark}3")
    assert read_columns(file) == ["study_id", "a, b"]
    with pytest.raises(ImportingError, match="line 5: 3 cells under 2 columns"):
        read_table(file, ["study_id"])
    file.write_text("\n".join(file.read_text().splitlines()[:-1]), encoding="utf-8")
    assert read_table(file, ["study_id"]) == [(4, {"study_id": "s0", "a, b": "1,5"})]


def test_rows_longer_than_the_header_are_all_named(tmp_path: Path) -> None:
    file = table(tmp_path / "t.csv", "study_id,report", "s0,No bleed, no mass.", "s1,Normal.", "s2,a,b,c", "s3,x, ,")
    with pytest.raises(ImportingError) as error:
        read_table(file)
    assert "2 problem(s)" in str(error.value)
    assert "line 2: 3 cells under 2 columns; put text with commas into quotes" in str(error.value)
    assert "line 4: 4 cells" in str(error.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no column study_id"),
        (b"study_id,a\n", "holds no row"),
        (b"study_id,a,a\n1,2,3\n", "column a stands there twice"),
        (b"a,b\n1,2\n", "no column study_id; its columns are a, b"),
        (b"study_id;a\n1;2;3\n", "3 cells under 2 columns; put text with semicolons into quotes"),
        (
            "study_id,a\n1,x\n2,Ödem\n".encode("cp1252"),
            "Windows-1252 .cp1252,.* from line 3 on, not UTF-8; save it as .* iconv -f CP1252",
        ),
        ("study_id,a\n1,Ödem\n".encode("utf-16"), "UTF-16, not UTF-8; save it as"),
        ("study_id,a\n1,Ödem\n".encode("utf-16-le"), "UTF-16, not UTF-8; save it as"),
        (b"PK\3\4\x14\0\x06\0", "a spreadsheet .*, not a CSV; open it and save it as 'CSV UTF-8'"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "a spreadsheet"),
        (b"study_id,a\n1,\x81\n", "line 2 is in another encoding than UTF-8"),
        (b'study_id,a\n1,x\n2,"never closed\n3,y\n', "quotes of the row that begins on line 3 do not close"),
        (b'study_id,a\n1,"never closed\n2,"whole"\n', "quotes of the row that begins on line 2 do not close, or text goes on"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ImportingError, match=word):
        read_table(tmp_path / "t.csv", ["study_id"])
    with pytest.raises(ImportingError, match="no such table"):
        read_table(tmp_path / "gone.csv")


# --- reports -----------------------------------------------------------------------------------------------------------------


def test_reports_and_sections(tmp_path: Path) -> None:
    done, notes = joined(tmp_path, reports=["study_id,Report", "s0,Whole.", "s1,", "s9,Nobody's."])
    assert [study.report for study in done] == ["Whole.", "", "", ""]
    assert notes == ["reports.csv: 1 of 3 rows meet no study", "reports.csv: 2 of 4 studies have no row"]
    done, _ = joined(tmp_path, reports=["study_id,Impression,findings,Clinical Information", "s0,I.,F.,C.", "s1,,F.,"])
    assert done[0].report == "CLINICAL INFORMATION: C.\nFINDINGS: F.\nIMPRESSION: I."
    assert done[1].report == "FINDINGS: F."
    assert put_together({"findings": "", "other": "x"}) == ""


def test_a_patients_row_of_labels_is_for_all_its_studies(tmp_path: Path) -> None:
    done, notes = joined(tmp_path, labels=["patient_id,label", "p1,glioma"])
    assert [study.labels for study in done] == [None, None, ("glioma",), ("glioma",)]
    assert notes == ["labels.csv: 2 of 4 studies have no row"]


def test_a_patients_report_is_of_its_only_study(tmp_path: Path) -> None:
    """p0 has s0 here, p1 has s2 and s3, p2 a study here and one that an earlier import keeps."""
    studies = [study for study in cohort() if study.study_id != "s1"] + [Study("s4", "p2", (Scan(Path("a.nii.gz")),))]
    file = table(tmp_path / "r.csv", "patient_id,report", "p0,One.", "p1,Two.", "p2,Three.")
    done, notes = join(studies, Tables(reports=file), others={"p2"})
    assert [study.report for study in done] == ["One.", "", "", ""]
    assert notes[0].startswith("r.csv: 3 studies take no report: their 2 patients have several studies")
    assert notes[0].endswith("key the table by study_id")
    both = table(tmp_path / "b.csv", "PatientID,Accession Number,report", "p1,3,Third.", "p1,2,Second.")
    names = {"patient_id": lambda study: study.patient_id, "accession_number": lambda study: study.study_id[1:]}
    done, _ = join(studies, Tables(reports=both), lambda study, key: names[key](study), ("patient_id", "accession_number"))
    assert [study.report for study in done] == ["", "Second.", "Third.", ""]


def test_what_others_call_the_columns(tmp_path: Path) -> None:
    done, _ = joined(
        tmp_path,
        metadata=["StudyInstanceUID,Patient ID,StudyID,site", "s0,q,17,x"],
        reports=["Study Instance UID;Befund;Beurteilung", "s0;Kein Herd.;Normal."],
        labels=["Accession Number,participant_id,glioma", "7,q,1", "8,p1,0"],
    )
    assert (done[0].patient_id, done[0].extra) == ("q", {"StudyID": "17", "site": "x"})
    assert done[0].report == "FINDINGS: Kein Herd.\nIMPRESSION: Normal."
    assert [study.labels for study in done] == [("glioma",), None, (), ()]
    done, _ = joined(tmp_path, labels=["StudyInstanceUID,patient_id,glioma", "1.2.3,p1,1"])
    assert [study.labels for study in done] == [None, None, ("glioma",), ("glioma",)]


def test_rows_that_are_the_same_count_as_one(tmp_path: Path) -> None:
    done, notes = joined(tmp_path, reports=["study_id,report", "s0,One.", "s1,Two.", "s0,One.", "s0,One."])
    assert [study.report for study in done] == ["One.", "Two.", "", ""]
    assert notes[0] == "reports.csv: 2 rows are the same as an earlier one in every cell, and not counted"


def test_a_column_that_is_no_class_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(ImportingError) as error:
        joined(tmp_path, labels=["study_id,sex,age,a", "s3,F,50,1", "s0,F,61,0", "s1,M,1,2", "s2,M,72,1", "s9,?,x,x"])
    told = str(error.value).splitlines()
    assert told[0].endswith("3 problem(s)")
    assert [line.strip()[:60] for line in told[1:]] == [
        "line 4: '2' under a is neither 0 nor 1",
        "line 2 and 2 more: age is no label column: most cells are ne",
        "line 2 and 3 more: sex is no label column: most cells are ne",
    ]


# --- labels ------------------------------------------------------------------------------------------------------------------


def test_labels_in_one_cell(tmp_path: Path) -> None:
    done, _ = joined(tmp_path, labels=["study_id,label", "s0,a; b;a ;", "s1,", "s2,;"])
    assert [study.labels for study in done] == [("a", "b"), None, None, None]


def test_a_column_a_class(tmp_path: Path) -> None:
    lines = ["study_id,patient_id,a,b,c", "s0,x,1,0,1.0", "s1,x,0,No,", "s2,x,,,", "s3,x,TRUE,-1,nan"]
    done, _ = joined(tmp_path, labels=lines)
    assert [study.labels for study in done] == [("a", "c"), (), None, ("a",)]


def test_classes_that_a_table_leaves_open_are_counted(tmp_path: Path) -> None:
    """A manifest cannot hold one class as unknown: it counts as absent, and that is said; a row of nothing else has no labels."""
    lines = ["study_id,oedema,mass", "s0,-1,1", "s1,0,", "s2,-1,", "s3,nan,-1.0", "elsewhere,-1,1"]
    done, notes = joined(tmp_path, labels=lines)
    assert [study.labels for study in done] == [("mass",), (), None, None]
    assert notes[0].startswith(
        "labels.csv: cells that leave a class open: -1 or nan, uncertain, 1 (oedema 1); empty 1. A manifest"
    )
    assert "counts as absent" in notes[0]
    _, notes = joined(tmp_path, labels=["study_id,a,b", "s0,1,0", "s1,0,0", "s2,,", "s3,0,1"])
    assert notes == []


def test_labels_become_classes_of_the_tree(tmp_path: Path) -> None:
    lines = table(tmp_path / "l.csv", "study_id,label", "s0,GLIOMA; Normal ", "s1,glioma")
    done, _ = join(cohort(), Tables(labels=lines, taxonomy=TREE))
    assert [study.labels for study in done] == [("glioma", "normal"), ("glioma",), None, None]
    wide = table(tmp_path / "w.csv", "study_id,Glioma,nosuch", "s0,1,0", "s1,0,1", "s2,0,1")
    with pytest.raises(ImportingError, match=r"1 problem.*\n  line 3 and 1 more: .*no class that 'nosuch'"):
        join(cohort(), Tables(labels=wide, taxonomy=TREE))


# --- metadata ----------------------------------------------------------------------------------------------------------------


def test_metadata_goes_into_the_manifest(tmp_path: Path) -> None:
    lines = ["study_id,patient_id,split,sex,age", "s0,q,Validation,F,61", "s1,,,M,", "s2,q,val,,"]
    done, _ = joined(tmp_path, metadata=lines)
    assert [(study.patient_id, study.split, study.extra) for study in done] == [
        ("q", "val", {"sex": "F", "age": 61}),
        ("p0", None, {"sex": "M"}),
        ("q", "val", {}),
        ("p1", None, {}),
    ]


def test_sex_and_age_have_one_spelling_whatever_the_letters_of_their_column(tmp_path: Path) -> None:
    lines = ["study_id;SEX;Age;Site", "s0;weiblich;61,5;A", "s1;w;045Y;a", "s2;?;unknown;b", "s3;M;97;"]
    done, notes = joined(tmp_path, metadata=lines)
    assert [study.extra for study in done] == [
        {"sex": "F", "age": 61.5, "Site": "A"},
        {"sex": "F", "age": 45, "Site": "a"},
        {"sex": "?", "Site": "b"},
        {"sex": "M", "age": 97},
    ]
    assert [note.split(";")[0] for note in notes] == ["cells of age that are not understood, and left out: 1"]


def test_an_age_that_is_none_is_counted_and_not_told(tmp_path: Path) -> None:
    """A date of birth may stand there; what the source itself says of the age holds."""
    studies = [
        replace(study, extra={"age": age}) for study, age in zip(cohort(), (50, 51, "12Q", [7, "1961-03-12"]), strict=True)
    ]
    file = table(tmp_path / "m.csv", "study_id,age", "s0,1961-03-12", "s1,-1", "nobody,x")
    done, notes = join(studies, Tables(metadata=file))
    assert [study.extra for study in done] == [{"age": 50}, {"age": 51}, {}, {"age": [7, ""]}]
    assert notes[-1].startswith("cells of age that are not understood, and left out: 4;")
    assert "1961" not in "".join(notes)


def test_a_patient_in_two_splits_of_metadata_is_named_with_its_lines(tmp_path: Path) -> None:
    lines = ["study_id,split", "s0,train", "s2,val", "s1,test", "s3,val"]
    with pytest.raises(
        ImportingError, match=r"metadata.csv: 1 patients are in several splits[\s\S]*p0: test .line 4., train .line 2."
    ):
        joined(tmp_path, metadata=lines)


def test_patients_of_metadata_are_those_other_tables_speak_of(tmp_path: Path) -> None:
    metadata = ["study_id,patient_id", *[f"s{n},real{n}" for n in range(4)]]
    done, _ = joined(tmp_path, metadata=metadata, reports=["patient_id,report", "real2,Two."])
    assert [study.report for study in done] == ["", "", "Two.", ""]


# --- faults ------------------------------------------------------------------------------------------------------------------


def test_faults_of_all_tables_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ImportingError) as error:
        joined(
            tmp_path,
            metadata=["study_id,split", "s0,hold", "s1,hold", "s2,out", "s3,"],
            reports=["study_id,report", "s0,a", "s0,b", ",c", "s1,x"],
            labels=["study_id,a,b", "s0,1,maybe", "s1,2,0"],
        )
    said = str(error.value)
    for text in (
        "metadata.csv: 2 problem(s)",
        "line 2 and 1 more: split 'hold' is none of train, training, val, valid, validation, test, holdout,",
        "line 4: split 'out'",
        "reports.csv: 2 problem(s)",
        "line 3: study_id 's0' stands already on line 2",
        "line 4: no study_id",
        "labels.csv: 2 problem(s)",
        "line 2: 'maybe' under b is neither 0 nor 1",
        "line 3: '2' under a is neither 0 nor 1",
    ):
        assert text in said, (text, said)


@pytest.mark.parametrize(
    ("kind", "lines", "word"),
    [
        ("reports", ["id,report", "s0,x"], "no column study_id or patient_id to join by"),
        ("reports", ["study_id,text", "s0,x"], "no column report, nor one of"),
        ("labels", ["study_id,patient_id", "s0,p0"], "no column label, nor a column"),
        ("metadata", ["study_id,scans", "s0,x"], "column scans would overwrite"),
        ("metadata", ["study_id,sex", "S0,F"], "no row meets a study .study_id 'S0' there, 's0' here"),
    ],
)
def test_tables_that_cannot_be_joined(tmp_path: Path, kind: str, lines: list[str], word: str) -> None:
    with pytest.raises(ImportingError, match=word):
        joined(tmp_path, **{kind: lines})


def test_numbers_without_their_leading_zeros_are_recognised(tmp_path: Path) -> None:
    file = table(tmp_path / "m.csv", "study_id,site", "1,x", "7,y", "20,z")
    studies = [Study(name, name, (Scan(Path("a.nii.gz")),)) for name in ("P01", "00001", "0007")]
    with pytest.raises(ImportingError, match=r"study_id '1' there, '00001' here: leading zeros were lost"):
        join(studies, Tables(metadata=file))
    _, notes = join([*studies, Study("20", "p", ())], Tables(metadata=file))
    assert notes[0].startswith("m.csv: 2 of 3 rows meet no study, 2 of them but for leading zeros")


def test_cells_are_checked_without_studies(tmp_path: Path) -> None:
    labels = table(tmp_path / "l.csv", "Auftragsnummer,PatientName,glioma", "7,Ada,1", "8,Lovelace,x", "9,,0")
    metadata = table(tmp_path / "m.csv", "study_id,patient_id,split", "s0,p,Training", "s1,p,holdout", "s2,q,hold")
    with pytest.raises(ImportingError) as error:
        check_tables(Tables(labels=labels, metadata=metadata), ("study_id", "accession_number"))
    said = str(error.value)
    assert "line 2 and 1 more: PatientName is no label column" in said
    assert "Ada" not in said
    assert "line 3: 'x' under glioma" in said
    assert "line 4: split 'hold'" in said
    table(metadata, "study_id,patient_id,split", "s0,p,Training", "s1,p,holdout")
    table(labels, "study_id,label", "s0,glioma", "s1,nosuch")
    with pytest.raises(ImportingError, match=r"p: test .line 3., train .line 2.[\s\S]*line 3: .*no class that 'nosuch'"):
        check_tables(Tables(labels=labels, metadata=metadata, taxonomy=TREE))
    check_tables(Tables(labels=labels))


def test_rows_that_meet_no_study_may_hold_anything(tmp_path: Path) -> None:
    file = table(tmp_path / "l.csv", "study_id,label", "s0,glioma", "elsewhere,unheard of")
    done, notes = join(cohort(), Tables(labels=file, taxonomy=TREE))
    assert done[0].labels == ("glioma",)
    assert notes[0] == "l.csv: 1 of 2 rows meet no study"


def test_an_importer_may_give_several_names(tmp_path: Path) -> None:
    file = table(tmp_path / "r.csv", "study_id,report", "old-s0,by the old", "s1,by the new", "old-s1,passed over")
    done, _ = join(cohort(), Tables(reports=file), lambda study, key: (study.study_id, f"old-{study.study_id}"))
    assert [study.report for study in done] == ["by the old", "by the new", "", ""]


def test_options(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_tables(parser)
    assert tables_of(parser.parse_args([])) == Tables()
    made = tables_of(
        parser.parse_args(["--reports", "r.csv", "--labels", "l.csv", "--metadata", "m.csv", "--taxonomy", "brain_mri"])
    )
    assert made == Tables(Path("r.csv"), Path("l.csv"), Path("m.csv"), TREE)
