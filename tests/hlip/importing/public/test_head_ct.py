"""`hlip import rsna | cq500`: flat folders become series of links, zips stay zips, labels of slices and of readers become those of studies."""

from __future__ import annotations

import csv
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hlip.cli import main
from hlip.importing.dicom.importer import import_dicom
from hlip.importing.outcome import ImportingError
from hlip.importing.public.cq500 import import_cq500
from hlip.importing.public.rsna import import_rsna
from hlip.prepare import prepare
from hlip.scans.reading import read_scan
from hlip.scans.scan import LoadedScan
from hlip.study import Study, read_manifest
from hlip.volume import VolumeSpec

from .dicom_maker import head, write_slice

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # a public set's pseudonyms are no UIDs
SPEC = VolumeSpec.from_dict(VolumeSpec.load("head_ct").as_dict() | {"size": [4, 16, 16], "resize": [16, 16]})


def manifest(out: Path) -> dict[str, Study]:
    return {study.study_id: study for study in read_manifest(out / "manifest.jsonl")}


def left_out(out: Path) -> set[tuple[str, str]]:
    with (out / "left_out.csv").open() as lines:
        return {(row["path"], row["reason"]) for row in csv.DictReader(lines)}


@pytest.fixture
def rsna(tmp_path: Path) -> Path:
    """Two studies of one patient, slices shuffled by their names; a file that is no DICOM; labels of slices."""
    folder, rows = tmp_path / "rsna", ["ID,Label"]
    for study in (0, 1):
        for number, image in enumerate(head(seed=study)):
            name = f"ID_{(37 * number + 31 * study) % 97:02d}"
            write_slice(
                folder / "stage_2_train" / f"{name}.dcm", image, number, f"ID_study{study}", f"ID_series{study}", "ID_p"
            )
            positive = study == 1 and number == 3
            rows += [f"{name}_{kind},{int(positive)}" for kind in ("subdural", "any")] + [f"{name}_epidural,0"]
    (folder / "stage_2_train" / "ID_bad.dcm").write_bytes(b"no DICOM")
    (folder / "stage_2_train.csv").write_text("\n".join([*rows, rows[-1]]) + "\n")  # the set's file repeats some rows
    return folder


