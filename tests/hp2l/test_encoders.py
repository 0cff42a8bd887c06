"""Encoders: which scans they read, how many tokens they give, and that a folder rebuilds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from hlip.model import CheckpointError
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy
from hlip.volume import VolumeSpec
from hp2l.diagnoser import Diagnoser, load
from hp2l.encoders import CNNConfig, CNNEncoder, ImageConfig, ImageEncoder, ScanReader, load_encoder, make_encoder
from hp2l.heads import HeadConfig

PIXELS = VolumeSpec(size=(1, 64, 64), fit="square", resize=(64, 64), percentiles=(0, 100))
BACKBONES = ["convnext_atto", "vit_tiny_patch16_224", "resnet10t", "swin_tiny_patch4_window7_224"]


def scans(count: int, size: tuple[int, int, int]) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def record(*sequences: str) -> StudyRecord:
    return StudyRecord("s0", "p0", sequences)


@pytest.mark.parametrize("size", [(24, 64, 64), (7, 9, 30), (128, 16, 40), (1, 1, 1)])
def test_the_cnn_gives_32_tokens_whatever_the_size(size):
    encoder = CNNEncoder(CNNConfig(width=64)).eval()
    tokens = encoder.read(encoder.visual, scans(10, size), [5, 5], (2, 4, 4))
    assert tokens.patches.shape == (2, 32, 64)
    assert tokens.cls.shape == (2, 64)
    one = encoder.read(encoder.visual, scans(10, size)[5:], [5], (2, 4, 4))  # a study does not depend on its neighbours
    torch.testing.assert_close(one.patches[0], tokens.patches[1], atol=1e-5, rtol=1e-4)


def test_the_cnn_has_four_stages_of_stride_2_and_the_papers_width():
    encoder = CNNEncoder(CNNConfig())
    features = encoder.features(encoder.visual, scans(5, (32, 64, 64)), [5])
    assert features.shape == (1, 768, 2, 4, 4)  # 32 / 16, 64 / 16
    torch.testing.assert_close(encoder.visual.summary(features), features.mean(dim=(2, 3, 4)))
    assert len(encoder.blocks()) == 4
    assert encoder.width == 768


def test_the_cnn_is_its_convolutions_written_out():
    """A slow restatement: every output voxel of the first stage as a sum over its 3 x 3 x 3 neighbourhood."""
    torch.manual_seed(0)
    encoder, volumes = CNNEncoder(CNNConfig(channels=("T1", "T2"), width=64)), scans(2, (4, 4, 4))
    stage = encoder.blocks()[0]
    convolution, norm, _ = stage
    padded = F.pad(volumes[:, 0].float() / 255, (1,) * 6)
    by_hand = torch.stack(
        [
            (padded[None, :, 2 * d : 2 * d + 3, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3] * convolution.weight).sum((1, 2, 3, 4))
            for d in range(2)
            for h in range(2)
            for w in range(2)
        ],
        dim=1,
    ).reshape(1, 8, 2, 2, 2)
    expected = F.gelu(norm(by_hand))
    torch.testing.assert_close(stage(volumes[None, :, 0].float() / 255), expected, atol=1e-5, rtol=1e-4)


def test_named_scans_become_channels_and_absent_ones_zeros(tiny_store):
    store = Store(tiny_store)
    own = store.records[2]  # three scans
    renamed = StudyRecord(own.study_id, own.patient_id, ("flair", "T1", "t1"))
    reader = ScanReader(("T1", "DWI", "FLAIR"))
    stacked = reader(store, renamed)
    volumes = store.volumes(own.study_id)
    assert stacked.shape == volumes.shape
    assert torch.equal(stacked[0], volumes[1])  # the first of that name
    assert not stacked[1].any()
    assert torch.equal(stacked[2], volumes[0])
    assert reader.count(renamed) == 3
    assert reader.reads(renamed)
    assert not reader.reads(record("SWI"))
    assert torch.equal(ScanReader()(store, own, [2, 0]), volumes[[2, 0]])
    assert not ScanReader().reads(record())


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_its_features_as_tokens(name, tmp_path):
    torch.manual_seed(0)
    encoder = ImageEncoder(ImageConfig(name, pretrained=False), PIXELS).eval()
    volumes = scans(6, (1, 64, 64))
    features = encoder.features(encoder.visual, volumes, [3, 3])
    summary = encoder.visual.summary(features)
    assert encoder.visual.place(features).shape[:3] == (2, encoder.width, 1)
    assert summary.shape == (2, encoder.width)
    net = encoder.trunk.net
    mean, std = (torch.tensor(net.pretrained_cfg[part])[:, None, None] for part in ("mean", "std"))
    images = torch.stack([volumes[:3, 0, 0], volumes[3:, 0, 0]]).float() / 255
    with torch.no_grad():
        torch.testing.assert_close(summary, net((images - mean) / std), atol=1e-5, rtol=1e-4)  # timm's own pooling
    tokens = encoder.read(encoder.visual, volumes, [3, 3], (1, 2, 2))
    assert tokens.patches.shape == (2, 4, encoder.width)
    encoder.save(tmp_path / "encoder")
    again = load_encoder(tmp_path / "encoder").eval()
    assert again.volume_spec == PIXELS
    assert torch.equal(again.read(again.visual, volumes, [3, 3], (1, 2, 2)).patches, tokens.patches)
    assert encoder.blocks()


def test_a_vits_map_is_where_its_patches_are():
    """A bright square in one corner changes that corner's embedding most: rows and columns are not swapped."""
    torch.manual_seed(0)
    encoder = ImageEncoder(ImageConfig("vit_tiny_patch16_224", pretrained=False), PIXELS).eval()
    encoder.trunk.net.blocks = torch.nn.Identity()
    dark, bright = torch.zeros(3, 1, 1, 64, 64, dtype=torch.uint8), torch.zeros(3, 1, 1, 64, 64, dtype=torch.uint8)
    bright[..., :16, 48:] = 255  # first row, last column
    before, after = (encoder.visual.place(encoder.features(encoder.visual, image, [3])) for image in (dark, bright))
    moved = (after - before).abs().sum(dim=1)[0, 0]
    assert moved.shape == (4, 4)
    assert moved[0, 3] > 0
    assert moved.count_nonzero() == 1


