"""Parity of the vision trunk with the official code: every golden file of its kinds, to 1e-5.

Configurations of which no golden file is at hand are written by `golden_maker`, a slow restatement of the official trunk that is itself
held to the golden files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from hlip.official import checkpoint as official
from hlip.vision import StudyEncoder, VisionConfig
from hlip.vision.inflate import inflate, spatial_table
from hlip.vision.position import depth_plane_table, sequence_table, space_table

from . import golden_maker
from .golden import KINDS, close, close_to_largest, each, kind_of


@pytest.mark.skipif(not KINDS, reason="golden outputs of the official code are not at ../shared")
def test_every_golden_file_is_known():
    unknown = [file.name for file, kind in KINDS.items() if kind is None]
    assert not unknown, f"of no known kind: {', '.join(unknown)}"


def test_a_file_of_no_known_kind_is_noticed(tmp_path):
    save_file({"out.something": torch.zeros(1)}, tmp_path / "z_new.safetensors")
    (tmp_path / "z_list.json").write_text('{"something": 1}')
    assert [kind_of(file) for file in sorted(tmp_path.iterdir())] == [None, None]


# --- the vision trunk ---


def weights_and_config(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A trunk file's weights by official key, and its arguments: its own, or those of the file its models.json entry names."""
    models = json.loads((file.parent / "models.json").read_text(encoding="utf-8"))
    assert file.stem in models, f"{file.name}: models.json does not describe it, so its scopes are not known"
    entry, source = models[file.stem], file
    if not any(key.startswith("w.") for key in load_file(source)):
        source = file.with_name(f"{entry['weights']}.safetensors")
    config = entry.get("config") or models[source.stem]["config"]
    return {key[2:]: value for key, value in load_file(source).items() if key.startswith("w.")}, config


def encoder_of(file: Path) -> StudyEncoder:
    weights, config = weights_and_config(file)
    encoder = StudyEncoder(official.vision_config(config)).eval()
    encoder.load_state_dict(official.vision_state(weights))
    return encoder


def packed(studies: Tensor) -> tuple[Tensor, list[int]]:
    studies = studies if studies.ndim == 6 else studies[:, None]  # one scan a study may come without its axis
    return rearrange(studies, "B n c D H W -> (B n) c D H W"), [studies.shape[1]] * len(studies)


def official_gradients(encoder: StudyEncoder) -> dict[str, Tensor]:
    gradients = {key: value.grad for key, value in encoder.named_parameters() if value.grad is not None}
    token = gradients.pop("cls_token")
    return gradients | {"cls_token": token[:, :1], "reg_token": token[:, 1:]}


def check_encoder(file: Path) -> int:
    """Outputs, features, gradients, and what models.json says of each block and of every gradient's norm; returns the cases held."""
    encoder, golden = encoder_of(file), load_file(file)
    inputs = json.loads((file.parent / "models.json").read_text(encoding="utf-8"))[file.stem].get("inputs", {})
    seen: list[Tensor] = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, arguments, output: seen.append(output.detach()))
    cases = [key[3:] for key in golden if key.startswith("in.")]
    for case in cases:
        volumes, counts = packed(golden[f"in.{case}"].requires_grad_())
        seen.clear()
        tokens = encoder.tokens(volumes, counts)
        patches = rearrange(tokens.patches, "(B n) T C -> B (n T) C", B=len(counts))
        close(torch.cat([tokens.cls, patches], dim=1), golden[f"features.{case}"], "features")
        out = encoder.pool(tokens).reshape(golden[f"out.{case}"].shape)
        close(out, golden[f"out.{case}"], "out")
        notes = inputs.get(case, {})
        check_trace(seen, notes.get("trace", []), encoder.config.class_tokens)
        if f"gradR.{case}" not in golden:
            continue
        encoder.zero_grad()
        (out * golden[f"gradR.{case}"]).sum().backward()
        gradients, start = official_gradients(encoder) | {"__input__": golden[f"in.{case}"].grad}, f"grad.{case}."
        compared = [key for key in golden if key.startswith(start)]
        assert compared
        for key in compared:
            close_to_largest(gradients[key.removeprefix(start)], golden[key], key)
        for key, norm in notes.get("grad_norms_of_sum(out*gradR)", {}).items():
            assert gradients[key].norm().item() == pytest.approx(norm, rel=1e-5), key
    return len(cases)


def check_trace(seen: list[Tensor], trace: list[dict[str, Any]], prefix: int) -> None:
    assert len(trace) in (0, len(seen))
    for output, line in zip(seen, trace, strict=False):
        tokens = output.reshape(line["shape"])  # studies lie in one row
        assert tokens.mean().item() == pytest.approx(line["mean"], rel=1e-5, abs=1e-5), line
        assert tokens.square().mean().sqrt().item() == pytest.approx(line["rms"], rel=1e-5), line
        terms = tokens[:, :prefix]
        total, allowed = terms.sum().item() / len(tokens), 1e-5 * terms.abs().sum().item() / len(tokens)
        assert total == pytest.approx(line["prefix_sum"], abs=allowed), line


