"""One process at a time in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hlip.files.lock import NAME, FolderLock

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 7 on elsewhere")
file.flush()
print("held", flush=True)
sys.stdin.readline()
"""


def other(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, str(folder / NAME)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_where_another_process_works_is_refused_and_free_when_it_has_ended(tmp_path):
    process, said = other(tmp_path), []
    with pytest.raises(BlockingIOError, match=r"process 7 on elsewhere is at work here; stop it, or choose another --out"):
        FolderLock(tmp_path, wait=0.01).hold(said.append)
    assert len(said) == 1
    process.kill()  # however it ends
    process.wait()
    lock = FolderLock(tmp_path, wait=0.0).hold(said.append)
    assert len(said) == 1
    assert (tmp_path / NAME).read_text().startswith("process ")
    lock.release()
    assert (tmp_path / NAME).read_text() == ""
    other(tmp_path).kill()


def test_a_process_that_saves_is_waited_for(tmp_path):
    process, said = other(tmp_path), []

    def end(text: str) -> None:
        said.append(text)
        process.communicate("\n")

    FolderLock(tmp_path).hold(end).release()
    assert said == [f"{tmp_path}: process 7 on elsewhere is at work here; waiting up to 60 seconds for it to end"]