def test_a_backbone_starts_from_a_file_of_weights(tmp_path):
    torch.manual_seed(0)
    given = timm.create_model("resnet10t", num_classes=7)
    save_file(given.state_dict(), tmp_path / "weights.safetensors")
    encoder = ImageEncoder(ImageConfig("resnet10t", weights=tmp_path / "weights.safetensors"), PIXELS)
    own = encoder.trunk.net.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in given.state_dict().items() if not name.startswith("fc."))
    with pytest.raises(ValueError, match=r"weights cannot be had.*image.pretrained false"):
        ImageEncoder(ImageConfig("resnet10t", weights=tmp_path / "none.safetensors"), PIXELS)


@pytest.mark.parametrize("settings", [{"name": "round_net"}, {"channels": ["red", "Red"]}, {"channels": []}])
def test_impossible_settings_are_named(settings):
    with pytest.raises(ValueError, match=r"image\.(name|channels)"):
        ImageConfig(**{"name": "resnet10t"} | settings)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no multiple of 64"):
        CNNConfig(width=100)
    with pytest.raises(ValueError, match=r"depth 1, not \(24, 64, 64\)"):
        ImageEncoder(ImageConfig("resnet10t", pretrained=False), VolumeSpec.load("demo"))
    encoder = CNNEncoder(CNNConfig(width=64))
    with pytest.raises(ValueError, match=r"reads 5 channels \(T1, T2, FLAIR, DWI, ADC\) of each study, not \[4\]"):
        encoder.read(encoder.visual, scans(4, (8, 8, 8)), [4], (2, 4, 4))


def test_a_damaged_encoder_is_named(tmp_path):
    encoder = CNNEncoder(CNNConfig(width=64), PIXELS)
    encoder.save(tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(description | {"kind": "other"}))
    with pytest.raises(CheckpointError, match="kind 'other' is not known"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(description | {"settings": {"depth": 3}}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(description))
    weights = load_file(tmp_path / "model.safetensors")
    save_file(dict(list(weights.items())[1:]), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("kind", ["hp2l", "flat", "transhp"])
def test_every_head_sits_on_the_cnn_and_its_folder_rebuilds_it(kind, tmp_path: Path):
    torch.manual_seed(0)
    encoder = make_encoder("cnn", CNNConfig(channels=("T1", "T2"), width=64), ImageConfig("resnet10t"), VolumeSpec.load("demo"))
    diagnoser = Diagnoser(encoder, HeadConfig(kind=kind, width=16, heads=2), Taxonomy.load("leukemia")).eval()
    diagnoser.save(tmp_path / "model")
    again, volumes = load(tmp_path), scans(4, (8, 16, 16))
    assert again.encoder.channels == ("T1", "T2")
    assert again.encoder.volume_spec == VolumeSpec.load("demo")
    for one, other in zip(again.diagnose(volumes, [2, 2]), diagnoser.diagnose(volumes, [2, 2]), strict=True):
        assert torch.equal(one, other)


def test_the_cnn_has_no_text_to_begin_at():
    config = HeadConfig(width=16, heads=2, prototype_start="text")
    diagnoser = Diagnoser(CNNEncoder(CNNConfig(width=64)), config, Taxonomy.load("leukemia"))
    with pytest.raises(ValueError, match="an encoder of kind cnn has no text tower"):
        diagnoser.start([torch.zeros(2, count) for count in diagnoser.taxonomy.counts], [])


def test_a_misspelt_backbone_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"'convnext_tny' is no model of timm \(nearest: convnext_tiny, .*timm.list_models"):
        ImageConfig("convnext_tny")
