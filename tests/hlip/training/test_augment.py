"""Augmentation: off by default, decided by its generator, and no more than it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hlip.training.augment import AugmentConfig, augment


def study() -> torch.Tensor:
    volumes = torch.zeros(2, 1, 3, 40, 40, dtype=torch.uint8)
    volumes[:, :, :, 10:20, 12:32] = 128
    return volumes


def changed(seed: int = 0, **settings: float) -> torch.Tensor:
    return augment(study(), AugmentConfig(**settings), np.random.default_rng(seed))


def test_nothing_is_changed_by_default():
    assert changed().data_ptr() != 0
    assert torch.equal(changed(), study())


def test_the_generator_decides():
    every = {"rotate": 5.0, "scale": 0.05, "shift": 0.03, "gamma": 0.2, "contrast": 0.1, "noise": 0.02}
    assert torch.equal(changed(1, **every), changed(1, **every))
    assert not torch.equal(changed(1, **every), changed(2, **every))
    assert changed(1, **every).dtype == torch.uint8


def centre(volume: torch.Tensor) -> torch.Tensor:
    weights = volume[0, 0, 0].double()
    places = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij"))
    return (places * weights).sum(dim=(1, 2)) / weights.sum()


def test_a_shift_moves_every_scan_alike_by_what_was_drawn():
    generator = np.random.default_rng(3)
    generator.uniform(0, 0), generator.uniform(0, 0)
    down, right = generator.uniform(-0.1, 0.1, 2)
    moved = changed(3, shift=0.1)
    torch.testing.assert_close(centre(moved) - centre(study()), 40 * torch.tensor([down, right]), atol=0.1, rtol=0)
    assert torch.equal(moved[0], moved[1])


def test_a_rotation_keeps_the_area_and_turns_about_the_middle():
    angle = np.random.default_rng(5).uniform(-20, 20)
    moved = changed(5, rotate=20.0)
    assert moved.double().sum() == pytest.approx(study().double().sum().item(), rel=0.02)
    arm = centre(study()) - 19.5
    turn = torch.tensor(
        [[np.cos(np.radians(angle)), -np.sin(np.radians(angle))], [np.sin(np.radians(angle)), np.cos(np.radians(angle))]]
    )
    seen = centre(moved) - 19.5
    assert seen.norm().item() == pytest.approx(arm.norm().item(), abs=0.1)
    assert min((seen - turn @ arm).norm(), (seen - turn.T @ arm).norm()) < 0.15
    assert (seen - arm).norm() > 0.3


def test_intensities_change_scan_by_scan_and_air_stays_air():
    moved = changed(0, gamma=0.3, contrast=0.1, noise=0.02)
    assert (moved[study() == 0] == 0).all()
    bright = moved[:, 0, :, 10:20, 12:32].double()
    assert bright[0].mean() != pytest.approx(bright[1].mean().item(), abs=0.5)
    assert 70 < bright.min() < bright.max() < 190
    assert 0 < bright.std(dim=(1, 2, 3)).max() < 0.03 * 255


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match="negative"):
        AugmentConfig(noise=-0.1)
    with pytest.raises(ValueError, match="below 1"):
        AugmentConfig(scale=1.0)
