"""What `hlip compare` refuses before any work: options that the given inputs cannot serve, and settings that say nothing.

An option that would be ignored is refused by its name, with what it needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hlip.taxonomy import Taxonomy
from hp2l.comparison.alignment import aligned
from hp2l.comparison.scores import CompareError, Scores

LEAST_RESAMPLES = 100


def refuse_options(arguments: argparse.Namespace, models: Sequence[Path], tables: Sequence[Path]) -> None:
    """Before anything is opened.

    Args:
        models, tables: the inputs of each kind.

    Raises:
        CompareError: an option without what it needs.
    """
    if arguments.resamples < LEAST_RESAMPLES:
        raise CompareError(
            f"--resamples {arguments.resamples}: a 95 % interval needs {LEAST_RESAMPLES} bootstrap resamples or more (1000 by default)"
        )
    for place in (arguments.out, *arguments.out.parents):
        if place.is_file():
            raise CompareError(f"--out {arguments.out}: {place} is a file; name a folder")
    if arguments.seed < 0:
        raise CompareError(f"--seed {arguments.seed}: give 0 or more")
    if models and arguments.store is None:
        raise CompareError(f"{models[0]} is a model: --store names the prepared store whose studies it is asked about")
    if arguments.robustness and not models:
        raise CompareError(
            "--robustness asks the models again, and the inputs are tables only: give the models' run folders in place of "
            f"{', '.join(map(str, tables))}, or leave --robustness out"
        )
    if arguments.robustness and tables:
        raise CompareError(
            f"--robustness asks the models again, and {', '.join(map(str, tables))} {'is a table' if len(tables) == 1 else 'are tables'}: "
            "give models only, or leave --robustness out"
        )
    if arguments.efficiency and arguments.store is None:
        raise CompareError("--efficiency scores its runs on a store: --store names it, or leave --efficiency out")
    if arguments.mean and len(models) + len(tables) < 2:
        raise CompareError("--mean is of two inputs or more: give another, or leave --mean out")


def refuse_efficiency(kinds: Sequence[str | None]) -> None:
    """Before any model is asked: a flat line to draw against, and a fine-tuned input as the curve's end.

    Args:
        kinds: `zero_shot` or `fine_tuned` of each input, as its provenance says.

    Raises:
        CompareError: one of them lacks.
    """
    for kind, words in (("zero_shot", "zero-shot input (a pretrained model)"), ("fine_tuned", "fine-tuned input")):
        if kind not in kinds:
            raise CompareError(f"--efficiency needs a {words} to draw against: give one, or leave --efficiency out")


def trained_on(table: Scores) -> int:
    """Labelled training studies of a fine-tuned table.

    Raises:
        CompareError: it does not say.
    """
    facts = table.provenance.get("facts")
    if table.provenance.get("kind") != "fine_tuned" or not isinstance(facts, dict) or "studies" not in facts:
        raise CompareError(
            f"--efficiency: {table.method} does not say on how many labelled studies it was trained; give runs of `hlip finetune`"
        )
    return int(facts["studies"])


def refuse_another_tree(name: str, tree: Taxonomy, tables: Sequence[Scores]) -> None:
    """`--taxonomy` beside tables of another tree.

    Raises:
        CompareError: naming the first such table.
    """
    for table in tables:
        own = table.taxonomy
        same = own.same_tree(tree) if own else table.class_names == [list(level) for level in tree.levels]
        if not same:
            trained = own.name if own else "other classes"
            raise CompareError(
                f"--taxonomy {name}: the table {table.method} was scored on {trained}; leave --taxonomy out, or score the model on {name}"
            )


def on_the_stores_studies(store: Scores, tables: Sequence[Scores], across_volumes: bool) -> list[Scores]:
    """Tables in the order of the store's labelled studies.

    Args:
        store: a table of the store's studies, patients, splits and truth, whatever its scores.

    Raises:
        CompareError: tables of other studies, patients, splits or labels than those of `--store`.
    """
    plain = [table.method for table in tables]
    names = ["--store", *(name if plain.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(plain, start=1))]
    found = aligned(dict(zip(names, [store, *tables], strict=True)), across_volumes)
    return list(found.values())[1:]
