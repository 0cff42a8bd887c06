"""Brain extraction by a program of the user's, before anything else is done to a scan.

A spec names the program, it never holds a command: specs travel with checkpoints, and what a stranger wrote must not be run. Which command a
name stands for is written here, or, for `custom`, in the environment variable HLIP_SKULL_STRIP of whoever prepares.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from hlip.scans.scan import LoadedScan, VolumeError

TOOLS = {
    "synthstrip": "mri_synthstrip -i {input} -o {output}",
    "hd-bet": "hd-bet -i {input} -o {output}",
    "bet": "bet {input} {output}",
    "custom": "",
}
"""Name -> command; {input} and {output} are NIfTI files. 0 in the output is what the program took away."""
VARIABLE = "HLIP_SKULL_STRIP"
"""Environment variable with the command of `custom`; it holds {input} and {output}."""
_SECONDS = 1800.0
_SAID = 300  # letters of what the program said last


def skull_strip(scan: LoadedScan, tool: str) -> LoadedScan:
    """The scan with everything but the brain at its lowest value (air).

    Raises:
        VolumeError: skull_strip_program, it is missing, failed, or was too slow; skull_strip, it left no brain.
    """
    if fault := missing_program(tool):
        raise VolumeError("skull_strip_program", f"{scan.path}: {fault}")
    command = _command(tool)
    with tempfile.TemporaryDirectory(prefix="hlip_") as folder:
        source, target = Path(folder) / "scan.nii.gz", Path(folder) / "brain.nii.gz"
        nib.Nifti1Image(scan.data, scan.affine).to_filename(source)
        words = [word.replace("{input}", str(source)).replace("{output}", str(target)) for word in shlex.split(command)]
        _run(scan.path, words)
        if not target.is_file():
            raise VolumeError("skull_strip_program", f"{scan.path}: {words[0]} ended well but wrote no {target.name}")
        brain = np.asarray(nib.Nifti1Image.from_filename(target).dataobj, dtype=np.float32)
    if brain.shape != scan.data.shape:
        raise VolumeError("skull_strip", f"{scan.path}: {words[0]} gave {brain.shape} voxels for {scan.data.shape}")
    inside = brain != 0
    if not inside.any():
        raise VolumeError("skull_strip", f"{scan.path}: {words[0]} found no brain")
    data = np.where(inside, scan.data, scan.data.min())
    return replace(scan, data=data, notes=(*scan.notes, f"brain extracted by {tool}: {inside.mean():.1%} of the voxels"))


def missing_program(tool: str) -> str:
    """Why a tool cannot be run here, and the remedy; "" where it can."""
    words = shlex.split(command := _command(tool))
    if "{input}" not in command or "{output}" not in command:
        return f"set {VARIABLE} to a command with {{input}} and {{output}}, both NIfTI files"
    if shutil.which(words[0]) is None:
        return f"the spec wants skull_strip: {tool}, and no program '{words[0]}' is installed here"
    return ""


def _command(tool: str) -> str:
    return TOOLS[tool] or os.environ.get(VARIABLE, "")


def _run(path: Path, words: list[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise VolumeError("skull_strip_program", f"{path}: {words[0]} took over {_SECONDS:.0f} s") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-_SAID:]
        raise VolumeError("skull_strip_program", f"{path}: {words[0]} failed with {done.returncode}: {said}")
