"""Steps, processes and chunks: nothing lost, nothing twice, evenly shared."""

from __future__ import annotations

import numpy as np
import pytest

from hlip.training.batches import EpochOrder, GlobalBatches, Place, balance


@pytest.mark.parametrize(("length", "size"), [(12, 4), (13, 5), (7, 7), (10, 8), (24, 16), (1000, 48)])
def test_an_epoch_sees_every_study_once_and_a_batch_none_twice(length, size):
    steps = 6 * length // size
    places = [place for batch in GlobalBatches(length, size, seed=1, steps=steps) for place in batch]
    for epoch in range(5):
        part = places[epoch * length : (epoch + 1) * length]
        assert sorted(part) == [Place(epoch, index) for index in range(length)]
    batches = [places[size * step : size * (step + 1)] for step in range(steps)]
    assert all(len({place.study for place in batch}) == size for batch in batches)
    assert [place.study for place in places[:length]] != [place.study for place in places[length : 2 * length]]


def test_a_resumed_run_sees_the_same_batches():
    whole = list(GlobalBatches(13, 5, seed=1, steps=9))
    assert list(GlobalBatches(13, 5, seed=1, steps=9, start=4)) == whole[4:]
    order = EpochOrder(13, 5, 1)
    later = order.order(2).copy()
    order.order(0)
    np.testing.assert_array_equal(order.order(2), later)


def test_processes_share_a_batch_evenly():
    sizes = [8, 1, 1, 1, 1, 1, 8, 2, 3, 4, 1, 1]
    whole = list(GlobalBatches(12, 4, seed=1, steps=6, sizes=sizes))
    halves = [list(GlobalBatches(12, 4, seed=1, steps=6, rank=rank, world=2, sizes=sizes)) for rank in range(2)]
    for all_of_it, one, other in zip(whole, *halves, strict=True):
        assert len(one) == len(other) == 2
        assert sorted(one + other) == sorted(all_of_it)
        scans = [sum(sizes[place.study] for place in part) for part in (one, other)]
        largest = max(sizes[place.study] for place in all_of_it)
        assert abs(scans[0] - scans[1]) <= largest


def test_largest_first_is_even():
    assert balance([8, 1, 1, 8, 2, 2], 2) == [[0, 1, 4], [2, 3, 5]]
    assert balance([3, 3, 3, 3], 2) == [[0, 1], [2, 3]]
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 9, 768).tolist()
    totals = [sum(sizes[place] for place in part) for part in balance(sizes, 48)]
    assert max(totals) - min(totals) <= 1


def test_chunks_keep_to_their_limits_and_to_the_number_of_processes():
    sizes = np.random.default_rng(0).integers(1, 9, 96).tolist()
    for limits in ({"chunk_studies": 10}, {"chunk_scans": 40}, {"chunk_studies": 8, "chunk_scans": 30}):
        counts = set()
        for rank in range(2):
            batches = GlobalBatches(96, 48, seed=2, steps=4, rank=rank, world=2, sizes=sizes, **limits)
            for batch in batches:
                chunks = {place.chunk: [p for p in batch if p.chunk == place.chunk] for place in batch}
                assert list(chunks) == list(range(len(chunks)))
                assert max(len(chunk) for chunk in chunks.values()) <= limits.get("chunk_studies", 48)
                assert max(sum(sizes[p.study] for p in chunk) for chunk in chunks.values()) <= limits.get("chunk_scans", 1e9)
                assert len({len(chunk) for chunk in chunks.values()}) == 1
                counts.add((rank, len(chunks)))
        assert {n for rank, n in counts if rank == 0} == {n for rank, n in counts if rank == 1}
        assert min(n for _, n in counts) > 1


def test_chunks_do_not_depend_on_the_processes():
    sizes = np.random.default_rng(0).integers(1, 9, 96).tolist()
    settings = {"seed": 2, "steps": 2, "sizes": sizes, "chunk_studies": 8}
    alone = list(GlobalBatches(96, 32, **settings))
    halves = [list(GlobalBatches(96, 32, rank=rank, world=2, **settings)) for rank in range(2)]
    for whole, one, other in zip(alone, *halves, strict=True):
        dealt = [place._replace(chunk=2 * place.chunk + rank) for rank, part in enumerate((one, other)) for place in part]
        assert sorted(whole, key=lambda place: place.chunk) == sorted(dealt, key=lambda place: place.chunk)


def test_chunks_of_one_study_are_dealt_evenly():
    sizes = np.random.default_rng(0).integers(1, 9, 384).tolist()
    settings = {"seed": 0, "steps": 1, "sizes": sizes, "chunk_studies": 1, "world": 8}
    scans = [
        sum(sizes[place.study] for place in next(iter(GlobalBatches(384, 384, rank=rank, **settings)))) for rank in range(8)
    ]
    assert max(scans) < 1.03 * np.mean(scans)


def test_impossible_batches_are_refused():
    with pytest.raises(ValueError, match="not a multiple of 2 processes"):
        GlobalBatches(12, 3, seed=0, steps=1, world=2)
    with pytest.raises(ValueError, match="do not fill one batch"):
        GlobalBatches(3, 4, seed=0, steps=1)
    with pytest.raises(ValueError, match="chunk_scans 5 is less than the 8 scans"):
        GlobalBatches(12, 4, seed=0, steps=1, sizes=[8] * 12, chunk_scans=5)


def test_weights_decide_how_often_a_study_is_drawn():
    """A study with weight 3 among nine with 1 is a quarter of all draws."""
    batches = GlobalBatches(10, 5, seed=0, steps=4000, weights=[3.0] + [1.0] * 9)
    drawn = [place.study for batch in batches for place in batch]
    assert drawn.count(0) / len(drawn) == pytest.approx(0.25, abs=0.01)
    assert drawn.count(4) / len(drawn) == pytest.approx(0.75 / 9, abs=0.01)
    again = list(GlobalBatches(10, 5, seed=0, steps=9, start=7, weights=[3.0] + [1.0] * 9))
    assert again == list(GlobalBatches(10, 5, seed=0, steps=9, weights=[3.0] + [1.0] * 9))[7:]
