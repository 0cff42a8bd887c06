"""Scanner: which sequences a study holds, their geometry, and the acquisition of one thick-slice scan.

Nothing here sees the labels, so slice count, field of view, orientation, noise and file size cannot betray them.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from hlip.simulate.anatomy import rotation_matrix
from hlip.simulate.contrast import SEQUENCES

# Share of archives' studies in which a sequence is met, and the planes it is acquired in (axial, coronal, sagittal).
_POPULARITY = {"T1": 1.0, "T2": 1.0, "FLAIR": 1.5, "DWI": 1.5, "ADC": 0.9, "SWI": 1.4}
_PLANES = {
    "T1": (0.80, 0.06, 0.14),
    "T2": (0.90, 0.07, 0.03),
    "FLAIR": (0.91, 0.05, 0.04),
    "DWI": (1, 0, 0),
    "ADC": (1, 0, 0),
    "SWI": (1, 0, 0),
}
_COUNTS = (0.04, 0.07, 0.14, 0.24, 0.25, 0.15, 0.07, 0.04)
"""Shares of studies with 1 to 8 scans."""
_REPEAT = 0.08
"""Chance that a scan repeats a sequence the study already has."""

# Patient axes (0 x, 1 y, 2 z) of columns, rows, slices; array directions seen in the wild for each plane.
_AXES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
_CODES = {
    "axial": ("RAS", "LAS", "LPS", "RPS"),
    "coronal": ("RSA", "LSA", "LIP", "LSP"),
    "sagittal": ("ASR", "PSR", "PIL", "ASL"),
}
VENDORS = ("Siemens", "GE", "Philips")


@dataclass(frozen=True)
class Protocol:
    """Everything about one scan that does not depend on the patient's brain."""

    sequence: str
    plane: str
    codes: str
    """Orientation codes of the stored array, nibabel convention."""
    matrix: int
    slices: int
    pixel_mm: float
    thickness_mm: float
    """Slice spacing, gap included."""
    tilt: np.ndarray
    """(3,) degrees by which the slices miss the head's axes, to which the technologist angled them."""
    shift: np.ndarray
    """(3,) mm of the field of view's centre from the head's."""
    noise: float
    bias: np.ndarray
    """(3, 2) slope and curvature of the coil's log sensitivity along the array axes."""
    scale: float


def draw_sequences(rng: np.random.Generator) -> list[str]:
    """1 to 8 sequences in archive order: some missing, some repeated."""
    wanted = int(rng.choice(8, p=_COUNTS)) + 1
    chosen: list[str] = []
    while len(chosen) < wanted:
        left = [name for name in SEQUENCES if name not in chosen]
        if not left or (chosen and rng.random() < _REPEAT):
            chosen.append(str(rng.choice(chosen)))
            continue
        weights = np.array([_POPULARITY[name] for name in left])
        chosen.append(str(rng.choice(left, p=weights / weights.sum())))
    rng.shuffle(chosen)
    return chosen


def draw_protocol(rng: np.random.Generator, sequence: str) -> Protocol:
    """Plane, orientation, resolution, coverage, noise and gain of one scan."""
    plane = str(rng.choice(list(_AXES), p=_PLANES[sequence]))
    extent = {"axial": 150, "coronal": 178, "sagittal": 146}[plane]
    thickness = float(rng.uniform(3.8, 5.2) if sequence == "SWI" else rng.uniform(4.6, 7.0))
    pixel = float(rng.uniform(215, 250)) / (matrix := int(rng.choice([64, 72, 80])))
    weak = 1.3 if sequence in ("DWI", "ADC") else 1.0
    return Protocol(
        sequence,
        plane,
        str(rng.choice(_CODES[plane])),
        matrix,
        slices=int(np.ceil(extent / thickness)) + int(rng.integers(-1, 3)),
        pixel_mm=pixel,
        thickness_mm=thickness,
        tilt=rng.normal(0, 1.8, 3),
        shift=rng.normal(0, 2.0, 3),
        noise=weak * float(rng.uniform(0.012, 0.035)),
        bias=rng.normal(0, [0.10, 0.07], (3, 2)),
        scale=float(np.exp(rng.uniform(np.log(90), np.log(400)))),
    )


def scan_affine(protocol: Protocol, head_centre: np.ndarray, head_rotation: np.ndarray) -> np.ndarray:
    """(4, 4) voxel index of the stored array -> scanner RAS mm.

    Args:
        head_centre: (3,) scanner mm.
        head_rotation: (3, 3), of the head in the scanner; the slices follow it, but for the protocol's tilt.
    """
    tilt = head_rotation @ rotation_matrix(protocol.tilt)
    linear = np.zeros((3, 3))
    sizes = np.array(stored_shape(protocol))
    spacing = (protocol.pixel_mm, protocol.pixel_mm, protocol.thickness_mm)
    for column, (axis, code) in enumerate(zip(_AXES[protocol.plane], protocol.codes, strict=True)):
        linear[:, column] = tilt[:, axis] * spacing[column] * (1 if code in "RAS" else -1)
    out = np.eye(4)
    out[:3, :3] = linear
    out[:3, 3] = head_centre + protocol.shift - linear @ ((sizes - 1) / 2)
    return out


def stored_shape(protocol: Protocol) -> tuple[int, int, int]:
    """Columns, rows, slices."""
    return protocol.matrix, protocol.matrix, protocol.slices


def acquire(
    image: np.ndarray, world: np.ndarray, protocol: Protocol, affine: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Sample an internal image (X, Y, Z) as one scan: slice profile, coil bias, Rician noise; int16.

    Args:
        image: relative signal on the internal grid.
        world: (4, 4) internal grid index -> scanner mm.
        affine: (4, 4) stored array index -> scanner mm, from `scan_affine`.
    """
    # A slice averages over its thickness; the head's tilt against the grid is small.
    wide = min(max((protocol.thickness_mm - 3) / 4, 0), 1) * 0.6
    profile = np.array([wide / 2, 1 - wide, wide / 2], np.float32)
    blurred = ndimage.correlate1d(image, profile, axis=_AXES[protocol.plane][2], mode="nearest")
    to_grid = np.linalg.inv(world) @ affine
    shape = stored_shape(protocol)
    signal = ndimage.affine_transform(
        blurred, to_grid[:3, :3], to_grid[:3, 3], shape, order=1, mode="constant", prefilter=False
    )
    for axis, (slope, curve) in enumerate(protocol.bias):
        place = np.linspace(-1, 1, shape[axis], dtype=np.float32)
        gain = np.exp(slope * place + curve * (place**2 - 0.33)).astype(np.float32)
        signal *= gain.reshape([-1 if other == axis else 1 for other in range(3)])
    sigma = np.float32(protocol.noise)
    signal += sigma * rng.standard_normal(shape, dtype=np.float32)
    other = sigma * rng.standard_normal(shape, dtype=np.float32)
    magnitude = np.sqrt(signal * signal + other * other)
    return np.rint(magnitude * np.float32(protocol.scale)).astype(np.int16)


def write_nifti(data: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write `.nii.gz` atomically, byte-equal for equal input (no time, no name in the gzip header)."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
    partial.replace(path)
