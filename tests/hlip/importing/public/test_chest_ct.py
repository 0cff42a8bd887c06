"""`hlip import ct-rate | rad-chestct`: HU by a corrected header and never twice, spacings, studies, splits, archives."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlip.cli import main
from hlip.importing.outcome import ImportingError
from hlip.importing.public.ct_rate import import_ct_rate
from hlip.importing.public.hounsfield import Stated, in_hounsfield
from hlip.importing.public.rad_chestct import import_rad_chestct
from hlip.prepare import prepare
from hlip.scans.reading import read_scan
from hlip.scans.scan import VolumeError
from hlip.store import Store
from hlip.study import Study, read_manifest
from hlip.volume import VolumeSpec

CHEST = VolumeSpec.from_dict(VolumeSpec.load("chest_ct").as_dict() | {"size": [8, 16, 16], "spacing_mm": [6, 3, 3]})


def chest(seed: int = 0, shape: tuple[int, int, int] = (16, 14, 12)) -> np.ndarray:
    """(X, Y, Z) HU: air around, a body with lungs."""
    rng = np.random.default_rng(seed)
    data = rng.integers(-1010, -990, shape)
    data[3:-3, 3:-3] = rng.integers(0, 80, (shape[0] - 6, shape[1] - 6, shape[2]))
    data[5:7, 5:-5, 2:-2] = rng.integers(-900, -800, data[5:7, 5:-5, 2:-2].shape)
    return data


def write(path: Path, data: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data.astype(np.int16), np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])), path)
    return path


def manifest(out: Path) -> dict[str, Study]:
    return {study.study_id: study for study in read_manifest(out / "manifest.jsonl")}


def left_out(out: Path) -> set[tuple[str, str]]:
    with (out / "left_out.csv").open() as lines:
        return {(row["path"], row["reason"]) for row in csv.DictReader(lines)}


# the corrected header


@pytest.mark.parametrize("intercept", [-1024, -8192])  # both stand in the public metadata
def test_the_rescale_is_applied_once(tmp_path: Path, intercept: int) -> None:
    stored = write(tmp_path / "a.nii.gz", chest() - intercept)
    stated = Stated(1.0, intercept)
    path, done = in_hounsfield(stored, stated, tmp_path / "scans")
    assert done == ("rescale",)
    assert path.is_symlink()
    np.testing.assert_array_equal(read_scan(path).data, chest())
    np.testing.assert_array_equal(read_scan(stored).data, chest() - intercept)  # the download is as it was
    assert sum(file.stat().st_size for file in (tmp_path / "scans").glob("*.hdr.gz")) < 400
    assert in_hounsfield(stored, stated, tmp_path / "scans") == (path, done)


def test_a_file_that_is_hu_already_is_left_alone(tmp_path: Path) -> None:
    """As stored values, or by the scale in its own header, whatever the table says."""
    plain = write(tmp_path / "plain.nii.gz", chest())
    assert in_hounsfield(plain, Stated(1, -1024), tmp_path / "scans") == (plain, ())
    image = nib.Nifti1Image((chest() + 1024).astype(np.int16), np.diag([-1.0, -1, 1, 1]))
    image.header.set_slope_inter(1, -1024)
    own = tmp_path / "own.nii.gz"
    nib.save(image, own)
    np.testing.assert_array_equal(read_scan(own).data, chest())
    assert in_hounsfield(own, Stated(1, -1024), tmp_path / "scans") == (own, ())
    path, done = in_hounsfield(own, Stated(1, -1024, (0.7, 0.8, 1.5)), tmp_path / "scans")
    assert done == ("spacing",)
    np.testing.assert_array_equal(read_scan(path).data, chest())


def test_no_air_either_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"no air at -1000 HU") as error:
        in_hounsfield(write(tmp_path / "a.nii.gz", chest() + 5000), Stated(1, -1024), tmp_path / "scans")
    assert error.value.reason == "not_hu"
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(write(tmp_path / "b.nii.gz", chest()).read_bytes()[:200])
    with pytest.raises(VolumeError, match="download it again"):
        in_hounsfield(cut, Stated(), tmp_path / "scans")


def test_a_wrong_spacing_is_corrected_and_the_axes_stay(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nii.gz", chest() + 1024)
    path, done = in_hounsfield(file, Stated(1, -1024, (0.7, 0.8, 1.5), (16, 14, 12)), tmp_path / "scans")
    assert done == ("rescale", "spacing")
    scan = read_scan(path)
    np.testing.assert_allclose(scan.spacing, (0.7, 0.8, 1.5), rtol=1e-6)
    assert (scan.codes, scan.notes) == ("LPS", ())
    other = in_hounsfield(file, Stated(1, -1024, (0.7, 0.8, 1.5), (99, 14, 12)), tmp_path / "scans")
    assert other[1] == ("rescale",)  # the table counts another volume's voxels
    assert other[0] != path  # another header is another scan


def test_a_header_without_orientation_goes_on_without(tmp_path: Path) -> None:
    image = nib.Nifti1Image((chest() + 1024).astype(np.int16), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "a.nii.gz")
    path, _ = in_hounsfield(tmp_path / "a.nii.gz", Stated(1, -1024, (0.7, 0.8, 1.5)), tmp_path / "scans")
    scan = read_scan(path)
    np.testing.assert_allclose(scan.spacing, (0.7, 0.8, 1.5), rtol=1e-6)
    assert "no orientation" in scan.notes[0]


# CT-RATE


@pytest.fixture
def ct_rate(tmp_path: Path) -> Path:
    """Two reconstructions of one scan, a second scan, training patients, tables under the set's own column names."""
    folder = tmp_path / "ct-rate" / "dataset"
    names = ["valid_1_a_1", "valid_1_a_2", "valid_1_b_1", *(f"train_{n}_a_1" for n in range(1, 21))]
    metadata, labels, reports = [], [], []
    for seed, name in enumerate(names):
        split, patient, scan, _ = name.split("_")
        file = folder / split / f"{split}_{patient}" / f"{split}_{patient}_{scan}" / f"{name}.nii.gz"
        intercept = -8192 if seed == 1 else -1024
        write(file, chest(seed) - intercept, (1, 1, 2))
        metadata.append(f'{name}.nii.gz,SIEMENS,F,036Y,14,16,"[1.0, 1.0]",{intercept},1,12,2.0')
        labels.append(f"{name}.nii.gz,{int(seed == 0)},0,{int(seed == 1)}")
        reports.append(f'{name}.nii.gz,Cough.,CT.,"Findings, of {name}.",Normal.')
    lines = {
        "metadata/train_metadata.csv": [
            "VolumeName,Manufacturer,PatientSex,PatientAge,Rows,Columns,XYSpacing,RescaleIntercept,RescaleSlope,NumberofSlices,ZSpacing",
            *metadata,
        ],
        "multi_abnormality_labels/valid_predicted_labels.csv": ["VolumeName,Emphysema,Atelectasis,Lung nodule", *labels],
        "radiology_text_reports/train_reports.csv": [
            "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN", *reports,
        ],
    }  # fmt: skip
    for name, rows in lines.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(rows) + "\n")
    return folder.parent


