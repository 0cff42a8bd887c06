"""`hlip import hlip | pub-brain-5`: tensors become NIfTI files that prepare to the same orientation; lists, sources, masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from hlip.cli import main
from hlip.importing.outcome import ImportingError
from hlip.importing.public.hlip_layout import convert, import_hlip
from hlip.importing.public.pub_brain_5 import import_pub_brain_5
from hlip.prepare import prepare
from hlip.scans.reading import read_scan
from hlip.store import Store
from hlip.study import Study, read_manifest
from hlip.volume import VolumeSpec, prepare_volume

SIZE = (8, 16, 20)
SPEC = VolumeSpec.from_dict(VolumeSpec.load("mri").as_dict() | {"size": [8, 20, 20], "resize": [20, 20]})


def tensor(seed: int = 0) -> torch.Tensor:
    """(D, H, W) uint8 that fills 0..255 and has no symmetry."""
    values = np.random.default_rng(seed).integers(0, 256, SIZE)
    values[0], values[-1] = 0, 255  # as percentiles left it: more than half a percent at both ends
    return torch.from_numpy(values.astype(np.uint8))


def save(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(data, path)
    return path


def manifest(out: Path) -> dict[str, Study]:
    return {study.study_id: study for study in read_manifest(out / "manifest.jsonl")}


def left_out(out: Path) -> set[tuple[str, str]]:
    with (out / "left_out.csv").open() as lines:
        return {(row["path"], row["reason"]) for row in csv.DictReader(lines)}


# the official layout


@pytest.mark.parametrize("view", ["axial", "coronal", "sagittal"])
def test_a_tensor_prepares_to_itself(tmp_path: Path, view: str) -> None:
    """Depth stays depth, up stays up, left stays left, and no grey value changes: only the padding to a square is new."""
    convert(save(tmp_path / "img.pt", tensor()), tmp_path / "a.nii.gz", view)
    (volume,) = prepare_volume(read_scan(tmp_path / "a.nii.gz"), SPEC)
    np.testing.assert_array_equal(volume.voxels[:, 2:-2, :], tensor().numpy())


def test_the_same_tensor_gives_the_same_bytes_and_only_once(tmp_path: Path) -> None:
    source = save(tmp_path / "img.pt", tensor())
    for name in ("a", "b"):
        convert(source, tmp_path / f"{name}.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    before = (tmp_path / "a.nii.gz").stat().st_mtime_ns
    convert(source, tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").stat().st_mtime_ns == before


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Ten studies of a T1 and a T2, two lists of them in both published forms, reports, labels."""
    for number in range(10):
        for place, name in enumerate(("T1_ax", "T2_FLAIR_cor")):
            save(tmp_path / "root" / f"u{number}" / name / "img.pt", tensor(2 * number + place))
    lists = {
        "studies.json": {f"u{number}": ["T1_ax", "T2_FLAIR_cor"] for number in range(10)},
        "reports.json": {f"u{number}": ["Glioma.", " No edema. "] for number in range(9)},
        "june.json": {
            "u0": {"series": {"T1_ax": {"num_slices": 8, "view": "axial"}, "T2_FLAIR_cor": {"num_slices": 8, "view": "coronal"}},
                   "report": ["Normal."]}
        },
    }  # fmt: skip
    for name, content in lists.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "labels.csv").write_text("uid,glioma,edema\nu0,1,0\nu1,0,0\n")
    return tmp_path


