"""A small tree, a setting and an experiment file, for all tests of experiments."""

from __future__ import annotations

from pathlib import Path

from finetune.experiments.plan import Setting
from hlip.taxonomy import Taxonomy

TINY = Path(__file__).parents[1] / "tiny.yaml"
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


def write_experiment(path: Path, variants: str, reference: str = "hp2l") -> Path:
    path.write_text(f"title: T\nquestion: Q?\nreference: {reference}\nvariants:\n{variants}")
    return path
