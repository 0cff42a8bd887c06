"""What every test may use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from matplotlib.figure import Figure

from hlip.store import Store, StudyRecord, write_index, write_spec, write_study
from hlip.volume import VolumeSpec

torch.set_num_threads(1)  # tiny tensors: threads cost more than they bring

ROOT = Path(__file__).parents[1]
LABELS = ["glioma", "acute infarction", "white matter hyperintensity", "normal"]


@pytest.fixture
def fresh_engine() -> Iterator[Callable[[], None]]:
    """accelerate keeps its state in singletons: the next test begins without, and `fresh_engine()` forgets it at once."""

    def forget() -> None:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()

    yield forget
    forget()


@pytest.fixture
def accelerator(fresh_engine: Callable[[], None]) -> Accelerator:
    """Of one CPU process."""
    return Accelerator(cpu=True)


@pytest.fixture
def unsaved_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not rendered, and their files are empty: of a tiny run rendering is most of the time."""
    real = Figure.savefig

    def save(self: Figure, target: Any, **more: Any) -> None:
        if isinstance(target, str | Path):
            Path(target).touch()
        else:  # into a page
            real(self, target, **more)

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def free_port() -> int:
    """A port of this machine for a process group."""
    return _free_port()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes comes first: side by side, the longest are not to be the last."""
    items.sort(key=lambda item: "launch" not in getattr(item, "fixturenames", ()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def stopped_at(monkeypatch) -> Callable[[object, str, int, Callable[[], None]], None]:
    """`stopped_at(owner, name, call, run)`: run() is stopped, as by Ctrl-C, at that call of owner.name (counted from 1)."""

    def stop(owner: object, name: str, call: int, run: Callable[[], None]) -> None:
        function, calls = getattr(owner, name), []

        def stopping(*arguments):
            calls.append(1)
            if len(calls) == call:
                raise KeyboardInterrupt
            return function(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stopping)
            with pytest.raises(KeyboardInterrupt):
                run()

    return stop


@pytest.fixture(scope="session")
def shared() -> Path:
    """Golden outputs and real scans beside the checkout; a user's clone has none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("golden outputs and real scans are not at ../shared")
    return folder


def make_store(folder: Path, studies: int = 40, size: tuple[int, int, int] = (8, 16, 16)) -> Store:
    """A prepared store of tiny studies of 1 to 3 scans; each class is a bright corner, so that a model can learn it."""
    spec = VolumeSpec.from_dict(VolumeSpec.load("demo").as_dict() | {"size": list(size)})
    (folder / "studies").mkdir(parents=True)
    write_spec(folder, spec)
    generator, records = np.random.default_rng(0), []
    for number in range(studies):
        label = LABELS[number % 4]
        scans = 1 + number % 3
        volumes = generator.integers(0, 60, (scans, *size), dtype=np.uint8)
        row, column = divmod(number % 4, 2)
        volumes[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 150
        write_study(folder, f"s{number}", list(volumes), {"affines": [np.eye(4).tolist()] * scans})
        text = f"There is {label} seen. Case {number % 7} compared." if label != "normal" else "No significant abnormalities."
        split = ("train", "train", "train", "val", "test")[number // 4 % 5]
        extra = {"simulated": True}
        record = StudyRecord(f"s{number}", f"p{number}", ("T1",) * scans, text, (), (label,), split, extra)
        records.append(record)
    write_index(folder, records)
    (folder / "quality.csv").write_text("study_id,path,status,reason,message\n")
    return Store(folder)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 tiny studies in 4 classes, 24 of them for training."""
    return make_store(tmp_path_factory.mktemp("tiny") / "store").path


@pytest.fixture(scope="session")
def launch() -> Callable[..., str]:
    """`launch(["pretrain", ...], NAME="value")` runs `accelerate launch pretrain ...` with that environment."""
    return _launch


def _launch(arguments: list[str], cwd: Path = ROOT, **environment: str) -> str:
    """`accelerate launch ...` as a user types it; returns what it printed, fails with it."""
    several = {"--multi_gpu", "--config_file", "--num_processes"} & set(arguments)
    port = ["--main_process_port", str(_free_port())] if several else []  # tests side by side must not meet on accelerate's own
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", *port, *arguments]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    ran = subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=540, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-6000:]
    return ran.stdout + ran.stderr