def test_ct_rate_studies(ct_rate: Path, tmp_path: Path) -> None:
    main(["import", "ct-rate", str(ct_rate), str(tmp_path / "out"), "--val", "0.2"])
    studies = manifest(tmp_path / "out")
    first = studies["valid_1_a"]
    assert (first.patient_id, first.split, len(first.scans)) == ("valid_1", "test", 2)
    assert first.labels == ("Emphysema", "Lung nodule")  # what any reconstruction is said to show
    assert first.report.splitlines() == [
        "CLINICAL INFORMATION: Cough.", "TECHNIQUE: CT.", "FINDINGS: Findings, of valid_1_a_1.", "IMPRESSION: Normal.",
    ]  # fmt: skip
    assert {key: first.extra[key] for key in ("sex", "age", "vendor")} == {"sex": "F", "age": 36, "vendor": "SIEMENS"}
    for place, scan in enumerate(first.scans):
        np.testing.assert_array_equal(read_scan(scan.path).data, chest(place))
    splits = [study.split for study in studies.values()]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (16, 4, 2)
    summary = prepare(tmp_path / "out/manifest.jsonl", tmp_path / "store", CHEST, workers=1, progress=False)
    assert (summary.studies_ready, summary.scans_skipped) == (22, 0)
    import_ct_rate(ct_rate, tmp_path / "out", seed=7, progress=False)
    assert [study.split for study in manifest(tmp_path / "out").values()] == splits  # patients stay, whatever is drawn later


