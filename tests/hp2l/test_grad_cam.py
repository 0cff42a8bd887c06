"""Grad-CAM against its definition, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hlip
from hlip.taxonomy import Taxonomy
from hlip.volume import VolumeSpec
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import CNNConfig, CNNEncoder, ImageConfig, ImageEncoder
from hp2l.grad_cam import GradCAM
from hp2l.heads import HeadConfig

TREE = Taxonomy.load("leukemia")
PIXELS = VolumeSpec(size=(1, 64, 64), fit="square", resize=(64, 64), percentiles=(0, 100))


def scans(count: int, size: tuple[int, int, int]) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def linear(encoder) -> Diagnoser:
    """Linear heads over [class token, mean token]: the slope of a logit is known at every place."""
    torch.manual_seed(1)
    return Diagnoser(encoder, HeadConfig(kind="linear", blocks=(1, 2, 2)), TREE).eval()


def test_of_a_linear_head_it_is_the_weighted_map():
    """With tokens that cover the map evenly, both mean token and summary are the map's mean, so a channel's slope is its two weights
    over the number of places."""
    encoder = CNNEncoder(CNNConfig(channels=("T1",), width=64))
    model = linear(encoder)
    model.head.norm = nn.Identity()
    volumes = scans(2, (32, 64, 64))
    cam = GradCAM(model, volumes, [1, 1])
    features = encoder.features(encoder.trunk, volumes, [1, 1]).detach()
    for level, index in ((1, 2), (3, 5)):
        weight = model.head.heads[level - 1].weight[index].detach()
        expected = torch.einsum("c,bcdhw->bdhw", (weight[:64] + weight[64:]) / (2 * 4 * 4), features).relu()
        assert expected.max() > 0
        torch.testing.assert_close(cam.map(level, index), expected, atol=1e-7, rtol=1e-4)


def test_scores_are_those_of_the_model_and_maps_are_study_by_study():
    encoder = CNNEncoder(CNNConfig(channels=("T1", "T2"), width=64))
    torch.manual_seed(2)
    model = Diagnoser(encoder, HeadConfig(width=16, heads=2), TREE).eval()
    volumes = scans(4, (16, 32, 32))
    cam = GradCAM(model, volumes, [2, 2])
    for logits, scores in zip(cam.output.logits, model.diagnose(volumes, [2, 2]), strict=True):
        torch.testing.assert_close(logits.sigmoid(), scores)
    both, alone = cam.map(2, 0), GradCAM(model, volumes[2:], [2]).map(2, 0)
    assert both.shape == (2, 1, 2, 2)
    torch.testing.assert_close(both[1:], alone, atol=1e-6, rtol=1e-4)
    assert (both >= 0).all()


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_weights_are_slopes_found_by_moving_whole_channels(name):
    """The mean slope of a channel over place, by a small step of that channel everywhere at once: no gradient is asked for."""
    encoder = ImageEncoder(ImageConfig(name, pretrained=False), PIXELS)
    torch.manual_seed(3)
    model = Diagnoser(encoder, HeadConfig(width=16, heads=2, blocks=(1, 2, 2)), TREE).eval().double()
    volumes = scans(3, (1, 64, 64))
    found = GradCAM(model, volumes, [3]).map(3, 4)
    trunk = encoder.trunk
    with torch.no_grad():
        features = encoder.features(trunk, volumes, [3])
        place = trunk.place(features)
        expected, step = torch.zeros(place.shape[2:], dtype=torch.float64), 1e-4
        for channel in range(encoder.width):
            scores = []
            for sign in (1, -1):
                moved = features.clone()
                trunk.place(moved)[:, channel] += sign * step  # a view
                tokens = encoder.to_tokens(trunk, moved, (1, 2, 2))
                scores.append(model(tokens).logits[2][0, 4].item())
            expected += (scores[0] - scores[1]) / (2 * step) / place[0, 0].numel() * place[0, channel]
    assert found.shape == (1, *place.shape[2:])
    assert found.max() > 0
    torch.testing.assert_close(found[0], expected.relu().float(), atol=1e-6, rtol=1e-3)


def test_hlip_is_sent_elsewhere():
    model = Diagnoser(hlip.create("tiny_scan_study"), HeadConfig(kind="linear", blocks=(1, 1, 1)), TREE)
    with pytest.raises(ValueError, match="hlip explain"):
        GradCAM(model, scans(1, (8, 16, 16)), [1])
