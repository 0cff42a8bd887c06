"""Layouts of slices: even, with gaps, tilted, or no volume."""

from __future__ import annotations

import numpy as np
import pytest

from hlip.dicom.found import Found
from hlip.dicom.geometry import Layout, affine_of, lay_out, straighten
from hlip.dicom.tags import Slice

from .stacks import PLAIN


def slices(places: list[float], within: list[float] | None = None) -> list[Slice]:
    """At these heights, shifted along y."""
    return [
        Slice(PLAIN, Found("f", "", 1, 1), str(n), (0.0, y, z), n, None, None, None, 1, (), True)
        for n, (z, y) in enumerate(zip(places, within or [0.0] * len(places), strict=True))
    ]


def test_slices_in_any_order_are_one_even_stack() -> None:
    layout = lay_out(slices([6.0, 0.0, 4.02, 2.0]))
    assert isinstance(layout, Layout)
    assert [piece.instance for piece in layout.slices] == [1, 3, 2, 0]
    assert (layout.count, layout.step, layout.shift, layout.even, layout.notes) == (4, 2, (0, 0), True, ())


@pytest.mark.parametrize(
    ("places", "reason"),
    [([0, 1, 2, 3, 9, 10, 11, 12], "missing_slices"), ([0, 1, 2.3, 3, 4.6, 5], "uneven_slices"), ([0, 1, 2, 30, 60, 90], "missing_slices")],
)  # fmt: skip
def test_layouts_that_are_no_volume(places: list[float], reason: str) -> None:
    assert lay_out(slices(places)) == reason


def test_slices_that_wander_are_refused() -> None:
    assert lay_out(slices([0, 1, 2, 3, 4], [0, 3, 0, 3, 0])) == "shifted_slices"


def test_made_slices_lie_linearly_between_their_neighbours() -> None:
    heights = [0.0, 1, 2, 3, 4, 6, 8, 10, 12]
    layout = lay_out(slices(heights))
    assert isinstance(layout, Layout)
    ramp = np.broadcast_to(np.array(heights) * 10, (3, 2, 9)).astype(np.int16)
    made = straighten(ramp, layout)
    assert made.dtype == np.int16
    np.testing.assert_array_equal(made[1, 1], np.arange(13) * 10)


@pytest.mark.parametrize(
    ("step", "reason"), [(4 / 3, ""), (1.9, ""), (0.5, ""), (2.3, "uneven_slices"), (0.2, "uneven_slices")]
)
def test_one_odd_step_is_resampled_unless_a_slice_may_lack(step: float, reason: str) -> None:
    heights = [0.0, 5, 10, 15, 20, 25, *(25 + 5 * step + 5.0 * n for n in range(6))]
    layout = lay_out(slices(heights))
    assert (layout if isinstance(layout, str) else "") == reason
    if isinstance(layout, Layout):
        assert (layout.step, layout.notes) == (5, ("uneven steps resampled",))
        made = straighten(np.broadcast_to(np.array(heights), (3, 2, 12)).astype(np.float32), layout)
        wanted = np.minimum(5.0 * np.arange(layout.count), heights[-1])
        np.testing.assert_allclose(made[0, 0], wanted, atol=1e-4)


def test_several_odd_steps_are_no_volume() -> None:
    steps = np.tile([5.0, 5, 5, 6.7], 5)
    assert lay_out(slices([0.0, *np.cumsum(steps).tolist()])) == "uneven_slices"


@pytest.mark.parametrize("lean", [0.5, -0.5])
def test_a_grid_grows_by_the_tilt_so_that_nothing_is_cut_off(lean: float) -> None:
    """A mark in the first row of the one end and in the last row of the other."""
    heights = [10.0 * n for n in range(6)]
    pieces = slices(heights, [lean * height for height in heights])
    layout = lay_out(pieces)
    assert isinstance(layout, Layout)
    volume = np.full((8, 8, 6), -7, dtype=np.int16)
    volume[3, 0], volume[3, 7] = 100, 200
    made, affine = straighten(volume, layout), affine_of(layout)
    assert made.shape == layout.shape == (8, 8 + 25, 6), "the furthest slice lies 25 mm off, of 1 mm a row"
    assert (made.dtype, made.min()) == (np.int16, -7)
    for n, piece in enumerate(pieces):
        assert piece.position is not None
        for row, value in ((0, 100), (7, 200)):
            x, y, z = np.add(piece.position, (3, row, 0))
            voxel = np.linalg.inv(affine) @ [-x, -y, z, 1]
            np.testing.assert_allclose(voxel, voxel.round(), atol=1e-9)
            assert made[tuple(voxel[:3].round().astype(int))] == value, (n, row)
    assert (made == 100).sum() == (made == 200).sum() == 6


def test_a_shift_beyond_all_memory_is_refused() -> None:
    heights = [10.0 * n for n in range(6)]
    assert lay_out(slices(heights, [1e7 * height for height in heights])) == "too_large"
