"""`hlip quality STORE --study ID`: all scans of a study to look at, skipped ones too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlip.cli import main
from hlip.prepare import prepare
from hlip.quality.check import check_store
from hlip.store import StoreError, skipped_file
from hlip.volume import VolumeSpec


def test_a_named_study_is_shown_beside_the_page_of_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = folder / "store"
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    main(["quality", str(store), "--study", "s3"])
    page = store / "quality_s3.html"
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    assert text.count("<img") == 4, "before and after of both scans"
    assert text.count("<span><i>L</i>coronal<i>R</i></span><span><i>A</i>sagittal<i>P</i></span>") == 4, "sides below each"
    assert "s3_t1.nii.gz" in text
    assert "s3_t2.nii.gz" in text
    assert "s2_t1" not in text
    assert all(path.read_bytes() == content for path, content in before.items())
    assert check_store(store, progress=False).ok


def test_several_studies_go_into_one_page_where_it_is_wanted(folder: Path) -> None:
    main(["quality", str(folder / "store"), "--study", "s1", "s5", "--out", str(folder / "mine" / "look.html")])
    text = (folder / "mine" / "look.html").read_text()
    assert re.findall(r"<h2>(\w+)</h2>", text) == ["s1", "s5"]
    assert "skipped: missing" in text
    assert "&lt;gone&gt;.nii.gz: no such file" in text
    assert not list((folder / "store").glob("quality_*.html"))


def test_an_unknown_study_and_a_place_without_a_study_are_refused(folder: Path) -> None:
    from hlip.quality.sheet import write_studies
    from hlip.store import Store

    with pytest.raises(StoreError, match="no study 's9'"):
        write_studies(folder / "store", Store(folder / "store").quality, ["s1", "s9"])
    with pytest.raises(SystemExit):
        main(["quality", str(folder / "store"), "--out", "x.html"])


def test_what_could_be_read_of_skipped_scans_is_shown(tmp_path: Path) -> None:
    """In a study with a usable scan, and in one without any, whose file is JSON."""
    rng = np.random.default_rng(0)
    for name, low in (("ct", -1000), ("mr", 0)):
        nib.save(
            nib.Nifti1Image(rng.integers(low, 900, (16, 14, 10)).astype(np.int16), np.diag([6.0, 6, 6, 1])),
            tmp_path / f"{name}.nii",
        )
    rows = [
        {
            "study_id": "mixed",
            "patient_id": "a",
            "scans": [{"path": "ct.nii"}, {"path": "mr.nii"}],
            "report": "A.",
            "split": "train",
        },
        {
            "study_id": "none",
            "patient_id": "b",
            "scans": [{"path": "mr.nii"}, {"path": "gone.nii"}],
            "report": "B.",
            "split": "train",
        },
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = VolumeSpec(size=(6, 12, 12), spacing_mm=(10, 8, 8), windows=(("brain", 40, 80),))  # type: ignore[arg-type]
    prepare(tmp_path / "m.jsonl", tmp_path / "store", spec, workers=1, progress=False)
    assert skipped_file(tmp_path / "store", "none").is_file()
    main(["quality", str(tmp_path / "store"), "--study", "mixed", "none"])
    text = (tmp_path / "store" / "quality_mixed_and_1_more.html").read_text()
    mixed, none = text.split("<h2>")[1:]
    assert (mixed.count('alt="before'), mixed.count('alt="after')) == (2, 1)
    assert (none.count('alt="before'), none.count('alt="after')) == (1, 0)
    assert mixed.count("skipped: not_hu") == none.count("skipped: not_hu") == 1
    assert "skipped: missing" in none
    assert check_store(tmp_path / "store", progress=False).ok


@pytest.mark.parametrize(("name", "said"), [("demo", "spec demo ("), (None, "spec of your own (")])
def test_the_page_names_the_spec(folder: Path, name: str | None, said: str) -> None:
    if name:
        prepare(folder / "manifest.jsonl", folder / "other", VolumeSpec.load(name), workers=1, progress=False)
    text = (folder / ("other" if name else "store") / "quality.html").read_text()
    assert said in text
    assert "at its top" not in text
    assert "at the scan's largest value" in text.replace("&#39;", "'")
