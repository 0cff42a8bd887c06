"""`hlip import SOURCE`: others' ways of laying out data -> a manifest. Each source is described here and done elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_import(commands: Any) -> None:
    """Add `import` with its sources to the `hlip` command line."""
    command = commands.add_parser(
        "import",
        help="write the manifest of a folder of images",
        description="Write a manifest (JSON lines, one study a line) of data as others lay it out. Started again it writes its own "
        "manifest anew, and no other file.",
    )
    sources = command.add_subparsers(dest="source", metavar="SOURCE", title="sources", required=True)
    for add in (_images,):
        add(sources)


def _images(sources: Any) -> None:
    source = sources.add_parser(
        "images",
        help="2-D images, a folder a class: PNG, JPEG, TIFF, BMP, WebP",
        description="Layouts: FOLDER/CLASS/[PATIENT/]image.png, or FOLDER/{train,val,valid,test}/CLASS/[PATIENT/]image.png, or a CSV. A class "
        "is called as its folder, underscores read as spaces. PATIENT folders of one name are one patient. Where splits are not given they "
        "are drawn by patient, as evenly in the classes as possible. Then: hlip prepare MANIFEST STORE --spec image",
    )
    source.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the images")
    source.add_argument("manifest", type=Path, metavar="MANIFEST", help="file to write, e.g. manifest.jsonl")
    source.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="columns path (from FOLDER), label (several parted by ;), and if known patient_id, split, report; instead of folder names",
    )
    source.add_argument(
        "--splits",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the splits, where neither FOLDER nor CSV states them (default: 0.7 0.1 0.2)",
    )
    source.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw of splits (default: 0)")
    source.add_argument(
        "--taxonomy",
        metavar="T",
        help="name or path of a disease tree: labels become its classes by name, synonym or code (ALL: acute lymphoblastic leukemia)",
    )
    source.set_defaults(run=_run_images)


def _run_images(arguments: argparse.Namespace) -> None:
    from hlip.importing.images import import_images
    from hlip.taxonomy import Taxonomy

    tree = Taxonomy.load(arguments.taxonomy) if arguments.taxonomy else None
    print(import_images(arguments.folder, arguments.manifest, arguments.labels, arguments.splits, arguments.seed, tree))