def test_ct_rate_takes_the_fixed_release_and_leaves_out_what_is_no_chest(ct_rate: Path, tmp_path: Path) -> None:
    write(ct_rate / "dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz", chest(0), (1, 1, 2))
    (ct_rate / "dataset/metadata/no_chest_valid.txt").write_text("valid_1_b_1.nii.gz\n")
    import_ct_rate(ct_rate, tmp_path / "out", val=0, progress=False)
    studies = manifest(tmp_path / "out")
    assert "valid_1_b" not in studies
    assert studies["valid_1_a"].scans[0].path.parts[-4] == "valid_fixed"
    np.testing.assert_array_equal(read_scan(studies["valid_1_a"].scans[0].path).data, chest(0))
    assert {reason for _, reason in left_out(tmp_path / "out")} == {"duplicate", "no_chest"}
    assert {study.split for study in studies.values()} == {"train", "test"}


def test_ct_rate_with_the_public_tables(shared: Path, tmp_path: Path) -> None:
    """The first rows of the real metadata and labels, over volumes of our own."""
    folder = tmp_path / "set"
    for name, intercept in (("valid_1_a_1", -1024), ("valid_1_a_2", -1024)):
        write(folder / f"{name}.nii.gz", chest() - intercept)
    for name in ("metadata", "labels"):
        (folder / f"valid_{name}.csv").write_bytes((shared / "datasets" / f"ct_rate_valid_{name}.csv").read_bytes())
    import_ct_rate(folder, tmp_path / "out", progress=False)
    (study,) = manifest(tmp_path / "out").values()
    assert (study.labels, study.extra["vendor"], study.extra["age"]) == (("Lung nodule",), "Philips", 36)
    np.testing.assert_array_equal(read_scan(study.scans[0].path).data, chest())


# Rad-ChestCT


@pytest.fixture
def rad(tmp_path: Path) -> Path:
    folder = tmp_path / "rad"
    folder.mkdir()
    for seed, name in enumerate(("trn00001", "val00002", "tst00003")):
        np.savez_compressed(folder / f"{name}.npz", ct=chest(seed).transpose(2, 1, 0).astype(np.int64))
    (folder / "labels.csv").write_text("NoteAcc_DEID,Emphysema,Lung nodule\ntrn00001,0.0,1.0\ntst00003,0.0,0.0\n")
    return folder


def test_rad_chestct(rad: Path, tmp_path: Path) -> None:
    import_rad_chestct(rad, tmp_path / "out", progress=False)
    studies = manifest(tmp_path / "out")
    assert {name: (study.split, study.labels) for name, study in studies.items()} == {
        "trn00001": ("train", ("Lung nodule",)), "val00002": ("val", None), "tst00003": ("test", ()),
    }  # fmt: skip
    scan = read_scan(studies["trn00001"].scans[0].path)
    np.testing.assert_array_equal(scan.data, chest(0))
    assert scan.codes == "LPI"
    np.testing.assert_allclose(scan.spacing, (0.8, 0.8, 0.8), rtol=1e-6)
    summary = prepare(tmp_path / "out/manifest.jsonl", tmp_path / "store", CHEST, workers=1, progress=False)
    assert summary.scans_skipped == 0


def test_rad_chestct_is_made_once_and_damage_is_named(rad: Path, tmp_path: Path) -> None:
    import_rad_chestct(rad, rad / "out", progress=False)
    made = rad / "out/scans/trn00001.nii.gz"
    before = made.stat().st_mtime_ns
    (rad / "val00002.npz").write_bytes(b"PK\3\4")
    (rad / "out/scans/val00002.nii.gz").unlink()
    main(["import", "rad-chestct", str(rad), str(rad / "out")])
    assert made.stat().st_mtime_ns == before
    assert left_out(rad / "out") == {("val00002.npz", "truncated")}
    assert set(manifest(rad / "out")) == {"trn00001", "tst00003"}


