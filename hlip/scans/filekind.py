"""What kind of file a path is, by its name and its first bytes."""

from __future__ import annotations

from pathlib import Path

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
"""NIfTI-1, NIfTI-2 and FreeSurfer's MGH: 3-D grey values with an affine."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""What is called a 2-D image; `hlip.scans.image` reads them."""


def is_nifti(path: Path) -> bool:
    """Whether a path is called a NIfTI or MGH file."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's mark (128 bytes, then DICM) and is not called NIfTI."""
    if is_nifti(path) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_image(path: Path) -> bool:
    """Whether a path is called a 2-D image (PNG, JPEG, ...)."""
    return path.suffix.lower() in IMAGE_SUFFIXES
