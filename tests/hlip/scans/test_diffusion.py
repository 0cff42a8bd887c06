"""A diffusion series becomes b0, trace and ADC: against a signal made from known coefficients."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from hlip.scans.diffusion import split_diffusion

D = np.array([700.0, 900.0, 1400.0])  # 1e-6 mm^2/s along three directions


def series(b_values: list[float], directions: list[int | None]) -> nib.Nifti1Image:
    """S0 = 500 in the left half, 2 (air) in the right; exponential decay."""
    s0 = np.full((6, 5, 4), 500.0)
    s0[3:] = 2.0
    volumes = [s0 * np.exp(-b * 1e-6 * (0 if way is None else D[way])) for b, way in zip(b_values, directions, strict=True)]
    return nib.Nifti1Image(np.stack(volumes, -1).astype(np.float32), np.diag([2.0, 2, 5, 1]))


def test_trace_and_adc_are_those_of_the_mean_diffusivity():
    found = dict(split_diffusion(series([0, 1000, 1000, 1000], [None, 0, 1, 2]), [0, 1000, 1000, 1000]))
    assert list(found) == ["DWI b0", "DWI", "ADC"]
    tissue = (1, 2, 2)
    assert found["DWI b0"].get_fdata()[tissue] == pytest.approx(500)
    assert found["DWI"].get_fdata()[tissue] == pytest.approx(500 * np.exp(-1e-3 * D.mean()), rel=1e-5)
    assert found["ADC"].get_fdata()[tissue] == pytest.approx(D.mean(), rel=1e-4)
    assert (found["ADC"].get_fdata()[3:] == 0).all()
    assert np.array_equal(found["ADC"].affine, np.diag([2.0, 2, 5, 1]))


def test_the_shell_nearest_to_1000_is_the_clinical_one():
    b_values = [5.0, 300.0, 990.0, 1010.0, 3000.0]
    found = dict(split_diffusion(series(b_values, [None, 0, 1, 1, 2]), b_values))
    low = 500.0
    expected = low * np.exp(-1000e-6 * D[1])
    assert found["DWI"].get_fdata()[1, 2, 2] == pytest.approx(expected, rel=1e-5)
    assert found["ADC"].get_fdata()[1, 2, 2] == pytest.approx(D[1] * 1000 / 995, rel=1e-4)  # b0 was acquired at 5


def test_without_b0_there_is_no_adc_and_without_weighting_only_b0():
    assert [name for name, _ in split_diffusion(series([1000, 1000], [0, 1]), [1000, 1000])] == ["DWI"]
    assert [name for name, _ in split_diffusion(series([0, 0], [None, None]), [0, 0])] == ["DWI b0"]


@pytest.mark.parametrize("b_values", [[0], [0, float("nan")], [0, -5]])
def test_b_values_that_do_not_fit(b_values: list[float]):
    with pytest.raises(ValueError, match="b-values of 2 volumes"):
        split_diffusion(series([0, 1000], [None, 0]), b_values)
