"""Scans that stay in a zip: `study.zip/folder/t1.nii.gz` is a path like any other, a file or a folder of DICOM files.

Notable choices:
- Nothing but what is asked for is unpacked, into a temporary folder that is gone once the scan is read: a set of terabytes needs no
  second copy.
- A member whose stated size is beyond any scan is refused before a byte is unpacked.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from hlip.scans.scan import MAX_VOXELS, VolumeError

IN_TAR = (
    "a tar archive is not read in place; unpack it and name the files, or a zip of them (`hlip import dicom` reads archives of DICOM files "
    "as they lie)"
)
"""Of a path that is `in_tar`, for a person."""
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
"""Endings of tar archives, compressed ones too."""
_MAX_BYTES = 8 * MAX_VOXELS  # of all that is unpacked for one scan: float64 voxels


def archive_of(path: Path) -> tuple[Path, str] | None:
    """The zip file on the way to a path and the name within it; None where there is none."""
    for above in (path, *path.parents) if ".zip" in str(path).lower() else ():
        if above.suffix.lower() == ".zip" and above.is_file():
            return above, path.relative_to(above).as_posix()
    return None


def in_tar(path: Path) -> bool:
    """Whether a path is a tar archive, or leads into one: nothing reads them in place."""
    above = (path, *path.parents) if ".t" in str(path).lower() else ()
    return any(place.name.lower().endswith(TARS) and place.is_file() for place in above)


@contextmanager
def unpacked(archive: Path, name: str) -> Iterator[Path]:
    """The member of that name, or all members directly below it, as a file or folder that is there as long as the block runs.

    Raises:
        VolumeError: missing, truncated, too_large.
    """
    with tempfile.TemporaryDirectory(prefix="hlip-") as scratch:
        place = Path(scratch) / PurePosixPath(name).name
        try:
            with zipfile.ZipFile(archive) as members:
                found = _members(members, name)
                if not found:
                    raise VolumeError("missing", f"{archive}: holds no {name}; correct the path in the manifest")
                if sum(member.file_size for member in found) > _MAX_BYTES:
                    raise VolumeError("too_large", f"{archive}/{name}: more bytes than a scan has; is it damaged?")
                for member in found:
                    target = place if member.filename == name else place / PurePosixPath(member.filename).name
                    target.parent.mkdir(exist_ok=True)
                    with members.open(member) as source, target.open("wb") as copy:
                        shutil.copyfileobj(source, copy, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            # NotImplementedError and RuntimeError are zipfile's, of a method that it cannot read and of encryption
            raise VolumeError("truncated", f"{archive}: a damaged or encrypted zip ({error}); copy it again") from error
        yield place


def _members(archive: zipfile.ZipFile, name: str) -> list[zipfile.ZipInfo]:
    files = [member for member in archive.infolist() if not member.is_dir()]
    alone = [member for member in files if member.filename == name]
    return alone[-1:] or [member for member in files if PurePosixPath(member.filename).parent.as_posix() == name]