def test_rsna_sorts_a_flat_folder_into_studies(rsna: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_rsna(rsna, out, progress=False)
    studies = manifest(out)
    assert {name: (study.patient_id, study.labels, study.split) for name, study in studies.items()} == {
        "ID_study0": ("ID_p", (), "test"),
        "ID_study1": ("ID_p", ("Any", "Subdural"), "test"),
    }
    assert left_out(out) == {("stage_2_train/ID_bad.dcm", "truncated")}
    (scan,) = studies["ID_study1"].scans
    assert scan.path == out / "scans/ID_study1/ID_series1"
    assert all(file.is_symlink() for file in scan.path.iterdir())
    loaded = read_scan(scan.path)
    np.testing.assert_allclose(loaded.spacing, (0.5, 0.5, 5))
    up = loaded.affine[2, 2] > 0  # RAS: columns run to the left, rows to the back
    expected = head(seed=1).transpose(2, 1, 0)[:, :, :: 1 if up else -1]
    np.testing.assert_array_equal(
        loaded.data[::-1] if loaded.affine[0, 0] > 0 else loaded.data, expected[:, :: 1 if loaded.affine[1, 1] < 0 else -1]
    )
    summary = prepare(out / "manifest.jsonl", tmp_path / "store", SPEC, workers=1, progress=False)
    assert (summary.studies_ready, summary.scans_ok) == (2, 2)


def test_rsna_goes_on_where_it_was_and_follows_a_moved_set(rsna: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_rsna(rsna, out, progress=False)
    kept = (out / "headers.csv").read_text()
    before = (out / "manifest.jsonl").read_text()
    import_rsna(rsna, out, progress=False)
    assert (out / "headers.csv").read_text() == kept  # nothing was read twice
    assert (out / "manifest.jsonl").read_text() == before
    moved = rsna.rename(tmp_path / "elsewhere")
    import_rsna(moved, out, progress=False)
    assert read_scan(manifest(out)["ID_study0"].scans[0].path).data.shape[2] == 6


def test_rsna_list_chooses_studies_and_labels_them(rsna: Path, tmp_path: Path) -> None:
    listed = tmp_path / "rsna.csv"
    listed.write_text("study,Any,Intraparenchymal,Subdural\nID_study0,1,1,0\nID_gone,0,0,0\n")
    main(["import", "rsna", str(rsna), str(tmp_path / "out"), "--list", str(listed), "--workers", "2"])
    assert {name: study.labels for name, study in manifest(tmp_path / "out").items()} == {
        "ID_study0": ("Any", "Intraparenchymal")
    }
    assert ("ID_gone", "missing") in left_out(tmp_path / "out")


def test_rsna_takes_a_tilted_gantry(tmp_path: Path) -> None:
    """As most of the set has it: the slices lean, the table moves straight on."""
    for number, image in enumerate(head(10)):
        write_slice(tmp_path / "rsna" / f"ID_{(37 * number) % 97:02d}.dcm", image, number, "ID_s", "ID_t", "ID_p", tilt=20)
    import_rsna(tmp_path / "rsna", tmp_path / "out", progress=False)
    scan = tilted(manifest(tmp_path / "out")["ID_s"].scans[0].path, tmp_path / "rsna", tmp_path / "dicom")
    np.testing.assert_allclose(scan.spacing, (0.5, 0.5, 5 * np.cos(np.radians(20))), rtol=1e-4)
    summary = prepare(tmp_path / "out/manifest.jsonl", tmp_path / "store", SPEC, workers=1, progress=False)
    assert (summary.scans_ok, summary.scans_skipped) == (1, 0)


@pytest.mark.parametrize("packed", [False, True])
def test_cq500_takes_a_tilted_gantry(tmp_path: Path, packed: bool) -> None:
    place = tmp_path / "cq500/CQ500CT7 CQ500CT7/Unknown Study/CT PLAIN"
    for number, image in enumerate(head(10)):
        write_slice(place / f"CT{number:06d}.dcm", image, number, "1.7", "1.7.1", "CQ500CT7", tilt=20)
    shutil.copytree(place, tmp_path / "same")
    if packed:
        shutil.make_archive(str(tmp_path / "cq500/CQ500CT7"), "zip", tmp_path / "cq500", "CQ500CT7 CQ500CT7")
        shutil.rmtree(tmp_path / "cq500/CQ500CT7 CQ500CT7")
    import_cq500(tmp_path / "cq500", tmp_path / "out", progress=False)
    tilted(manifest(tmp_path / "out")["CQ500-CT-7"].scans[0].path, tmp_path / "same", tmp_path / "dicom")
    summary = prepare(tmp_path / "out/manifest.jsonl", tmp_path / "store", SPEC, workers=1, progress=False)
    assert (summary.scans_ok, summary.scans_skipped) == (1, 0)


def tilted(path: Path, files: Path, out: Path) -> LoadedScan:
    """The scan at a path, which must be upright and what `hlip import dicom` writes of the same files."""
    scan = read_scan(path)
    assert scan.notes == ("gantry tilt of 20 degrees corrected",)
    assert scan.shear == pytest.approx(0, abs=1e-5)
    same = read_scan(import_dicom(files, out, workers=1, progress=False).studies[0].scans[0].path)
    np.testing.assert_array_equal(scan.data, same.data)
    np.testing.assert_array_equal(scan.affine, same.affine)
    return scan


def test_rsna_without_its_slices(tmp_path: Path) -> None:
    with pytest.raises(ImportingError, match="unpack the archive"):
        import_rsna(tmp_path, tmp_path / "out")


@pytest.fixture
def cq500(tmp_path: Path) -> Path:
    """Study 0 as a folder, study 1 as a zip, each with two series and a short one; three readers."""
    folder = tmp_path / "cq500"
    for study in (0, 1):
        name = f"CQ500CT{study}"
        place = folder / f"{name} {name}" / "Unknown Study"
        for series, slices in (("CT PLAIN THIN", 8), ("CT Plain", 6), ("CT scout", 2)):
            for number, image in enumerate(head(slices, seed=study)):
                write_slice(place / series / f"CT{number:06d}.dcm", image, number, f"1.{study}", f"1.{study}.{slices}", name)
        if study == 1:
            with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
                for file in sorted(place.rglob("*.dcm")):
                    archive.write(file, file.relative_to(folder).as_posix())
                    file.unlink()
            for below in sorted((folder / f"{name} {name}").rglob("*"), reverse=True):
                below.rmdir()
            (folder / f"{name} {name}").rmdir()
    kinds = ("ICH", "SDH", "BleedLocation-Left", "MassEffect")
    header = ["name", "Category", *(f"R{reader}:{kind}" for reader in (1, 2, 3) for kind in kinds)]
    votes = {0: [1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0], 1: [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]}
    rows = [",".join([f"CQ500-CT-{study}", "B1", *map(str, given)]) for study, given in votes.items()]
    (folder / "reads.csv").write_text("\n".join([",".join(header), *rows]) + "\n")
    return folder


def test_cq500_takes_what_two_readers_saw(cq500: Path, tmp_path: Path) -> None:
    import_cq500(cq500, tmp_path / "out", progress=False)
    studies = manifest(tmp_path / "out")
    assert {name: study.labels for name, study in studies.items()} == {"CQ500-CT-0": ("ICH",), "CQ500-CT-1": ()}
    assert [scan.path.name for scan in studies["CQ500-CT-1"].scans] == ["CT PLAIN THIN", "CT Plain"]
    assert studies["CQ500-CT-1"].scans[0].path.parts[-4] == "CQ500CT1.zip"
    assert {reason for _, reason in left_out(tmp_path / "out")} == {"too_few_slices"}


def test_cq500_in_a_zip_reads_as_unpacked(cq500: Path, tmp_path: Path) -> None:
    import_cq500(cq500, tmp_path / "out", progress=False)
    packed = read_scan(manifest(tmp_path / "out")["CQ500-CT-1"].scans[0].path)
    assert sorted(packed.data.ravel()) == sorted(head(8, seed=1).ravel())
    summary = prepare(tmp_path / "out/manifest.jsonl", tmp_path / "store", SPEC, workers=1, progress=False)
    assert (summary.studies_ready, summary.scans_ok, summary.scans_skipped) == (2, 4, 0)


def test_cq500_damage_is_named(cq500: Path, tmp_path: Path) -> None:
    (cq500 / "CQ500CT1.zip").write_bytes(b"PK\3\4 cut off")
    main(["import", "cq500", str(cq500), str(tmp_path / "out")])
    assert set(manifest(tmp_path / "out")) == {"CQ500-CT-0"}
    assert ("CQ500CT1.zip", "truncated") in left_out(tmp_path / "out")
