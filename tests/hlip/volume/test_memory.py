"""One worker stays under 1 GB for a CT of 512 x 512 x 400 voxels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SIZE = (512, 512, 400)
PEAK = """
import sys
from hlip.scans.reading import read_scan
from hlip.volume import VolumeSpec, prepare_volume
volumes = prepare_volume(read_scan(sys.argv[1]), VolumeSpec.load(sys.argv[2]))
assert volumes[0].voxels.any()
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) / 2**20)
"""  # in KiB; getrusage would count what the parent had when it forked


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head-sized ellipsoid of noise in air, HU."""
    x, y, z = np.ogrid[: SIZE[0], : SIZE[1], : SIZE[2]]
    inside = ((x - 256) / 180) ** 2 + ((y - 256) / 220) ** 2 + ((z - 200) / 190) ** 2 < 1
    data = np.full(SIZE, -1000, np.int16)
    data[inside] = np.random.default_rng(0).integers(-50, 90, int(inside.sum()), dtype=np.int16)
    file = tmp_path_factory.mktemp("ct") / "ct.nii.gz"
    nib.Nifti1Image(data, np.diag([-0.45, -0.45, 0.6, 1])).to_filename(file)
    return file


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize("spec", ["head_ct", "chest_ct", "mri"])
def test_a_large_ct(ct: Path, spec: str) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, str(ct), spec], capture_output=True, text=True, check=True)
    assert 0.4 < float(done.stdout) < 1.0  # GiB; the voxels alone, as float32, are 0.4