def test_rad_chestct_axes(rad: Path, tmp_path: Path) -> None:
    import_rad_chestct(rad, tmp_path / "out", axes="SPL", spacing=(2, 1, 1), progress=False)
    scan = read_scan(manifest(tmp_path / "out")["trn00001"].scans[0].path)
    assert (scan.codes, scan.spacing) == ("LPS", (1, 1, 2))
    with pytest.raises(ImportingError, match="expected three letters"):
        import_rad_chestct(rad, tmp_path / "other", axes="SIL", progress=False)


def test_rad_chestct_tables_are_known_by_their_key_in_any_letters(
    rad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The set's own files: one a split, in lower case; one of metadata; one of something else; and what a run of ours left there."""
    (rad / "labels.csv").unlink()
    (rad / "imgtrain_labels.csv").write_text("noteacc_deid,emphysema,lung_nodule,mass\ntrn00001,0,1,1\n")
    (rad / "imgtest_labels.csv").write_text("NOTEACC_DEID;emphysema;lung_nodule;mass\nTST00003;1;-1;0\n")
    (rad / "metadata.csv").write_text("NoteAcc_DEID,vendor\ntrn00001,Scanners Ltd\n")
    (rad / "other.csv").write_text("a,b\n1,2\n")
    main(["import", "rad-chestct", str(rad), str(rad / "out")])
    studies = manifest(rad / "out")
    assert {name: study.labels for name, study in studies.items()} == {
        "trn00001": ("Lung nodule", "mass"), "val00002": None, "tst00003": ("Emphysema",),
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "tables of labels: imgtest_labels.csv (1 rows), imgtrain_labels.csv (1 rows)" in said
    assert (
        "tables not taken: metadata.csv (line 2: 'Scanners Ltd' under vendor is neither 0 nor 1), other.csv (no column NoteAcc_DEID)"
        in said
    )
    assert "imgtest_labels.csv: cells that leave a class open: -1 or nan, uncertain, 1 (lung_nodule 1)." in said


def test_rad_chestct_several_tables_by_name_or_none(rad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (rad / "labels.csv").unlink()
    main(["import", "rad-chestct", str(rad), str(tmp_path / "bare")])
    assert "note: no volume has labels: name CSV files with the column NoteAcc_DEID by --labels" in capsys.readouterr().out
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text("NoteAcc_DEID,Emphysema\ntrn00001,1\n")
    second.write_text("NoteAcc_DEID,Consolidation\ntrn00001,1\nval00002,0\n")
    main(["import", "rad-chestct", str(rad), str(tmp_path / "out"), "--labels", str(first), str(second)])
    studies = manifest(tmp_path / "out")
    assert [studies[name].labels for name in ("trn00001", "val00002")] == [("Emphysema", "Consolidation"), ()]
    first.write_text("id,Emphysema\ntrn00001,1\n")
    with pytest.raises(ImportingError, match="no column NoteAcc_DEID"):
        import_rad_chestct(rad, tmp_path / "no", labels=[first], progress=False)
    with pytest.raises(ImportingError, match="no such table"):
        import_rad_chestct(rad, tmp_path / "no", labels=[tmp_path / "gone.csv"], progress=False)


@pytest.mark.parametrize("name", ["ct-rate", "rad-chestct"])
def test_from_the_set_to_a_store(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import yaml

    (tmp_path / "small.yaml").write_text(yaml.safe_dump(CHEST.as_dict()))
    folder = request.getfixturevalue(name.replace("rad-chestct", "rad").replace("-", "_"))
    main(["import", name, str(folder), str(tmp_path / "out"), "--prepare", str(tmp_path / "small.yaml"), "--workers", "1"])
    assert len(Store(tmp_path / "out/store").records) == len(manifest(tmp_path / "out")) > 2
