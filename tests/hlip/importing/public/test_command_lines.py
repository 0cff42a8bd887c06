"""The public sets' command lines: every one goes on to a store, names its own spec, and points to a recipe that is there."""

from __future__ import annotations

import argparse
from pathlib import Path

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
