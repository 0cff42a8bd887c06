"""What a killed run leaves in the temporary folder is gone with the next one; what others work in stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hlip.dicom import temporary
from hlip.dicom.temporary import own_folder, remove_leftovers


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def ended() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_of_a_process_that_is_gone_is_removed_at_once(place: Path) -> None:
    here, gone = temporary._machine(), ended()
    kept = [
        f"hlip-dicom-{here}-{os.getpid()}-abc",
        f"hlip-dicom-{here}-1-abc",
        f"hlip-dicom-00000000-{gone}-abc",
        f"hlip-{here}-{gone}-abc",
    ]
    removed = [f"hlip-{kind}-{here}-{gone}-abc" for kind in ("dicom", "frames", "archives")]
    for name in (*kept, *removed):
        (place / name / "in").mkdir(parents=True)
        (place / name / "in" / "000000").symlink_to("/export/Miller^Mary/IM1")
    os.utime(place / kept[0], (1, 1))  # long at work: an archive's folder is not written to after the walk
    assert remove_leftovers() == 3
    assert sorted(path.name for path in place.iterdir()) == sorted(kept)


def test_a_killed_process_leaves_what_the_next_one_removes(place: Path) -> None:
    script = (
        "import os, hlip.dicom.temporary as t; t.tempfile.tempdir = os.environ['HERE']; folder = t.own_folder('hlip-dicom-');"
        "os.kill(os.getpid(), 9)"
    )
    for _ in range(2):  # the second removes what the first left
        subprocess.run([sys.executable, "-c", script], env=os.environ | {"HERE": str(place)}, check=False)
        assert len(list(place.iterdir())) == 1
    with own_folder("hlip-frames-") as folder:
        assert [path.name for path in place.iterdir()] == [Path(folder).name]
    assert not list(place.iterdir())
