"""The official vision trunk said again, slowly: one study, one group and one head at a time, by the official state-dict keys.

A second opinion for configurations of which no golden file is at hand: it is first held to the golden files that are, then writes
more of the same form. It shares no code with `hlip`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

H2 = {"scan_attn_indexes": [0, 1, 3, 4, 6, 7, 9, 10], "study_attn_indexes": [2, 5, 8, 11]}
H3 = {"slice_attn_indexes": [0, 3, 6, 9], "scan_attn_indexes": [1, 4, 7, 10], "study_attn_indexes": [2, 5, 8, 11]}
SINGLE = {"slice_attn_indexes": H2["scan_attn_indexes"], "scan_attn_indexes": H2["study_attn_indexes"], "max_num_scans": 1}
LARGE_H2 = {"scan_attn_indexes": [i for i in range(24) if i % 6 != 5], "study_attn_indexes": [5, 11, 17, 23], "depth": 24}
LARGE_H3 = {
    "slice_attn_indexes": [i for i in range(24) if i % 6 < 4],
    "scan_attn_indexes": [4, 10, 16, 22],
    "study_attn_indexes": [5, 11, 17, 23],
    "depth": 24,
}
DUAL = {"max_num_scans": 0, "global_pool_dinotxt": True, "reg_tokens": 1}
UPDATED = {"max_num_scans": 0, "global_pool_dinotxt": True}
CHEST = {"img_size": [24, 48, 72], "patch_size": [8, 24, 24]}
# what differs from the golden files' usual arguments; studies: cases of (B, n, D, H, W)
MADE: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "large_h2_dual": (LARGE_H2 | DUAL, {"b2s2": (2, 2, 24, 48, 64)}),
    "large_h3_one_token": (LARGE_H3 | UPDATED, {"b1s3": (1, 3, 24, 48, 64)}),
    "large_h3_paper": (LARGE_H3 | {"max_num_scans": 40}, {"b1s2": (1, 2, 24, 48, 64)}),
    "other_patch": (H3 | DUAL | {"img_size": [8, 32, 24], "patch_size": [4, 8, 12]}, {"b3s2": (3, 2, 8, 32, 24)}),
    "other_sizes": (H2 | DUAL, {"taller": (1, 2, 36, 64, 48), "smaller": (2, 1, 12, 32, 64), "built": (1, 1, 24, 48, 64)}),
    "other_sizes_h3": (H3 | DUAL, {"deeper": (1, 2, 42, 48, 64), "wider": (1, 2, 24, 80, 96)}),
    "one_token_many_scans": (H2 | UPDATED, {"b1s1": (1, 1, 24, 48, 64), "b1s7": (1, 7, 24, 48, 64)}),
    "chest_ct": (SINGLE | CHEST, {"b2s1": (2, 1, 24, 48, 72), "wider": (1, 1, 32, 72, 96)}),
    "chest_ct_large": (
        {"slice_attn_indexes": LARGE_H2["scan_attn_indexes"], "scan_attn_indexes": [5, 11, 17, 23], "depth": 24} | CHEST,
        {"b1s1": (1, 1, 24, 48, 72)},
    ),
    "paper_h3_sequence": (H3 | {"max_num_scans": 40}, {"b1s4": (1, 4, 24, 48, 64), "b1s1": (1, 1, 24, 48, 64)}),
    "paper_h2_other_size": (H2 | {"max_num_scans": 10, "patch_size": [8, 16, 16]}, {"b1s2": (1, 2, 32, 64, 48)}),
    "paper_width_64": (H2 | {"max_num_scans": 40, "embed_dim": 64, "num_heads": 4}, {"b1s2": (1, 2, 24, 48, 64)}),
    "wide_mlp": (H2 | DUAL | {"mlp_ratio": 2.0, "num_heads": 6}, {"b1s2": (1, 2, 24, 48, 64)}),
}


def trunk(w: Mapping[str, Tensor], config: Mapping[str, Any], studies: Tensor, kept: Tensor | None = None) -> dict[str, Any]:
    """The trunk's `out`, `features` and `trace` for studies (B, n, 1, D, H, W), in the dtype of the weights.

    Args:
        kept: (B n, T) patches that dropout leaves in each scan, or (B n d, T / d) places in the plane of each slice.
    """
    grid = [voxels // step for voxels, step in zip(studies.shape[3:], config["patch_size"], strict=True)]
    tokens = [w[key] for key in ("cls_token", "reg_token") if key in w]
    start = torch.cat([token[0] for token in tokens])
    table = positions(w["spatial_posemb"], grid)
    parts_of_scan = grid[0] if config.get("slice_attn_indexes") else 1
    # One entry a slice (a scan where no block looks at slices): its own copy of the prefix tokens, and its patches.
    prefix = [[[start] * parts_of_scan for _ in study] for study in studies]
    patches = []
    for b, study in enumerate(studies):
        scans = []
        for s, scan in enumerate(study):
            embedded = patch_tokens(scan[0], w, config["patch_size"], grid) + table
            if "sequential_posemb" in w:
                embedded = embedded + w["sequential_posemb"][0, s]
            row = b * len(study) + s
            if kept is not None and len(kept) == len(studies) * len(study):
                embedded = embedded[kept[row]]
            parts = list(embedded.chunk(parts_of_scan))
            if kept is not None and len(kept) > len(studies) * len(study):
                parts = [part[kept[row * parts_of_scan + z]] for z, part in enumerate(parts)]
            scans.append(parts)
        patches.append(scans)

    trace = []
    for index in range(config["depth"]):
        layer = {key.removeprefix(f"blocks.{index}."): value for key, value in w.items() if key.startswith(f"blocks.{index}.")}
        seen = []
        for group in groups(config, index, patches):
            mean = torch.stack([prefix[b][s][z] for b, s, z in group]).mean(dim=0)
            sizes = [len(start)] + [len(patches[b][s][z]) for b, s, z in group]
            x = block(torch.cat([mean] + [patches[b][s][z] for b, s, z in group]), layer, config["num_heads"])
            own, *rest = x.split(sizes)
            for (b, s, z), part in zip(group, rest, strict=True):
                prefix[b][s][z], patches[b][s][z] = own, part
            seen.append(x.detach())
        trace.append(described(index, torch.stack(seen), len(start)))

    norm = w["norm.weight"], w["norm.bias"]
    features = []
    for study_prefix, scans in zip(prefix, patches, strict=True):
        mean = torch.stack([torch.stack(scan).mean(dim=0) for scan in study_prefix]).mean(dim=0)
        features.append(layer_norm(torch.cat([mean] + [part for scan in scans for part in scan]), *norm))
    stacked = torch.stack(features)
    out = stacked[:, : len(start)]
    if config.get("global_pool_dinotxt"):
        average = stacked[:, len(start) :].mean(dim=1, keepdim=True).expand(-1, len(start), -1)
        out = torch.cat([out, average], dim=2)
    else:
        out = out[:, 0]
    return {"out": out, "features": stacked, "trace": trace}


def groups(config: Mapping[str, Any], index: int, patches: list[list[list[Tensor]]]) -> list[list[tuple[int, int, int]]]:
    """The (study, scan, slice) parts that see each other in a block."""
    found: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
    for b, scans in enumerate(patches):
        for s, parts in enumerate(scans):
            for z in range(len(parts)):
                if index in (config.get("slice_attn_indexes") or ()):
                    group: tuple[int, ...] = (b, s, z)
                elif index in (config.get("scan_attn_indexes") or ()):
                    group = (b, s)
                else:
                    assert index in config["study_attn_indexes"]
                    group = (b,)
                found.setdefault(group, []).append((b, s, z))
    return list(found.values())


def patch_tokens(scan: Tensor, w: Mapping[str, Tensor], patch: list[int], grid: list[int]) -> Tensor:
    """(D, H, W) -> (d h w, C)."""
    (p, q, r), kernel = patch, w["patch_embed.proj.weight"].flatten(1)
    rows = []
    for d in range(grid[0]):
        for h in range(grid[1]):
            for k in range(grid[2]):
                cube = scan[d * p : d * p + p, h * q : h * q + q, k * r : k * r + r]
                rows.append(kernel @ cube.flatten().to(kernel.dtype) + w["patch_embed.proj.bias"])
    return torch.stack(rows)


def positions(table: Tensor, grid: list[int]) -> Tensor:
    """(1, d, h, w, C) at any grid (d h w, C): linear along each axis in turn, half-voxel centres, ends repeated."""
    table = table[0]
    for axis, count in enumerate(grid):
        had = table.shape[axis]
        rows = []
        for place in range(count):
            at = min(max((place + 0.5) * had / count - 0.5, 0.0), had - 1.0)
            low = int(at)
            high = min(low + 1, had - 1)
            rows.append((1 - (at - low)) * table.select(axis, low) + (at - low) * table.select(axis, high))
        table = torch.stack(rows, dim=axis)
    return table.flatten(0, 2)


def block(x: Tensor, w: Mapping[str, Tensor], heads: int) -> Tensor:
    """(N, C) -> (N, C): pre-norm attention and MLP with exact GELU."""
    y = layer_norm(x, w["norm1.weight"], w["norm1.bias"]) @ w["attn.qkv.weight"].T + w["attn.qkv.bias"]
    q, k, v = y.chunk(3, dim=1)
    mixed = []
    for one, two, three in zip(q.chunk(heads, dim=1), k.chunk(heads, dim=1), v.chunk(heads, dim=1), strict=True):
        mixed.append(torch.softmax(one @ two.T / math.sqrt(one.shape[1]), dim=1) @ three)
    x = x + torch.cat(mixed, dim=1) @ w["attn.proj.weight"].T + w["attn.proj.bias"]
    y = layer_norm(x, w["norm2.weight"], w["norm2.bias"]) @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
    y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    return x + y @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def described(index: int, x: Tensor, prefix: int) -> dict[str, Any]:
    """A line of a golden trace: all groups' tokens (G, N, C) after a block; `prefix_sum` is the mean over groups."""
    total = x[:, :prefix].sum().item() / len(x)
    return {
        "block": index,
        "shape": list(x.shape),
        "mean": x.mean().item(),
        "rms": x.square().mean().sqrt().item(),
        "prefix_sum": total,
    }


