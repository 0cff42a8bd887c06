"""What every test may use."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads cost more than they bring


@pytest.fixture
def free_port() -> int:
    """A port of this machine for a process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Golden outputs and real scans beside the checkout; a user's clone has none."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("golden outputs and real scans are not at ../shared")
    return folder
