"""`hlip import mr-rate | hlip | pub-brain-5 | rsna | cq500 | ct-rate | rad-chestct`: described here, done elsewhere.

Each has a recipe in docs/data. With --prepare the import goes on to a store, OUT/store, as the imports of one's own data do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hlip.importing.options import Written, add_preparing, prepared

_OPEN = "-1 or nothing under one class counts as absent, and is told"


def add_public(sources: Any) -> None:
    """Add the public sets to the sources of `hlip import`."""
    for add in (_mr_rate, _hlip, _pub_brain_5, _rsna, _cq500, _ct_rate, _rad_chestct):
        add(sources)


def _source(
    sources: Any,
    name: str,
    told: str,
    description: str,
    spec: str,
    run: Callable[[argparse.Namespace], Written],
    workers: str = "",
) -> argparse.ArgumentParser:
    """
    Args:
        spec: of `hlip prepare`, that suits the set.
        workers: what --workers does beside preparing.
    """
    then = f"Then: hlip prepare OUT/manifest.jsonl STORE --spec {spec}; or at once: --prepare {spec}."
    source = sources.add_parser(
        name, help=told, description=f"{description} {then} Recipe: docs/data/{name.replace('-', '_')}.md."
    )
    source.add_argument("folder", type=Path, metavar="FOLDER", help="where the set lies")
    source.add_argument(
        "out", type=Path, metavar="OUT", help="folder to write (manifest.jsonl, left_out.csv), or a name *.jsonl"
    )
    add_preparing(source, spec, workers)
    source.set_defaults(run=lambda arguments: prepared(arguments, lambda: run(arguments)))
    return source


def _add_splits(source: argparse.ArgumentParser, default: str) -> None:
    source.add_argument(
        "--splits",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help=f"draw splits by patient in these shares (default: {default})",
    )
    source.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw of splits (default: 0)")


def _mr_rate(sources: Any) -> None:
    def run(given: argparse.Namespace) -> Written:
        from hlip.importing.public.mr_rate import import_mr_rate

        return import_mr_rate(given.folder, given.out, brain=given.brain)

    source = _source(
        sources,
        "mr-rate",
        "MR-RATE: brain and spine MRI with reports and 37 labels",
        "Zips are read as they are. Splits are the official ones; labels become classes of the taxonomy mr_rate.",
        "mri",
        run,
    )
    source.add_argument(
        "--brain",
        action="store_true",
        help="only studies with evidence of a brain (series, labels, words), labels of mr_rate_brain",
    )


def _hlip(sources: Any) -> None:
    def run(given: argparse.Namespace) -> Written:
        from hlip.importing.public.hlip_layout import import_hlip

        files = {"studies": given.studies, "reports": given.reports, "labels": given.labels}
        return import_hlip(given.folder, given.out, **files, splits=given.splits, seed=given.seed)

    source = _source(
        sources,
        "hlip",
        "data laid out for the official HLIP code: <uid>/<scan>/img.pt",
        "Tensors become NIfTI files below OUT/scans.",
        "mri",
        run,
    )
    source.add_argument(
        "--studies",
        type=Path,
        metavar="JSON",
        help="{uid: [scans]}, or {uid: {series, report}} (default: all that lies in FOLDER)",
    )
    source.add_argument("--reports", type=Path, metavar="JSON", help="{uid: [sentences]}")
    source.add_argument("--labels", type=Path, metavar="CSV", help=f"column uid, then 0 or 1 a class; {_OPEN}")
    _add_splits(source, "0.7 0.1 0.2; patients of an earlier import at the same place stay in theirs")


def _pub_brain_5(sources: Any) -> None:
    def run(given: argparse.Namespace) -> Written:
        from hlip.importing.public.pub_brain_5 import import_pub_brain_5

        return import_pub_brain_5(given.folder, given.out, listed=given.list, splits=given.splits, seed=given.seed)

    source = _source(
        sources,
        "pub-brain-5",
        "Pub-Brain-5: brain MRI of five public sources, five classes",
        "FOLDER/<study>/... as the list calls its studies.",
        "pub_brain_5",
        run,
    )
    source.add_argument(
        "--list", type=Path, metavar="CSV", help=f"study, Normal, Stroke, ... (default: such a CSV in FOLDER); {_OPEN}"
    )
    _add_splits(source, "all studies are test")


def _rsna(sources: Any) -> None:
    def run(given: argparse.Namespace) -> Written:
        from hlip.importing.public.rsna import import_rsna

        return import_rsna(
            given.folder, given.out, listed=given.list, splits=given.splits, seed=given.seed, workers=given.workers or 1
        )

    source = _source(
        sources,
        "rsna",
        "RSNA 2019 intracranial hemorrhage: head CT",
        "The flat folder of slices is sorted into folders of links below OUT/scans.",
        "head_ct",
        run,
        "read headers",
    )
    source.add_argument(
        "--list", type=Path, metavar="CSV", help=f"study, Any, ... (default: FOLDER/stage_2_train.csv, of slices); {_OPEN}"
    )
    _add_splits(source, "all studies are test")


def _cq500(sources: Any) -> None:
    def run(given: argparse.Namespace) -> Written:
        from hlip.importing.public.cq500 import import_cq500

        return import_cq500(given.folder, given.out, reads=given.reads, splits=given.splits, seed=given.seed)

    source = _source(
        sources,
        "cq500",
        "CQ500: head CT, three readers a study",
        "Zips are read as they are; labels are what two of three readers saw.",
        "head_ct",
        run,
    )
    source.add_argument("--reads", type=Path, metavar="CSV", help="reads.csv (default: the one in FOLDER)")
    _add_splits(source, "all studies are test")


def _ct_rate(sources: Any) -> None:
    def run(given: argparse.Namespace) -> Written:
        from hlip.importing.public.ct_rate import import_ct_rate

        return import_ct_rate(given.folder, given.out, val=given.val, seed=given.seed)

    source = _source(
        sources,
        "ct-rate",
        "CT-RATE: chest CT with reports and 18 labels",
        "Headers that lack the scale to HU are corrected below OUT/scans, over the same voxels.",
        "chest_ct",
        run,
    )
    source.add_argument(
        "--val",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of the training patients becomes val (default: 0.05), but patients of an earlier import stay in theirs; valid is test",
    )
    source.add_argument("--seed", type=int, default=0, metavar="S", help="of that draw (default: 0)")


def _rad_chestct(sources: Any) -> None:
    def run(given: argparse.Namespace) -> Written:
        from hlip.importing.public.rad_chestct import import_rad_chestct

        return import_rad_chestct(given.folder, given.out, labels=given.labels or (), spacing=given.spacing, axes=given.axes)

    source = _source(
        sources,
        "rad-chestct",
        "Rad-ChestCT: chest CT with labels",
        "NumPy archives become NIfTI files below OUT/scans.",
        "chest_ct",
        run,
    )
    source.add_argument(
        "--labels",
        type=Path,
        nargs="+",
        action="extend",
        metavar="CSV",
        help=f"NoteAcc_DEID, Emphysema, ...; several are put together (default: all such CSV in FOLDER); {_OPEN}",
    )
    source.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        default=(0.8, 0.8, 0.8),
        metavar=("D", "H", "W"),
        help="mm of the archives (default: 0.8 0.8 0.8)",
    )
    source.add_argument(
        "--axes", default="IPL", metavar="DHW", help="where slices, rows and columns of the archives grow to (default: IPL)"
    )