def arguments(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The trunk's constructor arguments, as models.json has them."""
    usual = {
        "embed_dim": 48,
        "num_heads": 3,
        "depth": 12,
        "img_size": [24, 48, 64],
        "patch_size": [6, 16, 16],
        "norm_eps": 1e-6,
    }
    return usual | {"mlp_ratio": 4.0} | dict(changes)


def random_weights(config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """float32 by official key, large enough that every path matters."""

    def draw(*shape: int, scale: float = 1.0, about: float = 0.0) -> Tensor:
        return about + scale * torch.randn(shape, generator=generator)

    width, hidden = config["embed_dim"], int(config["embed_dim"] * config["mlp_ratio"])
    grid = [voxels // step for voxels, step in zip(config["img_size"], config["patch_size"], strict=True)]
    w = {"cls_token": draw(1, 1, width), "spatial_posemb": draw(1, *grid, width)}
    if config.get("reg_tokens"):
        w["reg_token"] = draw(1, config["reg_tokens"], width)
    if (config.get("max_num_scans") or 0) > 1:
        w["sequential_posemb"] = draw(1, config["max_num_scans"], width)
    linear = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (hidden, width),
        "mlp.fc2": (width, hidden),
    }
    kernel = (width, 1, *config["patch_size"])
    w |= {"patch_embed.proj.weight": draw(*kernel, scale=math.prod(kernel[1:]) ** -0.5), "patch_embed.proj.bias": draw(width)}
    for index in range(config["depth"]):
        for key, shape in linear.items():
            w[f"blocks.{index}.{key}.weight"] = draw(*shape, scale=shape[1] ** -0.5)
            w[f"blocks.{index}.{key}.bias"] = draw(shape[0], scale=0.1)
    for norm in ["norm"] + [f"blocks.{index}.norm{n}" for index in range(config["depth"]) for n in (1, 2)]:
        w |= {f"{norm}.weight": draw(width, scale=0.1, about=1.0), f"{norm}.bias": draw(width, scale=0.1)}
    return w


def write(folder: Path, name: str) -> Path:
    """Golden-like `name.safetensors` of one of MADE, and its entry in `models.json`; computed in float64, kept in float32."""
    changes, cases = MADE[name]
    config, generator = arguments(changes), torch.Generator().manual_seed(len(name))
    weights = random_weights(config, generator)
    frozen = ("spatial_posemb", "sequential_posemb")
    tensors, inputs = {f"w.{key}": value for key, value in weights.items()}, {}
    for case, (count, scans, *size) in cases.items():
        studies = torch.randn(count, scans, 1, *size, generator=generator)
        exact_studies = studies.double().requires_grad_()
        exact = {key: value.double().requires_grad_(key not in frozen) for key, value in weights.items()}
        made = trunk(exact, config, exact_studies)
        weighting = torch.randn(made["out"].shape, generator=generator)
        (made["out"] * weighting).sum().backward()
        tensors |= {f"in.{case}": studies, f"out.{case}": made["out"].detach(), f"features.{case}": made["features"].detach()}
        gradients = {key: value.grad for key, value in exact.items() if value.grad is not None}
        tensors |= {f"gradR.{case}": weighting} | {
            f"grad.{case}.{key}": gradients[key]
            for key in ("cls_token", "reg_token", "patch_embed.proj.bias", "blocks.0.attn.qkv.bias", "norm.weight")
            if key in gradients
        }
        norms = {key: value.norm().item() for key, value in (gradients | {"__input__": exact_studies.grad}).items()}
        inputs[case] = {"trace": made["trace"], "grad_norms_of_sum(out*gradR)": norms}
    save_file({key: value.float().contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    described_models = folder / "models.json"
    known = json.loads(described_models.read_text()) if described_models.is_file() else {}
    known[name] = {"config": config, "weights": "w.* in this file", "inputs": inputs}
    described_models.write_text(json.dumps(known))
    return folder / f"{name}.safetensors"


def write_dropped(folder: Path, name: str, share: float) -> Path:
    """Golden-like `name_patchdrop.safetensors` on the weights of `write(folder, name)`: patch dropout with the kept patches named."""
    changes, cases = MADE[name]
    config, generator = arguments(changes), torch.Generator().manual_seed(7)
    weights = {key: value.double() for key, value in random_weights(config, torch.Generator().manual_seed(len(name))).items()}
    case, (count, scans, *size) = next(iter(cases.items()))
    grid = [voxels // step for voxels, step in zip(size, config["patch_size"], strict=True)]
    slices = grid[0] if 0 in (config.get("slice_attn_indexes") or ()) else 1  # a model that begins with slices drops in each
    places = math.prod(grid) // slices
    rows = [torch.randperm(places, generator=generator)[: int(places * (1 - share))] for _ in range(count * scans * slices)]
    kept, studies = torch.stack(rows), torch.randn(count, scans, 1, *size, generator=generator)
    out = trunk(weights, config, studies, kept)["out"].float()
    file = folder / f"{name}_patchdrop.safetensors"
    save_file({f"in.{case}": studies, f"keep_indices.p{share}": kept, f"out.p{share}": out}, file)
    models = json.loads((folder / "models.json").read_text())
    (folder / "models.json").write_text(json.dumps(models | {file.stem: {"weights": name}}))
    return file
