"""What the imports of studies share on their command lines: tables to join, splits to draw, a store to prepare at once.

add_options(source) ... options_of(arguments) -> Options
add_preparing(source, "mri") ... prepared(arguments, imports)            of an import without tables to join: a store at once, nothing else
finish("bids", studies, out, options, left_out, notes) -> Imported      joined, split, written
show(imported, options)                                                 printed, and prepared into OUT/store where asked
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hlip.arguments import positive
from hlip.importing.earlier import Earlier, How
from hlip.importing.outcome import Imported, LeftOut, manifest_file, write_import
from hlip.importing.splits import split_studies
from hlip.importing.tables import KeyOf, Tables, add_tables, given_fields, join, tables_of
from hlip.prepare_command import Limits, add_limits, limits_of
from hlip.study import Study

if TYPE_CHECKING:
    from hlip.volume import VolumeSpec


KEPT_NAMES = " Nothing is de-identified: names of files and folders, ids and columns are taken over as they are."
"""Of the help of imports that hash nothing."""


class Written(Protocol):
    """What an import wrote; its text is printed."""

    @property
    def manifest(self) -> Path: ...


@dataclass(frozen=True)
class Options:
    """Of an import, beside where its data lies."""

    tables: Tables = field(default_factory=Tables)
    shares: tuple[float, ...] | None = None
    """Of train, val and test where nobody states splits; `None`: `hlip.importing.splits.SHARES`."""
    seed: int = 0
    """Of the draw of splits."""
    how: How = ""
    """What becomes of the studies of an earlier run, see `hlip.importing.earlier`."""
    spec: VolumeSpec | None = None
    """Prepare the studies at once, so."""
    workers: int | None = None
    """Processes that prepare; `None`: one a core."""
    limits: Limits = field(default_factory=Limits)
    """Of each scan that is prepared."""


def add_options(source: argparse.ArgumentParser) -> None:
    """Add the options of `Options` to an import's command line."""
    add_tables(source)
    splits = source.add_argument_group("splits, drawn by patient where no table states them")
    splits.add_argument(
        "--splits", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="shares of the splits (default: 0.7 0.1 0.2)"
    )
    splits.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw of splits (default: 0)")
    again = source.add_argument_group(
        "an earlier import at the same place: its patients stay in their splits, and no study is dropped unsaid"
    )
    ways = again.add_mutually_exclusive_group()
    ways.add_argument("--add", action="store_true", help="keep its studies beside those found now, as of a second tranche")
    ways.add_argument("--replace", action="store_true", help="drop it: studies that are not found now, and its splits")
    add_preparing(source)


def add_preparing(source: argparse.ArgumentParser, spec: str = "", workers: str = "") -> None:
    """Add --prepare, --workers and the limits of a scan to an import's command line.

    Args:
        spec: the one that suits what is imported.
        workers: what the processes do before they prepare.
    """
    named = f"{spec}, or another, or a YAML file" if spec else "mri, head_ct, chest_ct, ..., or a YAML file"
    before = f"{workers}, and that " if workers else ""
    group = source.add_argument_group("preparing")
    group.add_argument("--prepare", metavar="SPEC", help=f"also prepare a store, `store` beside the manifest: {named}")
    group.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help=f"processes that {before}prepare (default: {workers and '1 and '}one a core)",
    )
    add_limits(group)


def prepared(arguments: argparse.Namespace, imports: Callable[[], Written]) -> None:
    """Import, print what was imported, and prepare it as `add_preparing` parsed.

    Raises:
        ResourceError, SpecError: no such spec, or one with faults; before any work is done.
    """
    options = Options(spec=_spec_of(arguments), workers=arguments.workers, limits=limits_of(arguments))
    show(imports(), options)


def _spec_of(arguments: argparse.Namespace) -> VolumeSpec | None:
    from hlip.volume import VolumeSpec

    return VolumeSpec.load(arguments.prepare) if arguments.prepare else None


def options_of(arguments: argparse.Namespace) -> Options:
    """What `add_options` parsed.

    Raises:
        ResourceError, SpecError, TaxonomyError: no such spec or taxonomy, or one with faults; before any work is done.
    """
    spec = _spec_of(arguments)
    shares = tuple(arguments.splits) if arguments.splits else None
    how: How = "add" if arguments.add else "replace" if arguments.replace else ""
    return Options(tables_of(arguments), shares, arguments.seed, how, spec, arguments.workers, limits_of(arguments))


def finish(
    source: str,
    studies: Sequence[Study],
    out: str | Path,
    options: Options,
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
    key_of: KeyOf | None = None,
    given: Collection[str] = (),
) -> Imported:
    """Join the tables to the studies, give them splits, and write manifest and list of what was left out.

    Args:
        source: name of the import.
        out: see `hlip.importing.outcome`.
        key_of: see `hlip.importing.tables.join`.
        given: fields that the source's own table states, see `Earlier.fields`.

    Raises:
        ImportingError: no study, faults of the tables, studies of an earlier run that are gone, or a manifest of another source at the place.
    """
    manifest = manifest_file(out)
    if studies:
        earlier = Earlier.at(manifest, options.how)
        joined, said = join(studies, options.tables, key_of, others=earlier.others(studies))
        joined, fields = earlier.fields(joined, {*given, *given_fields(options.tables)})
        studies, more = split_studies(joined, options.shares, options.seed, earlier)
        studies, kept = earlier.beside(studies, earlier.unusable(left_out))
        notes, left_out = [*notes, *said, *fields, *more, *kept], earlier.left_out(left_out, studies)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    return write_import(source, studies, manifest, left_out, notes)


def show(imported: Written, options: Options) -> None:
    """Print what was imported; where a spec was given, prepare it and print that too."""
    print(imported)
    if options.spec is not None:
        from hlip.prepare import prepare

        store, limits = imported.manifest.parent / "store", options.limits
        summary = prepare(
            imported.manifest,
            store,
            options.spec,
            workers=options.workers,
            time_limit=limits.seconds,
            memory_gb=limits.memory_gb,
            replace=False,
        )
        print(summary)
        if not summary.studies_ready:
            raise SystemExit(1)  # as `hlip prepare`: a script should not go on to train on nothing
