"""The table and the page of a prepared store, of an earlier version's too."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from hlip.files.checksums import canonical
from hlip.prepare import prepare
from hlip.quality.check import check_store
from hlip.quality.collect import renew_quality
from hlip.quality.table import COLUMNS, complete
from hlip.store import Store, skipped_file, study_file
from hlip.volume import VolumeSpec

SPEC = VolumeSpec(size=(6, 12, 12), spacing_mm=(30, 20, 20), through_plane="axial")


def again(folder: Path) -> None:
    prepare(folder / "manifest.jsonl", folder / "store", SPEC, workers=1, progress=False)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_table_is_typed_and_complete(made: Path) -> None:
    table = pd.read_parquet(made / "store" / "quality.parquet")
    assert list(table.columns) == list(COLUMNS)
    assert list(table.study_id) == ["s0", "s0", "s1", "s1", "s2", "s2", "s3", "s3", "s4", "s5"]
    assert table.foreground.dtype == float
    assert table.status.tolist() == ["ok"] * 9 + ["skipped"]
    assert list(table.spacing_mm[0]) == [6, 6, 6]
    assert 0.1 < table.foreground[0] < 0.3
    assert list(table["flags"][0]) == list(table["flags"][8]) == ["duplicate-voxels"]
    assert list(table.same_voxels[8]) == ["s0"]
    assert table.reason[9] == "missing"
    assert table.hashes[0][0] == table.hashes[8][0]
    assert Store(made / "store").quality[0] == complete(Store(made / "store").quality[0])


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


def test_the_page_is_one_file_without_scripts(made: Path) -> None:
    text = (made / "store" / "quality.html").read_text()
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert page.tags.count("img") == 18, "before and after of each of 9 scans"
    assert "duplicate-voxels" in text
    assert "&lt;gone&gt;" in text, "names are data, not HTML"
    assert "http" not in text
    assert 'name="viewport"' in text
    assert str(made) not in re.sub(r"[^\n]*no such file[^\n]*", "", text), "equal stores have equal pages"


def test_the_page_of_many_studies_stays_small(made: Path, tmp_path: Path) -> None:
    from hlip.quality.sheet import write_sheet

    shutil.copytree(made / "store", tmp_path / "store")
    rows = Store(made / "store").quality[:1] * 20_000
    size = len(write_sheet(tmp_path / "store", rows, {}, {"x" * 20: 5}, {"head": 20_000}).read_bytes())
    assert size < 600_000


def test_quality_again_is_the_same_and_needs_no_scan(folder: Path) -> None:
    before = content(folder / "store")
    for name in ("quality.parquet", "quality.html"):
        (folder / "store" / name).write_bytes(b"lost")
    for file in folder.glob("*.nii.gz"):
        file.unlink()
    quality = renew_quality(folder / "store")
    assert quality.flags == {"duplicate-voxels": 2}
    assert "1 skipped: missing 1" in str(quality)
    after = content(folder / "store")
    assert after.keys() == before.keys()
    # of the lost table the order of skipped studies is not known, but no row is
    assert sorted(row["study_id"] for row in quality.rows) == ["s0", "s0", "s1", "s1", "s2", "s2", "s3", "s3", "s4", "s5"]


def test_quality_of_an_untouched_store_changes_no_byte(folder: Path) -> None:
    before = content(folder / "store")
    renew_quality(folder / "store")
    assert content(folder / "store") == before


# --- earlier versions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def old(folder: Path) -> Path:
    """The store as an earlier version wrote it: rows of text in CSV and study files, no pictures, no hashes."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    store = folder / "store"
    text = "study_id,scan,path,sequence,status,reason,message,notes,report,shape,spacing_mm,orientation,windows,low,high,foreground,volumes,"
    lines = [text + "prepared_shape"]
    for n in range(5):
        file = study_file(store, f"s{n}")
        with safe_open(file, framework="np") as tensors:
            names = [name for name in tensors.keys() if not name.startswith("before")]  # noqa: SIM118
            volumes = {name: tensors.get_tensor(name) for name in names}
            metadata = json.loads(tensors.metadata()["hlip"])
        rows = []
        for number in range(len(metadata["quality"])):
            values = [f"s{n}", str(number), "a.nii", "T1", "ok", "", "", "", "yes", "32x40x28", "6x6x6", "RAS", "", "0", "500", "0.200",
                      str(number), "6x12x12"]  # fmt: skip
            lines.append(",".join(values))
            rows.append(dict(zip(lines[0].split(","), values, strict=True)))
        kept = {key: metadata[key] for key in metadata if key not in ("hashes", "digest")} | {"quality": rows}
        save_file(volumes, file, metadata={"hlip": canonical(kept)})
    for name in ("quality.parquet", "quality.html", "checksums.txt", "report_spec.json"):
        (store / name).unlink(missing_ok=True)
    skipped_file(store, "s5").unlink()
    (store / "quality.csv").write_text("\n".join(lines) + "\n")
    return store


def test_an_old_store_is_read(old: Path) -> None:
    store = Store(old)
    assert len(store) == 5
    assert store.volumes("s1").shape == (2, 1, 6, 12, 12)
    row = store.quality[0]
    assert (row["shape"], row["low"], row["volumes"], row["foreground"]) == ([32, 40, 28], [0.0], [0], 0.2)
    assert row["ghosting"] is None
    checked = check_store(old, progress=False)
    assert checked.ok
    assert checked.unhashed == 5
    quality = renew_quality(old)
    assert not (old / "quality.csv").exists()
    assert len(quality.rows) == 9
    assert "earlier version" in str(quality)
    assert (old / "quality.html").stat().st_size > 1000


def test_an_old_store_goes_on(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hlip.prepare import cohort

    asked: list[str] = []
    real: Callable[..., str] = cohort.prepare_study
    monkeypatch.setattr(cohort, "prepare_study", lambda *job: asked.append(job[1].study_id) or real(*job))
    again(old.parent)
    assert asked == ["s5"]
    assert len(Store(old).quality) == 10
    assert check_store(old, progress=False).ok
