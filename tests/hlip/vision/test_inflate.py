"""Initialisation from a 2-D ViT: against what inflation is meant to keep."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from hlip.model import CheckpointError
from hlip.vision import StudyEncoder, VisionConfig
from hlip.vision.inflate import inflate_kernel, spatial_table, split_positions, start_from


def flat_vit(**changes) -> VisionTransformer:
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}
    vit = VisionTransformer(**(settings | changes)).eval()
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return vit


CONFIG = VisionConfig(
    size=(8, 32, 32), patch=(8, 8, 8), width=24, heads=2, scopes=["scan", "study"], class_tokens=2, pool="class"
)


def test_a_stack_of_equal_slices_gives_what_one_slice_gave(tmp_path):
    """One patch deep, so that the whole tower is the 2-D ViT but for the sine-cosine of depth 0."""
    vit = flat_vit()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    encoder = StudyEncoder(VisionConfig(**(vars(CONFIG) | {"class_tokens": 1}))).eval()
    assert start_from(encoder, tmp_path / "vit.safetensors") == ["head.bias", "head.weight"]
    image = torch.randn(1, 1, 32, 32)
    stack = image.unsqueeze(2).expand(1, 1, 8, 32, 32)
    depth = spatial_table(torch.zeros(1, 16, 24), (1, 4, 4)).reshape(1, 16, 24)
    with torch.no_grad():
        vit.pos_embed[:, 1:] += depth
        expected = vit.forward_features(image.expand(1, 3, 32, 32))
        tokens = encoder.tokens(stack, [1])
    torch.testing.assert_close(tokens.cls, expected[:, :1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=1e-5)


def test_a_kernel_keeps_its_sum_over_depth_and_fits_another_size():
    kernel = torch.randn(5, 3, 16, 16)
    made = inflate_kernel(kernel, (6, 16, 16))
    torch.testing.assert_close(made.sum(dim=2), kernel.sum(dim=1, keepdim=True))
    assert inflate_kernel(kernel, (8, 24, 24)).shape == (5, 1, 8, 24, 24)
    flat = inflate_kernel(torch.ones(1, 3, 16, 16), (8, 24, 24))
    torch.testing.assert_close(flat, torch.full((1, 1, 8, 24, 24), 3 / 8))


def test_a_table_of_a_square_number_of_places_has_none_for_the_class_token():
    token = torch.ones(1, 1, 4)
    with_place, plane = split_positions(token, torch.full((1, 17, 4), 2.0))
    assert (with_place.max().item(), plane.shape[1]) == (3.0, 16)
    alone, plane = split_positions(token, torch.full((1, 16, 4), 2.0))
    assert (alone.max().item(), plane.shape[1]) == (1.0, 16)


def test_a_foreign_start_is_refused(tmp_path):
    encoder = StudyEncoder(CONFIG)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    for name, changes, message in (
        ("shallow", {"depth": 1}, "another architecture than this vision tower's; blocks.1.attn.proj.bias"),
        ("deep", {"depth": 3}, "blocks.2.attn.proj.bias"),
        ("wide", {"embed_dim": 48}, "a 2-D ViT of width 48 cannot start a vision tower of width 24"),
    ):
        torch.save(flat_vit(**changes).state_dict(), tmp_path / f"{name}.pth")
        with pytest.raises(CheckpointError, match=message):
            start_from(encoder, tmp_path / f"{name}.pth")
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth: not the weights of a 2-D ViT: cls_token"):
        start_from(encoder, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="neither a file nor a pretrained timm model"):
        start_from(encoder, "no_such_vit")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_both_class_tokens_start_from_the_one(tmp_path):
    torch.save({"model": flat_vit().state_dict()}, tmp_path / "mae.pth")
    encoder = StudyEncoder(CONFIG)
    start_from(encoder, tmp_path / "mae.pth")
    assert torch.equal(encoder.cls_token[:, 0], encoder.cls_token[:, 1])
