"""A small tree, a setting, an experiment file and the command itself, for all tests of experiments."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.experiments.cli import add_experiments
from finetune.experiments.plan import Setting
from hlip.store import StudyRecord
from hlip.taxonomy import Taxonomy

TINY = Path(__file__).parents[1] / "tiny.yaml"
QUICK = ("--workers", 1, "--threads", 1, "--resamples", 10)
TREE = Taxonomy.from_dict(
    {
        "name": "small",
        "level_names": ["top", "leaf"],
        "classes": [
            {"name": "A", "children": [{"name": "a1"}, {"name": "a2"}]},
            {"name": "B", "children": [{"name": "b1"}, {"name": "b2"}]},
        ],
    }
)


def setting(folder: Path, **more) -> Setting:
    return Setting(folder / "encoder", folder / "store", folder / "out", **more)


def records(labels: list[list[str]], patients: list[str] | None = None) -> list[StudyRecord]:
    names = patients or [f"p{number}" for number in range(len(labels))]
    return [StudyRecord(f"s{i}", names[i], ("T1",), "", (), tuple(given), "test", {}) for i, given in enumerate(labels)]


def write_experiment(path: Path, variants: str, reference: str = "hp2l") -> Path:
    path.write_text(f"title: T\nquestion: Q?\nreference: {reference}\nvariants:\n{variants}")
    return path


def command(*words: object) -> None:
    parser = argparse.ArgumentParser()
    add_experiments(parser.add_subparsers())
    arguments = parser.parse_args(["experiments", *map(str, words)])
    arguments.run(arguments)
