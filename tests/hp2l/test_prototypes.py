"""PrototypeBank: against a slow loop, over processes, after a resume, with absent, unknown and broken studies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hp2l.prototypes import LearnedPrototypes, PrototypeBank

from .two_processes import run_two

COUNTS, WIDTH = (3, 5), 7


def batch(seed: int, size: int = 8) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Features, multi-label targets (class 4 of level 2 is never positive) and masks with some unknown entries."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(size, WIDTH, generator=generator) for _ in COUNTS]
    targets = [(torch.rand(size, count, generator=generator) < 0.3).float() for count in COUNTS]
    targets[1][:, 4] = 0.0
    masks = [(torch.rand(size, count, generator=generator) < 0.8).float() for count in COUNTS]
    return features, targets, masks


def slow_update(prototypes: list[Tensor], features: list[Tensor], targets: list[Tensor], masks: list[Tensor], m: float) -> None:
    """The spec, word by word: for each class with a positive, P <- m P + (1 - m) mean over its positives."""
    for level, count in enumerate(COUNTS):
        for c in range(count):
            positives = [
                f for f, y, known in zip(features[level], targets[level], masks[level], strict=True) if y[c] * known[c]
            ]
            if positives:
                prototypes[level][c] = m * prototypes[level][c] + (1 - m) * torch.stack(positives).mean(dim=0)


def levels(bank: PrototypeBank) -> list[Tensor]:
    return [bank.prototypes(level).clone() for level in range(1, bank.depth + 1)]


def test_equals_a_loop_over_classes_for_many_steps() -> None:
    bank = PrototypeBank(COUNTS, WIDTH, momentum=0.9)
    slow = levels(bank)
    for seed in range(20):
        data = batch(seed)
        bank.update(*data)
        slow_update(slow, *data, m=0.9)
    for ours, theirs in zip(levels(bank), slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_hand_computed_step_and_absent_class() -> None:
    bank = PrototypeBank((2,), 2, momentum=0.75)
    bank.initialise([torch.tensor([[4.0, 0.0], [1.0, 1.0]])])
    features = torch.tensor([[0.0, 2.0], [2.0, 6.0], [100.0, 100.0]])
    bank.update([features], [torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])])
    # mean of the positives (1, 4): 0.75 * (4, 0) + 0.25 * (1, 4) = (3.25, 1)
    assert bank.prototypes(1).tolist() == [[3.25, 1.0], [1.0, 1.0]]
    assert bank.updates(1).tolist() == [1, 0]


def test_an_unknown_label_is_no_positive_and_targets_may_be_bool() -> None:
    bank = PrototypeBank((1,), 2, momentum=0.5)
    bank.initialise([torch.zeros(1, 2)])
    features, present = torch.tensor([[2.0, 2.0], [8.0, 8.0]]), torch.tensor([[True], [True]])
    bank.update([features], [present], [torch.tensor([[1.0], [0.0]])])
    assert bank.prototypes(1).tolist() == [[1.0, 1.0]]
    bank.update([features], [present], [torch.zeros(2, 1)])
    assert bank.prototypes(1).tolist() == [[1.0, 1.0]]
    assert bank.updates(1).tolist() == [1]


def test_a_study_that_overflowed_does_not_count() -> None:
    features, targets, masks = batch(0)
    clean, broken = PrototypeBank(COUNTS, WIDTH), PrototypeBank(COUNTS, WIDTH)
    masks = [mask.clone() for mask in masks]
    for mask in masks:
        mask[2] = 0.0
    clean.update(features, targets, masks)
    for feature, mask in zip(features, masks, strict=True):
        feature[2, 0], feature[2, 1] = torch.nan, torch.inf
        mask[2] = 1.0
    broken.update(features, targets, masks)
    for ours, theirs in zip(levels(broken), levels(clean), strict=True):
        assert torch.equal(ours, theirs)


def test_resume_equals_never_stopped() -> None:
    through, before, after = (PrototypeBank(COUNTS, WIDTH, averaging="corrected", seed=seed) for seed in (0, 0, 1))
    for seed in range(6):
        through.update(*batch(seed))
    for seed in range(3):
        before.update(*batch(seed))
    after.load_state_dict(before.state_dict())
    for seed in range(3, 6):
        after.update(*batch(seed))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(levels(after), levels(through), strict=True))
    assert torch.equal(after.updates(2), through.updates(2))


def test_the_start_is_standard_normal_and_the_same_on_every_process() -> None:
    torch.manual_seed(1)
    first = PrototypeBank((400,), 64)
    torch.manual_seed(2)
    assert torch.equal(first.prototypes(1), PrototypeBank((400,), 64).prototypes(1))
    assert not torch.equal(first.prototypes(1), PrototypeBank((400,), 64, seed=1).prototypes(1))
    assert abs(first.prototypes(1).mean().item()) < 0.02
    assert abs(first.prototypes(1).std().item() - 1.0) < 0.02


def test_averaging_first_takes_the_first_mean_and_averages_from_then_on() -> None:
    bank = PrototypeBank((1,), 1, momentum=0.9, averaging="first")
    for value, expected in ((10.0, 10.0), (20.0, 11.0)):
        bank.update([torch.tensor([[value]])], [torch.ones(1, 1)])
        assert bank.prototypes(1).item() == pytest.approx(expected)


def test_corrected_averaging_is_the_weighted_mean_of_what_was_seen() -> None:
    bank, seen = PrototypeBank((2,), 1, momentum=0.9, averaging="corrected"), []
    start = bank.prototypes(1)[1].item()
    for value in (3.0, -1.0, 8.0, 2.0):
        seen.append(value)
        bank.update([torch.tensor([[value]])], [torch.tensor([[1.0, 0.0]])])
        weights = [0.9**age for age in reversed(range(len(seen)))]
        assert bank.prototypes(1)[0].item() == pytest.approx(
            sum(w * v for w, v in zip(weights, seen, strict=True)) / sum(weights)
        )
    assert bank.prototypes(1)[1].item() == start  # never seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_prototypes_stay_float32_when_the_model_is_cast(dtype: torch.dtype) -> None:
    bank, plain = torch.nn.Sequential(PrototypeBank(COUNTS, WIDTH)), PrototypeBank(COUNTS, WIDTH)
    bank.to(dtype)
    inner = bank[0]
    assert isinstance(inner, PrototypeBank)
    assert inner.prototypes(1).dtype == torch.float32
    assert torch.equal(inner.prototypes(1), plain.prototypes(1)), "not even a round trip through the other dtype"
    inner.initialise([torch.ones(count, WIDTH) for count in COUNTS])
    for _ in range(3):
        inner.update([torch.full((1, WIDTH), 1.1, dtype=dtype)] * 2, [torch.ones(1, count) for count in COUNTS])
    # Steps of 0.001 at 1.0 are below bfloat16's resolution of 0.0078; they must add up all the same.
    assert inner.prototypes(1)[0, 0].item() == pytest.approx(1.1 - 0.1 * 0.99**3, abs=1e-4 if dtype != torch.bfloat16 else 2e-4)
    assert inner.updates(1).dtype == torch.int64


def test_shapes_are_checked() -> None:
    bank = PrototypeBank(COUNTS, WIDTH)
    features, targets, masks = batch(0)
    with pytest.raises(ValueError, match="targets of 1 level"):
        bank.update(features, targets[:1], masks)
    with pytest.raises(ValueError, match="level 1: features"):
        bank.update(features, targets[::-1], masks)
    with pytest.raises(ValueError, match="must have the shapes"):
        bank.initialise([torch.zeros(3, 7), torch.zeros(5, 6)])
    with pytest.raises(ValueError, match="momentum"):
        PrototypeBank(COUNTS, WIDTH, momentum=1.0)


WORKER = """
from hp2l.prototypes import LearnedPrototypes, PrototypeBank

