"""`hlip import images`: layouts, the CSV, splits that never part a patient, and what is refused by name."""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hlip.files.resources import ResourceError
from hlip.importing.cli import add_import
from hlip.importing.images import LEAK, ImportingError, import_images
from hlip.importing.splits import draw_splits
from hlip.prepare import prepare
from hlip.store import Store
from hlip.study import Scan, Study, read_manifest
from hlip.taxonomy import Taxonomy
from hlip.volume import VolumeSpec

from .nifti_trees import deny


def touch(folder: Path, *names: str) -> Path:
    """Empty files: an import opens no image."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def smears(tmp_path: Path) -> Path:
    """Two classes, ten patients each, three images a patient."""
    names = [
        f"{kind}/p{kind[0]}{n}/{k}.png" for kind in ("acute_myeloid_leukemia", "normal") for n in range(10) for k in range(3)
    ]
    return touch(tmp_path / "images", *names)


def only(studies: tuple[Study, ...] | list[Study]) -> dict[str, tuple[str, tuple[str, ...] | None, str | None]]:
    return {study.study_id: (study.patient_id, study.labels, study.split) for study in studies}


# --- layouts -----------------------------------------------------------------------------------------------------------------


def test_class_and_patient_folders(smears: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every patient is known: nothing to warn of
        summary = import_images(smears, tmp_path / "manifest.jsonl")
    studies = read_manifest(tmp_path / "manifest.jsonl")
    assert len(studies) == 60
    first = studies[0]
    assert first.study_id == "acute_myeloid_leukemia__pa0__0"
    assert (first.patient_id, first.labels, first.report) == ("pa0", ("acute myeloid leukemia",), "")
    assert first.scans == (Scan(tmp_path / "images/acute_myeloid_leukemia/pa0/0.png", ""),)
    row = json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[0])
    assert row["scans"] == [{"path": "images/acute_myeloid_leukemia/pa0/0.png", "sequence": ""}]
    Taxonomy.load("leukemia").encode_all([study.labels for study in studies])  # the folder's name is the tree's
    assert "60 images of 2 classes, 20 patients" in str(summary)
    assert str(summary).splitlines()[2].split() == ["acute", "myeloid", "leukemia", "21", "3", "6"]


def test_split_folders_are_kept_and_valid_is_val(tmp_path: Path) -> None:
    touch(tmp_path / "i", "Train/normal/a.png", "valid/normal/b.JPG", "test/AML/p7/c.tif", "test/AML/p7/notes.txt")
    with pytest.warns(UserWarning, match="the patient of 2 of 3 images is unknown"):
        summary = import_images(tmp_path / "i", tmp_path / "m.jsonl")
    assert only(read_manifest(tmp_path / "m.jsonl")) == {
        "Train__normal__a": ("Train__normal__a", ("normal",), "train"),
        "valid__normal__b": ("valid__normal__b", ("normal",), "val"),
        "test__AML__p7__c": ("p7", ("AML",), "test"),
    }
    assert summary.left_out == {".txt": 1}
    assert ".txt 1" in str(summary)
    with pytest.raises(ImportingError, match="leave --splits out"):
        import_images(tmp_path / "i", tmp_path / "m.jsonl", splits=(0.5, 0.2, 0.3))


def test_unknown_patients_are_said_in_one_line(tmp_path: Path) -> None:
    touch(tmp_path / "i", *[f"normal/{n}.png" for n in range(20)])
    with pytest.warns(UserWarning, match=LEAK) as said:
        summary = import_images(tmp_path / "i", tmp_path / "m.jsonl")
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert summary.unknown_patients == 20
    assert "patients unknown" in str(summary)
    assert [sum(s.split == name for s in summary.studies) for name in ("train", "val", "test")] == [14, 2, 4]


@pytest.mark.parametrize(
    "names",
    [
        ("loose.png", "normal/a.png"),
        ("normal/p1/visit1/a.png",),
        ("train/normal/a.png", "normal/b.png"),
        ("train/a.png", "train/normal/b.png"),
    ],
)
def test_images_outside_of_the_layout_are_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path / "i", *names)
    with pytest.raises(ImportingError, match=r"1 images lie elsewhere[\s\S]*\.png"):
        import_images(tmp_path / "i", tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "i", *[f"normal/p{n}/a.png" for n in range(10)], "leukemia/p1/a.png")
    deny(monkeypatch, tmp_path / "i/leukemia")
    with pytest.warns(UserWarning, match=f"no permission to read 1 folders, .*: {tmp_path / 'i/leukemia'}$"):
        assert len(import_images(tmp_path / "i", tmp_path / "m.jsonl").studies) == 10


def test_nothing_to_import(tmp_path: Path) -> None:
    with pytest.raises(ImportingError, match="no such folder"):
        import_images(tmp_path / "i", tmp_path / "m.jsonl")
    touch(tmp_path / "i", "normal/a.svs", "normal/b.svs", "normal/.hidden.png", "__MACOSX/normal/a.png")
    with pytest.raises(ImportingError, match=r"no image .*\.svs 2"):
        import_images(tmp_path / "i", tmp_path / "m.jsonl")


def test_study_ids_differ_and_are_file_names(tmp_path: Path) -> None:
    names = [
        "a b/x (1).png",
        "a b/x (1).jpg",
        "a_b/x_1_.png",
        "c/d__e.png",
        "c/d/e.png",
        "c/" + "long" * 55 + ".png",
        "c/E.png",
        "c/e.png",
    ]
    touch(tmp_path / "i", *names)
    with pytest.warns(UserWarning, match=LEAK):
        import_images(tmp_path / "i", tmp_path / "m.jsonl")
    ids = [study.study_id for study in read_manifest(tmp_path / "m.jsonl")]
    assert len({name.lower() for name in ids}) == 8
    assert all(len(name.encode()) <= 200 and not set(name) & set('/\\ ()*?:"<>|') for name in ids)
    with pytest.warns(UserWarning, match=LEAK):
        import_images(tmp_path / "i", tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "m.jsonl").read_bytes()


# --- splits ------------------------------------------------------------------------------------------------------------------


def cohort(seed: int, patients: int = 90) -> list[Study]:
    """Uneven: patients of 1 to 30 images, classes of which one is rare, some images of two classes."""
    generator = np.random.default_rng(seed)
    studies = []
    for n in range(patients):
        kind = str(generator.choice(["ALL", "AML", "normal", "rare"], p=[0.5, 0.25, 0.2, 0.05]))
        for k in range(int(generator.integers(1, 31))):
            labels = (kind,) if k % 7 else (kind, "smudge")
            studies.append(Study(f"{n}-{k}", f"p{n}", (Scan(Path("a.png")),), labels=labels))
    return studies


@pytest.mark.parametrize("seed", range(8))
def test_patients_are_never_parted_and_classes_have_their_shares(seed: int) -> None:
    studies = cohort(seed)
    home = draw_splits(studies, (0.7, 0.1, 0.2), seed)
    assert set(home) == {study.patient_id for study in studies}
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("train", "val", "test"), 0))
    for study in studies:
        for label in study.labels or ():
            counts[label][home[study.patient_id]] += 1
    for label in ("ALL", "AML", "normal", "smudge"):
        total = sum(counts[label].values())
        shares = [counts[label][split] / total for split in ("train", "val", "test")]
        assert np.abs(np.array(shares) - (0.7, 0.1, 0.2)).max() < 0.06, label
    assert draw_splits(list(reversed(studies)), (0.7, 0.1, 0.2), seed) == home
    assert draw_splits(studies, (0.7, 0.1, 0.2), seed + 100) != home


def test_images_that_come_later_move_no_patient(tmp_path: Path) -> None:
    touch(tmp_path / "i", *[f"{name}/p{n}/a.png" for n in range(20) for name in ("AML", "normal")])
    first = import_images(tmp_path / "i", tmp_path / "m.jsonl")
    before = {study.patient_id: study.split for study in first.studies}
    touch(tmp_path / "i", *[f"AML/o{n}/a.png" for n in range(20)])
    again = import_images(tmp_path / "i", tmp_path / "m.jsonl", seed=5)
    assert before.items() <= {study.patient_id: study.split for study in again.studies}.items()
    assert "note: 20 patients stay in the split that they had; delete" in str(again)


def test_no_split_with_a_share_stays_empty_and_none_without_gets_one() -> None:
    few = [Study(str(n), f"p{n}", (Scan(Path("a.png")),), labels=("a",)) for n in range(3)]
    assert sorted(draw_splits(few, (0.98, 0.01, 0.01), 0).values()) == ["test", "train", "val"]
    assert set(draw_splits(few, (0.5, 0.0, 0.5), 0).values()) == {"train", "test"}
    assert set(draw_splits(few, (0.0, 0.0, 1.0), 0).values()) == {"test"}
    assert set(draw_splits(few[:1], (0.7, 0.1, 0.2), 0).values()) == {"train"}


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_impossible_shares(smears: Path, tmp_path: Path, shares: tuple[float, ...]) -> None:
    with pytest.raises(ImportingError, match="sum up to 1"):
        import_images(smears, tmp_path / "m.jsonl", splits=shares)


def test_a_patient_in_two_given_splits_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "i", "train/normal/p1/a.png", "test/AML/p1/b.png", "test/AML/p2/c.png")
    with pytest.raises(ImportingError, match=r"1 patients are in several splits[\s\S]*p1: test .test__AML__p1__b.,"):
        import_images(tmp_path / "i", tmp_path / "m.jsonl")


# --- the CSV -----------------------------------------------------------------------------------------------------------------


def test_csv(tmp_path: Path) -> None:
    touch(tmp_path / "i", "a.png", "sub/b.jpg", "c.png", "d.gif")
    labels = table(
        tmp_path / "labels.csv",
        "\ufeffpath, label ,patient_id,split,report,stain",
        "a.png,acute leukemia; AML,p1,train,Blasts.,Wright",
        'sub/b.jpg,normal,p2,valid,"Two, normal.",',
        "c.png,,p3,test,,",
        "d.gif,normal,p4,test,,",
    )
    summary = import_images(tmp_path / "i", tmp_path / "m.jsonl", labels)
    studies = read_manifest(tmp_path / "m.jsonl")
    assert only(studies) == {
        "a": ("p1", ("acute leukemia", "AML"), "train"),
        "sub__b": ("p2", ("normal",), "val"),
        "c": ("p3", None, "test"),
    }
    assert [study.report for study in studies] == ["Blasts.", "Two, normal.", ""]
    assert studies[0].extra == {"stain": "Wright", "imported": "images"}
    assert summary.left_out == {".gif": 1}


def test_csv_without_patients_and_splits(tmp_path: Path) -> None:
    touch(tmp_path / "i", *[f"{n}.png" for n in range(10)])
    labels = table(tmp_path / "labels.csv", "path,label", *[f"{n}.png,normal" for n in range(10)])
    with pytest.warns(UserWarning, match="a leak"):
        summary = import_images(tmp_path / "i", tmp_path / "m.jsonl", labels, splits=(0.6, 0.2, 0.2))
    assert sorted(str(study.split) for study in summary.studies) == ["test"] * 2 + ["train"] * 6 + ["val"] * 2


def test_a_csv_may_repeat_a_row_and_leave_splits_open(tmp_path: Path) -> None:
    """Images without a split take their patient's, the rest are drawn beside the stated ones."""
    touch(tmp_path / "i", *[f"{n}.png" for n in range(10)])
    rows = [f"{n}.png,normal,P{n // 2},{'test' if n in (0, 6) else ''}" for n in range(10)]
    labels = table(tmp_path / "labels.csv", "path,label,PatientID,split", *rows, rows[4])
    summary = import_images(tmp_path / "i", tmp_path / "m.jsonl", labels)
    splits = [study.split for study in summary.studies]
    assert splits[:2] == splits[6:8] == ["test"] * 2
    assert splits[::2] == splits[1::2]
    assert sorted({str(split) for split in splits}) == ["test", "train", "val"]
    assert len(summary.studies) == 10
    assert "8 of 10 studies state no split: 2 take the one that their patient has elsewhere, 6 are drawn" in str(summary)


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        (["path,class", "a.png,x"], "no column label"),
        (["path,label", "gone.png,x"], "line 2: no file"),
        (["path,label", "a.png,x", "./a.png,y"], "line 3: ./a.png stands already on line 2"),
        (["path,label,split", "a.png,x,fold_3"], "split 'fold_3' is none of"),
        (["path,label,study_id", "a.png,x,1"], "study_id would overwrite"),
        (
            ["path,label,patient_id,split", "a.png,x,p,train", "b.png,x,p,test"],
            "labels.csv: 1 patients .*; give all studies of a patient the same one\n  p: test .b., train .a.",
        ),
        (["path,label", ",x"], "line 2: no path"),
    ],
)
def test_faults_of_a_csv_are_named(tmp_path: Path, lines: list[str], word: str) -> None:
    touch(tmp_path / "i", "a.png", "b.png")
    with pytest.raises(ImportingError, match=word):
        import_images(tmp_path / "i", tmp_path / "m.jsonl", table(tmp_path / "labels.csv", *lines))


