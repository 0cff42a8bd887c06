"""Nobody is named: hashes under a salt, and tables joined before hashing."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zipfile
from pathlib import Path

import nibabel as nib
import pydicom
import pytest

from hlip.importing.dicom import importer
from hlip.importing.dicom.walk import find_files
from hlip.importing.outcome import ImportingError
from hlip.importing.tables import Tables

from ...dicom import phantom
from .made import diffusion, real_slices, run, standard

SECRET = {
    "PatientName": "ZZMARKA^ZZMARKB",
    "PatientID": "ZZMARKC123",
    "OtherPatientIDs": "ZZMARKD",
    "PatientBirthDate": "19311231",
    "PatientAddress": "ZZMARKE street",
    "PatientComments": "ZZMARKF",
    "StudyDate": "20190817",
    "SeriesDate": "20190817",
    "AcquisitionDate": "20190817",
    "ContentDate": "20190817",
    "StudyTime": "174539.125",
    "AcquisitionTime": "174539.125",
    "AccessionNumber": "ZZMARKG77",
    "InstitutionName": "ZZMARKH hospital",
    "InstitutionAddress": "ZZMARKI",
    "ReferringPhysicianName": "ZZMARKJ^Doc",
    "PerformingPhysicianName": "ZZMARKK",
    "OperatorsName": "ZZMARKL",
    "StationName": "ZZMARKM",
    "DeviceSerialNumber": "ZZMARKN1",
    "StudyID": "ZZMARKO",
    "StudyDescription": "ZZMARKP brain",
    "ImageComments": "ZZMARKQ",
    "ProtocolName": "t1 ZZMARKR",
    "SequenceName": "ZZMARKS",
    "Manufacturer": "SIEMENS ZZMARKT",
    "ManufacturerModelName": "Skyra ZZMARKU",
    "ContrastBolusAgent": "ZZMARKV",
    "PatientSex": "F",
    "SoftwareVersions": "ZZMARKW",
    "SeriesNumber": 20190817,
}


def all_text(out: Path) -> bytes:
    """Every byte of every file, unpacked, and every name."""
    found = []
    for path in out.rglob("*"):
        found.append(str(path.relative_to(out)).encode())
        if path.is_file():
            raw = path.read_bytes()
            found += [raw, gzip.decompress(raw) if path.suffix == ".gz" else b""]
    return b"\n".join(found)


@pytest.mark.parametrize("encoding", ["plain", "enhanced", "diffusion", "compressed"])
def test_no_identifier_reaches_any_file(tmp_path: Path, encoding: str) -> None:
    study, uid = "1.2.777.4711.1", "1.2.777.4711.2"
    tree = tmp_path / "ZZMARKX" / "20190817"
    if encoding == "enhanced":
        phantom.enhanced(tree, [0.0])
    elif encoding == "diffusion":
        for place, b_value in enumerate((0, 1000)):
            diffusion(tree, b_value, uid, standard, first=100 * place)
    elif encoding == "compressed":
        tree.parent.mkdir()
        real_slices(tree, "MR_small_jp2klossless.dcm")
    else:
        phantom.series(tree, slices=8)
        phantom.series(tree, slices=8, number=2, modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1")
    for file in sorted(tree.iterdir()):
        data = pydicom.dcmread(file)
        for name, value in SECRET.items():
            setattr(data, name, value)
        data.SeriesDescription = "T1 ZZMARKY AX POST 17.08.2019"
        data.StudyInstanceUID, data.SeriesInstanceUID = study, uid + (".9" if data.Modality == "US" else "")
        data.FrameOfReferenceUID = "1.2.777.4711.3"
        data.save_as(file)
    (tree / "ZZMARKZ.ZZMARKZ").write_text("no DICOM, but a name")
    (tree / "ZZMARK0").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    reports = tmp_path / "reports.csv"
    reports.write_text("accession_number,report\nZZMARKG77,Normal brain.\n")
    metadata = tmp_path / "metadata.csv"
    metadata.write_text(
        "study_id,patient_id,birth_date,accession_number,scanner\n" + f"{study},ZZMARKC123,19311231,ZZMARKG77,MR1\n"
    )
    out = tmp_path / "out"
    done = run(tmp_path / "ZZMARKX", out, tables=Tables(reports=reports, metadata=metadata), keep_columns=["scanner"])
    text = re.sub(rb"[0-9a-f]{16,}", b"", all_text(out))  # hashes hold any four digits by chance
    for secret in (
        b"ZZMARK",
        b"zzmark",
        b"20190817",
        b"2019",
        b"19311231",
        b"1931",
        b"174539",
        b"17:45",
        b"1.2.777",
        b"4711",
        b"1.2.840",
    ):
        assert secret not in text, secret
    (line,) = (json.loads(text) for text in (out / "manifest.jsonl").read_text().splitlines())
    assert (line["report"], line["sex"], line["age"], line["vendor"], line["scanner"]) == (
        "Normal brain.",
        "F",
        87,
        "Siemens",
        "MR1",
    )
    assert line["patient_id"].startswith("patient-")
    assert "free text is not de-identified" in str(done)
    for path in out.rglob("*.nii.gz"):
        header = nib.load(path).header
        assert not any(header[name].tobytes().strip(b"\0") for name in ("descrip", "aux_file", "intent_name", "db_name"))
        assert not header.extensions
        assert path.read_bytes()[4:8] == b"\0\0\0\0", "gzip holds no time"


def test_the_same_salt_gives_the_same_names_and_another_gives_others(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    (tmp_path / "salt").write_text("cd" * 32)
    names = []
    for out, salt in (("a", tmp_path / "salt"), ("b", tmp_path / "salt"), ("c", None)):
        (study,) = run(tmp_path / "in", tmp_path / out, salt=salt).studies
        names.append((study.study_id, study.patient_id))
    assert names[0] == names[1] != names[2]
    assert (tmp_path / "c.salt.key").stat().st_mode & 0o777 == 0o600
    assert not list((tmp_path / "c").rglob("*salt*")), "the folder that is passed on holds no secret"
    assert not (tmp_path / "a.salt.key").exists()
    assert run(tmp_path / "in", tmp_path / "c").studies[0].study_id == names[2][0]


def test_a_salt_that_an_earlier_import_left_in_its_folder_is_used(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "salt.key").write_text("cd" * 32)
    done = run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "same").write_text("cd" * 32)
    assert done.studies[0].study_id == run(tmp_path / "in", tmp_path / "b", salt=tmp_path / "same").studies[0].study_id
    assert not (tmp_path / "out.salt.key").exists()
    assert any("lies in the folder that you may share" in note for note in done.notes)


def test_a_salt_beside_a_folder_within_the_tree_is_no_file_of_the_tree(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    assert run(tmp_path / "in", tmp_path / "in" / "out").left_out == ()
    assert run(tmp_path / "in", tmp_path / "in" / "out").left_out == ()


@pytest.mark.parametrize(
    ("tables", "shares", "text"),
    [
        ({"reports": "absent"}, None, "absent.csv: no such table"),
        ({"reports": "study_id,note\n1,x\n"}, None, "no column report"),
        ({"labels": "id,label\n1,x\n"}, None, "no column study_id or patient_id or accession_number"),
        ({"labels": "study_id,PatientName\n1,x\n"}, None, "PatientName is no label column"),
        ({"metadata": "study_id,scans\n1,x\n"}, None, "would overwrite"),
        ({"metadata": "study_id,age\n1,5\n1,6\n"}, None, "stands already on line 2"),
        ({}, (0.5, 0.1, 0.1), "sum up to 1"),
        ({"metadata": "study_id,split\n1,train\n2,test\n"}, (0.7, 0.1, 0.2), "leave --splits out"),
    ],
)
def test_tables_and_shares_are_checked_before_any_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, str], shares: tuple[float, ...] | None, text: str
) -> None:
    phantom.series(tmp_path / "in", slices=6)
    monkeypatch.setattr(importer, "find_files", lambda *_, **__: pytest.fail("files were read"))
    files = {}
    for name, content in tables.items():
        files[name] = tmp_path / ("absent.csv" if content == "absent" else f"{name}.csv")
        if content != "absent":
            files[name].write_text(content)
    with pytest.raises(ImportingError, match=text):
        run(tmp_path / "in", tmp_path / "out", tables=Tables(**files), shares=shares)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.salt.key").exists()


@pytest.mark.parametrize(("key", "name"), [("study_id", "1.2.3.4"), ("patient_id", "P1"), ("accession_number", "A77")])
def test_tables_are_joined_by_the_hospitals_ids(tmp_path: Path, key: str, name: str) -> None:
    phantom.series(tmp_path / "in", slices=6, AccessionNumber="A77")
    (tmp_path / "r.csv").write_text(f'{key},findings,impression\n{name},"No mass.",Normal.\nother,x,y\n')
    (tmp_path / "l.csv").write_text(f"{key},glioma,normal\n{name},0,1\n")
    (study,) = run(
        tmp_path / "in", tmp_path / "out", tables=Tables(reports=tmp_path / "r.csv", labels=tmp_path / "l.csv")
    ).studies
    assert study.report == "FINDINGS: No mass.\nIMPRESSION: Normal."
    assert study.labels == ("normal",)


def test_a_column_to_keep_must_be_there(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    (tmp_path / "m.csv").write_text("study_id,site\n1.2.3.4,A\n")
    with pytest.raises(ImportingError, match="no column scanner; its columns are study_id, site"):
        run(tmp_path / "in", tmp_path / "out", tables=Tables(metadata=tmp_path / "m.csv"), keep_columns=["site", "scanner"])
    (tmp_path / "m.csv").write_text("StudyInstanceUID,site\n1.2.3.4,A\n")
    with pytest.raises(ImportingError, match="--keep-columns StudyInstanceUID: tables are joined by it"):
        run(tmp_path / "in", tmp_path / "out", tables=Tables(metadata=tmp_path / "m.csv"), keep_columns=["StudyInstanceUID"])
    with pytest.raises(ImportingError, match="--keep-columns site: of which table"):
        run(tmp_path / "in", tmp_path / "out", keep_columns=["site"])


def test_a_folder_that_may_not_be_read_is_named_on_the_terminal_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in" / "a", slices=6)
    phantom.series(tmp_path / "in" / "ZZMARK" / "b", slices=6, study="1.9")
    listed = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("ZZMARK"):  # nothing is forbidden to root
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    done = run(tmp_path / "in", tmp_path / "out")
    assert len(done.studies) == 1
    assert [(row.path, row.reason) for row in done.left_out] == [("(folders)", "no_permission")]
    assert done.left_out[0].message.startswith("1 folders that may not be read")
    assert any(note.endswith(f"nothing in it is imported: {tmp_path / 'in' / 'ZZMARK'}") for note in done.notes)
    assert b"ZZMARK" not in all_text(tmp_path / "out")
    with pytest.raises(ImportingError, match=r"among 0 files \(no_permission 1\)\n  no permission .*ZZMARK"):
        run(tmp_path / "in" / "ZZMARK", tmp_path / "other")


def test_a_file_in_a_folder_that_may_not_be_entered_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.series(tmp_path / "in" / "a", slices=6)
    (tmp_path / "in" / "hidden").write_bytes(b"x")
    seen = os.stat

    def stat(path: object, *more: object, **named: object) -> object:
        if str(path).endswith("hidden"):
            raise PermissionError(13, "Permission denied", str(path))
        return seen(path, *more, **named)  # type: ignore[arg-type, call-overload]

    monkeypatch.setattr(os, "stat", stat)
    assert next(str(file) for file in find_files(tmp_path / "in")) == str(tmp_path / "in" / "hidden")


def test_one_archive_may_be_named_and_an_archive_within_it_is_told(tmp_path: Path) -> None:
    phantom.series(tmp_path / "a", slices=6)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("IM1", b"x")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for file in sorted((tmp_path / "a").iterdir()):
            archive.write(file, file.name)
        archive.writestr("ZZMARK.zip", inner.getvalue())
    done = run(tmp_path / "export.zip", tmp_path / "out")
    assert [len(study.scans) for study in done.studies] == [1]
    assert [(row.path, row.reason) for row in done.left_out] == [("(.zip files)", "zip_in_zip")]
    assert "unpack the outer ones and import again" in done.left_out[0].message
    assert any(note.endswith("export.zip!ZZMARK.zip") for note in done.notes)
    assert b"ZZMARK" not in all_text(tmp_path / "out")
    with pytest.raises(ImportingError, match="neither a folder nor a zip or tar archive; name the folder that holds it"):
        run(next((tmp_path / "a").iterdir()), tmp_path / "other")


NAMING = (
    "Patient",
    "geburtsdatum",
    "fallnummer",
    "PLZ",
    "nhs_number",
    "initials",
    "scanned_on",
    "comment",
    "Klinik",
    "study_date",
    *("untersuchungsdatum", "adresse", "zip", "hospital_no", "admitted", "alter"),
)


def test_columns_of_a_table_are_taken_by_name_and_read_as_what_they_are(tmp_path: Path) -> None:
    """Of any other column neither name nor content is written; ages end at 90."""
    phantom.series(tmp_path / "in", study="1.2.1")
    table = tmp_path / "meta.csv"
    table.write_text(
        f"study_id,SEX,Age,vendor,{','.join(NAMING)},site\n1.2.1,weiblich,097Y,ZZMARK Siemens,{'ZZMARK,' * len(NAMING)}A\n"
    )
    done = run(tmp_path / "in", tmp_path / "out", tables=Tables(metadata=table), keep_columns=["site"])
    (imported,) = done.studies
    found = imported.extra
    assert (found["sex"], found["age"], found["vendor"], found["site"]) == ("F", 90, "Siemens", "A")
    assert b"ZZMARK" not in all_text(tmp_path / "out")
    assert not set(NAMING) & set(found)
    (note,) = (note for note in done.notes if "may name a patient" in note)
    assert all(name in note for name in NAMING)
    assert "--keep-columns" in note


def test_cells_that_are_not_understood_are_counted_and_shown_on_the_terminal_alone(tmp_path: Path) -> None:
    cells = [("about 40", "?"), ("035Y", "unknown"), ("", "m"), ("nan", "f"), ("forty", "?")]
    for n in range(5):
        phantom.series(tmp_path / "in" / str(n), study=f"1.2.{n}", slices=6)
    lines = [f"1.2.{n},{age},{sex},none" for n, (age, sex) in enumerate(cells)]
    (tmp_path / "m.csv").write_text("\n".join(["study_id,age,sex,note", *lines]) + "\n")
    done = run(tmp_path / "in", tmp_path / "out", tables=Tables(metadata=tmp_path / "m.csv"))
    notes = [note.split("; ")[0] for note in done.notes if note.startswith("cells of")]
    assert notes == [
        "cells of age that are not understood, and left out: 2",
        "cells of sex that are not understood, and left out: 3 ('?', 'unknown')",
    ]
    assert sorted(str(study.extra.get("sex")) for study in done.studies) == ["F", "M", "None", "None", "None"]
    assert [study.extra["age"] for study in done.studies if "age" in study.extra] == [35]
    assert b"about 40" not in all_text(tmp_path / "out")


def test_an_age_that_is_to_be_kept_is_not_capped(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", slices=6)
    (tmp_path / "m.csv").write_text("study_id,Age\n1.2.3.4,097Y\n")
    ages = [
        run(tmp_path / "in", tmp_path / "out", tables=Tables(metadata=tmp_path / "m.csv"), keep_columns=keep)
        .studies[0]
        .extra["age"]
        for keep in ([], ["Age"])
    ]
    assert ages == [90, 97]


def test_a_report_without_a_patient_does_not_name_the_study_s_patient(tmp_path: Path) -> None:
    phantom.series(tmp_path / "in", study="1.2.1", patient="7")
    phantom.series(tmp_path / "with", study="1.2.1", patient="7", uid="1.2.1.5")
    sr = {"modality": "SR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}
    phantom.series(tmp_path / "with" / "sr", study="1.2.1", patient="", uid="1.2.1.1", slices=1, **sr)
    salt = tmp_path / "salt.key"
    (one,), (other,) = (run(tmp_path / name, tmp_path / f"out_{name}", salt=salt).studies for name in ("in", "with"))
    assert one.patient_id == other.patient_id
