"""Pooling over place: against a slow loop over studies, scans and blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hlip.vision import StudyTokens
from hp2l.tokens import AXIAL, axes_of, pool_over_place, turned_back


def tokens(counts: tuple[int, ...], grid: tuple[int, int, int], width: int = 5) -> StudyTokens:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(sum(counts), math.prod(grid), width, generator=generator)
    return StudyTokens(torch.zeros(len(counts), 2, width), patches, counts, None, grid)


def spans(patches: int, blocks: int) -> list[range]:
    """Where each block begins and ends; blocks share a patch where they do not divide the axis."""
    return [range(b * patches // blocks, math.ceil((b + 1) * patches / blocks)) for b in range(blocks)]


def slow(given: StudyTokens, blocks: tuple[int, int, int]) -> torch.Tensor:
    d, h, w = given.grid
    studies, first = [], 0
    for count in given.scans_per_study:
        rows = []
        for depth in spans(d, blocks[0]):
            for high in spans(h, blocks[1]):
                for wide in spans(w, blocks[2]):
                    places = [(z * h + y) * w + x for z in depth for y in high for x in wide]
                    each = [given.patches[scan, places].mean(dim=0) for scan in range(first, first + count)]
                    rows.append(sum(each) / count)
        studies.append(torch.stack(rows))
        first += count
    return torch.stack(studies)


@pytest.mark.parametrize(
    ("grid", "blocks"),
    [((4, 4, 4), (2, 4, 4)), ((4, 6, 2), (2, 3, 1)), ((8, 4, 4), (1, 1, 1)), ((2, 3, 5), (2, 3, 5)), ((5, 7, 3), (2, 4, 2))],
)
def test_pooling_equals_a_loop_over_studies_scans_and_blocks(grid, blocks):
    given = tokens((3, 1, 2), grid)
    pooled = pool_over_place(given, blocks)
    assert pooled.shape == (3, math.prod(blocks), 5)
    torch.testing.assert_close(pooled, slow(given, blocks))


def test_a_study_does_not_depend_on_its_neighbours_nor_on_the_order_of_its_scans():
    given = tokens((3, 2), (4, 4, 4))
    alone = StudyTokens(given.cls[:1], given.patches[[2, 0, 1]], (3,), None, given.grid)
    torch.testing.assert_close(pool_over_place(alone, (2, 2, 2))[0], pool_over_place(given, (2, 2, 2))[0])


PLANES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}  # world axis (x, y, z) of depth, height and width


def affine_of(plane: str) -> np.ndarray:
    """Of a grid in this plane whose axes run right to left, front to back, top to bottom, 2 mm a voxel."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, world in enumerate(PLANES[plane]):
        affine[world, axis] = -2.0
    return affine


def in_plane(place: torch.Tensor, plane: str) -> torch.Tensor:
    """(C, z, y, x) -> (C, d, h, w)."""
    return place.permute(0, *(3 - world for world in PLANES[plane]))


def test_scans_of_any_plane_meet_at_the_same_place_of_the_patient():
    """One body in three planes: pooled together it is what each of them is alone, and nothing without the turn."""
    body = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    scans = [in_plane(body, plane).flatten(1).T for plane in PLANES]
    axes = [axes_of(affine_of(plane)) for plane in PLANES]
    assert axes[0] == AXIAL
    assert axes == [(0, 1, 2), (1, 0, 2), (1, 2, 0)]
    given = StudyTokens(torch.zeros(1, 2, 5), torch.stack(scans), (3,), None, (4, 4, 4))
    alone = StudyTokens(torch.zeros(1, 2, 5), scans[0][None], (1,), None, (4, 4, 4))
    torch.testing.assert_close(pool_over_place(given, (2, 4, 4), axes), pool_over_place(alone, (2, 4, 4)))
    assert not torch.allclose(pool_over_place(given, (2, 4, 4)), pool_over_place(alone, (2, 4, 4)), atol=0.1)
    blocks = body[0]
    for plane, own in zip(PLANES, axes, strict=True):
        assert torch.equal(turned_back(blocks, own), in_plane(body, plane)[0])


def test_what_cannot_be_pooled_is_refused():
    given = tokens((1, 2), (4, 2, 2))
    with pytest.raises(ValueError, match=r"token blocks \(2, 4, 4\) do not fit the encoder's grid \(4, 2, 2\)"):
        pool_over_place(given, (2, 4, 4))
    dropped = given._replace(patches=given.patches[:, :3], kept=torch.arange(3).expand(3, 3))
    with pytest.raises(ValueError, match="pooling over place needs all patches"):
        pool_over_place(dropped, (1, 1, 1))