torch.manual_seed(rank)
bank = PrototypeBank((3, 5), 7)
for features, targets, masks in torch.load(f"{folder}/shares.pt", weights_only=True)[rank]:
    bank.update(features, targets, masks)
torch.save(bank.state_dict(), f"{folder}/bank{rank}.pt")
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    steps = [batch(seed) for seed in range(4)]
    for _, targets, _ in steps:
        targets[0][:5, 0] = 0.0  # only the second process sees class 0
    whole = PrototypeBank(COUNTS, WIDTH)
    for step in steps:
        whole.update(*step)
    # 5 studies on the first process, 3 on the second; in the last step the second has none at all.
    cuts = [5, 5, 5, 8]
    shares = [
        [[[level[part(cut)] for level in item] for item in step] for step, cut in zip(steps, cuts, strict=True)]
        for part in (lambda cut: slice(0, cut), lambda cut: slice(cut, 8))
    ]
    torch.save(shares, tmp_path / "shares.pt")
    run_two(WORKER, tmp_path)
    for rank in (0, 1):
        state = torch.load(tmp_path / f"bank{rank}.pt", weights_only=True)
        for name, values in whole.state_dict().items():
            assert torch.equal(state[name], values), f"process {rank}: {name}"


@pytest.mark.parametrize("kind", [PrototypeBank, LearnedPrototypes])
def test_a_start_is_drawn_anew_by_its_seed(kind: type[PrototypeBank | LearnedPrototypes]) -> None:
    bank, other = kind(COUNTS, WIDTH), kind(COUNTS, WIDTH, seed=1)
    first = bank.prototypes(2).clone()
    bank.draw(1)
    assert torch.equal(bank.prototypes(2), other.prototypes(2))
    bank.draw(0)
    assert torch.equal(bank.prototypes(2), first)
    assert not torch.equal(first, other.prototypes(2))
