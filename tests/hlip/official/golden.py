"""The golden folder: its files by what they hold, and what `equal to 1e-5` means.

A file is recognised by its keys alone, so that a new one of a known kind is checked without new code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

GOLDEN = Path(__file__).parents[3].parent / "shared" / "golden"


def kind_of(file: Path) -> str | None:
    """What a golden file checks, by its content alone."""
    if file.suffix == ".json":
        content = json.loads(file.read_text(encoding="utf-8"))
        if file.name == "models.json" or file.with_suffix(".safetensors").is_file():
            return "description"
        return "key list" if {"keys", "n_keys"} <= set(content) else "defaults" if "hlip_default_params" in content else None
    with safe_open(file, "pt") as opened:
        keys = set(opened.keys())
    first, last = {key.split(".")[0] for key in keys}, {key.split(".")[-1] for key in keys}
    if last == {"logits", "target"}:
        return "metrics"
    signs = {
        "clip": any(key.startswith("w.text.") for key in keys),
        "patch dropout": "keep_indices" in first,
        "encoder": {"in", "out", "features"} <= first,
        "positions": "spatial" in first,
        "inflation": {"in.pos_embed", "out.spatial_posemb"} <= keys,
        "loss": "in.image_features" in keys,
        "square": any(".out_sub." in key for key in keys),
        "chest ct": last == {"crop", "resize"},
    }
    return next((kind for kind, found in signs.items() if found), None)


KINDS = {file: kind_of(file) for file in sorted(GOLDEN.glob("*.safetensors")) + sorted(GOLDEN.glob("*.json"))}
ABSENT = pytest.param(None, marks=pytest.mark.skip(reason="golden outputs of the official code are not at ../shared"))


def each(*kinds: str) -> pytest.MarkDecorator:
    """One test for each golden file of these kinds."""
    files = [pytest.param(file, id=file.stem) for file, kind in KINDS.items() if kind in kinds]
    return pytest.mark.parametrize("file", files or [ABSENT])


def described(file: Path) -> dict[str, Any]:
    return json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))


def close(actual: Tensor, expected: Tensor, what: str = "", floor: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=floor, rtol=1e-5, msg=lambda text: f"{what}: {text}")


def close_to_largest(actual: Tensor, expected: Tensor, what: str) -> None:
    """To 1e-5 of the tensor's largest value: the official float32 gradients are themselves no nearer to the exact ones."""
    close(actual, expected, what, floor=1e-5 * max(1.0, expected.abs().max().item()))
