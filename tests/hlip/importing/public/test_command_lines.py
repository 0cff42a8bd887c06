"""The public sets' command lines: every one goes on to a store, names its own spec, and points to a recipe that is there."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from hlip.cli import main
from hlip.files.resources import ResourceError
from hlip.importing.cli import add_import
from hlip.volume import VolumeSpec

SPECS = {
    "mr-rate": "mri", "hlip": "mri", "pub-brain-5": "pub_brain_5", "rsna": "head_ct", "cq500": "head_ct", "ct-rate": "chest_ct",
    "rad-chestct": "chest_ct",
}  # fmt: skip


def sources() -> dict[str, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command")
    add_import(commands)
    (action,) = (item for item in commands.choices["import"]._actions if isinstance(item, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize(("name", "spec"), SPECS.items())
def test_help_names_the_spec_and_the_recipe(name: str, spec: str) -> None:
    text = " ".join(sources()[name].format_help().split())
    recipe = f"docs/data/{name.replace('-', '_')}.md"
    assert f"--spec {spec}; or at once: --prepare {spec}. Recipe: {recipe}." in text
    assert "--workers N" in text
    assert VolumeSpec.load(spec).size
    assert (Path(__file__).parents[4] / recipe).is_file()


def test_every_source_prepares() -> None:
    assert set(SPECS) < set(sources())
    for name, source in sources().items():
        assert "--prepare SPEC" in source.format_help(), name


def test_limits_of_a_scan_go_on_to_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `hlip prepare`: ten minutes by default, 0 for as long as it takes."""
    (tmp_path / "data" / "s1").mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)), tmp_path / "data" / "s1" / "t1.nii.gz")
    given: list[dict[str, object]] = []
    ready = SimpleNamespace(studies_ready=1)
    monkeypatch.setattr("hlip.prepare.prepare", lambda *places, **limits: given.append(limits) or ready)
    start = ["import", "folders", str(tmp_path / "data"), str(tmp_path / "out"), "--prepare", "mri"]
    for more in ([], ["--time-limit", "5", "--memory", "2", "--workers", "3"], ["--time-limit", "0"]):
        main([*start, *more])
    assert given == [
        {"workers": None, "time_limit": 600.0, "memory_gb": None, "replace": False},
        {"workers": 3, "time_limit": 5.0, "memory_gb": 2.0, "replace": False},
        {"workers": None, "time_limit": None, "memory_gb": None, "replace": False},
    ]
    ready.studies_ready = 0
    with pytest.raises(SystemExit) as stopped:  # a script should not go on to train on nothing
        main(start)
    assert stopped.value.code == 1
    for name, source in sources().items():
        assert {"--time-limit S", "--memory GB"} <= set(re.findall(r"--[a-z-]+ [A-Z]+", source.format_help())), name


def test_a_spec_with_faults_stops_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in SPECS:
        arguments = sources()[name].parse_args([str(tmp_path / "set"), str(tmp_path / "out"), "--prepare", "nosuch"])
        with pytest.raises(ResourceError, match="nosuch"):
            arguments.run(arguments)
    assert not (tmp_path / "out").exists()


def test_the_list_of_commands_names_dicom_and_public_sets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "DICOM, BIDS, folders, tables, images, public sets" in " ".join(capsys.readouterr().out.split())