def test_a_csv_of_another_encoding(tmp_path: Path) -> None:
    touch(tmp_path / "i", "a.png")
    (tmp_path / "labels.csv").write_bytes("path,label\na.png,Leuk\xe4mie\n".encode("latin-1"))
    with pytest.raises(ImportingError, match="UTF-8"):
        import_images(tmp_path / "i", tmp_path / "m.jsonl", tmp_path / "labels.csv")


# --- what is written ---------------------------------------------------------------------------------------------------------


def test_only_its_own_manifest_is_written_over(smears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = smears / "manifest.jsonl"  # among the images: no image, and no file left out
    assert import_images(smears, manifest, seed=1).left_out == {}
    before = manifest.read_bytes()
    next(smears.rglob("*.png")).unlink()
    summary = import_images(smears, manifest, seed=2)
    assert summary.left_out == {}
    assert manifest.read_bytes() != before
    others = tmp_path / "other.jsonl"
    others.write_text('{"study_id": "mine"}\n')
    with pytest.raises(ImportingError, match="not written by this command"):
        import_images(smears, others)
    assert others.read_text() == '{"study_id": "mine"}\n'
    before = manifest.read_bytes()
    monkeypatch.setattr("hlip.study.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        import_images(smears, manifest, seed=3)
    assert manifest.read_bytes() == before


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_import(parser.add_subparsers(dest="command"))
    return parser.parse_args(words)


def test_from_the_command_line_to_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for n in range(6):
        path = tmp_path / "images" / ("normal" if n % 2 else "reactive") / f"p{n}" / f"{n}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(generator.integers(0, 256, (9, 14, 3), dtype=np.uint8)).save(path)
    words = [
        "import",
        "images",
        str(tmp_path / "images"),
        str(tmp_path / "m.jsonl"),
        "--splits",
        "0.5",
        "0.25",
        "0.25",
        "--seed",
        "3",
    ]
    arguments = parsed(*words)
    arguments.run(arguments)
    assert "6 images of 2 classes, 6 patients" in capsys.readouterr().out
    spec = VolumeSpec.from_dict(VolumeSpec.load("image").as_dict() | {"size": (1, 16, 16), "resize": (16, 16)})
    summary = prepare(tmp_path / "m.jsonl", tmp_path / "store", spec, workers=1, progress=False)
    assert summary.studies_ready == 6
    store = Store(tmp_path / "store")
    assert store.volumes("normal__p1__1").shape == (3, 1, 1, 16, 16)
    assert store.record("normal__p1__1").labels == ("normal",)
    assert sorted(str(record.split) for record in store.records).count("train") == 3
    with pytest.raises(SystemExit):
        parsed("import")


def test_at_once_to_a_store(tmp_path: Path) -> None:
    path = tmp_path / "images" / "normal" / "p1" / "a.png"
    path.parent.mkdir(parents=True)
    Image.linear_gradient("L").convert("RGB").save(path)
    words = ["import", "images", str(tmp_path / "images"), str(tmp_path / "out/manifest.jsonl"), "--prepare"]
    with pytest.raises(ResourceError, match="nosuch"):
        (arguments := parsed(*words, "nosuch")).run(arguments)
    assert not (tmp_path / "out").exists()
    (arguments := parsed(*words, "image", "--workers", "1")).run(arguments)
    assert Store(tmp_path / "out/store").volumes("normal__p1__a").shape[:3] == (3, 1, 1)


def test_a_class_that_a_split_lacks_is_named(tmp_path: Path) -> None:
    for name, patients in (("common", 10), ("rare", 2)):
        for patient in range(patients):
            path = tmp_path / "images" / name / f"{name}{patient}" / "one.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(path)
    made = import_images(tmp_path / "images", tmp_path / "manifest.jsonl", splits=(0.5, 0.25, 0.25))
    said = str(made)
    assert "no image of: rare in " in said
    assert "common in" not in said