def test_the_official_layout(official: Path) -> None:
    out = official / "out"
    files = ["--studies", "studies.json", "--reports", "reports.json", "--labels", "labels.csv"]
    words = [str(official / word) if not word.startswith("--") else word for word in files]
    main(["import", "hlip", str(official / "root"), str(out), *words, "--splits", "0.6", "0.2", "0.2"])
    studies = manifest(out)
    assert (studies["u0"].labels, studies["u1"].labels, studies["u2"].labels) == (("glioma",), (), None)
    assert studies["u0"].sentences == ("Glioma.", "No edema.")
    assert [scan.sequence for scan in studies["u0"].scans] == ["T1", "FLAIR"]
    splits = [study.split for study in studies.values()]
    assert [splits.count(name) for name in ("train", "val", "test")] == [6, 2, 2]
    main(["import", "hlip", str(official / "root"), str(out), *words, "--splits", "0.6", "0.2", "0.2", "--seed", "1"])
    assert [study.split for study in manifest(out).values()] == splits  # whatever is drawn later
    prepare(out / "manifest.jsonl", official / "store", SPEC, workers=1, progress=False)
    volumes = Store(official / "store").volumes("u3")
    np.testing.assert_array_equal(volumes[0, 0, :, 2:-2].numpy(), tensor(6).numpy())


def test_the_form_of_june_2025_tells_the_view(official: Path) -> None:
    import_hlip(official / "root", official / "out", studies=official / "june.json", progress=False)
    (study,) = manifest(official / "out").values()
    assert study.sentences == ("Normal.",)
    assert ["".join(nib.aff2axcodes(nib.load(scan.path).affine)) for scan in study.scans] == ["RPI", "RIP"]


def test_tensors_that_are_none_are_named(official: Path) -> None:
    save(official / "root/u0/T1_ax/img.pt", tensor().float())
    save(official / "root/u1/T1_ax/img.pt", {"a": 1})
    (official / "root/u2/T1_ax/img.pt").write_bytes(b"nothing")
    (official / "root/u3/T1_ax/img.pt").unlink()
    import_hlip(official / "root", official / "out", studies=official / "studies.json", progress=False)
    assert left_out(official / "out") == {
        ("u0/T1_ax", "not_8_bit"), ("u1/T1_ax", "not_an_image"), ("u2/T1_ax", "truncated"), ("u3/T1_ax", "missing"),
    }  # fmt: skip
    with pytest.raises(ImportingError, match="neither a list of scan names nor"):
        import_hlip(official / "root", official / "o", studies=_write(official / "odd.json", '{"u0": 3}'), progress=False)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harmed",))

    save(tmp_path / "root/u0/a/img.pt", Harm())
    save(tmp_path / "root/u1/a/img.pt", tensor())
    import_hlip(tmp_path / "root", tmp_path / "out", progress=False)
    assert not (tmp_path / "harmed").exists()
    assert ("u0/a", "truncated") in left_out(tmp_path / "out")


# Pub-Brain-5

LIST = """study,Normal,Stroke,Glioma,Meningioma,Metastasis
openbhb/sub-1,1,0,0,0,0
stroke/sub-b74a5032,0,1,0,0,0
brats23/BraTS-GLI-00000-000,0,0,1,0,0
brats23/BraTS-GLI-00000-001,0,0,1,0,0
brats23/BraTS-MET-00001-000,0,0,0,0,1
nyu_mets/NYU_Mets_1_2,0,0,0,0,1
nyu_mets/NYU_Mets_1_3,0,0,0,0,1
"""


@pytest.fixture
def brains(tmp_path: Path) -> Path:
    """NIfTI files under the sources' own names with a segmentation, one study of tensors, one that was not rebuilt."""
    folder = tmp_path / "pub_brain_5"
    image = nib.Nifti1Image(tensor().numpy().astype(np.int16), np.diag([1.0, 1, 5, 1]))
    names = {
        "openbhb/sub-1": ["anat/sub-1_T1w"],
        "stroke/sub-b74a5032": ["dwi"],
        **{
            f"brats23/{name}": [f"{name}-{end}" for end in ("t1c", "t2f", "seg")]
            for name in ("BraTS-GLI-00000-000", "BraTS-GLI-00000-001")
        },
        "brats23/BraTS-MET-00001-000": ["BraTS-MET-00001-000-t1n"],
    }
    for study, files in names.items():
        for name in files:
            (folder / study / name).parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, folder / study / f"{name}.nii.gz")
    save(folder / "nyu_mets/NYU_Mets_1_2/T1 post/img.pt", tensor())
    _write(folder / "pub_brain_5.csv", LIST)
    return folder


