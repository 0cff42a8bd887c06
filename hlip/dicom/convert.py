"""DICOM files -> voxels, by dcm2niix; nothing of its header but voxels and scale goes further.

Notable choices:
- dcm2niix (its wheel on PyPI holds the program) rather than dicom2nifti: of plain, compressed and rescaled series both give the same
  voxels, but dicom2nifti refuses tilted and gapped ones, and knows neither b-values nor mosaics. It runs as a process of its own, so
  that a hostile file costs a time limit and no more.
- It is given the slices of one volume only, so that it never has to guess what belongs together; where it parts them all the same (a time
  of study for each slice), or loses some (their numbers lack, repeat or jump), `hlip.dicom.making` gives them again under plain headers.
- Its geometry is compared with the headers', and the headers' is used: of 16-bit unsigned voxels it corrects neither gantry tilt nor
  uneven steps, and says so only in passing.
- What it cannot read (a deflated file, a damaged compressed one) is decoded by pydicom, file by file, and given to it again; so one
  damaged file costs one slice.
- It works in the system's folder for temporary files: its intermediate files hold names and times. Where that is full, or where the
  system kills it, that is no fault of the files, and is not recorded as one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hlip.dicom.errors import ConversionError, DamagedError, MachineError
from hlip.dicom.geometry import Layout, affine_of, affine_of_slices, straighten
from hlip.dicom.tags import Slice
from hlip.dicom.temporary import full_folder, is_full, temporary_folder

TIME_LIMIT = 900.0
"""Seconds for one run of the converter."""
_NAME = "volume"
_OPTIONS = [  # no defaults file; sidecar without identifiers; plain NIfTI, neither cropped, rotated nor rescaled; all slices one volume
    *("-g", "i", "-b", "y", "-ba", "y", "-z", "n", "-x", "i", "-l", "o", "-m", "y", "-d", "0", "-w", "2", "-f", _NAME),
]
_NO_ROOM = b"disk full"  # what it says of a file that it cannot write; it ends with a code that has other causes too
_ECHO_TIME = re.compile(r'^\s*"EchoTime":\s*([-+.\deE]+)', re.MULTILINE)  # of its sidecar, in seconds
_KILLED = -9  # SIGKILL
_NEAR = 0.1  # mm; agreement of the converter's geometry with the headers'


@dataclass(frozen=True)
class Converted:
    """One file of the converter."""

    data: NDArray[np.generic]
    """(X, Y, Z) or (X, Y, Z, N), as stored."""
    affine: NDArray[np.float64]
    slope: float
    inter: float
    b_values: tuple[float, ...] = ()
    echo_time: float | None = None
    """ms."""
    name: str = ""
    """What the converter added to its file name: e1, ph, real, ADC."""

    def image(self) -> nib.Nifti1Image:
        """With a fresh header: voxels, scale and place, nothing else."""
        image = nib.Nifti1Image(self.data, self.affine)
        image.header.set_slope_inter(self.slope, self.inter)
        image.set_sform(self.affine, 1)
        image.set_qform(self.affine, 1)
        return image

    def volume(self, number: int) -> Converted:
        """One of several."""
        return Converted(self.data[..., number], self.affine, self.slope, self.inter)


def turned(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Bright for dark, between the lowest and the highest value; the type stays."""
    wide = np.dtype(np.int64 if np.issubdtype(values.dtype, np.integer) else np.float64)
    return (values.min().astype(wide) + values.max().astype(wide) - values).astype(values.dtype)


