"""One worker stays under 1 GB for a CT of 512 x 512 x 400 voxels in DICOM, and so does the converter that it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from ..dicom import phantom

PEAK = """
import resource, sys
from hlip.scans.reading import read_scan
from hlip.volume import VolumeSpec, prepare_volume
volumes = prepare_volume(read_scan(sys.argv[1]), VolumeSpec.load("head_ct"))
assert volumes[0].voxels.any()
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) / 2**20, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20)
"""  # in KiB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize("tilt", [0.0, 15.0])
def test_a_large_ct(tmp_path: Path, tilt: float) -> None:
    noise = np.random.default_rng(0).integers(900, 1100, (512, 512)).astype(np.uint16)
    (first,) = phantom.series(tmp_path / "first", modality="CT", slices=1, size=512, spacing=0.5)
    data = pydicom.dcmread(first)
    (tmp_path / "ct").mkdir()
    for n in range(400):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.InstanceNumber = n + 1
        data.ImagePositionPatient = [-128, -128 + n * 0.6 * float(np.tan(np.radians(tilt))), n * 0.6]
        data.PixelData = (np.roll(noise, n, 0) + 3 * n).astype(np.uint16).tobytes()
        data.save_as(tmp_path / "ct" / str(n))
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path / "ct")], capture_output=True, text=True, check=True)
    own, converter = map(float, done.stdout.split())
    assert 0.4 < own < 1.0  # GiB; the voxels alone, as float32, are 0.4
    assert converter < 1.0
    print(own, converter)
