"""One process at a time in a folder."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has other locks; there the folder is not guarded
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
BUSY = (errno.EACCES, errno.EAGAIN)


class FolderLock:
    """Held from `hold` to `release`, or to the end of the process however it ends; POSIX record lock on FOLDER/.lock.

    A lock of the same process is no obstacle. Where the file system knows no locks the folder is not guarded.

    Args:
        folder: must exist.
        wait: seconds to wait for a process that holds it: one told to stop still saves.
    """

    def __init__(self, folder: Path, wait: float = 60.0):
        self.path, self.wait = folder / NAME, wait
        self._file: IO[str] | None = None

    def hold(self, say: Callable[[str], None] = print) -> FolderLock:
        """
        Raises:
            BlockingIOError: another process holds it after `wait` seconds; the message names folder and process.
        """
        if fcntl is None or self._file is not None:
            return self
        file, until, told = self.path.open("a+", encoding="utf-8"), time.monotonic() + self.wait, False
        while not self._taken(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            if time.monotonic() >= until:
                file.close()
                raise BlockingIOError(f"{self.path.parent}: {holder} is at work here; stop it, or choose another --out")
            if not told:
                say(f"{self.path.parent}: {holder} is at work here; waiting up to {self.wait:.0f} seconds for it to end")
            told = True
            time.sleep(min(0.5, self.wait))
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        self._file = file
        return self

    def release(self) -> None:
        """Let others in; the file stays, as removing it would let two in."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    @staticmethod
    def _taken(file: IO[str]) -> bool:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in BUSY  # any other: no locks on this file system
        return True
