"""Diffusion series of every vendor: b0, trace, ADC."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import generate_uid

from . import phantom
from .made import as_bytes, assert_marks, diffusion, ge, philips, rows, run, siemens, standard, value_at


@pytest.mark.parametrize("put", [standard, siemens, ge, philips, as_bytes])
def test_a_diffusion_series_becomes_b0_trace_and_adc(tmp_path: Path, put) -> None:
    uid = generate_uid()
    for place, b_value in enumerate((0, 1000, 1000)):  # two directions
        diffusion(tmp_path / "in", b_value, uid, put, first=100 * place)
    run(tmp_path / "in", tmp_path / "out")
    found = {row["sequence"]: nib.load(tmp_path / "out" / row["path"]) for row in rows(tmp_path / "out")}
    assert list(found) == ["DWI b0", "DWI", "ADC"]
    assert value_at(found["DWI b0"], (30, 0, 0)) == pytest.approx(9000)
    assert value_at(found["DWI"], (30, 0, 0)) == pytest.approx(9000 * np.exp(-1), rel=1e-3)
    assert value_at(found["ADC"], (30, 0, 0)) == pytest.approx(1000, rel=1e-2)
    assert rows(tmp_path / "out")[0]["b_values"] == "0 1000"


def test_the_scanners_own_adc_is_preferred(tmp_path: Path) -> None:
    uid = generate_uid()
    for place, b_value in enumerate((0, 1000)):
        diffusion(tmp_path / "in", b_value, uid, standard, first=100 * place)
    phantom.series(tmp_path / "in", number=2, description="ep2d_diff_ADC", ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])
    done = run(tmp_path / "in", tmp_path / "out")
    assert [scan.sequence for scan in done.studies[0].scans] == ["DWI b0", "DWI", "ADC"]
    assert_marks(nib.load(done.studies[0].scans[2].path))
