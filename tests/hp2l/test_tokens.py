"""Pooling over place: against a slow loop over studies, scans and blocks."""

from __future__ import annotations

import math

import pytest
import torch

from hlip.vision import StudyTokens
from hp2l.tokens import pool_over_place


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


def test_what_cannot_be_pooled_is_refused():
    given = tokens((1, 2), (4, 2, 2))
    with pytest.raises(ValueError, match=r"token blocks \(2, 4, 4\) do not fit the encoder's grid \(4, 2, 2\)"):
        pool_over_place(given, (2, 4, 4))
    dropped = given._replace(patches=given.patches[:, :3], kept=torch.arange(3).expand(3, 3))
    with pytest.raises(ValueError, match="pooling over place needs all patches"):
        pool_over_place(dropped, (1, 1, 1))
