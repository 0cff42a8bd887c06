"""What the imports of studies share on their command lines: tables to join, splits to draw, a store to prepare at once.

add_options(source) ... options_of(arguments) -> Options
finish("bids", studies, out, options, left_out, notes) -> Imported      joined, split, written
show(imported, options)                                                 printed, and prepared into OUT/store where asked
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hlip.importing.outcome import Imported, LeftOut, manifest_file, write_import
from hlip.importing.splits import split_studies
from hlip.importing.tables import KeyOf, Tables, add_tables, join, tables_of
from hlip.study import Study

if TYPE_CHECKING:
    from hlip.volume import VolumeSpec


@dataclass(frozen=True)
class Options:
    """Of an import, beside where its data lies."""

    tables: Tables = field(default_factory=Tables)
    shares: tuple[float, ...] | None = None
    """Of train, val and test where nobody states splits; `None`: `hlip.importing.splits.SHARES`."""
    seed: int = 0
    """Of the draw of splits."""
    spec: VolumeSpec | None = None
    """Prepare the studies at once, so."""
    workers: int | None = None
    """Processes that prepare; `None`: one a core."""


def add_options(source: argparse.ArgumentParser) -> None:
    """Add the options of `Options` to an import's command line."""
    add_tables(source)
    splits = source.add_argument_group("splits, drawn by patient where no table states them")
    splits.add_argument(
        "--splits", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="shares of the splits (default: 0.7 0.1 0.2)"
    )
    splits.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw of splits (default: 0)")
    preparing = source.add_argument_group("preparing")
    preparing.add_argument(
        "--prepare", metavar="SPEC", help="also prepare a store in OUT/store: mri, head_ct, chest_ct, ..., or a YAML file"
    )
    preparing.add_argument("--workers", type=int, metavar="N", help="processes that prepare (default: one a core)")


def options_of(arguments: argparse.Namespace) -> Options:
    """What `add_options` parsed.

    Raises:
        ResourceError, SpecError, TaxonomyError: no such spec or taxonomy, or one with faults; before any work is done.
    """
    from hlip.volume import VolumeSpec

    spec = VolumeSpec.load(arguments.prepare) if arguments.prepare else None
    shares = tuple(arguments.splits) if arguments.splits else None
    return Options(tables_of(arguments), shares, arguments.seed, spec, arguments.workers)


def finish(
    source: str,
    studies: Sequence[Study],
    out: str | Path,
    options: Options,
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
    key_of: KeyOf | None = None,
) -> Imported:
    """Join the tables to the studies, give them splits, and write manifest and list of what was left out.

    Args:
        source: name of the import.
        out: see `hlip.importing.outcome`.
        key_of: see `hlip.importing.tables.join`.

    Raises:
        ImportingError: no study, faults of the tables, or a manifest of another source at the place.
    """
    manifest = manifest_file(out)
    if studies:
        joined, said = join(studies, options.tables, key_of)
        studies, more = split_studies(joined, options.shares, options.seed)
        notes = [*notes, *said, *more]
    manifest.parent.mkdir(parents=True, exist_ok=True)
    return write_import(source, studies, manifest, left_out, notes)


def show(imported: Imported, options: Options) -> None:
    """Print what was imported; where a spec was given, prepare it and print that too."""
    print(imported)
    if options.spec is not None:
        from hlip.prepare import prepare

        store = imported.manifest.parent / "store"
        print(prepare(imported.manifest, store, options.spec, workers=options.workers))
