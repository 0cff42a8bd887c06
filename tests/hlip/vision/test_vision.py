"""The study encoder: against one study at a time, and against its own checks."""

from __future__ import annotations

import math

import pytest
import torch
from einops import rearrange

from hlip.vision import StudyEncoder, VisionConfig, draw_kept, normalise
from hlip.vision.attention import Grouping, Rotation
from hlip.vision.position import rotary_angles


def tiny(scopes: list[str], **changes) -> StudyEncoder:
    torch.manual_seed(0)
    settings = {"size": (8, 16, 16), "patch": (2, 8, 8), "width": 24, "heads": 2, "scopes": scopes} | changes
    encoder = StudyEncoder(VisionConfig(**settings))
    for parameter in encoder.parameters():  # away from the symmetric start, so that every path matters
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def scans(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 8, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


SCOPES = [["scan", "study"], ["slice", "scan", "study", "slice"], ["study", "slice"], ["slice", "study", "scan"]]


@pytest.mark.parametrize("scopes", SCOPES, ids="-".join)
@pytest.mark.parametrize("dropped", [False, True], ids=["all patches", "patch dropout"])
@pytest.mark.parametrize("position", ["depth_plane", "rotary"])
def test_a_packed_batch_equals_one_study_at_a_time(scopes, dropped, position):
    encoder, counts, volumes = tiny(scopes, position=position).train(), [3, 1, 5], scans(9)
    kept = draw_kept(9, (4, 2, 2), 0.5, scopes[0] == "slice" or "slice" in scopes, torch.device("cpu")) if dropped else None
    together = encoder(volumes, counts, kept)
    together.square().sum().backward()
    gradients = {key: value.grad.clone() for key, value in encoder.named_parameters()}
    encoder.zero_grad()
    alone, start = [], 0
    for count in counts:
        part = slice(start, start + count)
        alone.append(encoder(volumes[part], [count], None if kept is None else kept[part]))
        start += count
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    sum(pooled.square().sum() for pooled in alone).backward()
    for key, value in encoder.named_parameters():
        torch.testing.assert_close(gradients[key], value.grad, atol=2e-4, rtol=1e-4)


def test_rotary_attention_is_the_slow_one():
    """Each pair of channels as a complex number, turned by its own angle; prefix tokens are not turned."""
    encoder = tiny(["study"], position="rotary", width=24, heads=2)
    attention, grid = encoder.blocks[0].attn, encoder.config.grid
    x = torch.randn(1, 2 + math.prod(grid), 24)
    angles = encoder._angles(grid, None, torch.zeros(1, math.prod(grid), 24))
    grouping = Grouping([1], math.prod(grid), 1, 2, x.device)
    turned = attention(x, None, grouping.rotation(angles, "scan"))
    q, k, v = rearrange(attention.qkv(x)[0], "N (three h c) -> three h N c", three=3, h=2)
    places = [(0.0, 0.0, 0.0)] * 2 + [(d, h, w) for d in range(grid[0]) for h in range(grid[1]) for w in range(grid[2])]
    frequencies = [(0, 1.0), (0, 0.1), (1, 1.0), (1, 0.1), (2, 1.0), (2, 0.1)]  # axis and 100 ** -(i / 2) of each of six pairs
    factor = torch.tensor([[place[axis] * rate for axis, rate in frequencies] for place in places])
    factor = torch.polar(torch.ones_like(factor), factor)
    rows = []
    for head in range(2):
        one, other = (torch.complex(part[head][:, :6], part[head][:, 6:]) * factor for part in (q, k))
        weights = ((one @ other.conj().T).real / 12**0.5).softmax(dim=-1)
        rows.append(weights @ v[head])
    torch.testing.assert_close(turned[0], attention.proj(torch.cat(rows, dim=-1)), atol=1e-5, rtol=1e-5)


def test_rotary_scores_depend_on_distances_alone():
    angles = rotary_angles((4, 4, 4), (4, 4, 4), 8).view(4, 4, 4, 8)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(one: tuple[int, int, int], other: tuple[int, int, int]) -> torch.Tensor:
        turn = [Rotation(angles[place].cos(), angles[place].sin()) for place in (one, other)]
        return (turn[0](query) * turn[1](key)).sum()

    torch.testing.assert_close(score((0, 1, 2), (1, 3, 2)), score((2, 0, 1), (3, 2, 1)), atol=1e-5, rtol=1e-5)
    assert (score((0, 1, 2), (1, 3, 2)) - score((0, 1, 2), (1, 2, 2))).abs() > 1e-3
    finer = rotary_angles((8, 4, 4), (4, 4, 4), 8).view(8, 4, 4, 8)  # two patches where one was: the same span
    torch.testing.assert_close((finer[0] + finer[1]) / 2, angles[0])


def test_scope_decides_what_a_token_can_see():
    """In scan scope another scan of the study changes nothing before the study block; in study scope it does."""
    for scopes, sees in ((["scan", "scan"], False), (["scan", "study"], True)):
        encoder, volumes = tiny(scopes).eval(), scans(2)
        before = encoder.tokens(volumes, [2]).patches[0]
        changed = volumes.clone()
        changed[1] = 255 - changed[1]
        after = encoder.tokens(changed, [2]).patches[0]
        assert torch.equal(before, after) is not sees


def test_slice_scope_keeps_to_its_slice():
    encoder, volumes = tiny(["slice"]).eval(), scans(1)
    changed = volumes.clone()
    changed[:, :, 6:] = 0  # the last of four slices of patches
    before, after = encoder.tokens(volumes, [1]).patches, encoder.tokens(changed, [1]).patches
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])