def test_pub_brain_5(brains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["import", "pub-brain-5", str(brains), str(tmp_path / "out")])
    studies = manifest(tmp_path / "out")
    glioma = studies["brats23__BraTS-GLI-00000-000"]
    assert (glioma.patient_id, glioma.labels, glioma.split, glioma.extra["source"]) == (
        "BraTS-GLI-00000",
        ("Glioma",),
        "test",
        "brats23",
    )
    assert [scan.sequence for scan in glioma.scans] == ["T1 contrast", "FLAIR"]
    assert studies["nyu_mets__NYU_Mets_1_2"].patient_id == "NYU_Mets_1"
    assert studies["openbhb__sub-1"].scans[0].sequence == "T1"
    assert left_out(tmp_path / "out") == {
        ("nyu_mets/NYU_Mets_1_3", "missing"),
        *((f"brats23/{name}/{name}-seg.nii.gz", "mask") for name in ("BraTS-GLI-00000-000", "BraTS-GLI-00000-001")),
    }
    said = capsys.readouterr().out
    assert "from one source only: Normal (openbhb), Stroke (stroke), Glioma (brats23)" in said
    assert "Metastasis (" not in said  # of two sources here
    spec = VolumeSpec.from_dict(VolumeSpec.load("pub_brain_5").as_dict() | {"size": [8, 20, 20], "resize": [20, 20]})
    summary = prepare(tmp_path / "out/manifest.jsonl", tmp_path / "store", spec, workers=1, progress=False)
    assert (summary.studies_ready, summary.scans_skipped) == (6, 0)


def test_pub_brain_5_draws_splits_by_patient(brains: Path, tmp_path: Path) -> None:
    import_pub_brain_5(brains, tmp_path / "out", splits=(0.5, 0.25, 0.25), progress=False)
    studies = manifest(tmp_path / "out")
    assert studies["brats23__BraTS-GLI-00000-000"].split == studies["brats23__BraTS-GLI-00000-001"].split
    assert len({study.split for study in studies.values()}) == 3


def test_a_study_without_a_folder_has_no_source(tmp_path: Path) -> None:
    """The folder that holds the set is no source, and a class of such studies alone is not said to have one."""
    save(tmp_path / "my_copy/NYU_Mets_1_2/T1/img.pt", tensor())
    save(tmp_path / "my_copy/stroke/sub-1/T1/img.pt", tensor())
    header = LIST.splitlines()[0]
    listed = _write(tmp_path / "list.csv", f"{header}\nNYU_Mets_1_2,0,0,0,0,1\nstroke/sub-1,0,1,0,0,-1\n")
    made = import_pub_brain_5(tmp_path / "my_copy", tmp_path / "out", listed=listed, progress=False)
    studies = manifest(tmp_path / "out")
    assert "source" not in studies["NYU_Mets_1_2"].extra
    assert studies["stroke__sub-1"].extra["source"] == "stroke"
    assert [note.split(".")[0] for note in made.notes[1:]] == [
        "from one source only: Stroke (stroke)",
        "the source of 1 of 2 studies is not known: the list names them without a folder",
    ]
    assert made.notes[0].startswith("list.csv: cells that leave a class open: -1 or nan, uncertain, 1 (Metastasis 1).")


def test_the_public_list_is_read(shared: Path, tmp_path: Path) -> None:
    listed = shared / "datasets" / "pub_brain_5.csv"
    name = listed.read_text().splitlines()[1].split(",")[0]
    save(tmp_path / "set" / name / "T1/img.pt", tensor())
    import_pub_brain_5(tmp_path / "set", tmp_path / "out", listed=listed, progress=False)
    (study,) = manifest(tmp_path / "out").values()
    assert (study.labels, study.extra["source"]) == (("Metastasis",), "nyu_mets")
    assert len(left_out(tmp_path / "out")) == 299


def _write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file
