"""4-D files with b-values -> the 3-D scans of them, written once.

The rule for series of volumes: one with b-values beside it (NAME.bval of NAME.nii.gz, or as its data set says) is split by
`hlip.scans.diffusion` into b0, DWI and ADC. Any other is refused (`series_4d`): which of its volumes is a scan, nobody has said.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlip.files.folders import write_atomically
from hlip.importing.outcome import LeftOut
from hlip.study import Scan

if TYPE_CHECKING:
    import nibabel as nib

_NIFTI = re.compile(r"\.(nii(\.gz)?|mg[zh])$", re.IGNORECASE)
_SLACK = 1 << 26  # bytes of header and of what may follow the voxels


def stem_of(file: Path) -> str:
    """The name of a NIfTI or MGH file without its suffix."""
    return _NIFTI.sub("", file.name)


def b_values_beside(file: Path) -> Path | None:
    """NAME.bval of NAME.nii.gz, where there is one."""
    beside = file.with_name(stem_of(file) + ".bval")
    return beside if beside.is_file() else None


def diffusion_scans(file: Path, b_values: Path | None, folder: Path) -> tuple[list[Scan], LeftOut | None]:
    """The scans of a diffusion file, or why there are none. A 3-D file is its own scan; a 4-D one is split into files of `folder`.

    Splitting again happens only where file or b-values have changed since, so that times of change, and with them a store, stand.
    """
    from hlip.scans.nifti import READ_ERRORS, unreadable
    from hlip.scans.scan import VolumeError

    try:
        image = _opened(file)
        if len(image.shape) == 3:
            return [Scan(file, "DWI")], None
        if b_values is None:
            message = f"{file}: a series of {image.shape[3]} volumes without b-values; put its .bval beside it"
            return [], LeftOut(str(file), "series_4d", message)
        return _split(file, image, read_b_values(b_values), folder), None
    except VolumeError as error:
        return [], LeftOut(str(file), error.reason, str(error))
    except BValueError as error:
        return [], LeftOut(str(file), "b_values", str(error))
    except READ_ERRORS as error:
        return [], LeftOut(str(file), (known := unreadable(file, error)).reason, str(known))
    except Exception as error:  # a fault of ours or of a library: one scan is lost and named, the import goes on
        message = f"{file}: unexpected {type(error).__name__}: {error}; please report this file"
        return [], LeftOut(str(file), "unexpected", message)


class BValueError(ValueError):
    """A file of b-values cannot be used; the message names it."""


def read_b_values(file: Path) -> list[float]:
    """s/mm^2, as FSL writes them: numbers parted by spaces or lines.

    Raises:
        BValueError: it holds other things, or nothing.
    """
    try:
        values = [float(word) for word in file.read_text(encoding="ascii").replace(",", " ").split()]
    except (OSError, ValueError) as error:
        raise BValueError(f"{file}: no list of b-values ({error})") from error
    if not values:
        raise BValueError(f"{file}: holds no b-value")
    return values


def _opened(file: Path) -> nib.Nifti1Image:
    import nibabel as nib
    import numpy as np

    from hlip.scans.scan import MAX_VOXELS, VolumeError

    image: Any = nib.load(file, keep_file_open=True)  # else every volume is decompressed from the first on
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise VolumeError("not_3d", f"{file}: neither a volume nor a series of volumes {shape}")
    if len(shape) != len(image.shape):
        image = image.slicer[(..., *[0] * (len(image.shape) - len(shape)))]
    if int(np.prod(shape[:3], dtype=object)) > MAX_VOXELS:
        raise VolumeError("too_large", f"{file}: the header claims {shape} voxels; is it damaged?")
    dtype = image.get_data_dtype()
    if dtype.fields is not None or np.issubdtype(dtype, np.complexfloating):
        raise VolumeError("rgb_or_complex", f"{file}: holds colours or complex values; export the grey-value magnitude images")
    return image


def _split(file: Path, image: nib.Nifti1Image, b_values: list[float], folder: Path) -> list[Scan]:
    import nibabel as nib

    from hlip.scans.diffusion import split_diffusion

    stat = file.stat()
    source = {"bytes": stat.st_size, "changed": stat.st_mtime_ns, "b_values": b_values}
    stamp = folder / f"{stem_of(file)}.split.json"
    if (known := _split_before(stamp, source)) is not None:
        return known
    _read_to_the_end(file, image)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = split_diffusion(image, b_values)
    except ValueError as error:
        if "b-values" in str(error):
            raise BValueError(f"{file}: {error}") from error
        raise
    scans = []
    for sequence, part in found:
        target = folder / f"{stem_of(file)}_{sequence.replace(' ', '_')}.nii.gz"
        partial = target.with_name(f".{os.getpid()}.partial.nii.gz")
        nib.save(part, partial)
        os.replace(partial, target)
        scans.append(Scan(target, sequence))
    content = source | {"scans": [[scan.path.name, scan.sequence] for scan in scans]}
    write_atomically(stamp, (json.dumps(content) + "\n").encode())
    return scans


def _read_to_the_end(file: Path, image: nib.Nifti1Image) -> None:
    """Damage of a gzip stream shows in the check sum at its very end, to which picking volumes need not come."""
    from hlip.scans.scan import VolumeError

    if file.suffix.lower() != ".gz":
        return
    voxels, found = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize, 0
    with gzip.open(file) as stream:
        while piece := stream.read(1 << 20):
            found += len(piece)
            if found > voxels + _SLACK:
                raise VolumeError("not_an_image", f"{file}: goes on long after its last voxel; copy or export it again")
    if found < voxels:
        raise VolumeError("truncated", f"{file}: {found} bytes of {voxels} of its voxels; copy it again")


def _split_before(stamp: Path, source: dict[str, Any]) -> list[Scan] | None:
    """The scans of an earlier run, if they are of the same bytes and all there."""
    try:
        content = json.loads(stamp.read_text(encoding="utf-8"))
        scans = [Scan(stamp.parent / name, sequence) for name, sequence in content.pop("scans")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return scans if content == source and all(scan.path.is_file() for scan in scans) else None
