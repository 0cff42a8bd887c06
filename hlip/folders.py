"""Folders that appear whole or not at all.

A checkpoint is written beside its place and then moved there, so that a crash in the middle leaves the last good one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """A fresh folder to write into; it takes the target's place when the block ends without an error.

    If a crash falls between the two moves, `recover(target)` puts the previous one back.
    """
    target = Path(target)
    partial = _beside(target, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    readable(partial)
    replace_folder(partial, target)


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