def check_patch_dropout(file: Path) -> int:
    """Training mode with the official choice of patches, by place in the scan or in each slice's plane; returns the cases held."""
    encoder, golden = encoder_of(file).train(), load_file(file)
    [studies] = [value for key, value in golden.items() if key.startswith("in.")]
    volumes, counts = packed(studies)
    compared = [key.removeprefix("keep_indices.") for key in golden if key.startswith("keep_indices.")]
    for case in compared:
        kept = golden[f"keep_indices.{case}"]
        if len(kept) > len(volumes):
            depth, height, width = (side // step for side, step in zip(volumes.shape[2:], encoder.config.patch, strict=True))
            starts = torch.arange(depth)[:, None] * height * width
            kept = rearrange(rearrange(kept, "(S d) k -> S d k", d=depth) + starts, "S d k -> S (d k)")
        out = encoder(volumes, counts, kept=kept)
        close(out.reshape(golden[f"out.{case}"].shape), golden[f"out.{case}"], case)
    return len(compared)


@each("encoder")
def test_vision_trunk(file):
    assert check_encoder(file) > 0


@each("patch dropout")
def test_patch_dropout(file):
    assert check_patch_dropout(file) > 0


@each("encoder", "patch dropout")
def test_the_restatement_is_faithful(file):
    """`golden_maker`'s trunk gives what the official one gave."""
    weights, config = weights_and_config(file)
    golden, held = load_file(file), 0
    for case in (key[3:] for key in golden if key.startswith("in.")):
        for out in (key for key in golden if key.startswith("out.")):
            kept = golden.get(out.replace("out.", "keep_indices."))
            if kept is None and out != f"out.{case}":
                continue
            made = golden_maker.trunk(weights, config, golden[f"in.{case}"], kept)
            close(made["out"], golden[out], out)
            held += 1
            if kept is None:
                close(made["features"], golden[f"features.{case}"], "features")
    assert held == sum(key.startswith("out.") for key in golden)


@pytest.mark.parametrize("name", golden_maker.MADE)
def test_vision_trunk_of_other_configurations(name, tmp_path):
    file = golden_maker.write(tmp_path, name)
    assert kind_of(file) == "encoder"
    assert check_encoder(file) > 0


@pytest.mark.parametrize("name", ["other_patch", "chest_ct", "paper_h3_sequence", "large_h2_dual"])
def test_patch_dropout_of_other_configurations(name, tmp_path):
    golden_maker.write(tmp_path, name)
    file = golden_maker.write_dropped(tmp_path, name, 0.25)
    assert kind_of(file) == "patch dropout"
    assert check_patch_dropout(file) > 0


def test_layer_norms_of_another_epsilon_are_refused():
    arguments = golden_maker.arguments(golden_maker.H2 | golden_maker.DUAL | {"norm_eps": 1e-5})
    with pytest.raises(ValueError, match="norm_eps 1e-05: the layer norms here have 1e-06"):
        official.vision_config(arguments)


# --- position tables and inflation ---


@each("positions")
def test_position_tables(file):
    golden, [flat] = load_file(file), [key for key in load_file(file) if key.startswith("pretrained2d.")]
    table = space_table if "paper" in file.stem else depth_plane_table
    for key, expected in golden.items():
        kind, *shape = key.split(".")
        grid = tuple(int(side) for side in shape[0].split("x"))
        if kind == "spatial":
            made = table(grid, int(shape[1]))[None]
        elif kind == "spatial_from_2d":
            made = spatial_table(golden[flat], grid)
        elif kind.startswith("sequential"):
            made = sequence_table(int(kind.removeprefix("sequential")), int(shape[0]))[None]
        else:
            assert key == flat
            continue
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


@each("inflation")
def test_inflation(file):
    golden = load_file(file)
    table, kernel = golden["out.spatial_posemb"], golden["out.patch_embed.proj.weight"]
    grid, patch, width = tuple(table.shape[1:4]), tuple(kernel.shape[2:]), table.shape[-1]
    size = tuple(places * step for places, step in zip(grid, patch, strict=True))
    tokens = 2 if "out.reg_token" in golden else 1
    config = VisionConfig(size=size, patch=patch, width=width, heads=1, class_tokens=tokens)
    made = inflate({key[3:]: value for key, value in golden.items() if key.startswith("in.")}, config)
    compared = [key[4:] for key in golden if key.startswith("out.") and key != "out.reg_token"]
    assert set(made) == set(compared)
    for key in compared:
        close(made[key][:, :1] if key == "cls_token" else made[key], golden[f"out.{key}"], key)