def test_the_order_of_scans_does_not_matter_without_sequence_positions():
    encoder, volumes = tiny(["scan", "study"]).eval(), scans(4)
    torch.testing.assert_close(encoder(volumes, [4]), encoder(volumes.flip(0), [4]), atol=1e-5, rtol=1e-5)


def test_patch_dropout_keeps_the_same_number_everywhere():
    kept = draw_kept(5, (4, 3, 4), 0.5, True, torch.device("cpu"))
    assert kept.shape == (5, 24)
    for scan in kept:
        assert len(set(scan.tolist())) == 24
        assert torch.bincount(scan // 12, minlength=4).tolist() == [6] * 4
    assert draw_kept(2, (4, 3, 4), 0.99, False, torch.device("cpu")).shape == (2, 1)


def test_air_is_dropped_first():
    """4 of 16 patches hold tissue: all four are kept at dropout 0.75, and the rest is drawn when more is kept."""
    encoder = tiny(["scan", "study"], patch_dropout=0.75, drop_air_first=True).train()
    volumes = torch.randint(0, 20, (6, 1, 8, 16, 16), dtype=torch.uint8)
    volumes[:, :, :2] += 100  # the first slice of patches
    assert encoder.tokens(volumes, [6]).kept.sort().values.tolist() == [[0, 1, 2, 3]] * 6
    floats = normalise(volumes)  # already normalised: the same
    assert encoder.tokens(floats, [6]).kept.sort().values.tolist() == [[0, 1, 2, 3]] * 6
    encoder.config.patch_dropout = 0.5
    kept = encoder.tokens(volumes, [6]).kept
    assert all({0, 1, 2, 3} < set(scan) for scan in kept.tolist())
    assert len({tuple(sorted(scan)) for scan in kept.tolist()}) > 1


def test_drop_path_is_drawn_a_study_and_keeps_the_mean():
    torch.manual_seed(3)
    encoder = tiny(["study"], drop_path=0.0)
    block = encoder.blocks[0]
    block.drop_path = 0.5
    branch = torch.ones(1, 7, 24)
    from hlip.vision.attention import Lengths

    lengths = Lengths([3, 4], torch.device("cpu"))
    block.train()
    drawn = torch.stack([block._drop(branch, lengths)[0, :, 0] for _ in range(400)])
    assert set(drawn.unique().tolist()) == {0.0, 2.0}
    assert (drawn[:, :3] == drawn[:, :1]).all()
    assert (drawn[:, 3:] == drawn[:, 3:4]).all()
    assert (drawn[:, 0] != drawn[:, 3]).any()
    assert drawn.mean().item() == pytest.approx(1.0, abs=0.1)


def test_another_grid_resamples_the_position_table():
    encoder = tiny(["scan"]).eval()
    assert encoder(torch.zeros(1, 1, 12, 16, 16, dtype=torch.uint8), [1]).shape == (1, 2, 48)
    table = encoder._table((6, 2, 2), torch.zeros(1))
    expected = torch.nn.functional.interpolate(
        encoder.spatial_posemb.permute(0, 4, 1, 2, 3), size=(6, 2, 2), mode="trilinear", align_corners=False
    )
    torch.testing.assert_close(table[0], expected[0].permute(1, 2, 3, 0).reshape(-1, 24))


def test_block_checkpoints_change_nothing():
    plain, saved = tiny(["scan", "study"]).train(), tiny(["scan", "study"], checkpoint_blocks=True).train()
    saved.load_state_dict(plain.state_dict())
    for encoder in (plain, saved):
        encoder(scans(3), [1, 2]).sum().backward()
    for one, other in zip(plain.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_voxels_are_normalised_as_published():
    voxels = torch.tensor([0, 255], dtype=torch.uint8)
    torch.testing.assert_close(normalise(voxels), torch.tensor([-0.449 / 0.226, 0.551 / 0.226]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (8, 16, 20)}, "not a multiple of patch"),
        ({"scopes": ["scan", "series"]}, "slice | scan | study"),
        ({"scopes": []}, "slice | scan | study"),
        ({"width": 25}, "not a multiple of heads"),
    ],
)
def test_a_wrong_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        tiny(**({"scopes": ["scan"]} | changes))


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="scans_per_study"):
        tiny(["scan"])(scans(3), [1, 1])
    with pytest.raises(ValueError, match="at least 1"):
        tiny(["scan"])(scans(3), [3, 0])


@pytest.mark.slow
def test_blocks_compile_without_a_graph_break():
    from torch._dynamo.utils import counters

    encoder, volumes = tiny(["slice", "scan", "study"], position="rotary"), scans(6)
    expected = encoder(volumes, [3, 1, 2])
    counters.clear()
    for block in encoder.blocks:
        block.compile(backend="aot_eager", dynamic=True)
    torch.testing.assert_close(encoder(volumes, [3, 1, 2]), expected, atol=1e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] >= 2
    assert not counters["graph_break"]
