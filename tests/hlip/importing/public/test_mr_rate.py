"""`hlip import mr-rate`: zips and folders, what is left out and why, regions, labels, splits; and its trees and protocol."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from hlip.cli import main
from hlip.importing.outcome import ImportingError
from hlip.importing.public.mr_rate import import_mr_rate, label_names
from hlip.importing.public.mr_rate_region import EITHER, region_of
from hlip.inference.protocol import Protocol
from hlip.prepare import prepare
from hlip.scans.reading import read_scan
from hlip.store import Store
from hlip.study import Study, read_manifest
from hlip.taxonomy import Taxonomy
from hlip.volume import VolumeSpec

from .mr_rate_tree import table, volume, write_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "mr-rate")


def imported(tree: Path, out: Path, **options: bool) -> dict[str, Study]:
    import_mr_rate(tree, out, progress=False, **options)
    return {study.study_id: study for study in read_manifest(out / "manifest.jsonl")}


def left_out(out: Path) -> set[tuple[str, str]]:
    with (out / "left_out.csv").open() as lines:
        return {(row["path"], row["reason"]) for row in csv.DictReader(lines)}


def test_studies_are_what_the_tables_and_the_zips_say(tree: Path, tmp_path: Path) -> None:
    studies = imported(tree, tmp_path / "out")
    assert set(studies) == {*(f"b{n}" for n in range(6)), "spine", "both", "neither"}
    first = studies["b0"]
    assert (first.patient_id, first.split, first.labels) == ("pb0", "train", ("glioma",))
    assert [scan.sequence for scan in first.scans] == ["FLAIR", "T1"]
    assert first.scans[0].path == tree / "mri/batch00/b0.zip/b0/img/b0_flair-raw-axi.nii.gz"
    assert [scan.sequence for scan in studies["b1"].scans] == ["FLAIR", "T1", "T2"]
    assert studies["b1"].scans[0].path.is_file()  # unpacked
    assert first.report.splitlines()[1:3] == [
        "TECHNIQUE: Axial FLAIR and T1 of the brain.",
        "FINDINGS: There is an infiltrating glioma in the left frontal lobe.",
    ]
    assert first.extra == {
        "batch": "batch00", "region": "brain", "sex": "F", "vendor": "SIEMENS", "field_strength": 1.5, "age": 47, "imported": "mr-rate",
    }  # fmt: skip
    assert studies["b5"].labels == ("cerebral infarction", "herniation of nucleus pulposus")
    assert studies["neither"].labels == ()  # none of the 37, which differs from unknown
    assert {name: studies[name].extra["region"] for name in ("spine", "both", "neither")} == {
        "spine": "spine", "both": "both", "neither": "unknown",
    }  # fmt: skip
    Taxonomy.load("mr_rate").encode_all([study.labels for study in studies.values()])
    assert ("mri/batch00/b0/t1w-raw-sag", "localizer") in left_out(tmp_path / "out")
    assert ("mri/batch02", "batch_absent") in left_out(tmp_path / "out")


def test_brain_leaves_out_what_shows_none(tree: Path, tmp_path: Path) -> None:
    studies = imported(tree, tmp_path / "out", brain=True)
    assert set(studies) == {*(f"b{n}" for n in range(6)), "both"}
    assert (studies["b5"].labels, studies["b5"].extra["spine_labels"]) == (
        ("cerebral infarction",), ["herniation of nucleus pulposus"],
    )  # fmt: skip
    assert studies["both"].labels == ()
    Taxonomy.load("mr_rate_brain").encode_all([study.labels for study in studies.values()])
    assert {("mri/batch01/spine", "spine"), ("mri/batch01/neither", "region_unknown")} <= left_out(tmp_path / "out")


def test_a_zip_prepares_as_its_unpacked_copy_does(tree: Path, tmp_path: Path) -> None:
    """The same voxels, and started again nothing is made twice."""
    studies = imported(tree, tmp_path / "out")
    scan = read_scan(studies["b0"].scans[0].path)
    np.testing.assert_array_equal(scan.data, volume(0).get_fdata())
    assert scan.path == studies["b0"].scans[0].path
    spec = VolumeSpec.from_dict(VolumeSpec.load("demo").as_dict() | {"size": [8, 16, 16]})
    summary = prepare(tmp_path / "out/manifest.jsonl", tmp_path / "store", spec, workers=1, progress=False)
    assert (summary.studies_ready, summary.scans_skipped) == (9, 0)
    assert Store(tmp_path / "store").volumes("b0").shape == (2, 1, 8, 16, 16)
    again = prepare(tmp_path / "out/manifest.jsonl", tmp_path / "store", spec, workers=1, progress=False)
    assert again.studies_reused == 9


def test_damage_and_gaps_are_named(tree: Path, tmp_path: Path) -> None:
    (tree / "mri/batch00/b0.zip").write_bytes((tree / "mri/batch00/b0.zip").read_bytes()[:-100])
    (tree / "mri/batch00/b2.zip").unlink()
    (tree / "mri/batch00/b1/img/b1_flair-raw-axi.nii.gz").unlink()
    studies = imported(tree, tmp_path / "out")
    assert {"b0", "b2"}.isdisjoint(studies)
    assert len(studies["b1"].scans) == 2
    assert {
        ("mri/batch00/b0.zip", "truncated"), ("mri/batch00/b2", "missing"), ("mri/batch00/b1/flair-raw-axi", "missing"),
    } <= left_out(tmp_path / "out")  # fmt: skip


def test_tables_that_are_not_there_are_told(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "reports/batch01_reports.csv").unlink()
    (tree / "metadata/batch00_metadata.csv").unlink()
    main(["import", "mr-rate", str(tree), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "no reports/batch01_reports.csv: its studies have no report" in printed
    assert "mrrate_labels.csv has no column for 31 of the set's 37 labels, which no study has then: " in printed
    assert ("mri/batch00", "no_metadata") in left_out(tmp_path / "out")
    (tree / "pathology_labels/mrrate_labels.csv").unlink()
    studies = imported(tree, tmp_path / "bare")
    assert {study.labels for study in studies.values()} == {None}
    main(["import", "mr-rate", str(tree), str(tmp_path / "bare")])
    assert "no pathology_labels/mrrate_labels.csv: no study has labels" in capsys.readouterr().out


def test_images_without_a_row_of_the_metadata_are_told(tree: Path, tmp_path: Path) -> None:
    file = tree / "metadata/batch00_metadata.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if ",b2," not in line and ",b3," not in line and "b0,flair" not in line))
    done = import_mr_rate(tree, tmp_path / "out", progress=False)
    (row,) = (row for row in done.left_out if row.path == "mri/batch00")
    assert (row.reason, row.message.split(";")[0]) == (
        "no_metadata", "2 studies have images, but no row in metadata/batch00_metadata.csv: b2, b3",
    )  # fmt: skip
    assert {"b2", "b3"}.isdisjoint(study.study_id for study in done.studies)
    (note,) = (note for note in done.notes if "no row" in note)
    assert note.startswith("1 images have no row in the metadata")
    assert "mri/batch00/b0/flair-raw-axi" in note


def test_other_layouts_and_labels_are_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportingError, match=r"no metadata/batchNN_metadata\.csv"):
        import_mr_rate(tmp_path, tmp_path / "out")
    table(tree / "pathology_labels/mrrate_labels.csv", [{"study_uid": "b0", "Gliomatosis": 1}])
    with pytest.raises(ImportingError, match="'Gliomatosis': no class of the taxonomy mr_rate"):
        import_mr_rate(tree, tmp_path / "out", progress=False)


def test_a_patient_in_two_splits_is_a_leak(tree: Path, tmp_path: Path) -> None:
    rows = [{"batch_id": "batch00", "patient_uid": "p", "study_uid": f"b{n}", "split": ("train", "test")[n]} for n in (0, 1)]
    table(tree / "splits.csv", rows)
    with pytest.raises(ImportingError, match="a leak"):
        import_mr_rate(tree, tmp_path / "out", progress=False)


def test_the_command_says_what_it_did(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["import", "mr-rate", str(tree), str(tmp_path / "out"), "--brain"])
    said = capsys.readouterr().out
    assert "7 studies of 7 patients" in said
    assert "both 2, brain 5, spine 1, unknown 1" in said
    assert "7 reports hold tokens like [date_1]" in said


def test_regions_by_series_label_and_word() -> None:
    assert region_of(["swi-raw-axi"], (), "", "") == "brain"
    assert region_of(["t1w-raw-axi"], ("pituitary adenoma",), "", "") == "brain"
    assert region_of(["t2w-raw-sag"], ("spinal stenosis",), "", "") == "spine"
    assert region_of(["t2w-raw-sag"], (), "L_SPINE t2_tse_sag", "") == "spine"
    assert region_of(["t2w-raw-sag"], EITHER, "", "") == "unknown"
    assert region_of(["t1w-raw-axi"], (), "", "Cranial and cervical MRI") == "both"


# trees and protocol

LABELS = """Cerebral infarction (432504007); Cerebral hemorrhage (274100004); Metastatic malignant neoplasm to brain (94225005); Intracranial
meningioma (302820008); Silent micro-hemorrhage of brain (723857007); Structure of cave of septum pellucidum (74968005); Foraminal spinal
stenosis (none); Lipoma of brain (15863451000119107); Glioma (393564001); Rathke's pouch cyst (52859009)"""