def program() -> str:
    """The converter's place.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import dcm2niix

        found = dcm2niix.bin if Path(dcm2niix.bin).is_file() else None
    except ImportError:
        found = shutil.which("dcm2niix")
    if not found:
        raise MachineError("no_converter", "dcm2niix is not installed; pip install dcm2niix")
    return str(found)


def convert_layout(layout: Layout, limit: float = TIME_LIMIT) -> Converted:
    """One volume of slices whose places are known, tilt and gaps set right.

    Raises:
        ConversionError: converter_failed, converter_timeout, converter_killed, geometry_mismatch, damaged.
        MachineError: the temporary folder is full.
    """
    found = [item for item in convert_files(layout.slices, limit) if item.data.ndim == 3 or item.data.shape[3] == 1]
    if len(found) != 1:
        raise ConversionError("converter_failed", f"the converter made {len(found)} volumes of one")
    volume = _in_order(found[0], layout)
    return Converted(straighten(volume, layout), affine_of(layout), found[0].slope, found[0].inter)


def _in_order(found: Converted, layout: Layout) -> NDArray[np.generic]:
    """Voxels (column, row, slice) as the headers order them; the converter may turn axes around, and says so by its affine."""
    data = found.data.reshape(found.data.shape[:3])
    expected = affine_of_slices(layout)
    first = layout.slices[0].stack
    if data.shape != (first.columns, first.rows, len(layout.slices)):
        raise ConversionError("geometry_mismatch", f"the converter made {data.shape} of {len(layout.slices)} slices")
    origin = found.affine[:3, 3].copy()
    for axis in range(3):
        ours, theirs = expected[:3, axis] / np.linalg.norm(expected[:3, axis]), found.affine[:3, axis]
        cosine = float(ours @ theirs / np.linalg.norm(theirs))
        if abs(cosine) < (0.999 if axis < 2 else 0.7):  # of a tilted gantry the third axis may lean
            raise ConversionError("geometry_mismatch", "the converter's axes are not those of the headers")
        if cosine < 0:
            data = np.flip(data, axis)
            if axis < 2:
                origin += found.affine[:3, axis] * (data.shape[axis] - 1)
            else:
                origin = origin + _along(found, layout)
    if np.abs(origin - expected[:3, 3]).max() > max(_NEAR, 0.01 * layout.step):
        raise ConversionError("geometry_mismatch", "the converter's volume does not begin where the headers say")
    return data


def _along(found: Converted, layout: Layout) -> NDArray[np.float64]:
    """From the first slice to the last as the headers have it, in the direction of the converter: it leaves out tilt and gaps."""
    lps = np.array(layout.slices[0].position) - np.array(layout.slices[-1].position)
    return np.array([-lps[0], -lps[1], lps[2]])


def convert_files(slices: Sequence[Slice], limit: float = TIME_LIMIT) -> list[Converted]:
    """Whatever volumes the converter finds in these files; decoded by pydicom first where it finds none.

    Raises:
        ConversionError: converter_failed, converter_timeout, converter_killed, damaged.
        MachineError: the temporary folder is full.
    """
    with temporary_folder("hlip-dicom-") as place:
        if len(put := _put(slices, place / "in")) < len(slices):
            raise DamagedError(put)
        if found := _run(place / "in", place / "out", limit):
            return found
        readable = _decode(place / "in", place / "decoded")
        if readable < len(slices):
            raise DamagedError(tuple(piece for n, piece in enumerate(slices) if (place / "decoded" / f"{n:06d}").exists()))
        if found := _run(place / "decoded", place / "again", limit):
            return found
    raise ConversionError("converter_failed", "the converter finds no image in these files")


def _put(slices: Sequence[Slice], folder: Path) -> tuple[Slice, ...]:
    """Links with plain names; copies of what lies in an archive. Those that are there: of an archive some may be damaged."""
    folder.mkdir()
    put = []
    for number, piece in enumerate(slices):
        target = folder / f"{number:06d}"
        if not piece.file.member:
            try:
                target.symlink_to(os.path.abspath(piece.file.path))
                put.append(piece)
                continue
            except OSError:  # a system without links
                pass
        try:
            with piece.file.open() as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            put.append(piece)
        except Exception as error:  # whatever a damaged archive makes of its reader
            if isinstance(error, MemoryError) or is_full(error):
                raise
            target.unlink(missing_ok=True)
    return tuple(put)


def _run(folder: Path, out: Path, limit: float) -> list[Converted]:
    out.mkdir()
    command = [program(), *_OPTIONS, "-o", str(out), str(folder)]
    try:  # a session of its own: Ctrl-C is for us, and would look like a bad study
        ran = subprocess.run(command, capture_output=True, timeout=limit, check=False, start_new_session=True)
    except subprocess.TimeoutExpired as error:
        raise ConversionError("converter_timeout", f"the converter took over {limit:.0f} s") from error
    if ran.returncode and _NO_ROOM in (ran.stdout + ran.stderr).lower():
        raise full_folder(folder.parent.parent)
    if ran.returncode == _KILLED:
        raise ConversionError("converter_killed", "the system ended the converter, probably for want of memory")
    found = [_read(file) for file in sorted(out.glob("*.nii"))]
    return [item for item in found if not ("Tilt" in item.name or "Eq" in item.name)]  # corrected copies; we correct ourselves


def _read(file: Path) -> Converted:
    image = nib.load(file)
    assert isinstance(image, nib.Nifti1Image)
    assert image.affine is not None
    proxy = image.dataobj
    assert isinstance(proxy, ArrayProxy)
    bval, sidecar = file.with_suffix(".bval"), file.with_suffix(".json")
    b_values = tuple(float(word) for word in bval.read_text().split()) if bval.exists() else ()
    # not parsed as JSON: the converter writes texts with a backslash in them (two kernels of a CT) as they stand, which is none
    echo = _ECHO_TIME.search(sidecar.read_text(errors="replace")) if sidecar.exists() else None
    return Converted(
        np.array(proxy.get_unscaled()), image.affine, float(proxy.slope), float(proxy.inter), b_values,
        round(float(echo[1]) * 1000, 1) if echo else None, file.stem.removeprefix(_NAME).strip("_"),
    )  # fmt: skip


def _stated(data: pydicom.Dataset) -> UID:
    """The encoding of a file that does not name it."""
    return ImplicitVRLittleEndian if data.original_encoding[0] else ExplicitVRLittleEndian


def _decode(folder: Path, out: Path) -> int:
    """Files written anew without compression; those that cannot be decoded are left out."""
    out.mkdir()
    for file in sorted(folder.iterdir()):
        try:
            data = pydicom.dcmread(file, force=True)
            if data.file_meta.get("TransferSyntaxUID") is None:
                data.file_meta.TransferSyntaxUID = _stated(data)
            assert data.pixel_array.size
            if data.file_meta.TransferSyntaxUID.is_compressed:
                data.decompress()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data.save_as(out / file.name, enforce_file_format=True, implicit_vr=False, little_endian=True)
        except Exception as error:  # whatever a damaged file makes of the decoders
            if is_full(error):
                raise full_folder(folder.parent.parent) from error
            (out / file.name).unlink(missing_ok=True)
    return len(list(out.iterdir()))
