"""Maps in an image's own pixels: bars and crop undone, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.diagnosis.image_maps import on_original, overlay
from hlip.scans.image import LoadedImage, prepare_image
from hlip.volume import VolumeSpec

MAP = torch.arange(16.0).reshape(4, 4)
IMAGE = LoadedImage(np.full((4, 8, 3), 200, np.uint8), Path("x.png"))


def back(resize: int) -> list[list[float]]:
    spec = VolumeSpec(size=(1, 8, 8), fit="square", resize=(resize, resize), percentiles=None, kind="image")
    affine = prepare_image(IMAGE, spec)[0].affine
    return on_original(MAP, (8, 8), affine, (4, 8)).tolist()


def test_the_bars_above_and_below_a_wide_image_are_undone():
    """4 x 8 pixels between bars of 2 rows: rows 2 to 5 of 8, so the two middle rows of cells."""
    assert back(8) == [[4, 4, 5, 5, 6, 6, 7, 7]] * 2 + [[8, 8, 9, 9, 10, 10, 11, 11]] * 2


def test_what_the_crop_took_was_not_seen():
    """Twice as large and cropped to the middle half: a cell is a pixel, and the outer pixels are none."""
    found = np.array(back(16))
    assert np.isnan(found[:, [0, 1, 6, 7]]).all()
    assert found[:, 2:6].tolist() == MAP.tolist()


def test_an_overlay_leaves_the_image_where_the_map_says_nothing():
    found = np.array([[0, 2, np.nan, 1]], np.float32)
    drawn = overlay(IMAGE.pixels[:1, :4], found, "prompt", 2.0)
    assert drawn.shape == (1, 4, 3)
    assert drawn[0, [0, 2]].tolist() == [[200] * 3] * 2
    warm = np.array([0.705673, 0.015556, 0.150233]) * 255  # the upper end of coolwarm
    assert drawn[0, 1].tolist() == pytest.approx((0.3 * 200 + 0.7 * warm).tolist(), abs=1)