def test_the_tree_has_the_labels_under_their_names_and_codes() -> None:
    tree = Taxonomy.load("mr_rate")
    assert (tree.depth, len(tree.levels[2]), tree.normal) == (3, 37, None)
    for entry in " ".join(LABELS.split()).split("; "):
        name, code = entry.removesuffix(")").split(" (")
        item = tree.find(tree.meant_by(name))
        assert (item.level, item.codes.get("snomed", "none")) == (3, code)
    codes = [item.codes["snomed"] for item in tree.classes(3) if item.codes]
    assert len(codes) == len(set(codes)) == 36


def test_the_brain_tree_is_the_tree_without_the_spine() -> None:
    full, brain = Taxonomy.load("mr_rate").to_dict(), Taxonomy.load("mr_rate_brain").to_dict()
    assert brain["classes"] == [entry for entry in full["classes"] if entry["name"] != "spinal disease"]
    assert len(Taxonomy.load("mr_rate_brain").levels[2]) == 32


def test_the_protocol_asks_for_the_leaves_in_the_words_of_the_tree() -> None:
    tree, protocol = Taxonomy.load("mr_rate"), Protocol.load("mr_rate")
    assert [(c.name, c.phrase) for c in protocol.classes] == [(item.name, item.prompt) for item in tree.classes(3)]
    assert {task.name: task.classes for task in protocol.tasks} == {
        "all": tree.levels[2], "brain": Taxonomy.load("mr_rate_brain").levels[2],
    }  # fmt: skip


def test_label_columns_may_be_spelled_otherwise() -> None:
    tree = Taxonomy.load("mr_rate")
    found = label_names(["rathke_s_pouch_cyst", "Silent Micro-Hemorrhage of Brain", "985004"], tree)
    assert list(found.values()) == ["Rathke's pouch cyst", "silent micro-hemorrhage of brain", "schwannoma"]
