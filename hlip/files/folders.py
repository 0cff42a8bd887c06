"""Files and folders that appear whole or not at all.

A checkpoint is written beside its place and then moved there, so that a crash in the middle leaves the last good one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the place, then rename. The partial name holds the process, so that two writers do not share it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: str | Path, ours: Container[str]) -> Iterator[Path]:
    """A fresh folder to write into; it takes the target's place when the block ends without an error.

    Args:
        target: the place: new, empty, or a folder of this kind. Of that, what is not of `ours` is somebody's, and stays.
        ours: names that such a folder holds.

    If a crash falls between the two moves, `recover(target)` puts the previous one back.

    Raises:
        NotADirectoryError: the target is a file.
        FileExistsError: it holds other things alone.
    """
    target = Path(os.path.abspath(target))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target}: a file stands there; name a folder")
    present = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if present and not any(name in ours for name in present):
        raise FileExistsError(f"{target}: holds {present[0]} and nothing that would be replaced; name a new folder")
    partial = _beside(target, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    readable(partial)
    recover(target)
    for foreign in target.iterdir() if target.is_dir() else ():
        if foreign.name not in ours and not (partial / foreign.name).exists():
            _keep(foreign, partial / foreign.name)
    replace_folder(partial, target)


def _keep(source: Path, copy: Path) -> None:
    """The same files at a second place, without copying their bytes where the disk can do that."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, copy, symlinks=True, copy_function=_link)
    else:
        _link(source, copy)


def _link(source: str | Path, copy: str | Path) -> None:
    try:
        os.link(source, copy, follow_symlinks=False)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, copy, follow_symlinks=False)


def readable(folder: Path) -> None:
    """Give every file the permissions that the user's umask grants; safetensors makes its files private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def replace_folder(partial: Path, target: Path) -> None:
    """Move a finished folder to its place; the one that stood there goes only afterwards."""
    previous = _beside(target, "previous")
    recover(target)
    if target.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(target, previous)
    os.replace(partial, target)
    shutil.rmtree(previous, ignore_errors=True)


def recover(target: str | Path) -> None:
    """Put the previous folder back if a crash left the target's place empty."""
    target = Path(target)
    previous = _beside(target, "previous")
    if previous.exists() and not target.exists():
        os.replace(previous, target)


def _beside(target: Path, word: str) -> Path:
    return target.with_name(f".{target.name}.{word}")
