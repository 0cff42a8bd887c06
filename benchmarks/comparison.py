"""How long a comparison of the largest cohort takes: random scores of every method, every number of the report, seconds and peak memory.

All studies given are in the test split, which is what resamples cost; a validation split comes on top. A sixth of the patients have two
studies. Prevalences fall from one in three to one in a thousand, over three levels of a tree.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlip.taxonomy import Taxonomy
from hp2l.comparison.compare import Scores, compare_tables, provenance_of

Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=54360, help="test studies")
    parser.add_argument("--validation", type=int, default=8000, help="validation studies, besides")
    parser.add_argument("--classes", type=int, default=26, help="classes, over all levels")
    parser.add_argument("--methods", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--workers", type=int, help="threads; default: as many as processors")
    parser.add_argument("--json", type=Path, help="write seconds, bytes and settings here")
    given = parser.parse_args()
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    tree = tree_of(given.classes)
    tables = random_tables(tree, given.studies, given.validation, given.methods)
    start = _lap("making scores", seconds, start)
    tables = through_files(tables)
    start = _lap("writing and reading tables", seconds, start)
    comparison = compare_tables(tables, resamples=given.resamples, workers=given.workers)
    start = _lap("comparing", seconds, start)
    size = len(json.dumps(comparison))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    for name, value in seconds.items():
        print(f"{name}: {value:.1f} s")
    print(f"peak memory: {peak / 2**30:.2f} GiB; comparison.json: {size / 2**20:.1f} MiB")
    if given.json:
        settings = {name: value for name, value in vars(given).items() if name != "json"}
        given.json.write_text(
            json.dumps({"seconds": seconds, "peak_bytes": peak, "json_bytes": size, "settings": settings}, indent=2) + "\n"
        )


def tree_of(classes: int) -> Taxonomy:
    """Three levels of about classes / 6, classes / 3 and classes / 2 classes."""
    top, middle = max(1, classes // 6), max(1, classes // 3)
    leaves = max(middle, classes - top - middle)
    inner = [
        {"name": f"middle {k}", "children": [{"name": f"leaf {leaf}"} for leaf in range(k, leaves, middle)]}
        for k in range(middle)
    ]
    roots = [{"name": f"top {k}", "children": inner[k::top]} for k in range(top)]
    content = {"name": "benchmark", "level_names": ["category", "family", "subtype"], "classes": roots}
    return Taxonomy.from_dict(content)


def random_tables(tree: Taxonomy, test: int, validation: int, methods: int) -> list[Scores]:
    """Noise around the truth, each method a little better than the last."""
    generator = np.random.default_rng(0)
    studies = test + validation
    prevalence = np.geomspace(0.3, 0.001, tree.counts[-1])
    leaves = generator.random((studies, tree.counts[-1])) < prevalence
    targets = []
    for level in range(1, tree.depth + 1):
        below = [tree.subtree_leaves(level, index) for index in range(tree.counts[level - 1])]
        targets.append(np.stack([leaves[:, columns].any(axis=1) for columns in below], axis=1).astype(np.float64))
    ids = [f"study{i:06d}" for i in range(studies)]
    patients = [f"patient{i - 1 if i % 7 == 6 and i != validation else i:06d}" for i in range(studies)]
    split = ["val"] * validation + ["test"] * test
    names, known = [list(level) for level in tree.levels], [np.ones(table.shape, bool) for table in targets]
    tables = []
    for place in range(methods):
        levels = [_scores(generator, table, 0.6 + 0.2 * place) for table in targets]
        source = provenance_of(tree, checkpoint=f"{place:064d}", volume_spec="0" * 64, simulated=True)
        tables.append(Scores(f"method_{place}", ids, patients, split, levels, source).with_truth(names, targets, known))
    return tables


def through_files(tables: list[Scores]) -> list[Scores]:
    """Each table written as parquet and read again."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{table.method}.parquet" for table in tables]
        for table, path in zip(tables, paths, strict=True):
            table.save(path)
        print(f"a table: {paths[0].stat().st_size / 2**20:.1f} MiB of parquet")
        return [Scores.load(path) for path in paths]


def _scores(generator: np.random.Generator, target: Floats, gain: float) -> Floats:
    """Probabilities as a model writes them, in float32."""
    noise = generator.normal(size=target.shape) + gain * target - 1.5
    return (1 / (1 + np.exp(-noise))).astype(np.float32).astype(np.float64)


def _lap(name: str, seconds: dict[str, float], start: float) -> float:
    now = time.perf_counter()
    seconds[name] = now - start
    return now


if __name__ == "__main__":
    main()
