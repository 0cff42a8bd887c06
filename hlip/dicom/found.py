"""A file to be read: one of its own, or a member of an archive (zip, whole or damaged; tar), or one that is packed alone (gzip)."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from hlip.dicom.archives import open_member
from hlip.dicom.tars import open_gzipped, open_piece


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or a member of an archive."""

    path: str
    member: str
    """Inside of the archive `path`; empty for a file of its own."""
    size: int
    """Bytes, uncompressed."""
    changed: int
    """Time of change, ns; of the archive for its members."""
    header_at: int | None = None
    """Of a member of a damaged zip, or of one of several with its name: where its own header begins."""
    tar: str = ""
    """Of a member of a tar: the plain tar, which of a compressed one is a copy."""
    at: int = 0
    """Of a member of a tar: where its bytes begin in `tar`."""
    cut: bool = False
    """It lies in a damaged archive, which may lack others."""
    unopened: str = ""
    """Of an archive: why it, or a part of it, is not looked into."""

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else self.path

    @property
    def zipped(self) -> bool:
        """A member of a whole zip archive."""
        return bool(self.member) and self.header_at is None and not self.tar and not self.gzipped

    @property
    def gzipped(self) -> bool:
        """Packed alone."""
        return bool(self.member) and not self.tar and self.path.lower().endswith(".gz")

    def open(self) -> BinaryIO:
        """The bytes. Members of a zip open the archive each time; `hlip.dicom.headers` does so once a chunk."""
        if self.header_at is not None:
            return open_member(self.path, self.header_at, self.size)
        if self.tar:
            return open_piece(self.tar, self.at, self.size)
        if self.gzipped:
            return open_gzipped(self.path, self.size)
        if not self.member:
            return Path(self.path).open("rb")
        with zipfile.ZipFile(self.path) as archive:  # the member's stream keeps the file open
            return cast(BinaryIO, archive.open(self.member))
