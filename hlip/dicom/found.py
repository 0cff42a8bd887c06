"""A file to be read: one of its own, or a member of a zip archive, whole or damaged."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from hlip.dicom.archives import open_member


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or a member of a zip archive."""

    path: str
    member: str
    """Inside of the archive `path`; empty for a file of its own."""
    size: int
    """Bytes, uncompressed."""
    changed: int
    """Time of change, ns; of the archive for its members."""
    header_at: int | None = None
    """Of a member of a damaged archive: where its own header begins."""

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else self.path

    def open(self) -> BinaryIO:
        """The bytes. Members of an archive open the archive each time; `hlip.dicom.headers` does so once a chunk."""
        if self.header_at is not None:
            return open_member(self.path, self.header_at, self.size)
        if not self.member:
            return Path(self.path).open("rb")
        with zipfile.ZipFile(self.path) as archive:  # the member's stream keeps the file open
            return cast(BinaryIO, archive.open(self.member))
